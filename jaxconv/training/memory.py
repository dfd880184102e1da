"""Check by shapes alone that a net and a batch fit into memory, before anything is allocated or compiled."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxconv.errors import ConfigError
from jaxconv.models.layers import BatchNorm, Conv, Flatten
from jaxconv.platform import limits
from jaxconv.training.state import TrainState


def check_net(
    model: nn.Module, create: Callable[[], TrainState], image_shape: tuple[int, ...], batch_size: int, mesh: Mesh
) -> None:
    """Check that a step of training fits, by a lower bound that counts each layer's output once.

    With remat, it counts none of those that are computed again.

    Args:
        model: the net.
        create: makes the state before the first step.
        image_shape: (*spatial, channels).
        batch_size: examples that the step computes at a time, over all devices.
        mesh: the devices; those of a CPU share its memory.

    Raises:
        ConfigError: it does not; the sentence has the bytes that are needed and those that are free.
    """
    state = jax.eval_shape(create)
    images = jax.ShapeDtypeStruct((batch_size, *image_shape), jnp.float32)

    not_kept = (Flatten, Conv, BatchNorm) if getattr(model, "remat", False) else Flatten

    def takes_memory(module: nn.Module, method: str) -> bool:
        return method == "__call__" and not isinstance(module, not_kept)

    def outputs(variables: Any, images: jax.Array) -> Any:
        _, captured = model.apply(variables, images, train=False, capture_intermediates=takes_memory)
        return captured["intermediates"]

    on_cpu = mesh.devices.flat[0].platform == "cpu"
    copies, shares = (mesh.size, 1) if on_cpu else (1, mesh.size)
    needed = {
        "parameters": copies * _bytes((state.variables, state.ema, state.slow)),
        "gradients": copies * _bytes(state.params),
        "optimizer": copies * _bytes(state.opt_state),
        "activations of a batch": (_bytes(images) + _bytes(jax.eval_shape(outputs, state.variables, images))) // shares,
    }
    free = limits.free_on(mesh)
    if sum(needed.values()) > free:
        parts = ", ".join(f"{name} {limits.gigabytes(count)}" for name, count in needed.items())
        raise ConfigError(
            f"A step of training needs at least {limits.gigabytes(sum(needed.values()))} of memory ({parts}), and "
            f"{limits.gigabytes(free)} are free: make config.batch_size smaller, config.accumulate_steps larger, or "
            "config.model.filters, kernel_size or dense smaller."
        )


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
