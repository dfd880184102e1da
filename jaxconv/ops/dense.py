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
    """Multiply rows with a kernel in the dtype of x, and add the bias."""
    return (x @ kernel.astype(x.dtype) + bias).astype(x.dtype)  # in float32, and so is the gradient of the bias


def by_xla(
    x: Float[Array, "batch in"], kernel: Float[Array, "in out"], bias: Float[Array, " out"]
) -> Float[Array, "batch out"]:
    """Compute `stock`, with a gradient with respect to the kernel in the kernel's own layout.

    JAX's own gradient comes out transposed, and on a CPU the optimizer then reads it across the cache, several times.
    """
    return (_matmul(x, kernel.astype(x.dtype)) + bias).astype(x.dtype)


def by_onednn(
    x: Float[Array, "batch in"], kernel: Float[Array, "in out"], bias: Float[Array, " out"]
) -> Float[Array, "batch out"]:
    """Compute `stock` by oneDNN where it is fast, as a large product is; else `by_xla`.

    oneDNN takes a kernel and a bias of float32, and x of float32 or bfloat16.
    """
    large = len(x) * kernel.size >= _LARGE
    if large and onednn.takes(x, kernel, bias) and _describe(x, kernel).is_fast():
        return _onednn(x, kernel, bias)
    return by_xla(x, kernel, bias)


def _describe(x: Array, kernel: Array) -> onednn.Dense:
    inputs, units = kernel.shape
    return onednn.Dense(len(x), inputs, units, x.dtype.name)


@jax.custom_vjp
def _onednn(x: Array, kernel: Array, bias: Array) -> Array:
    def local(x: Array, kernel: Array, bias: Array) -> Array:
        return _describe(x, kernel).forward(x, kernel, bias)

    return on_each_device(local, (SPLIT, WHOLE, WHOLE), SPLIT)(x, kernel, bias)


def _onednn_forward(x: Array, kernel: Array, bias: Array) -> tuple[Array, Any]:
    return _onednn(x, kernel, bias), (x, kernel)


def _onednn_backward(residuals: tuple[Array, Array], g: Array) -> tuple[Array, Array, Array]:
    x, kernel = residuals

    def by_input(x: Array, kernel: Array, g: Array) -> Array:
        return _describe(x, kernel).input_gradient(g, kernel)

    def by_parameters(x: Array, g: Array) -> tuple[Array, Array]:
        return _describe(x, kernel).parameter_gradients(x, g)

    if x.dtype == jnp.float32:
        x_gradient = _input_gradient(g, kernel)  # which XLA computes faster
    else:
        x_gradient = on_each_device(by_input, (SPLIT, WHOLE, SPLIT), SPLIT)(x, kernel, g)
    return x_gradient, *on_each_device(by_parameters, (SPLIT, SPLIT), WHOLE)(x, g)


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
