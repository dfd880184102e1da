"""What the tests of the transformations share."""

import functools

import numpy as np
import scipy.ndimage
import tensorflow as tf

from jaxconv.config import default_config
from jaxconv.data import augment

IDENTITY = {
    "rotation": 0.0,
    "shear": 0.0,
    "zoom_x": 1.0,
    "zoom_y": 1.0,
    "shift_x": 0.0,
    "shift_y": 0.0,
    "flip_x": 1.0,
    "flip_y": 1.0,
}

SHAPES = {"signal": (40, 3), "image": (12, 12, 3), "clip": (4, 9, 12, 3)}
MEAN, STD = np.array([1, 2, 3], np.float32), np.array([10, 20, 30], np.float32)


def config_of(**fields):
    config = default_config().augment
    config.update(fields)
    return config


@functools.cache  # compiled once for all examples of a test
def transformer(**fields):
    return augment.transformer(config_of(**fields), MEAN, STD)


def photo(n=2, shape=(12, 12, 3), seed=0):
    """Images of smooth noise, float32, of 0 to 255."""
    noise = np.random.default_rng(seed).uniform(0, 255, (n, *shape))
    sigma = (0, *[1] * (len(shape) - 1), 0)
    return scipy.ndimage.gaussian_filter(noise, sigma).astype(np.float32)


def transform(images, fields=None, **params):
    """Transform images by the same parameters. `fields` are those of config.augment that the transformer uses."""
    params = {key: tf.constant([value] * len(images), tf.float32) for key, value in params.items()}
    return transformer(**(fields or {}))(tf.constant(images), params).numpy()
