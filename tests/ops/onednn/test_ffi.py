"""Python functions that XLA's programs call."""

import ctypes

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxconv.ops.onednn import ffi


def triple(key, buffers):
    """Write three times the argument to the result. Both have `key` elements."""
    if key == "bad":
        raise ValueError("no such key")
    x, y = (np.frombuffer((ctypes.c_float * int(key)).from_address(buffer), np.float32) for buffer in buffers)
    y[:] = 3 * x


ffi.register("test_triple", triple)


def call(key, x):
    return ffi.call("test_triple", key, [jax.ShapeDtypeStruct(x.shape, x.dtype)], x)[0]


def test_the_function_gets_a_key_and_addresses():
    x = jnp.arange(5.0)
    np.testing.assert_array_equal(jax.jit(lambda x: call("5", x + 1) - 1)(x), 3 * (x + 1) - 1)


def test_an_exception_ends_the_program():
    with pytest.raises(jax.errors.JaxRuntimeError, match="ValueError: no such key"):
        jax.block_until_ready(jax.jit(lambda x: call("bad", x))(jnp.arange(5.0)))
