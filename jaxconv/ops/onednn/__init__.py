"""oneDNN's kernels, called from XLA's programs. README.md explains how."""

from jaxconv.ops.onednn.availability import is_available, problem
from jaxconv.ops.onednn.library import is_installed, version
from jaxconv.ops.onednn.specs import Convolution, Dense, Pooling, takes

__all__ = ["Convolution", "Dense", "Pooling", "is_available", "is_installed", "problem", "takes", "version"]
