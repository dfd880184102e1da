"""Where arrays are: parameters whole on every device, batches split among them along their first axis."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

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
