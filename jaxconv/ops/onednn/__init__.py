"""oneDNN's kernels within XLA's programs; README.md explains how."""
