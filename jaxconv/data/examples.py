"""What every data set comes down to: examples, and a source that loads them split by split."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, UInt8

from jaxconv.data.encoded import Encoded, join
from jaxconv.data.splits import parts
from jaxconv.errors import ConfigError
from jaxconv.platform import limits

MOST_IN_MEMORY = 4_000_000_000
"""The bytes of decoded images that stay in memory where config.data.in_memory="auto"."""

_COPIES = 2
"""Copies of bytes in memory while a split is loaded: one decoded, one aligned."""

ALIGNMENT = 64
"""Bytes. TensorFlow and JAX take an array at a multiple of them without a copy of their own."""


class Examples(NamedTuple):
    """A split of a data set."""

    images: (
        UInt8[np.ndarray, "examples *spatial channels"] | Float32[np.ndarray, "examples *spatial channels"] | Encoded
    )
    """Signals with 1 spatial dimension, images with 2, or clips with 3 (frames first)."""
    labels: Int32[np.ndarray, " examples"]


class Findings(NamedTuple):
    """What a source found in its files."""

    counts: dict[str, int]
    """Numbers for summary.json, such as that of unreadable files."""
    notes: list[str]
    """Sentences for the person who trains."""


class Source(NamedTuple):
    """A data set that is not loaded yet. It loads a split by a name such as "train[:80%]"."""

    class_names: tuple[str, ...]
    image_shape: tuple[int, ...]
    """The shape of one example: (*spatial, channels)."""
    version: str
    """The name of the data set and the version of its data."""
    load: Callable[[str], Examples]
    check_split: Callable[[str], object]
    """Raises ConfigError if a split is unknown or empty, as `load` does. It reads no data."""
    examine: Callable[[], Findings] = lambda: Findings({}, [])
    """Looks at all files of the set, once. It may read all of them, and raises the errors of `load`."""

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)


def check(examples: Examples, num_classes: int, name: str, like: Examples | None = None) -> Examples:
    """Check the arrays of a split.

    Args:
        examples: the split. Its images must be uint8 or float32, (examples, *spatial, channels) with 1 to 3 spatial
            dimensions. Floats must be finite. Its labels (examples,) must be from 0 to num_classes - 1.
        num_classes: the number of classes.
        name: the name of the split in the message of an error.
        like: the training split, if the images must have the shape of its images.

    Returns:
        The examples, at an aligned address, see `aligned`.

    Raises:
        ConfigError: the arrays do not meet these conditions, or hold no example.
    """
    images, labels = examples
    if len(labels) != len(images):
        raise ConfigError(f"{name} has {len(images)} images and {len(labels)} labels: there must be one for each.")
    if not len(labels):
        raise ConfigError(f"{name} holds no example: widen it.")
    if images.dtype not in (np.uint8, np.float32):
        raise ConfigError(f"{name} holds images of {images.dtype}: they must be bytes (uint8) or float32.")
    if not 3 <= images.ndim <= 5 or 0 in images.shape:
        raise ConfigError(f"{name} holds images of shape {images.shape[1:]}: it must be 1 to 3 sizes and the channels.")
    if like is not None and images.shape[1:] != like.images.shape[1:]:
        raise ConfigError(
            f"{name} holds images of shape {images.shape[1:]}, and the training split {like.images.shape[1:]}."
        )
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if len(wrong):
        raise ConfigError(f"{name} holds the label {wrong[0]}: labels must be from 0 to {num_classes - 1}.")
    if isinstance(images, np.ndarray) and images.dtype == np.float32:
        bad = np.flatnonzero(~np.isfinite(images).reshape(len(images), -1).all(axis=1))
        if len(bad):
            raise ConfigError(
                f"{name} holds NaN or infinity in {len(bad)} of its {len(images)} examples, first in example {bad[0]} "
                "(from 0): mend the data or leave these examples out."
            )
    return examples if isinstance(images, Encoded) else Examples(aligned(images), labels)


def aligned(array: np.ndarray) -> np.ndarray:
    """Return an array with its address a multiple of `ALIGNMENT`. It is copied if it has another one."""
    if array.flags.carray and array.ctypes.data % ALIGNMENT == 0:
        return array
    buffer = np.empty(array.nbytes + ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % ALIGNMENT
    copy = buffer[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def is_in_memory(in_memory: str, examples: int, image_shape: tuple[int, ...]) -> bool:
    """Return whether images of bytes stay in memory, decoded.

    A run may get another answer when it goes on: its batches are the same.

    Args:
        in_memory: config.data.in_memory.
        examples: the number of images.
        image_shape: the shape of one.
    """
    if in_memory != "auto":
        return in_memory == "yes"
    decoded = examples * math.prod(image_shape)
    return decoded <= MOST_IN_MEMORY and decoded * _COPIES <= limits.free_memory()


def check_memory(name: str, examples: int, shape: tuple[int, ...], dtype: np.dtype, advice: str) -> None:
    """Check that a split fits into the free memory.

    Args:
        name: the beginning of the sentence of the error.
        examples: the number of examples.
        shape: the shape of one.
        dtype: the dtype of its values.
        advice: the end of that sentence, what to do.

    Raises:
        ConfigError: it does not.
    """
    per_value = _COPIES if dtype == np.uint8 else max(4 * _COPIES, dtype.itemsize + 4)
    needed = examples * math.prod(shape) * per_value
    if needed > (free := limits.free_memory()):
        raise ConfigError(
            f"{name} takes {limits.gigabytes(needed)} of memory ({examples:,} examples of shape {shape}), and "
            f"{limits.gigabytes(free)} are free: {advice}."
        )


def from_arrays(
    name: str,
    *,
    version: str,
    class_names: Sequence[str],
    image_shape: tuple[int, ...],
    sizes: Mapping[str, int],
    make: Callable[[str], Examples],
) -> Source:
    """Return the source of a data set that this machine makes in memory.

    Args:
        name: the name of the data set.
        version: the version of its data.
        class_names: the names of the classes.
        image_shape: the shape of one example.
        sizes: the number of examples of each whole split, or more, where `make` can return fewer.
        make: makes a whole split.
    """

    def check_split(split: str, sizes: Mapping[str, int] = sizes) -> list[tuple[str, slice]]:
        return parts(split, {split: [size] for split, size in sizes.items()}, name)

    def load(split: str) -> Examples:
        whole = {of: make(of) for of in {of for of, _ in check_split(split)}}
        asked = check_split(split, dict(sizes) | {of: len(examples.labels) for of, examples in whole.items()})
        images = join([(whole[of].images, part) for of, part in asked])
        labels = np.concatenate([whole[of].labels[part] for of, part in asked])
        return check(Examples(images, labels), len(class_names), repr(split))

    return Source(tuple(class_names), image_shape, version, load, check_split)
