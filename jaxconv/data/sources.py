"""The data sets by name: "image_folder", those in `SOURCES`, and those of TensorFlow Datasets."""

from collections.abc import Callable

from jaxconv.config import Config
from jaxconv.data import clips, folder, sample, signals, tfds
from jaxconv.data.examples import Source
from jaxconv.errors import ConfigError

SOURCES: dict[str, Callable[[], Source]] = {
    "mnist_sample": sample.mnist_sample,
    "mnist1d": signals.mnist1d,
    "moving_digits": clips.moving_digits,
    "moving_digits_frame": clips.moving_digits_frame,
}
"""The sets that need no download."""


def open_source(data: Config) -> Source:
    """Open the data set that config.data names. Downloads it if necessary, and reads no split.

    Args:
        data: config.data.

    Returns:
        The data set. Its `load` raises UserError if the files of a split cannot be read, and ConfigError if the split
        is unknown, empty, or larger than the free memory, or if its examples do not pass `examples.check`.

    Raises:
        UserError: the data set is not on this machine and cannot be downloaded.
        ConfigError: the data set is unknown, or its examples are not arrays of one shape with one class each, or
            config.data.dir is not a folder of images, or config.data.in_memory="no" and they are no encoded images.
    """
    if data.name == "image_folder":
        return folder.image_folder(data)
    if data.name in SOURCES:
        if data.in_memory == "no":
            raise ConfigError(
                "config.data.in_memory='no' is for images that are decoded, and those of "
                f"config.data.name={data.name!r} are made in memory: leave it at 'auto'."
            )
        return SOURCES[data.name]()
    return tfds.open_set(data, others=[*SOURCES, "image_folder"])
