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


@pytest.mark.parametrize(("batch", "large"), [(130, True), (3, False)])
def test_the_kernels_are_those_expected(kernels, batch, large):
    arrays = jnp.zeros((batch, 1050)), jnp.zeros((1050, 500)), jnp.zeros(500)
    program = str(jax.make_jaxpr(lambda *arrays: kernels.dense(*arrays))(*arrays))  # anew: JAX keeps what it traced
    assert ("ffi_call" in program) == (large and kernels == dispatch.ONEDNN)
