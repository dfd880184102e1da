"""The mesh of devices, with one axis "data", and the transfer of batches to them."""

import collections
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from jaxconv.errors import ConfigError
from jaxconv.parallel.sharding import split_by_example


def make_mesh(num_devices: int | None, batch_size: int) -> Mesh:
    """Make a mesh over the first `num_devices` devices, or over all, for batches of `batch_size` examples.

    Raises:
        ConfigError: there are fewer devices, or the batch does not divide among them.
    """
    devices = jax.devices()
    count = num_devices or len(devices)
    if count > len(devices):
        raise ConfigError(
            f"config.num_devices={count}, but there are {len(devices)} {devices[0].platform} devices: ask for fewer."
        )
    if batch_size % count:
        raise ConfigError(
            f"config.batch_size={batch_size} does not divide among {count} devices: "
            f"make it a multiple of {count}, or set config.num_devices."
        )
    return jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=devices[:count])


def prefetch_to_devices(
    batches: Iterable[dict[str, np.ndarray]], mesh: Mesh, size: int = 2
) -> Iterator[dict[str, Any]]:
    """Transfer batches of arrays to the devices, split along their first axis, `size` batches ahead of the consumer."""
    sharding = split_by_example(mesh)
    queue: collections.deque[dict[str, Any]] = collections.deque()
    for batch in batches:
        queue.append(jax.device_put(batch, sharding))
        if len(queue) > size:
            yield queue.popleft()
    yield from queue
