"""A dense layer that is fast on a CPU: by oneDNN where it is there, else with a weight gradient of our own.

JAX's own weight gradient comes out transposed, and on a CPU the optimizer then reads it across the cache, several
times.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxconv.ops.onednn import layers as kernels
from jaxconv.parallel.sharding import SPLIT, WHOLE, on_each_device

_LARGE = 1 << 26
"""Multiplications below which a call to oneDNN costs more than it saves."""


def dense(
    x: Float[Array, "batch in"], kernel: Float[Array, "in out"], bias: Float[Array, " out"]
) -> Float[Array, "batch out"]:
    """The product of rows of inputs and a kernel, and the bias added."""
    if jax.default_backend() != "cpu":
        return x @ kernel + bias
    large = len(x) * kernel.size >= _LARGE
    single = all(array.dtype == jnp.float32 for array in (x, kernel, bias))
    if large and single and kernels.Dense(len(x), *kernel.shape).is_fast():
        return _by_onednn(x, kernel, bias)
    return matmul(x, kernel) + bias


@jax.custom_vjp
def _by_onednn(x: Array, kernel: Array, bias: Array) -> Array:
    def local(x: Array, kernel: Array, bias: Array) -> Array:
        return kernels.Dense(len(x), *kernel.shape).forward(x, kernel, bias)

    return on_each_device(local, (SPLIT, WHOLE, WHOLE), SPLIT)(x, kernel, bias)


def _onednn_forward(x: Array, kernel: Array, bias: Array) -> tuple[Array, Any]:
    return _by_onednn(x, kernel, bias), (x, kernel)


def _onednn_backward(residuals: tuple[Array, Array], g: Array) -> tuple[Array, Array, Array]:
    x, kernel = residuals

    def local(x: Array, g: Array) -> tuple[Array, Array]:
        return kernels.Dense(len(x), *kernel.shape).parameter_gradients(x, g)

    return _input_gradient(g, kernel), *on_each_device(local, (SPLIT, SPLIT), WHOLE)(x, g)


_by_onednn.defvjp(_onednn_forward, _onednn_backward)


@jax.custom_vjp
def matmul(x: Float[Array, "batch in"], kernel: Float[Array, "in out"]) -> Float[Array, "batch out"]:
    """The product of rows of inputs and a kernel."""
    return x @ kernel


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return x @ kernel, (x, kernel)


def _backward(residuals: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    return _input_gradient(g, kernel), lax.dot_general(x, g, (((0,), (0,)), ((), ())))


matmul.defvjp(_forward, _backward)


def _input_gradient(g: Array, kernel: Array) -> Array:
    return jnp.einsum("bo,io->bi", g, kernel)
