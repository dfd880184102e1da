"""Pure functions of training: state, loss, step, optimizer."""
