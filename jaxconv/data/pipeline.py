"""The tf.data pipeline: shuffled, batched, normalised and prefetched, each batch a function of its step.

epoch = step // steps_per_epoch picks a permutation from (seed, epoch) and the step picks its slice, so that a
run resumes at any step without any state of an iterator.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from jaxconv.config import Config
from jaxconv.data.augment import transform as augment
from jaxconv.data.sources import Examples
from jaxconv.data.tensorflow import import_tensorflow

PADDING = -1
"""The index that stands for no example, in the last batch of an epoch."""


class Normalizer(NamedTuple):
    """Mean and standard deviation of each channel, in the units of the bytes."""

    mean: Float32[np.ndarray, " channels"]
    std: Float32[np.ndarray, " channels"]


def fit_normalizer(examples: Examples) -> Normalizer:
    """The statistics of a training split; a channel that is constant gets a standard deviation of 1."""
    # From the histogram of the 256 values: exact, and without a copy of the images as floats.
    channels = examples.images.shape[-1]
    counts = np.zeros((channels, 256))
    for chunk in np.array_split(examples.images.reshape(-1, channels), max(1, examples.images.size >> 22)):
        for c in range(channels):
            counts[c] += np.bincount(np.ascontiguousarray(chunk[:, c]), minlength=256)
    values = np.arange(256)
    weights = counts / counts.sum(axis=1, keepdims=True)
    mean = weights @ values
    std = np.sqrt(np.sum(weights * (values - mean[:, None]) ** 2, axis=1))
    return Normalizer(mean.astype(np.float32), np.where(std > 0, std, 1.0).astype(np.float32))


def steps_per_epoch(examples: Examples, batch_size: int) -> int:
    """Batches in one pass over the examples, the last one padded."""
    return -(-len(examples.labels) // batch_size)


def train_batches(
    examples: Examples,
    normalizer: Normalizer,
    *,
    batch_size: int,
    seed: int,
    start_step: int,
    end_step: int,
    augmentation: Config | None = None,
) -> Iterable[dict[str, np.ndarray]]:
    """The batches of steps start_step to end_step - 1, each epoch a permutation of all examples.

    Args:
        examples: the training split.
        normalizer: its statistics.
        batch_size: examples in a batch.
        seed: of the permutations and of the augmentation.
        start_step: number of the first batch, from 0.
        end_step: number of the one after the last.
        augmentation: config.augment; None for the images as they are.

    Returns:
        dicts of image, float32 (batch_size, *spatial, channels); label, int32 (batch_size,); and weight, float32
        (batch_size,), 1 / the number of examples in the batch, and 0 for the padding of an epoch's last batch.
    """
    tf = import_tensorflow()
    n = len(examples.labels)
    steps = steps_per_epoch(examples, batch_size)
    padding = [[0, steps * batch_size - n]]

    def batches_of_epoch(epoch: Any) -> Any:
        order = tf.random.experimental.stateless_shuffle(
            tf.range(n), seed=tf.stack([tf.cast(seed, tf.int64), epoch]), alg="philox"
        )
        order = tf.pad(order, padding, constant_values=PADDING)
        params = {}
        if augmentation is not None:
            # Drawn for all examples in their own order, so that an image does not depend on where the epoch has it.
            draws = augment.draw(n, seed, epoch)
            params = augment.parameters(draws, augmentation, *examples.images.shape[1:3])
        params = {name: tf.reshape(tf.gather(of, tf.maximum(order, 0)), [steps, -1]) for name, of in params.items()}
        return tf.data.Dataset.from_tensor_slices((tf.reshape(order, [steps, batch_size]), params))

    epochs = tf.data.Dataset.range(start_step // steps, -(-end_step // steps))
    batches = epochs.flat_map(batches_of_epoch).skip(start_step % steps).take(end_step - start_step)
    return _gather(examples, normalizer, batches, augmentation)


def eval_batches(examples: Examples, normalizer: Normalizer, *, batch_size: int) -> Iterable[dict[str, np.ndarray]]:
    """Batches, as those of `train_batches`, that hold every example once and in order."""
    tf = import_tensorflow()
    steps = steps_per_epoch(examples, batch_size)
    indices = np.full(steps * batch_size, PADDING, np.int32)
    indices[: len(examples.labels)] = np.arange(len(examples.labels))
    batches = tf.data.Dataset.from_tensor_slices((indices.reshape(steps, batch_size), {}))
    return _gather(examples, normalizer, batches)


def _gather(
    examples: Examples, normalizer: Normalizer, batches: Any, augmentation: Config | None = None
) -> Iterable[dict[str, np.ndarray]]:
    """A tf.data set of vectors of indices, and of parameters to augment by, as batches of examples, normalised."""
    tf = import_tensorflow()
    images, labels = tf.constant(examples.images), tf.constant(examples.labels)
    # Whole images long, for TensorFlow is slow at an operation with the short last axis of channels.
    pixels = np.prod(examples.images.shape[1:-1])
    mean, std = np.tile(normalizer.mean, pixels), np.tile(normalizer.std, pixels)
    transform = augment.transformer(augmentation, normalizer.mean) if augmentation is not None else None

    def batch(index: Any, params: dict[str, Any]) -> dict[str, Any]:
        real = index != PADDING
        weight = tf.cast(real, tf.float32)
        index = tf.where(real, index, 0)
        image = tf.gather(images, index)
        image = transform(image, params) if transform else tf.cast(image, tf.float32)
        return {
            "image": tf.reshape((tf.reshape(image, [-1, mean.size]) - mean) / std, image.shape),
            "label": tf.gather(labels, index),
            "weight": weight / tf.reduce_sum(weight),
        }

    dataset = batches.map(batch, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
    return dataset.as_numpy_iterator()
