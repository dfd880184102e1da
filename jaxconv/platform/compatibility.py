"""What the process changes in the libraries that it uses, for the sake of the person in front of it."""

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from absl import logging

from jaxconv.platform import switches

_KERAS = "keras.src.optimizers"


def quiet() -> None:
    """Silence what libraries log and print. Errors that matter end in a sentence of this project's own."""
    if not switches.is_on("quiet"):
        return
    logging.set_verbosity(logging.FATAL)
    # Orbax and TensorStore leave these behind where a write failed. The error itself is reported.
    sys.unraisablehook = _unraisablehook
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)


def quiet_tensorflow() -> None:
    """Silence TensorFlow's own log. Call it before TensorFlow is imported."""
    if switches.is_on("quiet"):
        if os.environ.get("TF_CPP_MIN_LOG_LEVEL") in (None, "1"):  # JAX sets it to 1 when it is imported
            os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # the pipeline does not need it, and it announces itself


def _unraisablehook(unraisable: Any) -> None:
    """Print what Python does, except for TensorStore's threads whose event loop a failed write has closed."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


@contextlib.contextmanager
def without_keras() -> Iterator[None]:
    """Hide Keras while TensorFlow is imported, which imports it for tf.keras and takes half of the time for that."""
    hides = switches.is_on("hidden_imports") and _KERAS not in sys.modules
    if hides:
        sys.modules[_KERAS] = None  # type: ignore[assignment]  # Python's way to make an import fail
    try:
        yield
    finally:
        if hides:
            del sys.modules[_KERAS]


def give_downloads_up_sooner() -> None:
    """Let TFDS try a download twice: its own ten tries take over three minutes to say that there is no network."""
    if switches.is_on("retries"):
        from tensorflow_datasets.core.download import downloader

        downloader.MAX_RETRIES = 2
