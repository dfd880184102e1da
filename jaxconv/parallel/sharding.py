"""How arrays are placed: parameters replicated on every device, batches split along their first axis."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

SPLIT, WHOLE = PartitionSpec("data"), PartitionSpec()
"""Arrays that are split along their first axis, and arrays that every device holds whole."""


def on_each_device(
    function: Callable[..., Any], arguments: tuple[Any, ...], result: PartitionSpec
) -> Callable[..., Any]:
    """Apply `function` on each device to its shares of the arguments; a result that is `WHOLE` is summed over devices.

    Use it for operations that XLA cannot partition by itself. Without a mesh (jax.set_mesh), it returns `function`.
    """
    if "data" not in jax.sharding.get_abstract_mesh().axis_names:
        return function

    def local(*shares: Any) -> Any:
        results = function(*shares)
        return jax.lax.psum(results, "data") if result == WHOLE else results

    return jax.shard_map(local, in_specs=arguments, out_specs=result, check_vma=False)


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of arrays that every device holds whole."""
    return NamedSharding(mesh, WHOLE)


def split_by_example(mesh: Mesh) -> NamedSharding:
    """Return the sharding of batches, split along their first axis."""
    return NamedSharding(mesh, SPLIT)
