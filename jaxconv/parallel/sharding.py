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


def micro_batches(batch: Any, count: int) -> Any:
    """Cut a batch into `count` parts: part i has the rows i, i + count, and so on.

    Each part has a share of every device, so that no data moves between devices, and of the padding at the end.

    Args:
        batch: a tree of arrays (batch, ...), split along their first axis.
        count: the number of parts. It divides the number of rows on each device.

    Returns:
        The tree with arrays (count, batch / count, ...), split along their second axis.
    """

    def deal(own: Any) -> Any:
        return jax.tree.map(lambda rows: rows.reshape(-1, count, *rows.shape[1:]).swapaxes(0, 1), own)

    return on_each_device(deal, (SPLIT,), PartitionSpec(None, "data"))(batch)


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of arrays that every device holds whole."""
    return NamedSharding(mesh, WHOLE)


def split_by_example(mesh: Mesh) -> NamedSharding:
    """Return the sharding of batches, split along their first axis."""
    return NamedSharding(mesh, SPLIT)
