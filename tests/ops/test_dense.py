"""The fast dense layer against the stock one, in value and gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxconv.ops import dispatch


@pytest.mark.parametrize(("batch", "units_in", "units_out"), [(1, 1, 1), (3, 7, 5), (16, 33, 10), (130, 1050, 500)])
def test_equals_the_stock_layer(kernels, batch, units_in, units_out):
    rng = np.random.default_rng(0)
    x, kernel, bias, g = (
        jnp.asarray(rng.standard_normal(shape), jnp.float32)
        for shape in ((batch, units_in), (units_in, units_out), (units_out,), (batch, units_out))
    )
    results = []
    for layer in (kernels.dense, lambda x, kernel, bias: x @ kernel + bias):
        y, pull_back = jax.vjp(layer, x, kernel, bias)
        results.append((y, *pull_back(g)))
    for ours, stock in zip(*results, strict=True):
        np.testing.assert_allclose(ours, stock, rtol=1e-4, atol=1e-5 * float(jnp.abs(stock).max()))


@pytest.mark.parametrize(("batch", "units_in", "units_out"), [(3, 7, 5), (130, 1050, 500)])
def test_bfloat16(kernels, batch, units_in, units_out):
    """Against the stock layer in float32, of the same numbers, which bfloat16 holds exactly."""
    rng = np.random.default_rng(0)
    x, kernel, bias, g = (
        jnp.asarray(rng.standard_normal(shape), jnp.bfloat16).astype(jnp.float32)
        for shape in ((batch, units_in), (units_in, units_out), (units_out,), (batch, units_out))
    )
    expected, pull_back = jax.vjp(dispatch.STOCK.dense, x, kernel, bias)
    for form in (kernels, dispatch.STOCK):
        y, pull_back_bfloat16 = jax.vjp(form.dense, x.astype(jnp.bfloat16), kernel, bias)
        gradients = pull_back_bfloat16(g.astype(jnp.bfloat16))
        assert [array.dtype for array in (y, *gradients)] == [jnp.bfloat16] * 2 + [jnp.float32] * 2
        for ours, stock in zip((y, *gradients), (expected, *pull_back(g)), strict=True):
            scale = float(jnp.abs(stock).max())
            np.testing.assert_allclose(ours.astype(jnp.float32), stock, rtol=2**-7, atol=2**-7 * scale)


@pytest.mark.parametrize(("batch", "large"), [(130, True), (3, False)])
def test_the_kernels_are_those_expected(kernels, batch, large):
    arrays = jnp.zeros((batch, 1050)), jnp.zeros((1050, 500)), jnp.zeros(500)
    program = str(jax.make_jaxpr(lambda *arrays: kernels.dense(*arrays))(*arrays))  # anew: JAX keeps what it traced
    assert ("ffi_call" in program) == (large and kernels == dispatch.ONEDNN)
