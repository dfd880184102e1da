"""The stored data of the site: what tools.site_data takes from a run and from a data set, and what is stored."""

import numpy as np
import pytest

from jaxconv.config import default_config, to_json
from jaxconv.data import sources
from jaxconv.data.examples import Examples, from_arrays
from jaxconv.errors import UserError
from jaxconv.runs import predictions
from jaxconv.runs.predictions import Predictions
from tools import site_data

RNG = np.random.default_rng(0)
TEST = Examples(RNG.integers(0, 256, (6, 5, 4, 1)).astype(np.uint8), np.array([0, 1, 2, 0, 1, 2], np.int32))
ANSWERS = [0, 2, 2, 0, 1, 0]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The files of a finished run on "made", as far as they matter here."""
    made = from_arrays(
        "made", version="1", class_names="abc", image_shape=(5, 4, 1), sizes={"test": 6}, make=lambda split: TEST
    )
    monkeypatch.setitem(sources.SOURCES, "made", lambda: made)
    config = default_config()
    config.data.name = "made"
    (tmp_path / "config.json").write_text(to_json(config))
    (tmp_path / "command.txt").write_text(f"python launch.py --config=made.py --workdir={tmp_path} --config.seed=1\n")
    probabilities = np.full((6, 3), 0.2, np.float32)
    probabilities[np.arange(6), ANSWERS] = 0.6
    predictions.write(tmp_path, Predictions("test", TEST.labels, probabilities))
    return tmp_path


def test_the_mistakes_of_a_run(run):
    found = site_data.mistakes(run)
    np.testing.assert_array_equal(found["index"], [1, 5])
    np.testing.assert_array_equal(found["images"], TEST.images[[1, 5], :, :, 0])
    np.testing.assert_array_equal(found["labels"], [1, 2])
    np.testing.assert_array_equal(found["probabilities"].argmax(axis=1), [2, 0])
    np.testing.assert_allclose(found["confidence"], 0.6)
    assert found["confidence"].shape == (6,)
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["test_examples"] == 6
    assert str(found["command"]) == "python launch.py --config=made.py --config.seed=1"


def test_a_run_that_is_not_finished(run):
    (run / "predictions.npz").unlink()
    with pytest.raises(UserError, match="holds no finished run"):
        site_data.mistakes(run)


def test_a_test_set_that_has_changed(run, monkeypatch):
    changed = Examples(TEST.images, TEST.labels[::-1])
    made = from_arrays(
        "made", version="2", class_names="abc", image_shape=(5, 4, 1), sizes={"test": 6}, make=lambda split: changed
    )
    monkeypatch.setitem(sources.SOURCES, "made", lambda: made)
    with pytest.raises(UserError, match="has changed"):
        site_data.mistakes(run)


def test_some_images_of_each_class():
    labels = np.array([1, 1, 0, 1, 0, 0, 1, 0, 1, 0], np.int32)
    images = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
    taken = site_data.some_of_each(Examples(images, labels), ("cat", "dog"))
    np.testing.assert_array_equal(taken["labels"], [0, 1] * site_data.EACH)
    np.testing.assert_array_equal(taken["images"].ravel(), [2, 0, 4, 1, 5, 3, 7, 6])
    np.testing.assert_array_equal(taken["class_names"], ["cat", "dog"])


def test_what_is_stored():
    stored = (np.load(site_data.DATA / f"{name}.npz") for name in ("lenet_mistakes", "cifar10_examples"))
    with next(stored) as mistakes, next(stored) as cifar10:
        assert mistakes["images"].shape == (len(mistakes["index"]), 28, 28)
        assert len(mistakes["index"]) == round((1 - mistakes["accuracy"]) * mistakes["test_examples"])
        assert (mistakes["probabilities"].argmax(axis=1) != mistakes["labels"]).all()
        assert "/" not in str(mistakes["command"]).replace("configs/lenet.py", "")
        assert cifar10["images"].shape == (40, 32, 32, 3)
        assert cifar10["images"].dtype == np.uint8
        np.testing.assert_array_equal(np.bincount(cifar10["labels"]), [4] * 10)
        assert len(cifar10["class_names"]) == 10
