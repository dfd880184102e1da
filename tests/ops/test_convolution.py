"""The fast convolution against the stock one, in value and gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from jaxconv.ops.convolution import conv_general_dilated

LAYOUTS = {1: ("NHC", "HIO", "NHC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NHWDC", "HWDIO", "NHWDC")}


def assert_equals_stock(x_shape, kernel_shape, strides, padding, **keywords):
    spatial = len(x_shape) - 2
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in (x_shape, kernel_shape))

    def run(conv):
        def output(x, kernel):
            return conv(x, kernel, strides, padding, dimension_numbers=LAYOUTS[spatial], **keywords)

        y, pull_back = jax.vjp(output, x, kernel)
        return y, *pull_back(jnp.asarray(np.random.default_rng(1).normal(size=y.shape), jnp.float32))

    for fast, stock in zip(run(conv_general_dilated), run(lax.conv_general_dilated), strict=True):
        np.testing.assert_allclose(fast, stock, rtol=1e-4, atol=1e-4 * max(1, float(jnp.abs(stock).max(initial=0))))


@settings(max_examples=8, deadline=None)
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


def test_many_images_in_several_chunks():
    assert_equals_stock((24, 32, 32, 16), (3, 3, 16, 8), (1, 1), "SAME")


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("size", [(11,), (6, 7, 5)])
def test_other_dimensions(size, padding):
    n = len(size)
    assert_equals_stock((3, *size, 2), (*(3,) * n, 2, 4), (2,) * n, padding)


def test_dilation_and_groups():
    assert_equals_stock((2, 9, 9, 4), (3, 3, 4, 4), (1, 1), "SAME", rhs_dilation=(2, 2))
    assert_equals_stock((2, 9, 9, 4), (3, 3, 2, 4), (1, 1), "SAME", feature_group_count=2)
