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
from tests.ops.conftest import has_bfloat16

LAYOUTS = {1: ("NHC", "HIO", "NHC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NHWDC", "HWDIO", "NHWDC")}


def test_stock_is_jaxs_own():
    rng = np.random.default_rng(0)
    for n in (1, 2, 3):
        x, kernel, bias = (rng.normal(size=s).astype(np.float32) for s in ((2, *[6] * n, 3), (*[3] * n, 3, 4), (4,)))
        expected = lax.conv_general_dilated(x, kernel, [2] * n, "SAME", dimension_numbers=LAYOUTS[n]) + bias
        np.testing.assert_array_equal(stock(x, kernel, bias, strides=[2] * n, padding="SAME"), expected)


def assert_equals_stock(kernels, x_shape, kernel_shape, strides, padding, dtype=jnp.float32):
    """Compare with the stock form in float32, of the same numbers, which `dtype` holds exactly."""
    rng = np.random.default_rng(0)
    shapes = x_shape, kernel_shape, kernel_shape[-1:]
    x, *parameters = (jnp.asarray(rng.normal(size=shape), dtype).astype(jnp.float32) for shape in shapes)

    def run(convolution, dtype):
        y, pull_back = jax.vjp(
            lambda *arrays: convolution(*arrays, strides=strides, padding=padding), x.astype(dtype), *parameters
        )
        assert y.dtype == dtype
        return y, *pull_back(jnp.asarray(np.random.default_rng(1).normal(size=y.shape), jnp.bfloat16).astype(dtype))

    tolerance = 1e-4 if dtype == jnp.float32 else 2**-7  # bfloat16 has 8 bits
    for ours, expected in zip(run(kernels.convolve, dtype), run(stock, jnp.float32), strict=True):
        scale = max(1, float(jnp.abs(expected).max(initial=0)))
        np.testing.assert_allclose(ours.astype(jnp.float32), expected, rtol=tolerance, atol=tolerance * scale)


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


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("kernel", [(3, 3, 16, 8), (3, 3, 16, 32), (5, 5, 16, 50)])
def test_many_images_and_filters(kernels, kernel, dtype):
    assert_equals_stock(kernels, (24, 32, 32, 16), kernel, (1, 1), "SAME", dtype)


@pytest.mark.parametrize(
    ("x", "kernel", "strides"),
    [((3, 9, 2), (4, 2, 5), (2,)), ((3, 8, 9, 3), (3, 2, 3, 5), (1, 2)), ((2, 5, 6, 7, 3), (3, 3, 2, 3, 4), (1, 1, 2))],
)
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_bfloat16_in_each_dimension(kernels, x, kernel, strides, padding):
    assert_equals_stock(kernels, x, kernel, strides, padding, jnp.bfloat16)
    assert_equals_stock(dispatch.STOCK, x, kernel, strides, padding, jnp.bfloat16)


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

    def program(function, dtype, of_parameters=jnp.float32):
        parameters = (jax.ShapeDtypeStruct(shape, of_parameters) for shape in (kernel, kernel[-1:]))
        return str(jax.make_jaxpr(function)(jax.ShapeDtypeStruct(x, dtype), *parameters))

    calls = kernels == dispatch.ONEDNN
    for dtype in (jnp.float32, jnp.bfloat16) if has_bfloat16() else (jnp.float32,):
        assert program(convolve, dtype).count("ffi_call[") == calls
        assert program(gradients, dtype).count("ffi_call[") == 3 * calls  # value, input, kernel with bias
    assert "ffi_call" not in program(convolve, jnp.float16, jnp.float16)  # oneDNN would read it as float32
    assert "ffi_call" not in program(convolve, jnp.bfloat16, jnp.bfloat16)


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
