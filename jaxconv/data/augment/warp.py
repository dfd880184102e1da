"""The geometric transformations: all those of an image compose into one matrix, so it is interpolated once."""

from typing import Any

from jaxconv.data.augment.arrays import Operations

FILLS = ("nearest", "reflect", "constant")
"""The values of config.augment.fill: what lies beyond the edges."""


def warp(xp: Operations, images: Any, params: dict[str, Any], fill: str) -> Any:
    """Transform each image and interpolate it bilinearly.

    Args:
        xp: the array operations.
        images: of shape (batch, frames, height, width, channels). All frames are transformed alike.
        params: the geometric parameters, float32 (batch,), as `transform.parameters` returns them.
        fill: one of `FILLS`.

    Returns:
        The transformed images, float32 of the same shape.
    """
    batch, frames, height, width, channels = xp.shape(images)[0], *images.shape[1:]
    matrices = _matrices(xp, params, height, width)
    xx, xy, shift_x, yx, yy, shift_y = (entry[:, None, None, None] for entry in matrices)
    x_out, y_out = xp.arange(width, "float32"), xp.arange(height, "float32")[:, None]
    x, y = xx * x_out + xy * y_out + shift_x, yx * x_out + yy * y_out + shift_y
    left, top = xp.floor(x), xp.floor(y)
    right_share, bottom_share = x - left, y - top
    first_pixel = xp.reshape(xp.arange(batch * frames), [batch, frames, 1, 1]) * (height * width)
    pixels = xp.reshape(images, [-1, channels])

    def corner(down: int, right: int) -> Any:
        row, column = xp.astype(top, "int32") + down, xp.astype(left, "int32") + right
        share = (bottom_share if down else 1 - bottom_share) * (right_share if right else 1 - right_share)
        if fill == "constant":
            share = xp.where(_is_inside(row, height) & _is_inside(column, width), share, 0.0)
        index = first_pixel + _filled_from(xp, row, height, fill) * width + _filled_from(xp, column, width, fill)
        return xp.astype(xp.take(pixels, index), "float32") * share[..., None]

    return corner(0, 0) + corner(0, 1) + corner(1, 0) + corner(1, 1)


def move(xp: Operations, images: Any, params: dict[str, Any], fill: str) -> Any:
    """Compute `warp` for flips and shifts by whole pixels, which need no interpolation. It is several times as fast.

    Arguments are those of `warp`. The result is equal to its result bit for bit, in the dtype of the images.
    """
    batch, frames, height, width, channels = xp.shape(images)[0], *images.shape[1:]

    def source(axis: str, size: int) -> Any:
        """Return which rows or columns of the input those of the output are, int32 (batch, size)."""
        flip, shift, middle = params[f"flip_{axis}"][:, None], params[f"shift_{axis}"][:, None], (size - 1) / 2
        return xp.astype(flip * (xp.arange(size, "float32") - middle) + middle + shift, "int32")

    rows, columns = source("y", height)[:, None, :, None], source("x", width)[:, None, None, :]
    first_pixel = xp.reshape(xp.arange(batch * frames), [batch, frames, 1, 1]) * (height * width)
    index = first_pixel + _filled_from(xp, rows, height, fill) * width + _filled_from(xp, columns, width, fill)
    moved = xp.take(xp.reshape(images, [-1, channels]), index)
    if fill == "constant":
        is_inside = _is_inside(rows, height) & _is_inside(columns, width)
        moved = moved * xp.astype(is_inside[..., None], moved.dtype)
    return moved


def _is_inside(index: Any, size: int) -> Any:
    return (index >= 0) & (index < size)


def _filled_from(xp: Operations, index: Any, size: int, fill: str) -> Any:
    """Return the row or column of the pixel that fills each place, also beyond the edges."""
    if fill == "reflect":
        index = xp.mod(index, 2 * size)
        return xp.minimum(index, 2 * size - 1 - index)
    return xp.clip(index, 0, size - 1)


def _matrices(xp: Operations, params: dict[str, Any], height: int, width: int) -> tuple[Any, ...]:
    """Return the affine map of each image, from pixels of the output to positions in the input.

    The map is rotation . shift . shear . zoom . flip about the middle of the image, as in Keras'
    apply_affine_transform.

    Returns:
        The entries of the two rows (xx, xy, shift_x) and (yx, yy, shift_y), each (batch,):
        x_in = xx * x_out + xy * y_out + shift_x and y_in = yx * x_out + yy * y_out + shift_y.
    """
    angle, shear = (params[name] * (3.141592653589793 / 180) for name in ("rotation", "shear"))
    cos, sin = xp.cos(angle), xp.sin(angle)
    zoom_x, zoom_y = params["zoom_x"] * params["flip_x"], params["zoom_y"] * params["flip_y"]
    xx, yx = cos * zoom_x, sin * zoom_x
    xy = (-cos * xp.sin(shear) - sin * xp.cos(shear)) * zoom_y
    yy = (-sin * xp.sin(shear) + cos * xp.cos(shear)) * zoom_y
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    shift_x = cos * params["shift_x"] - sin * params["shift_y"] + middle_x - xx * middle_x - xy * middle_y
    shift_y = sin * params["shift_x"] + cos * params["shift_y"] + middle_y - yx * middle_x - yy * middle_y
    return xx, xy, shift_x, yx, yy, shift_y
