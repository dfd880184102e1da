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


@pytest.mark.parametrize("n", [1, 2, 3])
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batch=st.integers(1, 9),
    size=st.tuples(*[st.integers(5, 12)] * 3),
    kernel=st.tuples(*[st.integers(1, 5)] * 3),
    channels=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(*[st.integers(1, 3)] * 3),
    padding=st.sampled_from(["SAME", "VALID", ((1, 0), (2, 3), (0, 1))]),
)
def test_any_size_kernel_strides_and_padding(kernels, n, batch, size, kernel, channels, strides, padding):
    padding = padding if isinstance(padding, str) else padding[:n]
    assert_equals_stock(kernels, (batch, *size[:n], channels[0]), (*kernel[:n], *channels), strides[:n], padding)


@pytest.mark.parametrize("kernel", [(3, 3, 16, 8), (3, 3, 16, 32), (5, 5, 16, 50)])
def test_many_images_and_filters(kernels, kernel):
    assert_equals_stock(kernels, (24, 32, 32, 16), kernel, (1, 1), "SAME")


@pytest.mark.parametrize(
    ("x", "kernel", "strides"),
    [
        ((128, 40, 1), (5, 1, 16), (1,)),
        ((128, 40, 16), (5, 16, 32), (2,)),
        ((4, 8, 8, 3), (3, 3, 3, 5), (1, 1)),
        ((128, 16, 16, 32), (5, 3, 32, 64), (1, 2)),
        ((64, 8, 20, 20, 1), (3, 3, 3, 1, 16), (1, 1, 1)),
        ((64, 8, 20, 20, 16), (3, 3, 3, 16, 32), (1, 2, 2)),
    ],
)
def test_the_kernels_are_those_expected(kernels, x, kernel, strides):
    def convolve(*arrays):
        return kernels.convolve(*arrays, strides=strides, padding="SAME")

    def gradients(*arrays):
        return jax.grad(lambda arrays: convolve(*arrays).sum())(arrays)

    def program(function, dtype):
        arrays = [jax.ShapeDtypeStruct(shape, dtype) for shape in (x, kernel, kernel[-1:])]
        return str(jax.make_jaxpr(function)(*arrays))

    calls = kernels == dispatch.ONEDNN
    assert program(convolve, jnp.float32).count("ffi_call[") == calls
    assert program(gradients, jnp.float32).count("ffi_call[") == 3 * calls  # value, input, kernel with bias
    assert "ffi_call" not in program(convolve, jnp.bfloat16)  # oneDNN would read it as float32


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
