"""The fast max-pooling against the stock one, in value and gradient."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxconv.ops import dispatch


def assert_equals_stock(kernels, x, window):
    def run(pool):
        y, pull_back = jax.vjp(pool, x)
        return y, *pull_back(jnp.arange(1, 1 + y.size, dtype=y.dtype).reshape(y.shape))

    stock = run(lambda x: nn.max_pool(x, window, strides=window))
    for ours, expected in zip(run(lambda x: kernels.max_pool(x, window)), stock, strict=True):
        np.testing.assert_array_equal(ours, expected)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.lists(st.integers(3, 9), min_size=1, max_size=3),
    window=st.lists(st.integers(1, 3), min_size=3, max_size=3),
    channels=st.integers(1, 20),
    seed=st.integers(0, 99),
)
def test_any_size_window_and_dimension(kernels, size, window, channels, seed):
    x = np.random.default_rng(seed).normal(size=(2, *size, channels)).astype(np.float32)
    assert_equals_stock(kernels, jnp.asarray(x), tuple(window[: len(size)]))


def test_the_kernels_are_those_expected(kernels):
    program = str(jax.make_jaxpr(lambda x: kernels.max_pool(x, (2, 2)))(jnp.zeros((3, 8, 8, 5))))
    assert ("ffi_call" in program) == (kernels == dispatch.ONEDNN)


@pytest.mark.parametrize("values", [1, 2, 4])
def test_equal_elements_give_the_gradient_to_the_first(kernels, values):
    x = np.random.default_rng(0).integers(0, values, (3, 8, 8, 5)).astype(np.float32)
    assert_equals_stock(kernels, jnp.asarray(x), (2, 2))


def test_a_window_of_nan_is_nan_and_stays_so_behind_relu(kernels):
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 5)).astype(np.float32)
    x[1, 2:, :2, 3] = np.nan
    y = kernels.max_pool(jnp.asarray(x), (2, 2))
    expected = np.zeros(y.shape, bool)
    expected[1, 1, 0, 3] = True
    np.testing.assert_array_equal(np.isnan(y), expected)
    np.testing.assert_array_equal(np.isnan(jax.nn.relu(y)), expected)
