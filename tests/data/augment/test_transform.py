"""The other transformations against Keras, TensorFlow and NumPy; parameters; batches by (seed, example, epoch)."""

import re

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras.src.legacy.preprocessing import image as keras_image

from jaxconv.data import augment
from jaxconv.data.augment import arrays
from jaxconv.data.examples import Examples
from jaxconv.data.pipeline import Normalizer, steps_per_epoch, train_batches
from jaxconv.errors import ConfigError
from tests.data.augment.common import IDENTITY, MEAN, SHAPES, config_of, photo, transform


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("intensity", [-40.0, 15.0])
def test_channel_shift_equals_keras(intensity, kind):
    images = photo(shape=SHAPES[kind])
    ours = transform(images, channel_shift=intensity)
    for image, our in zip(images, ours, strict=True):  # the range to which it clips is that of the whole clip
        theirs = keras_image.apply_channel_shift(image, intensity, image.ndim - 1)
        np.testing.assert_allclose(our, theirs, rtol=1e-6)


def test_channel_shift_is_in_the_unit_of_the_data():
    signals = photo(shape=SHAPES["signal"]) / 1000 - 5
    ours = transform(signals, channel_shift=0.01)
    np.testing.assert_allclose(ours, np.minimum(signals + 0.01, signals.max((1, 2), keepdims=True)), rtol=1e-6)


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.7])
def test_brightness_equals_keras(factor):
    images = np.round(photo())
    ours = transform(images, brightness=factor)
    for image, our in zip(images, ours, strict=True):
        theirs = keras_image.apply_brightness_shift(image, factor, scale=False)
        np.testing.assert_allclose(our, theirs, atol=1.01)  # theirs goes through bytes


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("factor", [0.4, 1.0, 1.9])
def test_contrast_equals_tensorflow(factor, kind):
    images = photo(shape=SHAPES[kind])
    as_images = images.reshape(2, -1, 1, 3)  # the middle is that of the whole clip
    theirs = np.clip(tf.image.adjust_contrast(as_images, factor), 0, 255).reshape(images.shape)
    np.testing.assert_allclose(transform(images, contrast=factor), theirs, atol=1e-3)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize(("x", "y"), [(0, 0), (5, 7), (11, 3)])
@pytest.mark.parametrize("side", [1, 4, 5])
def test_cutout_leaves_the_mean_in_a_square(x, y, side, kind):
    images = photo(shape=SHAPES[kind])
    y = 0 if kind == "signal" else y
    ours = transform(images, {"cutout": side}, cutout_x=x, cutout_y=y)
    theirs = images.copy()
    top, left = max(y - side // 2, 0), max(x - side // 2, 0)
    bottom, right = y - side // 2 + side, x - side // 2 + side
    theirs[(..., *([] if kind == "signal" else [slice(top, bottom)]), slice(left, right), slice(None))] = MEAN
    np.testing.assert_array_equal(ours, theirs)


# ---- Batches

ALL = {
    "rotation": 20.0,
    "width_shift": 0.1,
    "height_shift": 0.2,
    "rescaling": 0.1,
    "zoom": 0.2,
    "shear": 10.0,
    "horizontal_flip": True,
    "vertical_flip": True,
    "crop_padding": 2,
    "channel_shift": 20.0,
    "brightness": 0.2,
    "contrast": 0.3,
    "noise": 0.1,
    "cutout": 3,
}
FOR_SIGNALS = ALL.keys() - {"rotation", "shear", "height_shift", "vertical_flip"}


def images_of(n, batch_size, seed=0, start_step=0, epochs=2, **fields):
    """The images of each example by epoch: what an epoch shows of it, whatever its place in the order."""
    examples = Examples(photo(n).astype(np.uint8), np.arange(n, dtype=np.int32))
    steps = steps_per_epoch(examples, batch_size)
    batches = train_batches(
        examples,
        Normalizer(np.zeros(3, np.float32), np.ones(3, np.float32)),
        batch_size=batch_size,
        seed=seed,
        start_step=start_step,
        end_step=epochs * steps,
        augmentation=config_of(**fields),
    )
    result = {}
    for step, batch in enumerate(batches, start=start_step):
        for image, label, weight in zip(batch["image"], batch["label"], batch["weight"], strict=True):
            if weight:
                result[step // steps, int(label)] = image
    return result


@settings(max_examples=5, deadline=None)
@given(data=st.data(), n=st.integers(1, 40), seed=st.integers(0, 2**31 - 1))
def test_an_image_is_a_function_of_seed_example_and_epoch(data, n, seed):
    first = images_of(n, data.draw(st.integers(1, 50)), seed, **ALL)
    batch_size = data.draw(st.integers(1, 50))
    steps = -(-n // batch_size)
    second = images_of(n, batch_size, seed, data.draw(st.integers(0, 2 * steps - 1)), **ALL)
    assert first.keys() == {(epoch, example) for epoch in range(2) for example in range(n)}
    for key, image in second.items():
        np.testing.assert_allclose(image, first[key], atol=1e-3)


@pytest.mark.parametrize("field", ALL)
def test_parameters_fill_their_range(field):
    value = ALL[field]
    draws = augment.draws(4000, 0, 0)
    params = {
        k: v.numpy()
        for k, v in augment.parameters(arrays.tensorflow(), draws, config_of(**{field: value}), (20, 40, 3)).items()
    }
    ranges = {
        "rotation": {"rotation": (-20, 20)},
        "width_shift": {"shift_x": (-4, 4)},
        "height_shift": {"shift_y": (-4, 4)},
        "rescaling": {"zoom_x": (0.9, 1.1), "zoom_y": (0.9, 1.1)},
        "zoom": {"zoom_x": (0.8, 1.2), "zoom_y": (0.8, 1.2)},
        "shear": {"shear": (-10, 10)},
        "horizontal_flip": {"flip_x": (-1, 1)},
        "vertical_flip": {"flip_y": (-1, 1)},
        "crop_padding": {"shift_x": (-2, 2), "shift_y": (-2, 2)},
        "channel_shift": {"channel_shift": (-20, 20)},
        "brightness": {"brightness": (0.8, 1.2)},
        "contrast": {"contrast": (0.7, 1.3)},
        "noise": {"noise": (0, 1)},
        "cutout": {"cutout_x": (0, 39), "cutout_y": (0, 19)},
    }[field]
    for name, (lowest, highest) in ranges.items():
        reach = highest - lowest
        assert params[name].min() == pytest.approx(lowest, abs=0.01 * reach)
        assert params[name].max() == pytest.approx(highest, abs=0.01 * reach)
        assert params[name].mean() == pytest.approx((lowest + highest) / 2, abs=0.05 * reach)
    for name in params.keys() & IDENTITY.keys() - ranges.keys():
        np.testing.assert_array_equal(params[name], IDENTITY[name])
    if field == "rescaling":
        np.testing.assert_array_equal(params["zoom_x"], params["zoom_y"])
    if field == "crop_padding":
        assert set(params["shift_x"]) == {-2, -1, 0, 1, 2}


def test_turning_one_on_leaves_the_draws_of_the_others():
    draws = augment.draws(100, 0, 0)
    alone = augment.parameters(arrays.tensorflow(), draws, config_of(rotation=20.0), (8, 8, 3))
    together = augment.parameters(arrays.tensorflow(), draws, config_of(**ALL), (8, 8, 3))
    np.testing.assert_array_equal(alone["rotation"], together["rotation"])


def test_the_parameters_of_signals_are_those_of_the_width():
    draws, config = augment.draws(100, 0, 0), config_of(**{field: ALL[field] for field in FOR_SIGNALS})
    of_signals = augment.parameters(arrays.tensorflow(), draws, config, (40, 3))
    of_images = augment.parameters(arrays.tensorflow(), draws, config, (20, 40, 3))
    assert of_signals.keys() == of_images.keys()
    for name, values in of_signals.items():
        expected = np.zeros(100) if name in ("shift_y", "cutout_y") else of_images[name]
        np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize(
    ("shape", "dtype", "fields", "sentence"),
    [
        (
            (16, 1),
            "uint8",
            {"rotation": 5.0, "vertical_flip": True, "horizontal_flip": True},
            "config.augment.rotation is for images of two or three dimensions, and these have one: "
            "turn config.augment.rotation and config.augment.vertical_flip off.",
        ),
        ((16, 1), "uint8", {"shear": 5.0}, "config.augment.shear is for images"),
        ((16, 1), "uint8", {"height_shift": 0.1}, "config.augment.height_shift is for images"),
        (
            (8, 8, 3),
            "float32",
            {"brightness": 0.1, "contrast": 0.1},
            "config.augment.brightness is for bytes, because it clips to 0 to 255, and the images are float32: "
            "turn config.augment.brightness and config.augment.contrast off.",
        ),
        ((8, 8, 3), "uint8", {"crop_padding": 9}, "config.augment.crop_padding=9 is larger than the images, 8 x 8: "),
        ((8, 9, 3), "uint8", {"cutout": 20}, "config.augment.cutout=20 is larger than the images, 8 x 9: make it"),
        ((16, 3), "uint8", {"cutout": 17}, "config.augment.cutout=17 is larger than the signals, 16: make it smaller."),
        ((4, 8, 9, 3), "uint8", {"cutout": 9}, "config.augment.cutout=9 is larger than the images, 8 x 9: make it"),
        ((8, 9, 3), "uint8", {"fill": "mirror"}, "config.augment.fill='mirror' is not known"),
    ],
)
def test_what_does_not_suit_the_images_is_refused(shape, dtype, fields, sentence):
    with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}"):
        augment.check(config_of(**fields), shape, np.dtype(dtype))


def test_what_suits_the_images_is_not_refused():
    uint8, float32 = np.dtype("uint8"), np.dtype("float32")
    augment.check(config_of(**ALL), (8, 9, 3), uint8)
    augment.check(config_of(**ALL), (2, 8, 9, 3), uint8)
    augment.check(config_of(**{field: ALL[field] for field in FOR_SIGNALS}), (16, 1), uint8)
    augment.check(config_of(**ALL | {"brightness": 0.0, "contrast": 0.0}), (8, 9, 3), float32)
    augment.check(config_of(cutout=16, crop_padding=16), (16, 1), float32)


def test_off_is_off():
    assert not augment.is_on(config_of())
    assert augment.is_on(config_of(horizontal_flip=True))
