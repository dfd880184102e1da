"""Max-pooling: JAX's own, the maximum of slices, and oneDNN's.

XLA:CPU computes the gradient of JAX's own with select-and-scatter, a slow loop over windows.
"""

import functools
import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxconv.ops import onednn
from jaxconv.parallel.sharding import SPLIT, on_each_device


def stock(x: Float[Array, "batch *spatial c"], window: tuple[int, ...]) -> Float[Array, "batch *spatial_out c"]:
    """Take the maximum of each window. Windows do not overlap, and what is left over at the end is dropped."""
    return nn.max_pool(x, window, strides=window)


def by_slices(x: Float[Array, "batch *spatial c"], window: tuple[int, ...]) -> Float[Array, "batch *spatial_out c"]:
    """Take the maximum of each window as the maximum of strided slices, axis by axis."""
    return _by_slices(window, x)


def by_onednn(x: Float[Array, "batch *spatial c"], window: tuple[int, ...]) -> Float[Array, "batch *spatial_out c"]:
    """Take the maximum of each window by oneDNN where it is fast, in float32; else `by_slices`.

    oneDNN skips elements that are not a number. A window of nothing else is NaN, as in the other forms.
    """
    if x.dtype == jnp.float32 and onednn.MaxPooling(x.shape, window).is_fast():
        return _onednn(window, x.shape[1:], x)
    return by_slices(x, window)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _onednn(window: tuple[int, ...], image_shape: tuple[int, ...], x: Array) -> Array:
    return _onednn_forward(window, image_shape, x)[0]


def _onednn_forward(window: tuple[int, ...], image_shape: tuple[int, ...], x: Array) -> Any:
    y, places = on_each_device(lambda x: onednn.MaxPooling(x.shape, window).forward(x), (SPLIT,), SPLIT)(x)
    # oneDNN gives the lowest number for a window of nothing but NaN.
    return jnp.where(y == jnp.finfo(y.dtype).min, jnp.nan, y), places


def _onednn_backward(window: tuple[int, ...], image_shape: tuple[int, ...], places: Array, g: Array) -> Any:
    def local(g: Array, places: Array) -> Array:
        return onednn.MaxPooling((g.shape[0], *image_shape), window).input_gradient(g, places)

    return (on_each_device(local, (SPLIT, SPLIT), SPLIT)(g, places),)


_onednn.defvjp(_onednn_forward, _onednn_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _by_slices(window: tuple[int, ...], x: Array) -> Array:
    for axis, size in enumerate(window, start=1):
        x = functools.reduce(jnp.maximum, (_every(x, axis, size, first) for first in range(size)))
    return x


def _every(x: Array, axis: int, size: int, first: int) -> Array:
    """Every size-th element along an axis from `first` on, of the whole windows."""
    return jax.lax.slice_in_dim(x, first, x.shape[axis] // size * size, size, axis)


def _forward(window: tuple[int, ...], x: Array) -> Any:
    y = _by_slices(window, x)
    return y, (x, y)


def _backward(window: tuple[int, ...], residuals: tuple[Array, Array], g: Array) -> tuple[Array]:
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


_by_slices.defvjp(_forward, _backward)
