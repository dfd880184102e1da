"""The transformations of the augmentation, in TensorFlow.

The geometric transformations of an image compose into one matrix, so each image is interpolated once. Transformations
that Keras' ImageDataGenerator has follow its conventions. XLA compiles the transformations of a batch into a few passes
over it. That is three times as fast as TensorFlow's own operations, such as ImageProjectiveTransformV3.
"""

from collections.abc import Callable
from typing import Any

from jaxconv.config import Config, choose
from jaxconv.data.augment.draws import DRAWS
from jaxconv.data.tensorflow import import_tensorflow
from jaxconv.errors import ConfigError

FILLS = ("nearest", "reflect", "constant")


def is_on(config: Config) -> bool:
    """Return whether config.augment turns any transformation on."""
    return any(value for field, value in config.items() if field != "fill")


def check(config: Config, image_shape: tuple[int, ...]) -> None:
    """Check that config.augment can be applied to images of a shape.

    Args:
        config: config.augment.
        image_shape: the shape of one image, (*spatial, channels).

    Raises:
        ConfigError: a field cannot be applied. The message names it.
    """
    choose("augment.fill", config.fill, dict.fromkeys(FILLS))
    fields = [f"config.augment.{field}" for field, value in config.items() if value and field != "fill"]
    if fields and len(image_shape) != 3:
        raise ConfigError(
            f"{fields[0]} is for images of two dimensions, and these have {len(image_shape) - 1}: "
            f"turn {' and '.join(fields)} off."
        )
    for field in ("crop_padding", "cutout"):
        if fields and config[field] > min(image_shape[:2]):
            raise ConfigError(
                f"config.augment.{field}={config[field]} is larger than the images, "
                f"{image_shape[0]} x {image_shape[1]}: make it smaller."
            )


def parameters(draws: Any, config: Config, height: int, width: int) -> dict[str, Any]:
    """Convert random numbers to the parameters of the transformations.

    Args:
        draws: uniform numbers on [0, 1), float32 (batch, len(DRAWS)), one column for each name in `DRAWS`.
        config: config.augment.
        height: the height of the images in pixels.
        width: the width of the images in pixels.

    Returns:
        A dict of tensors, float32 (batch,). It holds the parameters of the transformations that are on. If any
        geometric transformation is on, it holds all geometric parameters.

        - rotation, shear: in degrees.
        - zoom_x, zoom_y: factors. A factor below 1 enlarges the image.
        - shift_x, shift_y: in pixels.
        - flip_x, flip_y: 1, or -1 for a flip.
        - channel_shift: added to values from 0 to 255.
        - brightness, contrast: factors.
        - cutout_x, cutout_y: the pixel in the middle of the square.
    """
    tf = import_tensorflow()
    uniform = dict(zip(DRAWS, tf.unstack(draws, axis=1), strict=True))

    def between(name: str, reach: float) -> Any:
        return (2 * uniform[name] - 1) * reach

    def crop(name: str) -> Any:
        return tf.floor(uniform[name] * (2 * config.crop_padding + 1)) - config.crop_padding

    def flip(name: str, on: bool) -> Any:
        return tf.where(uniform[name] < 0.5, -1.0, 1.0) if on else tf.ones_like(uniform[name])

    result: dict[str, Any] = {}
    if any(config[field] for field in _GEOMETRIC):
        rescaling = 1 + between("rescaling", config.rescaling)
        result |= {
            "rotation": between("rotation", config.rotation),
            "shear": between("shear", config.shear),
            "zoom_x": rescaling * (1 + between("zoom_x", config.zoom)),
            "zoom_y": rescaling * (1 + between("zoom_y", config.zoom)),
            "shift_x": between("shift_x", config.width_shift * width) + crop("crop_x"),
            "shift_y": between("shift_y", config.height_shift * height) + crop("crop_y"),
            "flip_x": flip("flip_x", config.horizontal_flip),
            "flip_y": flip("flip_y", config.vertical_flip),
        }
    if config.channel_shift:
        result["channel_shift"] = between("channel_shift", config.channel_shift)
    if config.brightness:
        result["brightness"] = 1 + between("brightness", config.brightness)
    if config.contrast:
        result["contrast"] = 1 + between("contrast", config.contrast)
    if config.cutout:
        result["cutout_x"] = tf.floor(uniform["cutout_x"] * width)
        result["cutout_y"] = tf.floor(uniform["cutout_y"] * height)
    return result


_GEOMETRIC = (
    "rotation",
    "shear",
    "rescaling",
    "zoom",
    "width_shift",
    "height_shift",
    "crop_padding",
    "horizontal_flip",
    "vertical_flip",
)


def transformer(config: Config, mean: Any) -> Callable[[Any, dict[str, Any]], Any]:
    """Return the compiled function that transforms a batch of images.

    Args:
        config: config.augment. The function uses its fields fill and cutout.
        mean: the mean of each channel, (channels,). It fills the square that cutout removes (arXiv:1708.04552).

    Returns:
        A function `(images, params) -> images`. The input images have shape (batch, height, width, channels) and values
        from 0 to 255, of any dtype. `params` is a dict as `parameters` returns it. The function skips transformations
        whose parameters are absent. The output images are float32 of the same shape.
    """
    tf = import_tensorflow()
    return tf.function(lambda images, params: _transform(images, params, config, mean), jit_compile=True)


def _transform(images: Any, params: dict[str, Any], config: Config, mean: Any) -> Any:
    tf = import_tensorflow()
    _, height, width, _ = images.shape
    if "rotation" in params:
        images = _warp(images, _matrices(params, height, width), config.fill)
    images = tf.cast(images, tf.float32)

    def each(name: str) -> Any:
        return params[name][:, None, None, None]

    if "channel_shift" in params:  # As in Keras: one shift for all channels, clipped to the range of the image.
        lowest = tf.reduce_min(images, axis=(1, 2, 3), keepdims=True)
        highest = tf.reduce_max(images, axis=(1, 2, 3), keepdims=True)
        images = tf.clip_by_value(images + each("channel_shift"), lowest, highest)
    if "brightness" in params:
        images = tf.clip_by_value(images * each("brightness"), 0.0, 255.0)
    if "contrast" in params:
        middle = tf.reduce_mean(images, axis=(1, 2), keepdims=True)
        images = tf.clip_by_value((images - middle) * each("contrast") + middle, 0.0, 255.0)
    if "cutout_x" in params:
        # A square with an even side has no middle pixel. It reaches one pixel further up and left.
        first_x, first_y = (each(name) - config.cutout // 2 for name in ("cutout_x", "cutout_y"))
        x, y = (tf.range(size, dtype=tf.float32) for size in (width, height))
        in_x = (x[None, None, :, None] >= first_x) & (x[None, None, :, None] < first_x + config.cutout)
        in_y = (y[None, :, None, None] >= first_y) & (y[None, :, None, None] < first_y + config.cutout)
        images = tf.where(in_x & in_y, tf.constant(mean, tf.float32), images)
    return images


def _warp(images: Any, matrices: Any, fill: str) -> Any:
    """Interpolate each image bilinearly. Its matrix maps pixels of the output to positions in the input."""
    tf = import_tensorflow()
    batch, height, width, channels = tf.shape(images)[0], *images.shape[1:]
    xx, xy, shift_x, yx, yy, shift_y = (matrix[:, None, None] for matrix in matrices)
    x_out, y_out = tf.range(width, dtype=tf.float32), tf.range(height, dtype=tf.float32)[:, None]
    x, y = xx * x_out + xy * y_out + shift_x, yx * x_out + yy * y_out + shift_y
    left, top = tf.floor(x), tf.floor(y)
    right_share, bottom_share = x - left, y - top
    first_pixel = tf.range(batch)[:, None, None] * (height * width)
    pixels = tf.reshape(images, [-1, channels])

    def inside(index: Any, size: int) -> Any:
        if fill == "reflect":
            index = tf.math.floormod(index, 2 * size)
            return tf.minimum(index, 2 * size - 1 - index)
        return tf.clip_by_value(index, 0, size - 1)

    def corner(down: int, right: int) -> Any:
        row, column = tf.cast(top, tf.int32) + down, tf.cast(left, tf.int32) + right
        share = (bottom_share if down else 1 - bottom_share) * (right_share if right else 1 - right_share)
        if fill == "constant":
            is_inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            share = tf.where(is_inside, share, 0.0)
        index = first_pixel + inside(row, height) * width + inside(column, width)
        return tf.cast(tf.gather(pixels, index), tf.float32) * share[..., None]

    return corner(0, 0) + corner(0, 1) + corner(1, 0) + corner(1, 1)


def _matrices(params: dict[str, Any], height: int, width: int) -> tuple[Any, ...]:
    """Return the affine map of each image, from pixels of the output to positions in the input.

    The map is rotation . shift . shear . zoom . flip about the middle of the image, as in Keras'
    apply_affine_transform.

    Returns:
        The entries of the two rows (xx, xy, shift_x) and (yx, yy, shift_y), each (batch,):
        x_in = xx * x_out + xy * y_out + shift_x and y_in = yx * x_out + yy * y_out + shift_y.
    """
    tf = import_tensorflow()
    angle, shear = (params[name] * (3.141592653589793 / 180) for name in ("rotation", "shear"))
    cos, sin = tf.cos(angle), tf.sin(angle)
    zoom_x, zoom_y = params["zoom_x"] * params["flip_x"], params["zoom_y"] * params["flip_y"]
    xx, yx = cos * zoom_x, sin * zoom_x
    xy = (-cos * tf.sin(shear) - sin * tf.cos(shear)) * zoom_y
    yy = (-sin * tf.sin(shear) + cos * tf.cos(shear)) * zoom_y
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    shift_x = cos * params["shift_x"] - sin * params["shift_y"] + middle_x - xx * middle_x - xy * middle_y
    shift_y = sin * params["shift_x"] + cos * params["shift_y"] + middle_y - yx * middle_x - yy * middle_y
    return xx, xy, shift_x, yx, yy, shift_y
