"""The mesh of devices, with one axis "data", and the transfer of batches to them."""

import collections
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from jaxconv.errors import ConfigError
from jaxconv.parallel.sharding import split_by_example


def make_mesh(num_devices: int | None, batch_size: int, accumulate_steps: int = 1) -> Mesh:
    """Make a mesh over `num_devices` devices, or over all, for batches of `batch_size` examples.

    Each of several processes has the same number of them, in the order of the processes.

    Raises:
        ConfigError: there are fewer devices, or the batch, in `accumulate_steps` parts, does not divide among them.
    """
    processes = jax.process_count()
    devices = jax.devices()
    count = num_devices or len(devices)
    if count > len(devices):
        raise ConfigError(
            f"config.num_devices={count}, but there are {len(devices)} {devices[0].platform} devices: ask for fewer."
        )
    if batch_size % (shares := count * accumulate_steps):
        parts = f" x config.accumulate_steps={accumulate_steps}" if accumulate_steps > 1 else ""
        raise ConfigError(
            f"config.batch_size={batch_size} does not divide among {count} devices{parts}: "
            f"make it a multiple of {shares}, or set config.num_devices."
        )
    if processes > 1:
        return Mesh(np.array(_from_each(devices, processes, count)), ("data",), axis_types=(AxisType.Auto,))
    return jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=devices[:count])


def _from_each(devices: list[Any], processes: int, count: int) -> list[Any]:
    """Take the same number of devices from each process."""
    own = [[device for device in devices if device.process_index == process] for process in range(processes)]
    share, rest = divmod(count, processes)
    if rest or any(len(some) < share for some in own):
        raise ConfigError(
            f"{count} devices are not the same number from each of {processes} processes, which have "
            f"{', '.join(str(len(some)) for some in own)}: set config.num_devices."
        )
    return [device for some in own for device in some[:share]]


def own_rows(mesh: Mesh, batch_size: int) -> slice:
    """Return which rows of a batch are on the devices of this process."""
    share = batch_size // jax.process_count()
    return slice(jax.process_index() * share, (jax.process_index() + 1) * share)


def prefetch_to_devices(
    batches: Iterable[dict[str, np.ndarray]], mesh: Mesh, size: int = 2
) -> Iterator[dict[str, Any]]:
    """Transfer batches of arrays to the devices, split along their first axis, `size` batches ahead of the consumer.

    A process gives its own rows of each batch.
    """
    sharding = split_by_example(mesh)
    queue: collections.deque[dict[str, Any]] = collections.deque()
    for batch in batches:
        queue.append(jax.make_array_from_process_local_data(sharding, batch))
        if len(queue) > size:
            yield queue.popleft()
    yield from queue
