"""The fast forms of pooling against the stock ones, in value and gradient, and the stock ones against Keras."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxconv.ops import dispatch
from tests.ops.conftest import has_bfloat16

POOLINGS = ["max_pool", "average_pool"]


def assert_equals_stock(kernels, pooling, x, *arguments):
    def run(kernels):
        y, pull_back = jax.vjp(lambda x: getattr(kernels, pooling)(x, *arguments), x)
        return y, *pull_back(jnp.arange(1, 1 + y.size, dtype=y.dtype).reshape(y.shape))

    tolerance = 1e-5 if x.dtype == jnp.float32 else 2**-6
    for ours, expected in zip(run(kernels), run(dispatch.STOCK), strict=True):
        assert ours.dtype == x.dtype
        if pooling == "max_pool":
            np.testing.assert_array_equal(ours, expected)
        else:
            ours, expected = ours.astype(jnp.float32), expected.astype(jnp.float32)
            np.testing.assert_allclose(ours, expected, rtol=tolerance, atol=tolerance)


def program(function, x):
    return str(jax.make_jaxpr(lambda x: function(x))(x))  # a new function, because JAX keeps what it traced


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("pooling", POOLINGS)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.tuples(*[st.integers(3, 9)] * 3),
    window=st.tuples(*[st.integers(1, 3)] * 3),
    strides=st.one_of(st.none(), st.tuples(*[st.integers(1, 4)] * 3)),
    padding=st.sampled_from(["SAME", "VALID"]),
    channels=st.integers(1, 20),
    seed=st.integers(0, 99),
)
def test_any_size_window_strides_and_padding(kernels, pooling, n, size, window, strides, padding, channels, seed):
    x = np.random.default_rng(seed).normal(size=(2, *size[:n], channels)).astype(np.float32)
    strides = strides or window
    assert_equals_stock(kernels, pooling, jnp.asarray(x), window[:n], strides[:n], padding)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_bfloat16(kernels, n, pooling, padding):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, *(7, 8, 6)[:n], 5)), jnp.bfloat16)
    windows = [((2, 2, 2), (2, 2, 2))] if pooling == "max_pool" else [((2, 2, 2), (2, 2, 2)), ((3, 2, 3), (2, 1, 2))]
    for window, strides in windows:
        assert_equals_stock(kernels, pooling, x, window[:n], strides[:n], padding)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("pooling", ["Max", "Average"])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_stock_is_as_in_keras(n, pooling, padding):
    x = np.random.default_rng(0).normal(size=(2, *(8, 7, 5)[:n], 3)).astype(np.float32)
    window, strides = (3, 2, 4)[:n], (2, 1, 3)[:n]
    layer = getattr(keras.layers, f"{pooling}Pooling{n}D")(window, strides, padding)
    ours = getattr(dispatch.STOCK, f"{pooling.lower()}_pool")(x, window, strides, padding.upper())
    np.testing.assert_allclose(ours, layer(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(
    ("shape", "window", "strides"),
    [
        ((128, 40, 16), (2,), (2,)),
        ((128, 40, 16), (3,), (2,)),
        ((128, 32, 32, 32), (2, 2), (2, 2)),
        ((128, 32, 32, 5), (3, 2), (1, 4)),
        ((64, 8, 20, 20, 16), (2, 2, 2), (2, 2, 2)),
        ((64, 8, 20, 20, 16), (3, 3, 3), (2, 2, 2)),
    ],
)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_kernels_are_those_expected(kernels, pooling, shape, window, strides, padding):
    def pool(x):
        return getattr(kernels, pooling)(x, window, strides, padding)

    def gradient(x):
        return jax.grad(lambda x: pool(x).sum())(x)

    calls = kernels == dispatch.ONEDNN
    for dtype in (jnp.float32, jnp.bfloat16) if has_bfloat16() else (jnp.float32,):
        x = jax.ShapeDtypeStruct(shape, dtype)
        assert program(pool, x).count("ffi_call[") == calls
        assert program(gradient, x).count("ffi_call[") == 2 * calls
    # oneDNN would read it as float32
    assert "ffi_call" not in program(pool, jax.ShapeDtypeStruct(shape, jnp.float16))


@pytest.mark.parametrize(
    ("window", "strides", "padding", "by_slices"),
    [
        ((2, 4), (2, 4), "VALID", True),
        ((2, 4), (2, 4), "SAME", True),  # which adds nothing here
        ((3, 2), (3, 2), "VALID", True),
        ((3, 2), (3, 2), "SAME", False),
        ((3, 2), (2, 2), "VALID", False),
        ((2, 2), (3, 2), "VALID", False),
    ],
)
def test_slices_where_windows_neither_overlap_nor_need_padding(window, strides, padding, by_slices):
    x = jax.ShapeDtypeStruct((3, 8, 8, 5), jnp.float32)
    pool = dispatch.XLA.max_pool
    assert ("reduce_window" not in program(lambda x: pool(x, window, strides, padding), x)) == by_slices


@pytest.mark.parametrize(("window", "strides", "padding"), [((2, 2), (2, 2), "VALID"), ((3, 3), (2, 1), "SAME")])
@pytest.mark.parametrize("values", [1, 2, 4])
def test_equal_elements_give_the_gradient_to_the_first(kernels, values, window, strides, padding):
    x = np.random.default_rng(0).integers(0, values, (3, 8, 8, 5)).astype(np.float32)
    assert_equals_stock(kernels, "max_pool", jnp.asarray(x), window, strides, padding)


@pytest.mark.parametrize(("window", "strides", "padding"), [((2, 2), (2, 2), "VALID"), ((3, 3), (3, 3), "SAME")])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_window_of_nan_is_nan_and_stays_so_behind_relu(kernels, window, strides, padding, dtype):
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 5)).astype(np.float32)
    x[1, 2:, 2:, 3] = np.nan  # the last window, without its padding
    y = kernels.max_pool(jnp.asarray(x, dtype), window, strides, padding)
    expected = np.zeros(y.shape, bool)
    expected[1, 1, 1, 3] = True
    np.testing.assert_array_equal(np.isnan(y), expected)
    np.testing.assert_array_equal(np.isnan(jax.nn.relu(y)), expected)


def test_an_average_of_nan_or_infinity_is_as_in_the_stock_form(kernels):
    x = np.random.default_rng(0).normal(size=(2, 5, 5, 4)).astype(np.float32)
    x[0, 0, 0, 0], x[0, 2, 3, 1], x[1, 4, 4, 2], x[1, 1, 1, 3] = np.nan, np.nan, np.inf, -np.inf
    ours, expected = (form.average_pool(jnp.asarray(x), (3, 3), (2, 2), "SAME") for form in (kernels, dispatch.STOCK))
    assert np.isnan(expected).any()
    assert np.isinf(expected).any()
    np.testing.assert_allclose(ours, expected, rtol=1e-5)
