"""The transformations of the augmentation, for TensorFlow (the host) and JAX (the device).

Transformations that Keras' ImageDataGenerator has follow its conventions. XLA compiles the transformations of a batch
into a few passes over it. That is three times as fast as TensorFlow's own operations, such as
ImageProjectiveTransformV3.

An "image" is a signal (length, channels), an image (height, width, channels) or a clip (frames, height, width,
channels). A signal is treated as a clip of one frame of height 1, and an image as a clip of one frame.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxconv.config import Config, choose
from jaxconv.data.augment.arrays import Operations, tensorflow
from jaxconv.data.augment.draws import DRAWS
from jaxconv.data.augment.noise import normal
from jaxconv.data.augment.warp import FILLS, move, warp
from jaxconv.data.tensorflow import import_tensorflow
from jaxconv.errors import ConfigError

_BY_WHOLE_PIXELS = ("crop_padding", "horizontal_flip", "alternating_flip", "vertical_flip")
_INTERPOLATED = ("rotation", "shear", "rescaling", "zoom", "width_shift", "height_shift")
_NOT_FOR_SIGNALS = ("rotation", "shear", "height_shift", "vertical_flip")
_FOR_BYTES = ("brightness", "contrast")


def is_on(config: Config) -> bool:
    """Return whether config.augment turns any transformation on."""
    return any(value for field, value in config.items() if field != "fill")


def interpolates(config: Config) -> bool:
    """Return whether a transformation of config.augment interpolates between pixels, which takes time."""
    return any(config[field] for field in _INTERPOLATED)


def check(config: Config, image_shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Check that config.augment can be applied to images of a shape and a dtype.

    Args:
        config: config.augment.
        image_shape: the shape of one image, (*spatial, channels), with 1 to 3 spatial dimensions.
        dtype: the dtype of the images.

    Raises:
        ConfigError: a field cannot be applied. The message names it.
    """
    choose("augment.fill", config.fill, dict.fromkeys(FILLS))
    is_signal = len(image_shape) == 2

    def refuse(fields: tuple[str, ...], reason: str) -> None:
        names = [f"config.augment.{field}" for field in fields if config[field]]
        if names:
            raise ConfigError(f"{names[0]} {reason}: turn {' and '.join(names)} off.")

    if is_signal:
        refuse(_NOT_FOR_SIGNALS, "is for images of two or three dimensions, and these have one")
    if dtype != np.uint8:
        refuse(_FOR_BYTES, f"is for bytes, because it clips to 0 to 255, and the images are {dtype}")
    sizes = image_shape[:-1][-2:]
    for field in ("crop_padding", "cutout"):
        if config[field] > min(sizes):
            raise ConfigError(
                f"config.augment.{field}={config[field]} is larger than the {'signals' if is_signal else 'images'}, "
                f"{' x '.join(map(str, sizes))}: make it smaller."
            )


def parameters(xp: Operations, draws: Any, config: Config, image_shape: tuple[int, ...]) -> dict[str, Any]:
    """Convert random numbers to the parameters of the transformations.

    Args:
        xp: the array operations.
        draws: uniform numbers on [0, 1), float32 (batch, len(DRAWS)), one column for each name in `DRAWS`.
        config: config.augment.
        image_shape: the shape of one image, (*spatial, channels).

    Returns:
        A dict of arrays, float32 (batch,). It holds the parameters of the transformations that are on. If any
        geometric transformation is on, it holds shifts and flips, and if one has to interpolate, all geometric
        parameters.

        - rotation, shear: in degrees.
        - zoom_x, zoom_y: factors. A factor below 1 enlarges the image.
        - shift_x, shift_y: in pixels. x runs along a signal.
        - flip_x, flip_y: 1, or -1 for a flip.
        - channel_shift: in the unit of the values.
        - brightness, contrast: factors.
        - noise: the draw itself.
        - cutout_x, cutout_y: the pixel in the middle of the square.
    """
    _, height, width = _frames_height_width(image_shape)
    uniform = dict(zip(DRAWS, xp.unstack(draws), strict=True))

    def between(name: str, reach: float) -> Any:
        return (2 * uniform[name] - 1) * reach

    def crop(name: str, padding: int) -> Any:
        return xp.floor(uniform[name] * (2 * padding + 1)) - padding

    def flip(name: str, on: bool) -> Any:
        return xp.where(uniform[name] < 0.5, -1.0, 1.0) if on else xp.ones_like(uniform[name])

    result: dict[str, Any] = {}
    if interpolates(config) or any(config[field] for field in _BY_WHOLE_PIXELS):
        padding_y = 0 if len(image_shape) == 2 else config.crop_padding
        result |= {
            "shift_x": between("shift_x", config.width_shift * width) + crop("crop_x", config.crop_padding),
            "shift_y": between("shift_y", config.height_shift * height) + crop("crop_y", padding_y),
            "flip_x": flip("flip_x", config.horizontal_flip or config.alternating_flip),
            "flip_y": flip("flip_y", config.vertical_flip),
        }
    if interpolates(config):
        rescaling = 1 + between("rescaling", config.rescaling)
        result |= {
            "rotation": between("rotation", config.rotation),
            "shear": between("shear", config.shear),
            "zoom_x": rescaling * (1 + between("zoom_x", config.zoom)),
            "zoom_y": rescaling * (1 + between("zoom_y", config.zoom)),
        }
    if config.channel_shift:
        result["channel_shift"] = between("channel_shift", config.channel_shift)
    if config.brightness:
        result["brightness"] = 1 + between("brightness", config.brightness)
    if config.contrast:
        result["contrast"] = 1 + between("contrast", config.contrast)
    if config.noise:
        result["noise"] = uniform["noise"]
    if config.cutout:
        result["cutout_x"] = xp.floor(uniform["cutout_x"] * width)
        result["cutout_y"] = xp.floor(uniform["cutout_y"] * height)
    return result


def transformer(config: Config, mean: Any, std: Any) -> Callable[[Any, dict[str, Any]], Any]:
    """Return the compiled function that transforms a batch of images.

    Args:
        config: config.augment. The function uses its fields fill, cutout and noise.
        mean: the mean of each channel, (channels,). It fills the square that cutout removes (arXiv:1708.04552).
        std: the standard deviation of each channel, (channels,). It is the unit of noise.

    Returns:
        A function `(images, params) -> images`, `apply` in TensorFlow.
    """
    compiled = functools.partial(apply, tensorflow(), config=config, mean=mean, std=std)
    return import_tensorflow().function(lambda images, params: compiled(images, params), jit_compile=True)


def apply(xp: Operations, images: Any, params: dict[str, Any], config: Config, mean: Any, std: Any) -> Any:
    """Transform a batch of images.

    Args:
        xp: the array operations.
        images: of shape (batch, *spatial, channels), with 1 to 3 spatial dimensions, and any dtype.
        params: a dict as `parameters` returns it. Transformations whose parameters are absent are skipped.
        config: config.augment, as of `transformer`.
        mean: as of `transformer`.
        std: as of `transformer`.

    Returns:
        The images, float32 of the same shape.
    """
    clips = xp.reshape(images, [-1, *_frames_height_width(images.shape[1:]), images.shape[-1]])
    return xp.reshape(_transform(xp, clips, params, config, mean, std), [-1, *images.shape[1:]])


def _frames_height_width(image_shape: tuple[int, ...]) -> tuple[int, ...]:
    spatial = image_shape[:-1]
    return (1,) * (3 - len(spatial)) + tuple(spatial)


def _transform(xp: Operations, images: Any, params: dict[str, Any], config: Config, mean: Any, std: Any) -> Any:
    """Transform images of shape (batch, frames, height, width, channels)."""
    _, frames, height, width, channels = images.shape
    if "rotation" in params:
        images = warp(xp, images, params, config.fill)
    elif "flip_x" in params:
        images = move(xp, images, params, config.fill)
    images = xp.astype(images, "float32")

    def each(name: str) -> Any:
        return params[name][:, None, None, None, None]

    if "channel_shift" in params:  # As in Keras: one shift for all channels, clipped to the range of the image.
        lowest = xp.min(images, axis=(1, 2, 3, 4))
        highest = xp.max(images, axis=(1, 2, 3, 4))
        images = xp.clip(images + each("channel_shift"), lowest, highest)
    if "brightness" in params:
        images = xp.clip(images * each("brightness"), 0.0, 255.0)
    if "contrast" in params:
        middle = xp.mean(images, axis=(1, 2, 3))
        images = xp.clip((images - middle) * each("contrast") + middle, 0.0, 255.0)
    if "noise" in params:
        noise = xp.reshape(normal(xp, params["noise"], frames * height * width * channels), xp.shape(images))
        images += noise * xp.array(config.noise * np.asarray(std))
    if "cutout_x" in params:
        # A square with an even side has no middle pixel. It reaches one pixel further up and left.
        first_x, first_y = (each(name) - config.cutout // 2 for name in ("cutout_x", "cutout_y"))
        x, y = (xp.arange(size, "float32") for size in (width, height))
        in_x = (x[:, None] >= first_x) & (x[:, None] < first_x + config.cutout)
        in_y = (y[:, None, None] >= first_y) & (y[:, None, None] < first_y + config.cutout)
        images = xp.where(in_x & in_y, xp.array(mean), images)
    return images
