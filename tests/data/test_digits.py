"""Photographs of digits look like MNIST's images, of which they are made here."""

import numpy as np
import pytest
from PIL import Image

from jaxconv.data.digits import like_mnist
from jaxconv.data.sample import digits

DIGITS = digits().images[:100]


def photograph(digit, *, side=260, paper=225, ink=40, shadow=0, grain=0, place=(90, 40), size=(420, 560), seed=0):
    """A digit of MNIST, dark on light, somewhere on a sheet of paper."""
    large = np.asarray(Image.fromarray(digit[..., 0]).resize((side, side), Image.Resampling.BICUBIC)) / 255
    mask = np.zeros(size)
    mask[place[0] : place[0] + side, place[1] : place[1] + side] = large
    sheet = paper - shadow * np.linspace(0, 1, size[1]) + np.random.default_rng(seed).normal(0, grain + 1e-9, size)
    return np.clip(sheet * (1 - mask) + ink * mask, 0, 255).astype(np.uint8)[..., None]


PHOTOGRAPHS = {
    "clean": {},
    "grain": {"grain": 8},
    "a shadow": {"shadow": 60, "grain": 4},
    "pale ink": {"ink": 130, "grain": 4},
    "small": {"side": 60, "place": (300, 450)},
    "light on dark": {"paper": 30, "ink": 240},
}


def similarity(ours, digit):
    return np.corrcoef(ours.ravel(), digit.ravel())[0, 1]


@pytest.mark.parametrize("kind", PHOTOGRAPHS)
def test_a_photograph_looks_like_the_digit_that_it_shows(kind):
    ours = [like_mnist(photograph(digit, **PHOTOGRAPHS[kind], seed=i)) for i, digit in enumerate(DIGITS)]
    alike = [similarity(mine, digit) for mine, digit in zip(ours, DIGITS, strict=True)]
    assert np.median(alike) > 0.95
    assert np.quantile(alike, 0.05) > 0.7
    assert all((mine.shape, mine.dtype) == ((28, 28, 1), np.uint8) for mine in ours)
    assert np.mean([mine[[0, -1]].any() for mine in ours]) < 0.05  # the border of MNIST's images is black


def test_an_image_of_mnist_stays_as_it_is():
    for digit in DIGITS:
        np.testing.assert_array_equal(like_mnist(digit), digit)


def test_an_image_of_mnist_that_is_dark_on_light_is_turned():
    alike = [similarity(like_mnist(255 - digit), digit) for digit in DIGITS]
    assert np.median(alike) > 0.95


@pytest.mark.parametrize("shape", [(1, 1), (28, 28), (300, 1), (2, 500)])
@pytest.mark.parametrize("value", [0, 128, 255])
def test_an_image_of_one_colour_is_black(shape, value):
    assert not like_mnist(np.full((*shape, 1), value, np.uint8)).any() or (shape, value) == ((28, 28), 0)


def test_a_long_stroke_fits():
    image = np.full((400, 6, 1), 255, np.uint8)
    image[20:380, 2:4] = 0
    (rows, columns) = (np.flatnonzero(like_mnist(image)[..., 0].any(axis)) for axis in (1, 0))
    assert (len(rows), len(columns)) == (20, 1)
    assert (rows[0], columns[0]) in [(4, 13), (4, 14)]
