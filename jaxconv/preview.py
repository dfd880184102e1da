"""--mode=preview: a picture of training images, and of their augmentation in the first epochs."""

import pathlib

import numpy as np
from jaxtyping import UInt8

from jaxconv.config import Config, validate
from jaxconv.data import augment, pipeline, sources
from jaxconv.data.tensorflow import import_tensorflow
from jaxconv.errors import ConfigError
from jaxconv.runs.workdir import writing

EXAMPLES, EPOCHS = 16, 8


def preview(config: Config, workdir: pathlib.Path) -> pathlib.Path:
    """Draw the first training examples, as they are and as the first epochs of a run augment them.

    Returns:
        The path of the picture, figures/preview.png in `workdir`.

    Raises:
        UserError: the images cannot be loaded or drawn, or the picture cannot be written.
    """
    validate(config)
    train = sources.open_source(config.data).load(config.data.train)
    augment.check(config.augment, train.images.shape[1:])
    if train.images.ndim != 4 or train.images.shape[-1] not in (1, 3):
        raise ConfigError(
            f"--mode=preview draws images of two dimensions with 1 or 3 channels; those of config.data.name="
            f"{config.data.name!r} are of shape {train.images.shape[1:]}."
        )
    path, images = workdir / "figures" / "preview.png", rows(train, config)
    with writing(workdir):
        path.parent.mkdir(parents=True, exist_ok=True)
        _draw(images, path, f"{config.data.name}, {config.data.train}")
    return path


def rows(train: sources.Examples, config: Config) -> UInt8[np.ndarray, "examples 1+epochs height width channels"]:
    """Return each of the first examples, followed by its augmentations in the first epochs."""
    tf = import_tensorflow()
    originals = train.images[:EXAMPLES]
    transform = augment.transformer(config.augment, pipeline.fit_normalizer(train).mean)
    columns = [originals]
    for epoch in range(EPOCHS):
        draws = augment.draws(len(originals), config.seed, epoch)
        params = augment.parameters(draws, config.augment, *originals.shape[1:3])
        images = transform(tf.constant(originals), params).numpy()
        columns.append(np.clip(np.round(images), 0, 255).astype(np.uint8))
    return np.stack(columns, axis=1)


def _draw(images: UInt8[np.ndarray, "rows columns height width channels"], path: pathlib.Path, title: str) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    gap = 1
    tiles = np.pad(images, [(0, 0), (0, 0), (gap, gap), (gap, gap), (0, 0)], constant_values=255)
    rows, columns, height, width, channels = tiles.shape
    picture = tiles.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)
    fig, axis = plt.subplots(figsize=(9, 9 * picture.shape[0] / picture.shape[1] + 0.5), layout="constrained")
    axis.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axis.axvline(width - 0.5, color="black", linewidth=2)  # between the originals and the others
    axis.set_xticks(
        [(column + 0.5) * width for column in range(columns)],
        ["original", *(f"epoch {number}" for number in range(1, columns))],
    )
    axis.xaxis.tick_top()
    axis.set_yticks([])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set_title(title, loc="left")
    fig.savefig(path, dpi=150)
    plt.close(fig)
