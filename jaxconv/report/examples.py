"""An example of a data set as a figure: an image, a signal as lines, a clip as a strip of frames."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped, UInt8
from matplotlib.figure import Figure as Drawing

from jaxconv.preview import MOST_LINES
from jaxconv.report import charts, pictures
from jaxconv.report.page import Figure

_SIDE = 96
_GAP = 2


def draw(
    example: Shaped[np.ndarray, "*spatial channels"],
    name: str,
    alt: str,
    *,
    saliency: Float[np.ndarray, "*spatial"] | None = None,
    places: Float[np.ndarray, "*spatial"] | None = None,
) -> Figure:
    """Draw an example, and maps of it: beside an image, below a signal or a clip.

    Args:
        example: uint8 or float32, as in the data set.
        name: the name of the file, without its ending.
        alt: what it shows.
        saliency: how much each value matters. None: it is not drawn.
        places: how much each place matters, by Grad-CAM. It is laid over the example. None: it is not drawn.
    """
    if example.ndim == 2 and example.shape[-1] <= MOST_LINES:
        return _lines(example, name, alt, {"saliency": saliency, "Grad-CAM": places})
    picture = as_picture(example)
    parts = [picture]
    if saliency is not None:
        parts.append(pictures.heat(_arranged(saliency, example)))
    if places is not None:
        parts.append(pictures.overlay(picture, _arranged(places, example)))
    if len(parts) > 1:
        parts = [np.broadcast_to(part, (*part.shape[:2], 3)) for part in parts]
    columns = len(parts) if example.ndim == 3 else 1
    scale = max(1, round(_SIDE / max(example.shape[:-1])))
    parts = [part.repeat(scale, axis=0).repeat(scale, axis=1) for part in parts]
    return Figure(f"{name}.png", pictures.to_png(pictures.grid(np.stack(parts), columns, gap=_GAP)), alt)


def as_picture(example: Shaped[np.ndarray, "*spatial channels"]) -> UInt8[np.ndarray, "h w c"]:
    """Arrange an example as one picture with 1 or 3 channels. Floats fill the range from black to white."""
    values = example
    if values.dtype != np.uint8:
        values = pictures.to_range(values, float(values.min()), float(values.max()))
    if values.ndim == 2:  # a signal: a row for each channel
        return values.T[..., None]
    if values.shape[-1] not in (1, 3):
        values = values.mean(axis=-1, keepdims=True).astype(np.uint8)
    return _side_by_side(values) if values.ndim == 4 else values


def _arranged(values: Float[np.ndarray, "*spatial"], example: np.ndarray) -> Float[np.ndarray, "h w"]:
    """Arrange a map as the picture of its example."""
    if values.ndim == 1:
        return np.broadcast_to(values, (example.shape[-1], len(values)))
    return _side_by_side(values[..., None])[..., 0] if values.ndim == 3 else values


def _side_by_side(frames: Shaped[np.ndarray, "frames h w c"]) -> Shaped[np.ndarray, "h frames*w c"]:
    number, height, width, channels = frames.shape
    return frames.swapaxes(0, 1).reshape(height, number * width, channels)


def _lines(signal: np.ndarray, name: str, alt: str, maps: Mapping[str, np.ndarray | None]) -> Figure:
    shown = {title: values for title, values in maps.items() if values is not None}
    with charts.style():
        drawing = Drawing(figsize=(3.2, 1.5 + 0.35 * len(shown)), layout="constrained")
        rows: Any = drawing.subplots(1 + len(shown), sharex=True, squeeze=False, height_ratios=[5, *[1] * len(shown)])
        axis, *below = rows[:, 0]
        for channel, colour in zip(signal.T, charts.COLOURS, strict=False):
            axis.plot(channel, linewidth=1.2, color=colour)
        axis.set(xlim=(0, len(signal) - 1), yticks=[])
        for strip, (title, values) in zip(below, shown.items(), strict=True):
            strip.imshow(pictures.heat(values[None]), aspect="auto", interpolation="none")
            strip.set_yticks([0], [title])
            strip.tick_params(length=0)
            strip.spines[:].set_visible(False)
        return charts.to_figure(drawing, f"{name}.svg", alt)
