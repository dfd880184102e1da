"""The fast convolution against the stock one, in value and gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax import lax

from jaxconv.ops.convolution import convolve

LAYOUTS = {1: ("NHC", "HIO", "NHC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NHWDC", "HWDIO", "NHWDC")}


def stock(x, kernel, bias, *, strides, padding):
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=LAYOUTS[x.ndim - 2]) + bias


def assert_equals_stock(x_shape, kernel_shape, strides, padding):
    rng = np.random.default_rng(0)
    shapes = x_shape, kernel_shape, kernel_shape[-1:]
    arrays = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]

    def run(convolution):
        y, pull_back = jax.vjp(lambda *arrays: convolution(*arrays, strides=strides, padding=padding), *arrays)
        return y, *pull_back(jnp.asarray(np.random.default_rng(1).normal(size=y.shape), jnp.float32))

    for ours, expected in zip(run(convolve), run(stock), strict=True):
        scale = max(1, float(jnp.abs(expected).max(initial=0)))
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.usefixtures("kernels")
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batch=st.integers(1, 9),
    size=st.tuples(st.integers(5, 12), st.integers(5, 12)),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    channels=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.sampled_from(["SAME", "VALID", ((1, 0), (2, 3))]),
)
def test_two_dimensions(batch, size, kernel, channels, strides, padding):
    assert_equals_stock((batch, *size, channels[0]), (*kernel, *channels), strides, padding)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("kernel", [(3, 3, 16, 8), (3, 3, 16, 32), (5, 5, 16, 50)])
def test_many_images_and_filters(kernel):
    assert_equals_stock((24, 32, 32, 16), kernel, (1, 1), "SAME")


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("size", [(11,), (6, 7, 5)])
def test_other_dimensions(size, padding):
    n = len(size)
    assert_equals_stock((3, *size, 2), (*(3,) * n, 2, 4), (2,) * n, padding)


def test_the_kernels_are_those_expected(kernels):
    def program(dtype):
        arrays = [jnp.zeros(shape, dtype) for shape in ((4, 8, 8, 3), (3, 3, 3, 5), (5,))]
        return str(jax.make_jaxpr(lambda *arrays: convolve(*arrays, strides=(1, 1), padding="SAME"))(*arrays))

    assert ("ffi_call" in program(jnp.float32)) == (kernels == "onednn")
    assert "ffi_call" not in program(jnp.bfloat16)  # oneDNN would read it as float32


@pytest.mark.usefixtures("kernels")
def test_under_vmap():
    """Several kernels in one program, as in a run of several seeds."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 7, 7, 3)), jnp.float32)
    kernels, biases = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((4, 3, 3, 3, 5), (4, 5)))

    def gradient(convolution):
        def total(kernel, bias):
            return jnp.sum(convolution(x, kernel, bias, strides=(1, 1), padding="SAME") ** 2)

        return jax.vmap(jax.grad(total))(kernels, biases)

    np.testing.assert_allclose(gradient(convolve), gradient(stock), rtol=1e-4, atol=1e-3)
