"""What a net takes and gives: signature.json. With it a run can be used alone, without its data set."""

import json
import pathlib
from typing import Any, NamedTuple

import numpy as np

from jaxconv.errors import ConfigError, UserError
from jaxconv.runs.workdir import read_json, write_atomically

_KEPT = ("class_names", "image_shape", "dtype", "train_examples")
"""What may not change between two starts of a run."""


class Signature(NamedTuple):
    """The inputs and outputs of the net of a run."""

    class_names: tuple[str, ...]
    """The class of each logit."""
    image_shape: tuple[int, ...]
    """The shape of one example: (*spatial, channels)."""
    dtype: str
    """The dtype of the examples before they are normalised: "uint8" or "float32"."""
    mean: tuple[float, ...]
    """The mean of each channel of the training split."""
    std: tuple[float, ...]
    """The standard deviation of each channel."""
    train_examples: int
    """The number of examples in the training split."""

    def normalize(self, examples: Any) -> Any:
        """Normalize examples, a NumPy or JAX array of any dtype (batch, *spatial, channels). The result is float32."""
        return (examples.astype(np.float32) - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)


def keep(workdir: pathlib.Path, signature: Signature) -> None:
    """Write the signature of a run, or check that it is the one that an earlier start wrote.

    Raises:
        ConfigError: the data set has changed since.
        UserError: signature.json cannot be read or written.
    """
    check(workdir, signature)
    if not (path := workdir / "signature.json").exists():
        write_atomically(path, _to_json(signature))


def check(workdir: pathlib.Path, signature: Signature) -> None:
    """Check that the data set is the one that a run began with, if it has kept its signature.

    Raises:
        ConfigError: it has changed since.
        UserError: signature.json cannot be read.
    """
    there, here = read_json(workdir / "signature.json"), json.loads(_to_json(signature))
    for key in _KEPT if there else ():
        if there[key] != here[key]:
            raise ConfigError(
                f"The data has changed since the run in {workdir} began: {key} was {there[key]} and is {here[key]}. "
                "Put the data back as it was, or name another --workdir."
            )


def _to_json(signature: Signature) -> str:
    return json.dumps(signature._asdict(), indent=2) + "\n"


def read(workdir: pathlib.Path) -> Signature:
    """Read the signature of a run.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    there = read_json(workdir / "signature.json")
    if there is None:
        raise UserError(
            f"--workdir={workdir} has no signature.json: it holds no run, or one that an earlier version began. Train "
            "one with --mode=train first."
        )
    lists = ("class_names", "image_shape", "mean", "std")
    return Signature(**there | {key: tuple(there[key]) for key in lists})
