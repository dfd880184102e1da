"""jaxconv: train, understand and beat convolutional networks on small images, in JAX."""

__version__ = "0.1.0"
