"""Max-pooling and average-pooling: JAX's own, max-pooling that XLA compiles to fast code for a CPU, and oneDNN's.

Padding is never a maximum, and does not count in a mean.
"""

import functools
import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxconv.ops import onednn
from jaxconv.parallel.sharding import SPLIT, on_each_device


def max_pool_stock(
    x: Float[Array, "batch *spatial c"], window: tuple[int, ...], strides: tuple[int, ...], padding: str
) -> Float[Array, "batch *spatial_out c"]:
    """Take the maximum of each window.

    Args:
        x: input with 1 to 3 spatial dimensions.
        window: size of the windows in each spatial dimension. Under "VALID", no larger than x.
        strides: stride in each spatial dimension. Windows may overlap, or leave elements out.
        padding: "SAME" or "VALID".
    """
    return nn.max_pool(x, window, strides, padding)


def max_pool_by_slices(
    x: Float[Array, "batch *spatial c"], window: tuple[int, ...], strides: tuple[int, ...], padding: str
) -> Float[Array, "batch *spatial_out c"]:
    """Compute `max_pool_stock`, as the maximum of strided slices where windows neither overlap nor need padding.

    XLA:CPU computes the gradient of the stock form with select-and-scatter, a slow loop over windows.
    """
    if strides == window and not any(map(any, _pads(x, window, strides, padding))):
        return _by_slices(window, x)
    return max_pool_stock(x, window, strides, padding)


def max_pool_by_onednn(
    x: Float[Array, "batch *spatial c"], window: tuple[int, ...], strides: tuple[int, ...], padding: str
) -> Float[Array, "batch *spatial_out c"]:
    """Compute `max_pool_stock` by oneDNN where it is fast, in float32 and bfloat16; else `max_pool_by_slices`.

    oneDNN skips elements that are not a number. A window of nothing else is NaN, as in the other forms. A window of
    nothing but -inf is NaN too, and -inf in the other forms.
    """
    pooling = onednn.Pooling("max", x.shape, window, strides, _pads(x, window, strides, padding), x.dtype.name)
    if onednn.takes(x) and pooling.is_fast():
        return _onednn(pooling, x)
    return max_pool_by_slices(x, window, strides, padding)


def average_pool_stock(
    x: Float[Array, "batch *spatial c"], window: tuple[int, ...], strides: tuple[int, ...], padding: str
) -> Float[Array, "batch *spatial_out c"]:
    """Take the mean of each window, over the elements that are not padding. Arguments are those of `max_pool_stock`."""
    return nn.avg_pool(x, window, strides, padding, count_include_pad=False).astype(x.dtype)


def average_pool_by_onednn(
    x: Float[Array, "batch *spatial c"], window: tuple[int, ...], strides: tuple[int, ...], padding: str
) -> Float[Array, "batch *spatial_out c"]:
    """Compute `average_pool_stock` by oneDNN where it is fast, in float32 and bfloat16; else call it."""
    pooling = onednn.Pooling("average", x.shape, window, strides, _pads(x, window, strides, padding), x.dtype.name)
    if onednn.takes(x) and pooling.is_fast():
        return _onednn(pooling, x)
    return average_pool_stock(x, window, strides, padding)


def _pads(x: Array, window: tuple[int, ...], strides: tuple[int, ...], padding: str) -> tuple[tuple[int, int], ...]:
    pads = lax.padtype_to_pads(x.shape[1:-1], window, strides, padding)
    return tuple((int(low), int(high)) for low, high in pads)


# ---- By oneDNN


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _onednn(pooling: onednn.Pooling, x: Array) -> Array:
    return _onednn_forward(pooling, x)[0]


def _onednn_forward(pooling: onednn.Pooling, x: Array) -> Any:
    y, workspace = on_each_device(lambda x: pooling._replace(x=x.shape).forward(x), (SPLIT,), SPLIT)(x)
    if pooling.kind == "max":  # oneDNN gives the lowest number for a window of nothing but NaN; in bfloat16, -inf
        y = jnp.where(y <= jnp.finfo(y.dtype).min, jnp.nan, y)
    return y, workspace


def _onednn_backward(pooling: onednn.Pooling, workspace: Array | None, g: Array) -> tuple[Array]:
    def local(g: Array, workspace: Array | None) -> Array:
        return pooling._replace(x=(len(g), *pooling.x[1:])).input_gradient(g, workspace)

    return (on_each_device(local, (SPLIT, SPLIT), SPLIT)(g, workspace),)


_onednn.defvjp(_onednn_forward, _onednn_backward)


# ---- By slices


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _by_slices(window: tuple[int, ...], x: Array) -> Array:
    for axis, size in enumerate(window, start=1):
        x = functools.reduce(jnp.maximum, (_every(x, axis, size, first) for first in range(size)))
    return x


def _every(x: Array, axis: int, size: int, first: int) -> Array:
    """Every size-th element along an axis from `first` on, of the whole windows."""
    return lax.slice_in_dim(x, first, x.shape[axis] // size * size, size, axis)


def _slices_forward(window: tuple[int, ...], x: Array) -> Any:
    y = _by_slices(window, x)
    return y, (x, y)


def _slices_backward(window: tuple[int, ...], residuals: tuple[Array, Array], g: Array) -> tuple[Array]:
    """Give each gradient to the first maximum of its window, as the stock form does."""
    x, y = residuals
    taken = jnp.zeros(y.shape, bool)
    parts = []
    for offsets in itertools.product(*map(range, window)):
        element = x
        for axis, (size, first) in enumerate(zip(window, offsets, strict=True), start=1):
            element = _every(element, axis, size, first)
        first_maximum = (element == y) & ~taken
        taken |= first_maximum
        parts.append(jnp.where(first_maximum, g, 0))
    for axis, size in reversed(list(enumerate(window, start=1))):
        parts = [_interleave(parts[i : i + size], axis) for i in range(0, len(parts), size)]
    (gradient,) = parts
    return (jnp.pad(gradient, [(0, whole - kept) for whole, kept in zip(x.shape, gradient.shape, strict=True)]),)


def _interleave(parts: list[Array], axis: int) -> Array:
    shape = list(parts[0].shape)
    shape[axis] *= len(parts)
    return jnp.stack(parts, axis=axis + 1).reshape(shape)


_by_slices.defvjp(_slices_forward, _slices_backward)
