"""Examples, filters and feature maps as pictures: of signals, images and clips."""

import io

import numpy as np
import pytest
from PIL import Image

from jaxconv.report import examples, layers, pictures


def pixels(figure):
    with Image.open(io.BytesIO(figure.content)) as image:
        return np.asarray(image.convert("RGB"))


def test_an_image_and_its_maps():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (120, 100, 3), dtype=np.uint8)
    alone = pixels(examples.draw(image, "name", "alt"))
    np.testing.assert_array_equal(alone, image)
    maps = rng.random((2, 120, 100))
    figure = examples.draw(image, "name", "alt", saliency=maps[0], places=maps[1])
    drawn = pixels(figure)
    assert figure.name == "name.png"
    assert drawn.shape == (120, 3 * 100 + 2 * 2, 3)
    np.testing.assert_array_equal(drawn[:, :100], image)
    np.testing.assert_array_equal(drawn[:, 102:202], pictures.heat(maps[0]))
    np.testing.assert_array_equal(drawn[:, 204:], pictures.overlay(image, maps[1]))


def test_a_small_image_is_enlarged_pixel_by_pixel():
    image = np.arange(8 * 8, dtype=np.uint8).reshape(8, 8, 1)
    np.testing.assert_array_equal(
        pixels(examples.draw(image, "a", "b"))[..., 0], np.kron(image[..., 0], np.ones((12, 12)))
    )


def test_floats_and_other_channels():
    image = np.zeros((96, 96, 2), np.float32)
    image[0, 0], image[1, 1] = 7, -1
    drawn = pixels(examples.draw(image, "a", "b"))
    assert drawn[0, 0].tolist() == [255] * 3
    assert drawn[1, 1].tolist() == [0] * 3


def test_a_clip_is_a_strip_with_its_maps_below():
    clip = np.random.default_rng(0).integers(0, 256, (4, 96, 96, 1), dtype=np.uint8)
    drawn = pixels(examples.draw(clip, "a", "b"))
    np.testing.assert_array_equal(drawn[..., 0], np.concatenate(list(clip[..., 0]), axis=1))
    both = pixels(examples.draw(clip, "a", "b", saliency=np.ones((4, 96, 96)), places=np.ones((4, 96, 96))))
    assert both.shape == (3 * 96 + 2 * 2, 4 * 96, 3)


def test_signals_are_lines_or_an_image():
    signal = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    figure = examples.draw(signal, "name", "alt", saliency=np.ones(40))
    assert figure.name == "name.svg"
    text = figure.content.decode()
    assert ">saliency<" in text
    assert ">Grad-CAM<" not in text
    many = np.zeros((96, 12), np.float32)
    many[3, 5] = 1
    drawn = pixels(examples.draw(many, "name", "alt"))
    assert drawn.shape == (12, 96, 3)
    assert np.argwhere(drawn[..., 0]).tolist() == [[5, 3]]


@pytest.mark.parametrize(
    ("layer", "kernel", "image_shape", "said"),
    [
        ("Conv_0", (5, 5, 1, 20), (28, 28, 1), "20 of the 20 filters of Conv_0, each of 5 x 5 x 1."),
        ("Conv_0", (3, 3, 3, 96), (32, 32, 3), "64 of the 96 filters of Conv_0, each of 3 x 3 x 3."),
        ("Conv_0", (5, 2, 7), (40, 2), "7 of the 7 filters"),
        ("Conv_0", (3, 3, 3, 1, 16), (8, 20, 20, 1), "Its frames are side by side."),
        ("Dense_0", (8 * 8 * 3, 10), (8, 8, 3), "10 of the 10 units of Dense_0, each of 8 x 8 x 3."),
        ("logits", (40, 10), (40, 1), "10 of the 10 units of logits"),
    ],
)
def test_filters_of_every_kind(layer, kernel, image_shape, said):
    weights = np.random.default_rng(0).normal(size=kernel)
    figure = layers.filters({"params": {layer: {"kernel": weights}}}, image_shape)
    assert said in figure.alt
    assert pixels(figure).std() > 10


def test_the_sign_of_a_weight_is_its_colour():
    kernel = np.zeros((3, 3, 1, 1))
    kernel[0, 0], kernel[2, 2] = 1, -1
    drawn = pixels(layers.filters({"params": {"Conv_0": {"kernel": kernel}}}, (9, 9, 1)))
    side = drawn.shape[0] // 3
    red, _, blue = drawn[0, 0].astype(int)
    assert red > blue + 50
    red, _, blue = drawn[2 * side + 1, 2 * side + 1].astype(int)
    assert blue > red + 50


@pytest.mark.parametrize("shape", [(14, 14, 20), (1, 1, 64), (20, 32), (5, 128), (8, 10, 10, 16), (3, 3, 50)])
def test_feature_maps_of_every_kind(shape):
    maps = np.random.default_rng(0).random(shape)
    drawn = pixels(layers.feature_maps(maps, "name", "alt"))
    assert drawn.shape[1] <= 700
    assert drawn.std() > 10


def test_the_strongest_value_is_the_brightest():
    maps = np.zeros((8, 8, 8))
    maps[3, 5, 2] = 1
    drawn = pixels(layers.feature_maps(maps, "name", "alt")).sum(axis=-1).astype(int)
    row, column = np.unravel_index(drawn.argmax(), drawn.shape)
    scale = (drawn.shape[1] + 2) // 8
    tile, within = divmod(column, scale)
    assert tile == 2
    assert within // ((scale - 2) // 8) == 5
    assert row // ((scale - 2) // 8) == 3
