"""--mode=preview: a picture of training examples, and of their augmentation in the first epochs.

Images are drawn as tiles, signals as lines, and clips as strips of frames.
"""

import pathlib
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32, UInt8

from jaxconv.config import Config, validate
from jaxconv.data import augment, pipeline, sources
from jaxconv.data.examples import Examples
from jaxconv.errors import ConfigError
from jaxconv.runs.workdir import writing

EXAMPLES = {1: 10, 2: 16, 3: 12}
"""The number of examples in the picture, by the number of spatial dimensions."""
EPOCHS = {1: 4, 2: 8, 3: 2}
"""The number of epochs in the picture."""

MOST_LINES = 8
"""Channels of a signal that can be told apart as lines. A signal with more is drawn as an image, a row for each."""


def preview(config: Config, workdir: pathlib.Path) -> pathlib.Path:
    """Draw the first training examples, as they are and as the first epochs of a run augment them.

    Returns:
        The path of the picture, figures/preview.png in `workdir`.

    Raises:
        UserError: the examples cannot be loaded or drawn, or the picture cannot be written.
    """
    validate(config)
    train = sources.open_source(config.data).load(config.data.train)
    image_shape = train.images.shape[1:]
    augment.check(config.augment, image_shape, train.images.dtype)
    if not can_draw(image_shape):
        raise ConfigError(
            "--mode=preview draws images and clips with 1 or 3 channels; those of config.data.name="
            f"{config.data.name!r} are of shape {image_shape}."
        )
    path, figure = workdir / "figures" / "preview.png", draw(train, config)
    labels = ", ".join(map(str, train.labels[: EXAMPLES[len(image_shape) - 1]]))
    figure.suptitle(f"{config.data.name}, {config.data.train}; classes from the top: {labels}", x=0.01, ha="left")
    with writing(workdir):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    return path


def can_draw(image_shape: tuple[int, ...]) -> bool:
    """Return whether `draw` can draw examples of this shape, (*spatial, channels)."""
    return len(image_shape) == 2 or image_shape[-1] in (1, 3)


def draw(train: Examples, config: Config) -> Any:
    """Draw `rows` as a figure of Matplotlib."""
    images = rows(train, config)
    is_line = images.ndim == 4 and images.shape[-1] <= MOST_LINES
    return _lines(images) if is_line else _tiles(images)


def rows(
    train: Examples, config: Config
) -> (
    UInt8[np.ndarray, "examples 1+epochs *spatial channels"]
    | Float32[np.ndarray, "examples 1+epochs *spatial channels"]
):
    """Return each of the first examples, followed by its augmentations in the first epochs. Bytes stay bytes."""
    spatial = train.images.ndim - 2
    originals = train.images[: EXAMPLES[spatial]]
    normalizer, xp = pipeline.fit_normalizer(train), augment.arrays.jax()

    @jax.jit
    def transform(images: Any, draws: Any) -> Any:
        params = augment.parameters(xp, draws, config.augment, images.shape[1:])
        return augment.apply(xp, images, params, config.augment, *normalizer)

    columns = [originals]
    for epoch in range(EPOCHS[spatial]):
        draws = augment.draws(len(originals), config.seed, epoch, alternating_flip=config.augment.alternating_flip)
        images = np.asarray(transform(originals, draws))
        if originals.dtype == np.uint8:
            images = np.clip(np.round(images), 0, 255).astype(np.uint8)
        columns.append(images)
    return np.stack(columns, axis=1)


def _figure(width: float, height: float) -> Any:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _titles(columns: int) -> list[str]:
    return ["original", *(f"epoch {number}" for number in range(1, columns))]


def _lines(signals: np.ndarray) -> Any:
    """Draw signals, (rows, columns, length, channels), as lines: one for each channel."""
    rows, columns, length, _ = signals.shape
    figure = _figure(1.8 * columns, 0.7 * rows + 0.8)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, of_row in zip(grid, signals, strict=True):
        for axis, signal in zip(axes, of_row, strict=True):
            axis.plot(signal, linewidth=1)
            axis.set(xticks=[], yticks=[], xlim=(0, length - 1))
            axis.spines[["top", "right"]].set_visible(False)
    for axis, title in zip(grid[0], _titles(columns), strict=True):
        axis.set_title(title, fontsize="medium")
    return figure


def _tiles(images: np.ndarray) -> Any:
    """Draw images as tiles: (rows, columns, height, width, channels), or clips or signals of many channels."""
    from matplotlib import rcParams

    tiles = _as_bytes(images)
    if images.ndim == 4:  # signals: a row of the tile for each channel
        tiles = tiles.swapaxes(2, 3)[..., None]
    gap = 1
    tiles = np.pad(tiles, [(0, 0)] * (tiles.ndim - 3) + [(gap, gap), (gap, gap), (0, 0)], constant_values=255)
    if tiles.ndim == 6:  # clips: frames side by side
        rows, columns, frames, height, width, channels = tiles.shape
        tiles = tiles.swapaxes(2, 3).reshape(rows, columns, height, frames * width, channels)
    rows, columns, height, width, channels = tiles.shape
    picture = tiles.swapaxes(1, 2).reshape(rows * height, columns * width, channels)
    figure = _figure(9, 9 * picture.shape[0] / picture.shape[1] + 0.8)
    axis = figure.subplots()
    axis.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    for column in range(1, columns):
        # A thick line between the originals and the others, and a thin one between the strips of clips.
        if column == 1 or images.ndim == 6:
            axis.axvline(column * width - 0.5, color=rcParams["text.color"], linewidth=2 if column == 1 else 1)
    axis.set_xticks([(column + 0.5) * width for column in range(columns)], _titles(columns))
    axis.xaxis.tick_top()
    axis.set_yticks([])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return figure


def _as_bytes(images: np.ndarray) -> UInt8[np.ndarray, "..."]:
    """Scale floats so that the originals fill the range from black to white."""
    if images.dtype == np.uint8:
        return images
    low, high = images[:, 0].min(), images[:, 0].max()
    return np.clip(255 * (images - low) / max(high - low, 1e-30), 0, 255).astype(np.uint8)
