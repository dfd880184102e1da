"""What a process arranges for itself before and beside JAX; it knows nothing of nets."""
