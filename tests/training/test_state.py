"""What a net takes over from another one, and what must be finite."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxconv.models.convnet import ConvNet
from jaxconv.training.state import create_state, is_finite, take_layers


@pytest.fixture(scope="module")
def start():
    return create_state(ConvNet(3, filters=((4,),), batch_norm=True, dense=(7,)), optax.adam(0.1), (4, 4, 2), seed=0)


@pytest.fixture
def other(start):
    """The variables of another net of the same shapes."""
    return jax.tree.map(lambda leaf: np.asarray(leaf) + 1, start.variables)


def test_layers_of_equal_names_and_shapes_are_taken(start, other):
    other["params"]["Dense_0"] = {"kernel": np.ones((16, 8)), "bias": np.ones(8)}
    other["params"]["logits"] = {"kernel": np.ones((8, 3)), "bias": np.ones(3)}  # a bias belongs to its kernel
    merged, new = take_layers(start, other)
    assert new == ["Dense_0", "logits"]
    assert jax.tree.structure(merged) == jax.tree.structure(start)
    for collection, layers in merged.variables.items():
        for layer, arrays in layers.items():
            source = start.variables if layer in new else other
            jax.tree.map(np.testing.assert_array_equal, arrays, source[collection][layer])


def test_all_layers_are_taken(start, other):
    merged, new = take_layers(start, other)
    assert new == []
    jax.tree.map(np.testing.assert_array_equal, merged.variables, other)


def test_none_is_taken(start):
    merged, new = take_layers(start, {"params": {}, "batch_stats": {}})
    assert new == list(start.params)
    jax.tree.map(np.testing.assert_array_equal, merged.variables, start.variables)


def test_a_layer_without_its_statistics_is_not_taken(start):
    assert take_layers(start, {"params": start.params})[1] == ["BatchNorm_0"]


def test_the_average_and_the_slow_weights_start_from_them_in_arrays_of_their_own(start, other):
    other["params"].pop("logits")
    merged, _ = take_layers(start.replace(ema=start.variables, slow=start.variables), other)
    for copy in (merged.ema, merged.slow):
        jax.tree.map(np.testing.assert_array_equal, copy, merged.variables)
    leaves = jax.tree.leaves((merged.variables, merged.ema, merged.slow))
    assert len({id(leaf) for leaf in leaves}) == len(leaves)


@pytest.mark.parametrize("field", ["ema", "slow"])
def test_an_average_that_is_not_finite_is_noticed(start, field):
    assert is_finite(start.replace(**{field: start.variables}))
    assert not is_finite(start.replace(**{field: jax.tree.map(lambda leaf: leaf * jnp.nan, start.variables)}))
