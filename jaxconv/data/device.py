"""The pipeline on the device: it keeps a split as it is, and gathers, augments and normalises within the step.

Order and random numbers are those of the host's pipeline (`jaxconv.data.pipeline`), made on the host an epoch ahead.
The images are equal to its images to rounding.
"""

import functools
import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float32, Int32

from jaxconv.config import Config
from jaxconv.data import augment
from jaxconv.data.encoded import Encoded
from jaxconv.data.examples import Examples
from jaxconv.data.order import permutation
from jaxconv.data.pipeline import PADDING, Normalizer, padded
from jaxconv.errors import ConfigError
from jaxconv.parallel.mesh import own_rows
from jaxconv.parallel.sharding import SPLIT, replicated, split_by_example
from jaxconv.platform import limits
from jaxconv.platform.threads import ahead

COMFORTABLE = 0.25
"""The share of the free memory of a device up to which config.data.pipeline="auto" keeps the splits there."""


class Numbers(NamedTuple):
    """What a step needs of its epoch beside the examples, on the devices. Each has its own rows of every batch."""

    order: Int32[Array, "steps batch"]
    """The indices of the examples, `PADDING` for none."""
    draws: Float32[Array, "steps batch draws"] | None
    """The random numbers of their augmentation. None: they are not augmented."""


def fits(splits: Iterable[Examples], mesh: Mesh) -> bool:
    """Return whether splits are in memory and take no more than `COMFORTABLE` of the free memory of the device."""
    in_memory = not any(isinstance(split.images, Encoded) for split in splits)
    return in_memory and sum(_needed(split, mesh) for split in splits) <= COMFORTABLE * limits.free_on(mesh)


def _needed(split: Examples, mesh: Mesh) -> int:
    """Return the bytes of a split; the devices of a CPU share its memory, and each has a copy."""
    copies = mesh.size if mesh.devices.flat[0].platform == "cpu" else 1
    return copies * sum(math.prod(array.shape) * array.dtype.itemsize for array in split)


def put(examples: Examples, mesh: Mesh) -> Examples:
    """Copy a split to every device, as arrays of JAX. One that is there already is returned as it is.

    Raises:
        ConfigError: it does not fit, or its images are not in memory.
    """
    if isinstance(examples.images, jax.Array):
        return examples
    if isinstance(examples.images, Encoded):
        raise ConfigError(
            "config.data.pipeline='device' keeps the images in memory, and config.data.in_memory leaves them encoded: "
            "set config.data.pipeline to 'host', or config.data.in_memory to 'yes'."
        )
    if (needed := _needed(examples, mesh)) > (free := limits.free_on(mesh)):
        raise ConfigError(
            f"A split of {len(examples.labels):,} examples takes {limits.gigabytes(needed)} of memory on the device, "
            f"and {limits.gigabytes(free)} are free: take a part of it, or set config.data.pipeline to 'host'."
        )
    whole = replicated(mesh)
    return Examples(*(jax.make_array_from_process_local_data(whole, np.asarray(array)) for array in examples))


def take(
    examples: Examples,
    normalizer: Normalizer,
    order: Int32[Array, " batch"],
    draws: Float32[Array, "batch draws"] | None,
    step: Int32[Array, ""],
    augmentation: Config | None,
    mesh: Mesh,
) -> dict[str, Any]:
    """Make a batch, within a program of JAX.

    Args:
        examples: the split, on every device.
        normalizer: the statistics of the training split.
        order: the indices of the examples, `PADDING` for none.
        draws: a row of `augment.draws` for each example. None: they are not augmented.
        step: the number of the batch in its epoch, from 0.
        augmentation: config.augment, or None for no augmentation.
        mesh: the devices.

    Returns:
        A batch as of `pipeline.train_batches`, split among the devices.
    """
    index = jnp.maximum(order, 0)
    image, label = (jnp.asarray(array).at[index].get(mode="promise_in_bounds") for array in examples)
    if augmentation is not None:
        xp = augment.arrays.jax()
        params = augment.parameters(xp, draws, augmentation, image.shape[1:])
        image = augment.apply(xp, image, params, augmentation, *normalizer)
    # The count follows from the step: with a sum of the weights, every device would wait for the others.
    count = jnp.minimum(len(order), len(examples.labels) - step * len(order))
    weight = jnp.where(order == PADDING, 0.0, 1 / count.astype(jnp.float32))
    batch = {"image": (image.astype(jnp.float32) - normalizer.mean) / normalizer.std, "label": label, "weight": weight}
    return jax.lax.with_sharding_constraint(batch, split_by_example(mesh))


def numbers(
    n: int, *, batch_size: int, seed: int, epochs: Iterable[int], augmentation: Config | None, mesh: Mesh
) -> Iterator[Numbers]:
    """Return the numbers of each epoch. A thread makes them an epoch ahead.

    Args:
        n: the number of training examples.
        batch_size: the number of examples in a batch, over all devices.
        seed: the seed of the order and of the augmentation.
        epochs: the epochs, from 0.
        augmentation: config.augment, or None for no augmentation.
        mesh: the devices.
    """
    rows = own_rows(mesh, batch_size)
    to_devices = functools.partial(jax.make_array_from_process_local_data, _split_rows(mesh))

    def of_epoch(epoch: int) -> Numbers:
        order = padded(permutation(n, seed, epoch), batch_size)[:, rows]
        if augmentation is None:
            return Numbers(to_devices(order), None)
        draws = augment.draws(n, seed, epoch, alternating_flip=augmentation.alternating_flip)
        return Numbers(to_devices(order), to_devices(draws[np.maximum(order, 0)]))

    return ahead(of_epoch, epochs, threads=1, most=1)


def numbers_shapes(steps: int, batch_size: int, augmentation: Config | None, mesh: Mesh) -> Any:
    """Return the shapes of the `Numbers` of an epoch, as jax.ShapeDtypeStruct."""
    split = _split_rows(mesh)
    draws: Any = jax.ShapeDtypeStruct((steps, batch_size, len(augment.DRAWS)), "float32", sharding=split)
    order: Any = jax.ShapeDtypeStruct((steps, batch_size), "int32", sharding=split)
    return Numbers(order, None if augmentation is None else draws)


def _split_rows(mesh: Mesh) -> NamedSharding:
    """Return the sharding of arrays (steps, batch, ...): each device has its own rows of every batch."""
    return NamedSharding(mesh, PartitionSpec(None, *SPLIT))


def eval_batches(
    examples: Examples, normalizer: Normalizer, *, batch_size: int, mesh: Mesh
) -> Iterator[dict[str, Any]]:
    """Return batches on the devices that hold every example once, in order, as those of `pipeline.eval_batches`."""
    examples, n = put(examples, mesh), len(examples.labels)
    batch = _eval_batch(*(tuple(of.tolist()) for of in normalizer), batch_size, mesh)
    return (batch(examples, np.int32(step)) for step in range(-(-n // batch_size)))


@functools.cache  # every evaluation of a run uses one program
def _eval_batch(mean: tuple[float, ...], std: tuple[float, ...], batch_size: int, mesh: Mesh) -> Any:
    """Return the program that makes the batch of a step of the splits, with a normalizer of this mean and std."""
    normalizer = Normalizer(np.array(mean, np.float32), np.array(std, np.float32))

    @jax.jit
    def batch(examples: Examples, step: Int32[Array, ""]) -> dict[str, Any]:
        index = step * batch_size + jnp.arange(batch_size)
        in_split = index < len(examples.labels)
        order = jax.lax.with_sharding_constraint(jnp.where(in_split, index, PADDING), split_by_example(mesh))
        return take(examples, normalizer, order, None, step, None, mesh)

    return batch
