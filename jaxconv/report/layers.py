"""Layers as pictures: the filters of the first one, and the feature maps of a stage."""

from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from jaxconv.report import pictures
from jaxconv.report.page import Figure

_MOST_FILTERS, _MOST_MAPS, _MOST_STRIPS = 64, 32, 8
_WIDTH, _ROW = 640, 8


def filters(variables: dict[str, Any], image_shape: tuple[int, ...]) -> Figure:
    """Draw the filters of the first layer: what each one looks for.

    With three channels a filter has the colours that it looks for. Otherwise red weights are positive and blue ones
    negative. Of a net without convolutions these are the weights of the first dense layer, one picture a unit.

    Args:
        variables: the variables of the net.
        image_shape: the shape of one example: (*spatial, channels).
    """
    kernels = {name: of_layer["kernel"] for name, of_layer in variables["params"].items() if "kernel" in of_layer}
    kernels |= {name: of_layer["kernel"] for name, of_layer in variables.get("whitening", {}).items()}
    layer = next(name for name in ("Whitening_0", "Conv_0", "Dense_0", "logits") if name in kernels)
    kernel, slides = np.asarray(kernels[layer]), layer in ("Whitening_0", "Conv_0")
    if not slides:
        kernel = kernel.reshape(*image_shape, -1)
    weights = np.moveaxis(kernel, -1, 0)[:_MOST_FILTERS]
    is_colour = weights.ndim == 4 and weights.shape[-1] == 3
    tiles = np.stack([_in_colours(of_filter) if is_colour else _signed(of_filter) for of_filter in weights])
    what = "filters" if slides else "units"
    sizes = " x ".join(map(str, kernel.shape[:-1]))
    frames = " Its frames are side by side." if len(image_shape) == 4 else ""
    alt = f"The weights of {len(tiles)} of the {kernel.shape[-1]} {what} of {layer}, each of {sizes}.{frames}"
    return _tiled("filters.png", tiles, alt)


def _in_colours(weights: Float[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    return pictures.to_range(weights, float(weights.min()), float(weights.max()))


def _signed(weights: Float[np.ndarray, "*spatial channels"]) -> UInt8[np.ndarray, "h w 3"]:
    """Colour weights by their sign: of a signal a row for each channel, else the mean over the channels."""
    from matplotlib import colormaps

    if weights.ndim == 2:
        flat = weights.T
    else:
        flat = weights.mean(axis=-1)
        flat = flat if flat.ndim == 2 else flat.swapaxes(0, 1).reshape(flat.shape[1], -1)
    high = max(float(np.abs(flat).max()), 1e-30)
    return (255 * colormaps["RdBu_r"](0.5 + flat / (2 * high))[..., :3]).astype(np.uint8)


def feature_maps(maps: Float[np.ndarray, "*spatial channels"], name: str, alt: str) -> Figure:
    """Draw the first feature maps of a stage, from black, the smallest value in it, to white, the largest.

    Those of a clip are strips of frames. Those of a signal are rows of one picture.

    Args:
        maps: the output of the stage for one example.
        name: the name of the file, without its ending.
        alt: what it shows.
    """
    from matplotlib import colormaps

    shown = np.moveaxis(maps, -1, 0)[: _MOST_STRIPS if maps.ndim == 4 else _MOST_MAPS]
    scaled = pictures.to_range(shown, float(maps.min()), float(maps.max()))
    tiles = (255 * colormaps["inferno"](scaled)[..., :3]).astype(np.uint8)
    if maps.ndim == 2:
        scale = max(1, _WIDTH // tiles.shape[1])
        return Figure(f"{name}.png", pictures.to_png(tiles.repeat(_ROW, axis=0).repeat(scale, axis=1)), alt)
    if maps.ndim == 4:
        count, frames, height, width, _ = tiles.shape
        tiles = tiles.swapaxes(1, 2).reshape(count, height, frames * width, 3)
    return _tiled(f"{name}.png", tiles, alt)


def _tiled(name: str, tiles: UInt8[np.ndarray, "n h w 3"], alt: str) -> Figure:
    """Lay tiles out so that they fill the width: one in a row if they are wide, else in full rows if possible."""
    height, width = tiles.shape[1:3]
    full = (columns for columns in (8, 10, 7, 9, 6, 5) if len(tiles) % columns == 0)
    columns = 1 if width >= 6 * height else next(full, 8)
    scale = max(1, min(12, _WIDTH // (columns * width)))
    return Figure(
        name, pictures.to_png(pictures.grid(tiles.repeat(scale, axis=1).repeat(scale, axis=2), columns, gap=2)), alt
    )
