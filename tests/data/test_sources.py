"""Data sets by name."""

import numpy as np
import pytest

from jaxconv.config import default_config
from jaxconv.data.sources import SOURCES, open_source
from jaxconv.errors import ConfigError


def named(name):
    config = default_config()
    config.data.name = name
    return open_source(config.data)


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_tells_what_it_loads(name):
    source = named(name)
    train = source.load("train[:64%]")
    assert train.images.shape[1:] == source.image_shape
    assert set(train.labels.tolist()) == set(range(source.num_classes))
    again = named(name).load("train[:64%]")
    for ours, expected in zip(again, train, strict=True):
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("name", SOURCES)
def test_an_unknown_split(name):
    with pytest.raises(ConfigError, match=f"is not a split of '{name}'"):
        named(name).load("nope")


def test_an_unknown_set_names_the_nearest():
    for typo, meant in [("cifar_10", "cifar10"), ("moving_digit", "moving_digits")]:
        with pytest.raises(ConfigError, match=rf"did you mean .*{meant}"):
            named(typo)
