"""Arrays as pictures: images, feature maps, and maps of places over an image."""

import io

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

CLIP = 99
"""The percentile of a map that is drawn as the brightest, as in PAIR's package saliency."""

_GREY = 128


def to_png(picture: UInt8[np.ndarray, "h w c"], scale: int = 1) -> bytes:
    """Write a picture with 1 or 3 channels as a PNG. Each pixel becomes a square of `scale` pixels a side."""
    image = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
    image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def to_range(values: Float[np.ndarray, "*shape"], low: float, high: float) -> UInt8[np.ndarray, "*shape"]:
    """Scale values so that `low` is 0 and `high` 255."""
    return np.clip(255 * (values - low) / max(high - low, 1e-30), 0, 255).astype(np.uint8)


def heat(values: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Colour a map that is not negative from black over red and yellow to white."""
    from matplotlib import colormaps

    high = max(float(np.percentile(values, CLIP)), 1e-30)
    return (255 * colormaps["inferno"](np.clip(values / high, 0, 1))[..., :3]).astype(np.uint8)


def overlay(image: UInt8[np.ndarray, "h w c"], places: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Lay a map of places over an image in grey: the stronger a place, the more of its colour."""
    grey = np.broadcast_to(image.mean(axis=-1, keepdims=True), (*image.shape[:2], 3))
    return (0.45 * grey + 0.55 * heat(places)).astype(np.uint8)


def grid(tiles: UInt8[np.ndarray, "n h w c"], columns: int, gap: int = 1) -> UInt8[np.ndarray, "rows cols c"]:
    """Lay tiles out in rows, with grey lines of `gap` pixels between them."""
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    blank = np.full((rows * columns - len(tiles), *tiles.shape[1:]), _GREY, np.uint8)
    tiles = np.pad(np.concatenate([tiles, blank]), [(0, 0), (0, gap), (0, gap), (0, 0)], constant_values=_GREY)
    height, width, channels = tiles.shape[1:]
    picture = tiles.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return picture.reshape(rows * height, columns * width, channels)[: rows * height - gap, : columns * width - gap]
