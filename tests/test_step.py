"""The loss against Keras, and one step of training against its parts."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest

from jaxconv.config import default_config
from jaxconv.models import ConvNet
from jaxconv.step import Sums, create_state, eval_step, make_train_step, sums_of


def random_batch(size, classes=5, seed=0, shape=(6, 6, 2)):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.normal(size=(size, *shape)).astype(np.float32),
        "label": rng.integers(0, classes, size).astype(np.int32),
        "mask": np.ones(size, np.float32),
    }


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_the_loss_equals_keras(label_smoothing):
    batch = random_batch(9)
    logits = np.random.default_rng(1).normal(size=(9, 5)).astype(np.float32)
    sums = sums_of(jnp.asarray(logits), batch, label_smoothing)
    peer = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing, reduction="sum")
    np.testing.assert_allclose(sums.loss, peer(np.eye(5)[batch["label"]], logits), rtol=1e-5)
    assert float(sums.correct) == np.sum(logits.argmax(1) == batch["label"])
    assert float(sums.examples) == 9


def padded(batch, by):
    """The batch with other examples behind it, masked."""
    junk = random_batch(by, seed=9)
    return {key: np.concatenate([batch[key], junk[key] * (key != "mask")]) for key in batch}


def test_padding_changes_nothing():
    config = default_config()
    model = ConvNet(5, filters=((3,),))
    batch = random_batch(6)
    step = jax.jit(make_train_step(config))

    def run(batch):
        state = create_state(model, optax.sgd(0.1), (6, 6, 2), seed=0)
        state, sums = step(state, batch)
        return state.params, sums, eval_step(state, batch, Sums.zero())

    for plain, with_padding in zip(jax.tree.leaves(run(batch)), jax.tree.leaves(run(padded(batch, 4))), strict=True):
        np.testing.assert_allclose(with_padding, plain, rtol=1e-5, atol=1e-6)


def test_a_step_is_the_mean_gradient_and_the_sums_run_on():
    config = default_config()
    model = ConvNet(5, filters=((3,),))
    state = create_state(model, optax.sgd(0.5), (6, 6, 2), seed=3)
    batch = random_batch(8)

    def loss(params):
        logits = model.apply({"params": params}, batch["image"], train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()

    expected = jax.tree.map(lambda p, g: p - 0.5 * g, state.params, jax.grad(loss)(state.params))
    step = jax.jit(make_train_step(config))
    after, sums = step(state, batch)
    for got, want in zip(jax.tree.leaves(after.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(sums.means()[0], loss(state.params), rtol=1e-5)
    twice, sums = step(after, batch)
    assert (int(twice.step), float(sums.examples)) == (2, 16)
    np.testing.assert_allclose(sums.loss, 8 * (loss(state.params) + loss(after.params)), rtol=1e-5)


def test_dropout_differs_from_step_to_step_and_follows_the_seed():
    config = default_config()
    model = ConvNet(5, filters=((3,),), dropout=0.5)
    batch = random_batch(8)
    step = jax.jit(make_train_step(config))

    def losses(seed):
        state = create_state(model, optax.sgd(0.0), (6, 6, 2), seed)  # the parameters stay
        state, first = step(state, batch)
        _, both = step(state, batch)
        return float(first.loss), float(both.loss - first.loss)

    first, second = losses(seed=0)
    assert first != pytest.approx(second, rel=1e-4)
    assert losses(seed=0) == (first, second)
