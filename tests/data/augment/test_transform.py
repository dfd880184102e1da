"""Each transformation against Keras and SciPy, and augmented batches as a function of (seed, example, epoch)."""

import functools

import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras.src.legacy.preprocessing import image as keras_image

from jaxconv.config import default_config
from jaxconv.data import augment
from jaxconv.data.pipeline import Normalizer, steps_per_epoch, train_batches
from jaxconv.data.sources import Examples
from jaxconv.errors import ConfigError

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
SCIPY_MODES = {"nearest": "nearest", "reflect": "reflect", "constant": "grid-constant"}


def config_of(**fields):
    config = default_config().augment
    config.update(fields)
    return config


@functools.cache  # compiled once for all examples of a test
def transformer(**fields):
    return augment.transformer(config_of(**fields), mean=[1.0, 2.0, 3.0])


def photo(n=2, shape=(12, 12, 3), seed=0):
    """Images of smooth noise, float32, of 0 to 255."""
    noise = np.random.default_rng(seed).uniform(0, 255, (n, *shape))
    return scipy.ndimage.gaussian_filter(noise, (0, 1, 1, 0)).astype(np.float32)


def transform(images, fill="nearest", **params):
    params = {key: tf.constant([value] * len(images), tf.float32) for key, value in params.items()}
    return transformer(fill=fill)(tf.constant(images), params).numpy()


@pytest.mark.filterwarnings("ignore:Please import `affine_transform`:DeprecationWarning")  # of Keras' own import
@settings(max_examples=20, deadline=None)
@given(
    rotation=st.floats(-180, 180),
    shear=st.floats(-45, 45),
    zoom_x=st.floats(0.6, 1.6),
    zoom_y=st.floats(0.6, 1.6),
    shift_x=st.floats(-5, 5),
    shift_y=st.floats(-5, 5),
    fill=st.sampled_from(["nearest", "reflect"]),
)
def test_geometry_equals_keras(rotation, shear, zoom_x, zoom_y, shift_x, shift_y, fill):
    images = photo()
    ours = transform(
        images,
        fill,
        **IDENTITY
        | {
            "rotation": rotation,
            "shear": shear,
            "zoom_x": zoom_x,
            "zoom_y": zoom_y,
            "shift_x": shift_x,
            "shift_y": shift_y,
        },
    )
    for image, our in zip(images, ours, strict=True):
        theirs = keras_image.apply_affine_transform(
            image, rotation, shift_x, shift_y, shear, zoom_x, zoom_y, 0, 1, 2, fill_mode=fill
        )
        np.testing.assert_allclose(our, theirs, atol=0.05)


@pytest.mark.parametrize("fill", augment.FILLS)
@pytest.mark.parametrize("shape", [(9, 14, 2), (14, 9, 1)])
def test_geometry_equals_scipy_on_images_that_are_not_square(shape, fill):
    images = photo(1, shape)
    ours = transform(images, fill, **IDENTITY | {"rotation": 30.0, "zoom_x": 1.2, "shift_y": 2.5})
    cos, sin = np.cos(np.pi / 6), np.sin(np.pi / 6)
    # In SciPy's order, rows first.
    matrix = np.array([[cos, sin], [-sin, cos]]) @ np.diag([1.0, 1.2])
    middle = (np.array(shape[:2]) - 1) / 2
    offset = middle - matrix @ middle + np.array([[cos, sin], [-sin, cos]]) @ [2.5, 0.0]
    for channel in range(shape[-1]):
        theirs = scipy.ndimage.affine_transform(
            images[0, ..., channel], matrix, offset, order=1, mode=SCIPY_MODES[fill], cval=0.0
        )
        np.testing.assert_allclose(ours[0, ..., channel], theirs, atol=0.05)


@pytest.mark.parametrize("fill", augment.FILLS)
def test_geometry_equals_tensorflow(fill):
    images = photo(1, (10, 13, 3))
    ours = transform(images, fill, **IDENTITY | {"rotation": 90.0, "zoom_x": 0.7, "zoom_y": 1.3})
    # By 90 degrees about (6, 4.5), after the zoom: x <- 6 - 1.3 (y - 4.5) and y <- 4.5 + 0.7 (x - 6).
    matrix = [[0.0, -1.3, 6 + 1.3 * 4.5, 0.7, 0.0, 4.5 - 0.7 * 6, 0.0, 0.0]]
    theirs = tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=matrix,
        output_shape=[10, 13],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode=fill.upper(),
    )
    np.testing.assert_allclose(ours, theirs, atol=0.01)


@pytest.mark.parametrize("fill", augment.FILLS)
@pytest.mark.parametrize(("x", "y"), [(0, 0), (3, 0), (0, -2), (-4, 5)])
@pytest.mark.parametrize(("flip_x", "flip_y"), [(1, 1), (-1, 1), (1, -1), (-1, -1)])
def test_flips_and_shifts_by_whole_pixels_are_exact(fill, x, y, flip_x, flip_y):
    images = photo(shape=(11, 8, 3))
    ours = transform(images, fill, **IDENTITY | {"shift_x": x, "shift_y": y, "flip_x": flip_x, "flip_y": flip_y})
    modes = {"nearest": "edge", "reflect": "symmetric", "constant": "constant"}
    padded = np.pad(images, [(0, 0), (5, 5), (5, 5), (0, 0)], modes[fill])
    theirs = padded[:, 5 + y : 16 + y, 5 + x : 13 + x]
    np.testing.assert_array_equal(ours, theirs[:, ::flip_y, ::flip_x])


@pytest.mark.parametrize("intensity", [-40.0, 15.0])
def test_channel_shift_equals_keras(intensity):
    images = photo()
    ours = transform(images, channel_shift=intensity)
    for image, our in zip(images, ours, strict=True):
        np.testing.assert_allclose(our, keras_image.apply_channel_shift(image, intensity, 2), rtol=1e-6)


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.7])
def test_brightness_equals_keras(factor):
    images = np.round(photo())
    ours = transform(images, brightness=factor)
    for image, our in zip(images, ours, strict=True):
        theirs = keras_image.apply_brightness_shift(image, factor, scale=False)
        np.testing.assert_allclose(our, theirs, atol=1.01)  # theirs goes through bytes


@pytest.mark.parametrize("factor", [0.4, 1.0, 1.9])
def test_contrast_equals_tensorflow(factor):
    images = photo()
    theirs = np.clip(tf.image.adjust_contrast(images, factor), 0, 255)
    np.testing.assert_allclose(transform(images, contrast=factor), theirs, atol=1e-3)


@pytest.mark.parametrize(("x", "y"), [(0, 0), (5, 7), (11, 3)])
@pytest.mark.parametrize("side", [1, 4, 5])
def test_cutout_leaves_the_mean_in_a_square(x, y, side):
    images = photo()
    params = {"cutout_x": tf.constant([x, x], tf.float32), "cutout_y": tf.constant([y, y], tf.float32)}
    ours = transformer(cutout=side)(tf.constant(images), params).numpy()
    theirs = images.copy()
    top, left = y - side // 2, x - side // 2
    theirs[:, max(top, 0) : top + side, max(left, 0) : left + side] = [1, 2, 3]
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
    "cutout": 3,
}


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
    params = {k: v.numpy() for k, v in augment.parameters(draws, config_of(**{field: value}), 20, 40).items()}
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
    alone = augment.parameters(draws, config_of(rotation=20.0), 8, 8)
    together = augment.parameters(draws, config_of(**ALL), 8, 8)
    np.testing.assert_array_equal(alone["rotation"], together["rotation"])


@pytest.mark.parametrize(
    ("shape", "fields", "part"),
    [
        ((16, 1), {"rotation": 5.0}, "augment.rotation is for images of two dimensions"),
        ((4, 4, 4, 1), {"horizontal_flip": True}, "augment.horizontal_flip is for images of two"),
        ((8, 8, 3), {"crop_padding": 9}, "crop_padding=9 is larger than the images, 8 x 8"),
        ((8, 9, 3), {"cutout": 20}, "cutout=20 is larger than the images, 8 x 9"),
        ((8, 9, 3), {"fill": "mirror"}, "augment.fill='mirror' is not known"),
    ],
)
def test_what_does_not_suit_the_images_is_refused(shape, fields, part):
    with pytest.raises(ConfigError, match=part):
        augment.check(config_of(**fields), shape)


def test_off_is_off_for_any_shape():
    config = config_of()
    assert not augment.is_on(config)
    augment.check(config, (16, 1))
    assert augment.is_on(config_of(horizontal_flip=True))
