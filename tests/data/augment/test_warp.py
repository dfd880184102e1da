"""The geometric transformations against Keras, SciPy, TensorFlow and NumPy."""

import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras.src.legacy.preprocessing import image as keras_image

from jaxconv.data import augment
from tests.data.augment.common import IDENTITY, photo, transform, transformer

SCIPY_MODES = {"nearest": "nearest", "reflect": "reflect", "constant": "grid-constant"}
NUMPY_MODES = {"nearest": "edge", "reflect": "symmetric", "constant": "constant"}


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
        {"fill": fill},
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
    ours = transform(images, {"fill": fill}, **IDENTITY | {"rotation": 30.0, "zoom_x": 1.2, "shift_y": 2.5})
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
    ours = transform(images, {"fill": fill}, **IDENTITY | {"rotation": 90.0, "zoom_x": 0.7, "zoom_y": 1.3})
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
    ours = transform(
        images, {"fill": fill}, **IDENTITY | {"shift_x": x, "shift_y": y, "flip_x": flip_x, "flip_y": flip_y}
    )
    padded = np.pad(images, [(0, 0), (5, 5), (5, 5), (0, 0)], NUMPY_MODES[fill])
    theirs = padded[:, 5 + y : 16 + y, 5 + x : 13 + x]
    np.testing.assert_array_equal(ours, theirs[:, ::flip_y, ::flip_x])


@pytest.mark.parametrize("fill", augment.FILLS)
@pytest.mark.parametrize("x", [0, 3, -5])
@pytest.mark.parametrize("flip_x", [1, -1])
def test_flips_and_shifts_of_signals_are_exact(fill, x, flip_x):
    signals = photo(shape=(16, 2))
    ours = transform(signals, {"fill": fill}, **IDENTITY | {"shift_x": x, "flip_x": flip_x})
    padded = np.pad(signals, [(0, 0), (5, 5), (0, 0)], NUMPY_MODES[fill])
    np.testing.assert_array_equal(ours, padded[:, 5 + x : 21 + x][:, ::flip_x])


@pytest.mark.parametrize("zoom", [0.7, 1.4])
def test_zoom_of_signals_equals_numpy(zoom):
    signals = photo(1, (21, 2))
    ours = transform(signals, **IDENTITY | {"zoom_x": zoom, "zoom_y": 3.0, "shift_x": 0.3})
    positions = 10 + 0.3 + zoom * (np.arange(21) - 10)
    for channel in range(2):
        theirs = np.interp(positions, np.arange(21), signals[0, :, channel])
        np.testing.assert_allclose(ours[0, :, channel], theirs, atol=0.05)


@pytest.mark.parametrize("fill", augment.FILLS)
def test_every_frame_of_a_clip_is_transformed_alike(fill):
    clips = photo(3, (4, 9, 12, 3))
    geometry = {"rotation": 30.0, "shear": 5.0, "zoom_x": 1.2, "shift_y": 2.5, "flip_x": -1.0}
    ours = transform(clips, {"fill": fill}, **IDENTITY | geometry)
    for frame in range(4):
        theirs = transform(clips[:, frame], {"fill": fill}, **IDENTITY | geometry)
        np.testing.assert_array_equal(ours[:, frame], theirs)


def test_each_clip_has_its_own_parameters():
    clips = photo(2, (3, 5, 6, 1))
    params = {name: tf.constant([value, value], tf.float32) for name, value in IDENTITY.items()}
    ours = transformer()(tf.constant(clips), params | {"flip_x": tf.constant([1.0, -1.0])}).numpy()
    np.testing.assert_array_equal(ours, [clips[0], clips[1, :, :, ::-1]])


@settings(max_examples=30, deadline=None)
@given(
    shift_x=st.integers(-15, 15),
    shift_y=st.integers(-15, 15),
    flip_x=st.sampled_from([-1.0, 1.0]),
    flip_y=st.sampled_from([-1.0, 1.0]),
    fill=st.sampled_from(augment.FILLS),
    shape=st.sampled_from([(12, 12, 3), (9, 14, 2)]),
)
def test_moves_by_whole_pixels_equal_interpolation_bit_for_bit(shift_x, shift_y, flip_x, flip_y, fill, shape):
    moves = {"shift_x": float(shift_x), "shift_y": float(shift_y), "flip_x": flip_x, "flip_y": flip_y}
    images = photo(2, shape)
    interpolated = transform(images, {"fill": fill}, **IDENTITY | moves)
    np.testing.assert_array_equal(transform(images, {"fill": fill}, **moves), interpolated)
