"""The stored data of the site, docs/data/: what pages show of all of MNIST and of CIFAR-10, which readers do not have.

python launch.py --config=configs/lenet.py --workdir=runs/lenet
python -m tools.site_data --workdir=runs/lenet

lenet_mistakes.npz has every test image that the run misread, and cifar10_examples.npz a few training images.
"""

import pathlib
import shlex
import sys
from typing import Any

import numpy as np
from absl import app, flags

from jaxconv.config import default_config
from jaxconv.data import sources
from jaxconv.data.examples import Examples
from jaxconv.errors import ConfigError, UserError
from jaxconv.platform import compatibility
from jaxconv.runs import predictions as kept
from jaxconv.runs import trained
from jaxconv.runs import workdir as files

DATA = pathlib.Path(__file__).parents[1] / "docs" / "data"
EACH = 4
"""The number of training images of each class."""


def mistakes(workdir: pathlib.Path) -> dict[str, Any]:
    """Collect the test images that a finished run on grey images misread.

    Returns:
        A row for each mistake: images (mistakes, height, width), labels, probabilities (mistakes, classes), and index,
        the places in the test set. Of all test examples: confidence, the probability of the answer to each. And single
        values: accuracy, test_examples, and command, that of the run without its workdir.

    Raises:
        UserError: it is no finished run, or its test set has changed.
    """
    recorded, predictions = files.read_config(workdir), kept.read(workdir)
    if recorded is None or predictions is None:
        raise ConfigError(f"--workdir={workdir} holds no finished run: train one by launch.py, or name another.")
    test = sources.open_source(trained.to_config(recorded).data).load(predictions.split)
    if not np.array_equal(test.labels, predictions.label):
        raise UserError(f"The split {predictions.split!r} has changed since the run in {workdir}: train it again.")
    right = predictions.predicted == predictions.label
    index = np.flatnonzero(~right)
    command = shlex.split((workdir / "command.txt").read_text())
    return {
        "images": test.images[index][..., 0],
        "labels": predictions.label[index],
        "probabilities": predictions.probabilities[index],
        "index": index.astype(np.int32),
        "confidence": predictions.probabilities.max(axis=1),
        "accuracy": right.mean(),
        "test_examples": np.int32(len(right)),
        "command": np.array(shlex.join(part for part in command if not part.startswith("--workdir="))),
    }


def some_of_each(examples: Examples, class_names: tuple[str, ...]) -> dict[str, Any]:
    """Take the first `EACH` images of each class: the first of every class, then the second of every class, and on.

    Returns:
        images, labels, int32, and class_names.
    """
    places = [np.flatnonzero(examples.labels == label)[:EACH] for label in range(len(class_names))]
    order = np.stack(places, axis=1).ravel()
    return {"images": examples.images[order], "labels": examples.labels[order], "class_names": np.array(class_names)}


def main(arguments: list[str]) -> None:
    """Write docs/data/."""
    if len(arguments) > 1 or not flags.FLAGS.workdir:
        sys.exit("Name the workdir of a finished run of configs/lenet.py: --workdir=runs/lenet.")
    compatibility.quiet()
    config = default_config()
    config.data.name = "cifar10"
    DATA.mkdir(exist_ok=True)
    try:
        np.savez_compressed(DATA / "lenet_mistakes.npz", **mistakes(pathlib.Path(flags.FLAGS.workdir)))
        cifar10 = sources.open_source(config.data)
        arrays = some_of_each(cifar10.load("train[:1000]"), cifar10.class_names)
        np.savez_compressed(DATA / "cifar10_examples.npz", **arrays)
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "The workdir of a finished run of configs/lenet.py.")
    app.run(main)
