"""The dense layer's product against the stock one, in value and gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxconv.ops.dense import dot_general

ROWS = (((1,), (0,)), ((), ()))


@pytest.mark.parametrize(("batch", "units_in", "units_out"), [(1, 1, 1), (3, 7, 5), (16, 33, 10)])
def test_equals_the_stock_product(batch, units_in, units_out):
    rng = np.random.default_rng(0)
    x, kernel, g = (
        jnp.asarray(rng.standard_normal(shape), jnp.float32)
        for shape in ((batch, units_in), (units_in, units_out), (batch, units_out))
    )
    results = []
    for product in (dot_general, lax.dot_general):
        y, pull = jax.vjp(lambda x, kernel, product=product: product(x, kernel, ROWS), x, kernel)
        results.append((y, *pull(g)))
    for ours, stock in zip(*results, strict=True):
        np.testing.assert_allclose(ours, stock, rtol=1e-5, atol=1e-5)


def test_more_axes_fall_back_to_the_stock_product():
    x, kernel = jnp.ones((2, 3, 4)), jnp.ones((4, 5))
    assert dot_general(x, kernel, (((2,), (0,)), ((), ()))).shape == (2, 3, 5)
