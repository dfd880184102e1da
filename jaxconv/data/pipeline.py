"""The input pipeline: it shuffles, batches, augments, normalises and prefetches the examples.

A batch is a function of (seed, step). The epoch is step // steps_per_epoch. (seed, epoch) determines a permutation of
the examples, and the step takes a slice of it. A run can therefore resume at any step without the state of an iterator.

tf.data makes the batches of examples in memory. Threads of Python decode those that are not, and do the same with them.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int32, UInt8

from jaxconv.config import Config
from jaxconv.data import augment
from jaxconv.data.encoded import Encoded
from jaxconv.data.examples import Examples, aligned
from jaxconv.data.order import permutation
from jaxconv.data.tensorflow import import_tensorflow
from jaxconv.platform import cache
from jaxconv.platform.limits import cores
from jaxconv.platform.threads import ahead

PADDING = -1
"""The index in place of an example, in the last batch of an epoch."""

ALL_ROWS = slice(None)
"""All rows of a batch."""


class Normalizer(NamedTuple):
    """The mean and the standard deviation of each channel, in the units of the examples."""

    mean: Float32[np.ndarray, " channels"]
    std: Float32[np.ndarray, " channels"]


def fit_normalizer(examples: Examples) -> Normalizer:
    """Compute the statistics of a training split.

    Args:
        examples: the training split.

    Returns:
        The mean and the standard deviation of each channel. A constant channel gets a standard deviation of 1.

    Raises:
        UserError: an image that is not in memory cannot be read.
    """
    images = examples.images
    if isinstance(images, Encoded):
        # The cache spares a run that goes on the decoding.
        (counts,) = cache.arrays(f"histogram {images.digest()}", [], lambda: (_histogram(images.chunks()),))
        mean, std = _moments_of_bytes(counts)
    else:
        values = images.reshape(-1, images.shape[-1])
        chunks = np.array_split(values, max(1, values.size >> 22))
        mean, std = _moments_of_bytes(_histogram(chunks)) if values.dtype == np.uint8 else _moments_of_floats(chunks)
    return Normalizer(mean.astype(np.float32), np.where(std > 0, std, 1.0).astype(np.float32))


def _histogram(chunks: Iterable[UInt8[np.ndarray, "*shape channels"]]) -> Float64[np.ndarray, "channels 256"]:
    """Count the values of each channel. This gives exact sums, and needs no copy of the images as floats."""
    counts = [
        np.array([np.bincount(chunk[..., c].ravel(), minlength=256) for c in range(chunk.shape[-1])], np.float64)
        for chunk in chunks
    ]
    return np.sum(counts, axis=0)


def _moments_of_bytes(counts: Float64[np.ndarray, "channels 256"]) -> tuple[np.ndarray, np.ndarray]:
    values = np.arange(256)
    weights = counts / counts.sum(axis=1, keepdims=True)
    mean = weights @ values
    return mean, np.sqrt(np.sum(weights * (values - mean[:, None]) ** 2, axis=1))


def _moments_of_floats(chunks: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    # Distances to the first value: a constant channel then has a standard deviation of exactly 0.
    count, first = sum(map(len, chunks)), chunks[0][0].astype(np.float64)
    mean = sum((chunk - first).sum(axis=0) for chunk in chunks) / count
    squares = sum(((chunk - first - mean) ** 2).sum(axis=0) for chunk in chunks) / count
    return first + mean, np.sqrt(squares)


def steps_per_epoch(examples: Examples, batch_size: int) -> int:
    """Return the number of batches in an epoch. The last one may be padded."""
    return -(-len(examples.labels) // batch_size)


def padded(indices: Int32[np.ndarray, " n"], batch_size: int) -> Int32[np.ndarray, "steps batch"]:
    """Cut indices into batches, and fill the last one with `PADDING`."""
    steps = -(-len(indices) // batch_size)
    return np.pad(indices, (0, steps * batch_size - len(indices)), constant_values=PADDING).reshape(steps, batch_size)


def train_batches(
    examples: Examples,
    normalizer: Normalizer,
    *,
    batch_size: int,
    seed: int,
    start_step: int,
    end_step: int,
    augmentation: Config | None = None,
    rows: slice = ALL_ROWS,
) -> Iterable[dict[str, np.ndarray]]:
    """Return the batches of the steps from start_step to end_step - 1.

    Each epoch holds every example once, in random order. Padding fills the last batch of an epoch.

    Args:
        examples: the training split.
        normalizer: its statistics.
        batch_size: the number of examples in a batch.
        seed: the seed of the order and of the augmentation.
        start_step: the step of the first batch. The first step of a run is 0.
        end_step: the step after the last batch.
        augmentation: config.augment, or None for no augmentation.
        rows: the rows of each batch to make, for a process that holds no others.

    Returns:
        An iterator over dicts with these arrays, of which each has the rows asked for:

        - image: float32 (batch_size, *spatial, channels), normalised.
        - label: int32 (batch_size,).
        - weight: float32 (batch_size,). It is 1 / the number of examples in the batch, and 0 for padding.

        It raises UserError where an image that is not in memory cannot be read as before.
    """
    tf = import_tensorflow()
    n = len(examples.labels)
    n_drawn = 0 if augmentation is None else n
    alternating_flip = augmentation is not None and augmentation.alternating_flip
    steps = steps_per_epoch(examples, batch_size)
    epochs = range(start_step // steps, -(-end_step // steps))

    def random_numbers(epoch: int) -> tuple[np.ndarray, np.ndarray]:
        draws = augment.draws(n_drawn, seed, epoch, alternating_flip=alternating_flip)
        return padded(permutation(n, seed, epoch), batch_size), draws

    def parameters(draws: Any) -> dict[str, Any]:
        if augmentation is None:
            return {}
        return augment.parameters(augment.arrays.tensorflow(), draws, augmentation, examples.images.shape[1:])

    if isinstance(examples.images, Encoded):

        def steps_of_epoch(epoch: int) -> list[tuple[np.ndarray, dict[str, np.ndarray]]]:
            order, draws = random_numbers(epoch)
            params = {name: of.numpy() for name, of in parameters(draws).items()}
            return [(index, params) for index in order]

        of_steps = itertools.chain.from_iterable(ahead(steps_of_epoch, epochs, threads=1, most=1))
        first = start_step % steps
        of_steps = itertools.islice(of_steps, first, first + end_step - start_step)
        return _decode(examples.images, examples.labels, normalizer, of_steps, rows, augmentation)

    # The host makes the random numbers and passes them to tf.data through a queue. Do not use tf.numpy_function or
    # Dataset.from_generator here: their threads run Python, and a process hangs if it ends before the iterator does.
    queue = tf.queue.FIFOQueue(2, [tf.int32, tf.float32], [(steps, batch_size), (n_drawn, len(augment.DRAWS))])

    def batches_of_epoch(_: Any) -> Any:
        order, draws = queue.dequeue()
        params = {name: tf.gather(of, tf.maximum(order, 0)) for name, of in parameters(draws).items()}
        return tf.data.Dataset.from_tensor_slices((order, params))

    batches = tf.data.Dataset.range(len(epochs)).flat_map(batches_of_epoch)
    batches = batches.skip(start_step % steps).take(end_step - start_step)
    iterator = _gather(examples, normalizer, batches, rows, augmentation)

    # The queue holds the numbers of the next epoch when an epoch starts, so tf.data prefetches across the border.
    numbers = ahead(random_numbers, epochs, threads=1, most=1)

    def enqueue(count: int) -> None:
        for of_epoch in itertools.islice(numbers, count):
            queue.enqueue(of_epoch)

    def feed(step: int, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if step % steps == 0 and step > start_step:
            enqueue(1)
        return batch

    enqueue(2)
    # No generator: it would drop the iterator of tf.data, which may take a while, when the last batch is asked for.
    return itertools.starmap(feed, enumerate(iterator, start_step))


def eval_batches(
    examples: Examples, normalizer: Normalizer, *, batch_size: int, rows: slice = ALL_ROWS
) -> Iterable[dict[str, np.ndarray]]:
    """Return batches that hold every example once, in order.

    Args:
        examples: the split to evaluate.
        normalizer: the statistics of the training split.
        batch_size: the number of examples in a batch.
        rows: as of `train_batches`.

    Returns:
        An iterator over dicts, as of `train_batches`.
    """
    tf = import_tensorflow()
    indices = padded(np.arange(len(examples.labels), dtype=np.int32), batch_size)
    if isinstance(examples.images, Encoded):
        return _decode(examples.images, examples.labels, normalizer, ((index, {}) for index in indices), rows)
    batches = tf.data.Dataset.from_tensor_slices((indices, {}))
    return _gather(examples, normalizer, batches, rows)


def _gather(
    examples: Examples, normalizer: Normalizer, batches: Any, rows: slice, augmentation: Config | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """Return an iterator over normalised batches.

    Args:
        examples: the examples.
        normalizer: the statistics of the training split.
        batches: a tf.data.Dataset of pairs: the indices of a batch, int32 (batch_size,), with `PADDING` for no
            example, and the parameters of its augmentation, a dict of float32 (batch_size,).
        rows: the rows of each batch to gather.
        augmentation: config.augment, or None for no augmentation.
    """
    tf = import_tensorflow()
    images, labels = _tensor(examples.images), tf.constant(examples.labels)
    finish = _finisher(examples.images.shape[1:], normalizer, augmentation)

    def batch(index: Any, params: dict[str, Any]) -> dict[str, Any]:
        weight = tf.cast(index != PADDING, tf.float32)
        weight /= tf.reduce_sum(weight)  # over the whole batch
        index, weight = tf.maximum(index[rows], 0), weight[rows]
        params = {name: of[rows] for name, of in params.items()}
        return {
            "image": finish(tf.gather(images, index), params),
            "label": tf.gather(labels, index),
            "weight": weight,
        }

    dataset = batches.map(batch, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
    return dataset.as_numpy_iterator()


def _tensor(array: Any) -> Any:
    """Return an array as a tensor that shares its memory, if `aligned` made it. tf.constant takes two copies."""
    return import_tensorflow().experimental.dlpack.from_dlpack(aligned(array).__dlpack__())


def _decode(
    images: Encoded,
    labels: Int32[np.ndarray, " examples"],
    normalizer: Normalizer,
    batches: Iterable[tuple[Int32[np.ndarray, " batch_size"], dict[str, np.ndarray]]],
    rows: slice,
    augmentation: Config | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Return an iterator over the batches of `_gather`, for images that are not in memory.

    A batch for each thread, and one more, is made ahead. The threads end with the iterator.

    Args:
        images: the images.
        labels: their classes.
        normalizer: the statistics of the training split.
        batches: pairs: the indices of a batch, with `PADDING` for no example, and the parameters of the augmentation
            of all examples, a dict of float32 (examples,).
        rows: the rows of each batch to decode.
        augmentation: config.augment, or None for no augmentation.
    """
    finish = _finisher(images.shape[1:], normalizer, augmentation)

    def batch(numbers: tuple[np.ndarray, dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        index, params = numbers
        weight = (index != PADDING).astype(np.float32)
        weight /= weight.sum()  # over the whole batch
        index, weight = np.maximum(index[rows], 0), weight[rows]
        params = {name: of[index] for name, of in params.items()}
        different, place = np.unique(index, return_inverse=True)  # padding repeats an example
        return {
            "image": finish(images[different][place], params).numpy(),
            "label": labels[index],
            "weight": weight,
        }

    return ahead(batch, batches, threads=cores(), most=cores() + 1)


def _finisher(
    image_shape: tuple[int, ...], normalizer: Normalizer, augmentation: Config | None
) -> Callable[[Any, dict[str, Any]], Any]:
    """Return the function in TensorFlow that augments and normalises a batch of images, with parameters for each."""
    tf = import_tensorflow()
    # Repeated for all pixels of an image, because TensorFlow is slow when the last axis is as short as the channels.
    pixels = np.prod(image_shape[:-1])
    mean, std = np.tile(normalizer.mean, pixels), np.tile(normalizer.std, pixels)
    transform = augment.transformer(augmentation, *normalizer) if augmentation is not None else None

    def finish(image: Any, params: dict[str, Any]) -> Any:
        image = transform(image, params) if transform else tf.cast(image, tf.float32)
        return tf.reshape((tf.reshape(image, [-1, mean.size]) - mean) / std, image.shape)

    return finish
