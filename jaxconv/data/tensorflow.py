"""The one place that imports TensorFlow: late, quiet, and without its hands on the accelerator."""

import functools
import os
import sys
from typing import Any


@functools.cache
def import_tensorflow() -> Any:
    """The module tensorflow, its GPUs and TPUs hidden so that JAX has them to itself."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # the pipeline has no use for it, and it announces itself
    # TensorFlow imports Keras for those who use tf.keras, which takes half as long as all the rest.
    keras = "keras.src.optimizers"
    absent = keras not in sys.modules
    if absent:
        sys.modules[keras] = None  # type: ignore[assignment]  # Python's way to make an import fail
    try:
        import tensorflow as tf
    finally:
        if absent:
            del sys.modules[keras]

    tf.config.set_visible_devices([], "GPU")
    tf.config.set_visible_devices([], "TPU")
    return tf


@functools.cache
def import_tfds() -> Any:
    """The module tensorflow_datasets."""
    import_tensorflow()
    import tensorflow_datasets as tfds

    return tfds
