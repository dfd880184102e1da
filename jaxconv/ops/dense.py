"""Dense layer: JAX's own, a form that XLA compiles to fast code for a CPU, and oneDNN's."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxconv.ops import onednn
from jaxconv.parallel.sharding import SPLIT, WHOLE, on_each_device

_LARGE = 1 << 26
"""Multiplications below which a call to oneDNN costs more than it saves."""


def stock(
    x: Float[Array, "batch in"], kernel: Float[Array, "in out"], bias: Float[Array, " out"]
) -> Float[Array, "batch out"]:
    """Multiply rows with a kernel, and add the bias."""
    return x @ kernel + bias


def by_xla(
    x: Float[Array, "batch in"], kernel: Float[Array, "in out"], bias: Float[Array, " out"]
) -> Float[Array, "batch out"]:
    """Compute `stock`, with a gradient with respect to the kernel in the kernel's own layout.

    JAX's own gradient comes out transposed, and on a CPU the optimizer then reads it across the cache, several times.
    """
    return _matmul(x, kernel) + bias


def by_onednn(
    x: Float[Array, "batch in"], kernel: Float[Array, "in out"], bias: Float[Array, " out"]
) -> Float[Array, "batch out"]:
    """Compute `stock` by oneDNN where it is fast: in float32 and where the product is large; else `by_xla`."""
    large = len(x) * kernel.size >= _LARGE
    single = all(array.dtype == jnp.float32 for array in (x, kernel, bias))
    if large and single and onednn.Dense(len(x), *kernel.shape).is_fast():
        return _onednn(x, kernel, bias)
    return by_xla(x, kernel, bias)


@jax.custom_vjp
def _onednn(x: Array, kernel: Array, bias: Array) -> Array:
    def local(x: Array, kernel: Array, bias: Array) -> Array:
        return onednn.Dense(len(x), *kernel.shape).forward(x, kernel, bias)

    return on_each_device(local, (SPLIT, WHOLE, WHOLE), SPLIT)(x, kernel, bias)


def _onednn_forward(x: Array, kernel: Array, bias: Array) -> tuple[Array, Any]:
    return _onednn(x, kernel, bias), (x, kernel)


def _onednn_backward(residuals: tuple[Array, Array], g: Array) -> tuple[Array, Array, Array]:
    x, kernel = residuals

    def local(x: Array, g: Array) -> tuple[Array, Array]:
        return onednn.Dense(len(x), *kernel.shape).parameter_gradients(x, g)

    return _input_gradient(g, kernel), *on_each_device(local, (SPLIT, SPLIT), WHOLE)(x, g)


_onednn.defvjp(_onednn_forward, _onednn_backward)


@jax.custom_vjp
def _matmul(x: Array, kernel: Array) -> Array:
    return x @ kernel


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return x @ kernel, (x, kernel)


def _backward(residuals: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    return _input_gradient(g, kernel), lax.dot_general(x, g, (((0,), (0,)), ((), ())))


_matmul.defvjp(_forward, _backward)


def _input_gradient(g: Array, kernel: Array) -> Array:
    return jnp.einsum("bo,io->bi", g, kernel)
