"""MNIST-1D is the package's, with the arguments and the seed of the paper."""

import random

import mnist1d.data
import numpy as np

from jaxconv.data.signals import mnist1d as open_mnist1d


def test_the_signals_are_those_of_the_package():
    arrays = mnist1d.data.make_dataset()
    source = open_mnist1d()
    for split, suffix in (("train", ""), ("test", "_test")):
        images, labels = source.load(split)
        np.testing.assert_array_equal(images[..., 0], arrays[f"x{suffix}"].astype(np.float32))
        np.testing.assert_array_equal(labels, arrays[f"y{suffix}"])


def test_the_global_generators_stay_as_they_are(monkeypatch):
    monkeypatch.setenv("JAXCONV_OFF", "cache")  # make them anew
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    expected = random.random(), np.random.rand()  # noqa: NPY002
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    open_mnist1d().load("train")
    assert (random.random(), np.random.rand()) == expected  # noqa: NPY002
