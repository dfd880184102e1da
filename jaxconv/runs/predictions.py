"""What a net says of every example of a split: predictions.npz, written by the one evaluation of the test set."""

import pathlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32

from jaxconv.errors import UserError
from jaxconv.runs.workdir import replacing

FILE = "predictions.npz"


class Predictions(NamedTuple):
    """The probabilities of the classes for each example of a split, in the order of the split."""

    split: str
    """The name of the split, as config.data.test."""
    label: Int32[np.ndarray, " examples"]
    probabilities: Float32[np.ndarray, "examples num_classes"]

    @property
    def predicted(self) -> Int32[np.ndarray, " examples"]:
        """The most probable class of each example."""
        return np.argmax(self.probabilities, axis=1).astype(np.int32)


def write(workdir: pathlib.Path, predictions: Predictions) -> None:
    """Write predictions.npz: the arrays split, index, label and probabilities, with a row for each example.

    Raises:
        UserError: it cannot be written.
    """
    split, label, probabilities = predictions
    examples = len(label)
    with replacing(workdir / FILE) as file:
        np.savez_compressed(
            file,
            split=np.full(examples, split),
            index=np.arange(examples, dtype=np.int32),
            label=label.astype(np.int32),
            probabilities=probabilities.astype(np.float32),
        )


def read(workdir: pathlib.Path) -> Predictions | None:
    """Read predictions.npz; None where there is none.

    Raises:
        UserError: it is not what a run writes.
    """
    path = workdir / FILE
    try:
        with open(path, "rb") as file, np.load(file) as arrays:
            return Predictions(str(arrays["split"][0]), arrays["label"], arrays["probabilities"])
    except FileNotFoundError:
        return None
    except Exception:  # of many types, after what is broken
        raise UserError(f"{path} is broken: put it back, or train again in another --workdir.") from None
