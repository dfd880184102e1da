"""The fast convolution against the stock one, in value and gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax import lax

from jaxconv.ops import dispatch
from jaxconv.ops.convolution import stock

LAYOUTS = {1: ("NHC", "HIO", "NHC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NHWDC", "HWDIO", "NHWDC")}


def test_stock_is_jaxs_own():
    rng = np.random.default_rng(0)
    for n in (1, 2, 3):
        x, kernel, bias = (rng.normal(size=s).astype(np.float32) for s in ((2, *[6] * n, 3), (*[3] * n, 3, 4), (4,)))
        expected = lax.conv_general_dilated(x, kernel, [2] * n, "SAME", dimension_numbers=LAYOUTS[n]) + bias
        np.testing.assert_array_equal(stock(x, kernel, bias, strides=[2] * n, padding="SAME"), expected)


def assert_equals_stock(kernels, x_shape, kernel_shape, strides, padding):
    rng = np.random.default_rng(0)
    shapes = x_shape, kernel_shape, kernel_shape[-1:]
    arrays = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]

    def run(convolution):
        y, pull_back = jax.vjp(lambda *arrays: convolution(*arrays, strides=strides, padding=padding), *arrays)
        return y, *pull_back(jnp.asarray(np.random.default_rng(1).normal(size=y.shape), jnp.float32))

    for ours, expected in zip(run(kernels.convolve), run(stock), strict=True):
        scale = max(1, float(jnp.abs(expected).max(initial=0)))
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4 * scale)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batch=st.integers(1, 9),
    size=st.tuples(st.integers(5, 12), st.integers(5, 12)),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    channels=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.sampled_from(["SAME", "VALID", ((1, 0), (2, 3))]),
)
def test_two_dimensions(kernels, batch, size, kernel, channels, strides, padding):
    assert_equals_stock(kernels, (batch, *size, channels[0]), (*kernel, *channels), strides, padding)


@pytest.mark.parametrize("kernel", [(3, 3, 16, 8), (3, 3, 16, 32), (5, 5, 16, 50)])
def test_many_images_and_filters(kernels, kernel):
    assert_equals_stock(kernels, (24, 32, 32, 16), kernel, (1, 1), "SAME")


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("size", [(11,), (6, 7, 5)])
def test_other_dimensions(kernels, size, padding):
    n = len(size)
    assert_equals_stock(kernels, (3, *size, 2), (*(3,) * n, 2, 4), (2,) * n, padding)


def test_the_kernels_are_those_expected(kernels):
    def program(dtype):
        arrays = [jnp.zeros(shape, dtype) for shape in ((4, 8, 8, 3), (3, 3, 3, 5), (5,))]
        return str(jax.make_jaxpr(lambda *arrays: kernels.convolve(*arrays, strides=(1, 1), padding="SAME"))(*arrays))

    assert ("ffi_call" in program(jnp.float32)) == (kernels == dispatch.ONEDNN)
    assert "ffi_call" not in program(jnp.bfloat16)  # oneDNN would read it as float32


def test_under_vmap(kernels):
    """Several kernels in one program, as in a run of several seeds."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 7, 7, 3)), jnp.float32)
    weights, biases = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((4, 3, 3, 3, 5), (4, 5)))

    def gradient(convolution):
        def total(kernel, bias):
            return jnp.sum(convolution(x, kernel, bias, strides=(1, 1), padding="SAME") ** 2)

        return jax.vmap(jax.grad(total))(weights, biases)

    np.testing.assert_allclose(gradient(kernels.convolve), gradient(stock), rtol=1e-4, atol=1e-3)
