"""Devices: one mesh with axis "data"; parameters on every device, batches split among them."""

import collections
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxconv.config import Config
from jaxconv.errors import ConfigError


def make_mesh(config: Config) -> Mesh:
    """A mesh over the first config.num_devices devices, or over all.

    Raises:
        ConfigError: there are fewer devices, or the batch does not divide among them.
    """
    devices = jax.devices()
    count = config.num_devices or len(devices)
    if count > len(devices):
        raise ConfigError(
            f"config.num_devices={count}, but there are {len(devices)} {devices[0].platform} devices: ask for fewer."
        )
    if config.batch_size % count:
        raise ConfigError(
            f"config.batch_size={config.batch_size} does not divide among {count} devices: "
            f"make it a multiple of {count}, or set config.num_devices."
        )
    return jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=devices[:count])


SPLIT, WHOLE = PartitionSpec("data"), PartitionSpec()
"""Arrays of which each device has its share of the first axis, and those of which it has all."""


def on_each_device(
    function: Callable[..., Any], arguments: tuple[Any, ...], result: PartitionSpec
) -> Callable[..., Any]:
    """`function` of each device's own shares of the arguments; a result that is `WHOLE` is the sum over devices.

    For what XLA cannot divide by itself, within a program for a mesh (jax.set_mesh); elsewhere, `function` as it is.
    """
    if "data" not in jax.sharding.get_abstract_mesh().axis_names:
        return function

    def local(*shares: Any) -> Any:
        results = function(*shares)
        return jax.lax.psum(results, "data") if result == WHOLE else results

    return jax.shard_map(local, in_specs=arguments, out_specs=result, check_vma=False)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, WHOLE)


def split_by_example(mesh: Mesh) -> NamedSharding:
    """The sharding of batches: each device holds its share of the first axis."""
    return NamedSharding(mesh, SPLIT)


def prefetch_to_devices(
    batches: Iterable[dict[str, np.ndarray]], mesh: Mesh, size: int = 2
) -> Iterator[dict[str, Any]]:
    """Batches of arrays as batches split over the mesh, `size` of them on their way ahead of the consumer."""
    sharding = split_by_example(mesh)
    queue: collections.deque[dict[str, Any]] = collections.deque()
    for batch in batches:
        queue.append(jax.device_put(batch, sharding))
        if len(queue) > size:
            yield queue.popleft()
    yield from queue
