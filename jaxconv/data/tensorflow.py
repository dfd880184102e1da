"""The one place that imports TensorFlow: late, quietly, and without access to accelerators."""

import functools
import importlib.util
from typing import Any

from jaxconv.platform import compatibility


@functools.cache
def is_installed() -> bool:
    """Return whether TensorFlow and TensorFlow Datasets can be imported."""
    try:
        return all(importlib.util.find_spec(name) for name in ("tensorflow", "tensorflow_datasets"))
    except ImportError:
        return False


@functools.cache
def import_tensorflow() -> Any:
    """Import tensorflow. Its GPUs and TPUs are hidden, so that JAX has them to itself."""
    compatibility.quiet_tensorflow()
    with compatibility.without_keras():
        import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    tf.config.set_visible_devices([], "TPU")
    return tf


@functools.cache
def import_tfds() -> Any:
    """Import tensorflow_datasets."""
    import_tensorflow()
    import tensorflow_datasets as tfds

    return tfds
