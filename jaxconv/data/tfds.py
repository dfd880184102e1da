"""Sets of TensorFlow Datasets by name: images, audio, video or arrays of one shape, with one class each."""

import contextlib
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from jaxconv.config import Config, did_you_mean
from jaxconv.data import prepared
from jaxconv.data.encoded import Encoded
from jaxconv.data.examples import Examples, Source, check, check_memory, is_in_memory
from jaxconv.data.splits import parts
from jaxconv.data.tensorflow import import_tensorflow, import_tfds, is_installed
from jaxconv.errors import ConfigError, UserError
from jaxconv.platform import cache, compatibility

_KINDS = ("Image", "Video", "Audio", "Tensor")
"""The features of TFDS that can be the input of a net. Where a set has several, the first kind counts."""

_RECORDS = 256
"""Encoded images that are taken from the records at a time."""


def open_set(data: Config, others: Collection[str]) -> Source:
    """Open a set of TFDS. Downloads it if necessary, and reads no split.

    Without TensorFlow, or where the set itself is missing, its file of `jaxconv.data.prepare` takes its place.

    Args:
        data: config.data.
        others: names of sets that do not come from TFDS, for the suggestion where there is no such set.

    Raises:
        UserError: the set is not on this machine and cannot be downloaded.
        ConfigError: there is no such set, or its examples are not arrays of one shape with one class each, or
            config.data.in_memory="no" and they are not encoded images of bytes.
    """
    there = prepared.path_of(data)
    if not is_installed():
        if there.exists():
            return prepared.open_file(there, data.name)
        raise UserError(
            f"The data set {data.name!r} needs TensorFlow Datasets, which is not installed, or the file {there}: write "
            f"it where there is TensorFlow, by python -m jaxconv.data.prepare --name={data.name}."
        )
    if there.exists() and not _is_there(data):
        return prepared.open_file(there, data.name)
    return open_builder(find_builder(data, others), data)


def _is_there(data: Config) -> bool:
    """Return whether TFDS has prepared the set."""
    try:
        return _is_prepared(import_tfds().builder(data.name, data_dir=data.data_dir))
    except (import_tfds().core.DatasetNotFoundError, ValueError):
        return False


def find_builder(data: Config, others: Collection[str]) -> Any:
    """Return the builder of a set. Downloads the set if necessary.

    The arguments and the errors are those of `open_set`.
    """
    tfds = import_tfds()
    try:
        builder = tfds.builder(data.name, data_dir=data.data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError):
        names = [*tfds.list_builders(with_community_datasets=False), *others]
        raise ConfigError(
            f"config.data.name={data.name!r} is neither a set of TensorFlow Datasets{did_you_mean(data.name, names)} "
            f"nor prepared in {prepared.data_dir(data)}: choose another, or point config.data.data_dir to where it is."
        ) from None
    if not _is_prepared(builder):
        _download(builder, data)
    return builder


def open_builder(builder: Any, data: Config) -> Source:
    """Open the set of a builder.

    Raises:
        ConfigError: its examples are not arrays of one shape with one class each.
    """
    tfds = import_tfds()
    image, label = _input_and_label(builder.info, data.name)
    feature, class_names = builder.info.features[image], tuple(builder.info.features[label].names)
    image_shape = feature.shape if len(feature.shape) > 1 else (*feature.shape, 1)
    is_encoded = type(feature).__name__ == "Image" and feature.np_dtype == np.uint8
    if data.in_memory == "no" and not is_encoded:
        raise ConfigError(
            "config.data.in_memory='no' is for encoded images of bytes, and the examples of "
            f"config.data.name={data.name!r} are {type(feature).__name__} of {np.dtype(feature.np_dtype)}: leave it at "
            "'auto'."
        )

    def check_split(split: str) -> list[tuple[str, slice]]:
        return parts(split, {of: info.shard_lengths for of, info in builder.info.splits.items()}, data.name)

    def decode(split: str) -> tuple[np.ndarray, ...]:
        decoders = tfds.decode.PartialDecoding({image: True, label: True})
        arrays = tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1, decoders=decoders))
        images = arrays[image].reshape(-1, *image_shape)
        images = images if images.dtype == np.uint8 else images.astype(np.float32, copy=False)
        return images, arrays[label].astype(np.int32)

    @contextlib.contextmanager
    def reading(split: str) -> Iterator[None]:
        try:
            yield
        except (OSError, import_tensorflow().errors.OpError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"The split {split!r} of {data.name!r} in {prepared.data_dir(data)} cannot be read: see to the disk, "
                f"or prepare the set anew. ({reason})"
            ) from None

    def encoded(split: str) -> tuple[Encoded, np.ndarray]:
        items, labels = _records(builder, split, image, label)
        decode_some = _decoder(feature)

        def decode(items: Sequence[bytes]) -> np.ndarray:
            with reading(split):
                return decode_some(items)

        return Encoded(items, image_shape, decode=decode, identity=bytes), labels

    def load(split: str) -> Examples:
        examples = sum(part.stop - part.start for _, part in check_split(split))
        if is_encoded and not is_in_memory(data.in_memory, examples, image_shape):
            with reading(split):
                return check(Examples(*encoded(split)), len(class_names), repr(split))
        dtype, advice = np.dtype(feature.np_dtype), "take a part of it, such as 'train[:10%]'"
        advice = f"set config.data.in_memory='no', or {advice}" if is_encoded else advice
        check_memory(f"The split {split!r} of {data.name!r}", examples, image_shape, dtype, advice)
        files = [file for info in builder.info.splits.values() for file in info.filepaths]
        with reading(split):
            arrays = cache.arrays(f"{builder.info.full_name} {split} {image_shape}", files, lambda: decode(split))
        return check(Examples(*arrays), len(class_names), repr(split))

    return Source(class_names, image_shape, builder.info.full_name, load, check_split)


def _records(builder: Any, split: str, image: str, label: str) -> tuple[list[bytes], np.ndarray]:
    """Return the encoded images of a split, in the order of the records, and the labels, int32."""
    tfds = import_tfds()
    decoders = tfds.decode.PartialDecoding(
        {image: True, label: True},
        decoders={image: tfds.decode.SkipDecoding()},  # type: ignore[dict-item]
    )
    # Without the cache of TFDS, which would keep the records a second time.
    batches = builder.as_dataset(
        split=split, batch_size=_RECORDS, decoders=decoders, read_config=tfds.ReadConfig(try_autocache=False)
    )
    items, labels = [], []
    for batch in tfds.as_numpy(batches):
        items += batch[image].tolist()
        labels.append(batch[label].astype(np.int32))
    return items, np.concatenate(labels)


def _decoder(feature: Any) -> Callable[[Sequence[bytes]], UInt8[np.ndarray, "items height width channels"]]:
    """Return a function that decodes images as TFDS does. Pillow decodes JPEGs to other values."""
    tf = import_tensorflow()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def decode(encoded: Any) -> Any:
        return tf.map_fn(feature.decode_example, encoded, fn_output_signature=tf.uint8)

    return lambda items: decode(tf.constant(items)).numpy()


def _input_and_label(info: Any, name: str) -> tuple[str, str]:
    """Return the keys of the features that hold the input and the class.

    Raises:
        ConfigError: the set has no such features, or its inputs differ in shape.
    """
    features = info.features if hasattr(info.features, "items") else {}
    # Reversed, so that the first feature of a kind counts.
    kinds = {type(feature).__name__: key for key, feature in reversed(features.items())}
    image = next((kinds[kind] for kind in _KINDS if kind in kinds), None)
    label = kinds.get("ClassLabel")
    if info.supervised_keys and all(key in features for key in info.supervised_keys[:2]):
        image, label = info.supervised_keys[:2]
    kind_of = {key: type(feature).__name__ for key, feature in features.items()}
    if image is None or label is None or kind_of[image] not in _KINDS or kind_of[label] != "ClassLabel":
        raise ConfigError(
            f"config.data.name={name!r} is not a set of images, audio, video or arrays with one class each: choose "
            "another."
        )
    shape = features[image].shape
    if None in shape or not 1 <= len(shape) <= 4:
        raise ConfigError(
            f"config.data.name={name!r} holds examples of shape {shape} (None: any size): choose a set whose "
            "examples are all of one shape, of 1 to 3 sizes and the channels."
        )
    return image, label


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
            f"The data set {data.name!r} is not prepared in {prepared.data_dir(data)} and could not be downloaded "
            f"({type(error).__name__}): connect this machine to the network, or point config.data.data_dir or "
            "$TFDS_DATA_DIR to a prepared copy, or run --config=configs/quickstart.py, which needs no download."
        ) from None
