"""Dropout: the share of units it drops, the mean it keeps, the randomness it draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxconv.ops import dispatch


@pytest.fixture(params=["stock", "xla"])
def dropout(request):
    return dispatch.KERNELS[request.param].dropout


@pytest.mark.parametrize("rate", [0.25, 0.5, 0.1, 0.999, 0.001])
def test_share_scale_and_mean(dropout, rate):
    y = np.asarray(dropout(jnp.ones((64, 50, 63)), rate, jax.random.key(0)))
    share = np.mean(y == 0)
    deviation = np.sqrt(rate * (1 - rate) / y.size)
    assert abs(share - rate) < 4 * deviation + 1 / 65536
    kept = y[y != 0]
    np.testing.assert_allclose(kept, kept[0])
    assert kept[0] == pytest.approx(1 / (1 - rate), rel=0.02)


@pytest.mark.parametrize("rate", [0.999999, 0.9999999, 1e-6])
def test_rates_near_the_ends_stay_finite(dropout, rate):
    y = np.asarray(dropout(jnp.ones((64, 50, 63)), rate, jax.random.key(0)))
    assert np.isfinite(y).all()
    assert abs(np.mean(y == 0) - rate) < 1e-3


def test_units_examples_and_keys_are_independent(dropout):
    def dropped(seed):
        return np.asarray(dropout(jnp.ones((128, 7, 9)), 0.5, jax.random.key(seed))).reshape(128, -1) == 0

    masks = dropped(0)
    np.testing.assert_array_equal(masks, dropped(0))
    neighbours = [masks[1:] == masks[:-1], masks[:, 1:] == masks[:, :-1], masks[:, 4:] == masks[:, :-4]]
    for equal in (*neighbours, masks == dropped(1)):
        assert abs(equal.mean() - 0.5) < 4 * 0.5 / np.sqrt(equal.size)


def test_the_gradient_follows_the_mask(dropout):
    x = jax.random.normal(jax.random.key(1), (8, 33))
    y, pull_back = jax.vjp(lambda x: dropout(x, 0.5, jax.random.key(0)), x)
    (gradient,) = pull_back(jnp.ones_like(y))
    np.testing.assert_allclose(gradient * x, y, rtol=1e-6)


def test_a_rate_of_zero_changes_nothing(dropout):
    x = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(dropout(x, 0.0, jax.random.key(0)), x)
