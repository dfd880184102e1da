"""Runs on the set "tiny" that nobody trained: their files say what a test wants to compare."""

import json
from collections.abc import Collection

import numpy as np
import pytest

from jaxconv import experiment
from jaxconv.config import to_json
from jaxconv.data import sources
from jaxconv.runs import predictions, signature
from jaxconv.runs import workdir as files
from jaxconv.runs.predictions import Predictions
from jaxconv.runs.signature import Signature
from tests.conftest import TINY_SHAPE, TINY_TEST, TINY_TRAIN

CLASSES = ("0", "1", "2", "3")


@pytest.fixture
def test_set(tiny):
    """The test set of "tiny"."""
    return sources.open_source(tiny.data).load("test")


def make(workdir, config, label, right, *, class_names=CLASSES, val_accuracies=(0.4, 0.6), processor="a processor"):
    """Make a finished run.

    Args:
        workdir: its workdir.
        config: its config.
        label: the labels of its test set.
        right: the numbers of the examples that it has right. It takes each other one for the class after its own. The
            probability of the predicted class grows with the number.
        class_names: the classes.
        val_accuracies: the validation accuracy of each epoch.
        processor: where it was trained.
    """
    workdir.mkdir(parents=True)
    config = experiment.resolve(config)
    config.num_epochs = len(val_accuracies)
    files.write_atomically(workdir / "config.json", to_json(config))
    signature.keep(workdir, Signature(class_names, TINY_SHAPE, "uint8", (0.0,) * 3, (1.0,) * 3, TINY_TRAIN))
    history = [
        {
            "epoch": epoch,
            "step": epoch,
            "train_loss": 1.5 - accuracy,
            "train_accuracy": accuracy + 0.1,
            "val_loss": 1 - accuracy,
            "val_accuracy": accuracy,
            "seconds": 2.0,
            "images_per_s": 105.0,
        }
        for epoch, accuracy in enumerate(val_accuracies, start=1)
    ]
    files.write_history(workdir, history)
    predicted = _others(label, right, len(class_names))
    confidence = np.linspace(0.5, 0.9, len(label), dtype=np.float32)
    rest = (1 - confidence) / (len(class_names) - 1)
    probabilities = np.repeat(rest[:, None], len(class_names), axis=1)
    probabilities[np.arange(len(label)), predicted] = confidence
    predictions.write(workdir, Predictions(config.data.test, label, probabilities))
    best = max(val_accuracies)
    summary = {
        "num_params": 1234,
        "epochs": len(history),
        "best_epoch": val_accuracies.index(best) + 1,
        "test_accuracy": len(right) / len(label),
        "test_examples": len(label),
        "wall_seconds": 5.0,
        "devices": 1,
        "platform": "cpu",
        "versions": {"data": f"{config.data.name} 1.0.0", "processor": processor},
    }
    files.write_summary(workdir, summary)
    return workdir


def _others(label: np.ndarray, right: Collection[int], num_classes: int) -> np.ndarray:
    is_right = np.isin(np.arange(len(label)), list(right))
    return np.where(is_right, label, (label + 1) % num_classes).astype(np.int32)


def change(path, **changes):
    """Change values of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def two(tiny, test_set, tmp_path):
    """Two runs: of 55 examples 15 are right by the first only, 5 by the second only, and 30 by both."""
    assert len(test_set.labels) == TINY_TEST == 55
    first = make(tmp_path / "first", tiny, test_set.labels, range(45))
    tiny.optimizer.learning_rate, tiny.ops = 0.01, "stock"
    return [first, make(tmp_path / "second", tiny, test_set.labels, [*range(30), *range(50, 55)])]
