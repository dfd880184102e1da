"""The noise: normal, independent between examples, positions and epochs, and the same for the same draw."""

import functools

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from jaxconv.data import augment
from jaxconv.data.augment import arrays
from jaxconv.data.augment.noise import normal
from tests.data.augment.common import MEAN, SHAPES, STD, config_of, photo, transformer

normal_of = tf.function(functools.partial(normal, arrays.tensorflow()), jit_compile=True)


def draws_of(n, seed=0, epoch=0):
    return augment.draws(n, seed, epoch)[:, augment.DRAWS.index("noise")]


def lowbias32(word):
    """As in https://github.com/skeeto/hash-prospector, with the arithmetic of Python."""
    word = (word ^ word >> 16) * 0x7FEB352D % 2**32
    word = (word ^ word >> 15) * 0x846CA68B % 2**32
    return word ^ word >> 16


@pytest.mark.parametrize("draw", [0, 1, 2**23 + 5, 2**24 - 1])
def test_it_is_the_normal_quantile_of_hashed_words(draw):
    ours = normal_of(np.float32([draw / 2**24]), 500).numpy()[0]
    words = [lowbias32((lowbias32(position) + lowbias32(draw + 2**31)) % 2**32) >> 9 for position in range(500)]
    np.testing.assert_allclose(ours, scipy.stats.norm.ppf((np.array(words) + 0.5) / 2**23), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("draws", [draws_of(300), np.arange(300, dtype=np.float32) / 2**24], ids=["drawn", "adjacent"])
def test_the_values_are_normal_and_independent(draws):
    values = normal_of(draws, 3072).numpy()
    assert scipy.stats.kstest(values.ravel(), "norm").pvalue > 0.001
    for power, moment in [(1, 0), (2, 1), (3, 0), (4, 3)]:
        error = np.sqrt((scipy.stats.norm.moment(2 * power) - moment**2) / values.size)
        assert (values**power).mean() == pytest.approx(moment, abs=4 * error)
    for of in (values, values**2):  # a correlation of n pairs is about 1 / sqrt(n) by chance
        between_examples, between_positions = np.corrcoef(of), np.corrcoef(of[:, :300].T)
        assert np.abs(between_examples - np.eye(300)).max() < 8 / np.sqrt(3072)
        assert np.abs(between_positions - np.eye(300)).max() < 8 / np.sqrt(300)


def test_examples_do_not_get_shifted_copies_of_one_noise():
    values = np.sort(normal_of(np.arange(100, dtype=np.float32) / 2**24, 1000).numpy().ravel())
    # 100,000 values of 2**23 possible ones.
    assert np.mean(np.diff(values) == 0) < 0.02


def test_it_depends_on_the_draw_alone():
    draws = draws_of(50)
    values = normal_of(draws, 100).numpy()
    np.testing.assert_array_equal(normal_of(draws[::-1][:7], 100).numpy(), values[::-1][:7])
    np.testing.assert_array_equal(normal_of(draws, 31).numpy(), values[:, :31])
    assert np.abs(np.corrcoef(values.ravel(), normal_of(draws_of(50, epoch=1), 100).numpy().ravel())[0, 1]) < 0.06


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("kind", SHAPES)
def test_its_unit_is_the_standard_deviation_of_the_channel(kind, dtype):
    images = photo(500, SHAPES[kind]).astype(dtype)
    params = augment.parameters(arrays.tensorflow(), augment.draws(500, 0, 0), config_of(noise=0.2), SHAPES[kind])
    noise = transformer(noise=0.2)(tf.constant(images), params).numpy() - images
    by_channel = noise.reshape(-1, 3) / STD
    np.testing.assert_allclose(by_channel.std(0), 0.2, rtol=0.03)
    np.testing.assert_allclose(by_channel.mean(0), 0, atol=0.006)
    assert scipy.stats.kstest(by_channel.ravel() / 0.2, "norm").pvalue > 0.001


def test_frames_differ():
    clips = np.zeros((1, *SHAPES["clip"]), np.float32)
    noise = transformer(noise=0.2)(tf.constant(clips), {"noise": tf.constant([0.25])}).numpy()[0]
    assert np.abs(np.corrcoef(noise.reshape(4, -1)) - np.eye(4)).max() < 0.25


def test_what_cutout_removes_has_no_noise():
    params = {"noise": tf.constant([0.5]), "cutout_x": tf.constant([4.0]), "cutout_y": tf.constant([4.0])}
    ours = transformer(noise=0.2, cutout=3)(tf.constant(photo(1)), params).numpy()
    np.testing.assert_array_equal(ours[0, 3:6, 3:6], np.broadcast_to(MEAN, (3, 3, 3)))
