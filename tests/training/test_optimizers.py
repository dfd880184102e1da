"""Optimizers against Keras, schedules against their formulas."""

import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest

from jaxconv.config import default_config
from jaxconv.errors import ConfigError
from jaxconv.training.optimizers import create_optimizer, create_schedule


def optimizer_config(**fields):
    config = default_config()
    config.optimizer.update(fields)
    return config.optimizer


def schedule(**fields):
    return create_schedule(optimizer_config(**fields), num_epochs=10, steps_per_epoch=7)


@pytest.mark.parametrize(
    ("name", "peer"),
    [
        ("adam", keras.optimizers.Adam(0.01)),
        ("rmsprop", keras.optimizers.RMSprop(0.01)),
        ("sgd", keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True)),
    ],
)
def test_equals_keras(name, peer):
    rng = np.random.default_rng(0)
    start = rng.normal(size=(4, 3)).astype(np.float32)
    optimizer = create_optimizer(optimizer_config(name=name), optax.constant_schedule(0.01))
    params = jnp.asarray(start)
    state, variable = optimizer.init(params), keras.Variable(start)
    for _ in range(10):
        gradient = rng.normal(size=(4, 3)).astype(np.float32)
        updates, state = optimizer.update(jnp.asarray(gradient), state, params)
        params = optax.apply_updates(params, updates)
        peer.apply([keras.ops.convert_to_tensor(gradient)], [variable])
    np.testing.assert_allclose(params, variable.numpy(), rtol=1e-4, atol=1e-5)


def test_weight_decay_is_decoupled_and_spares_biases():
    optimizer = create_optimizer(optimizer_config(weight_decay=0.1), optax.constant_schedule(0.5))
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    updates, _ = optimizer.update({"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}, optimizer.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.5 * 0.1, rtol=1e-6)
    np.testing.assert_array_equal(updates["bias"], 0)


@pytest.mark.parametrize("clip_norm", [0.5, 3.0, 100.0])
def test_gradients_are_clipped_to_a_norm_of_all_together(clip_norm):
    rng = np.random.default_rng(0)
    params = {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}
    gradients = {key: rng.normal(size=leaf.shape).astype(np.float32) for key, leaf in params.items()}
    norm = np.sqrt(sum(np.sum(np.float64(leaf) ** 2) for leaf in gradients.values()))
    assert 3 < norm < 100
    config = optimizer_config(name="sgd", momentum=0.0)
    optimizer = create_optimizer(config, optax.constant_schedule(0.1), clip_norm=clip_norm)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    for key, leaf in gradients.items():
        np.testing.assert_allclose(updates[key], -0.1 * leaf * min(1, clip_norm / norm), rtol=1e-5)


def test_what_is_clipped_is_the_gradient_alone():
    """Neither weight decay nor the update of Adam, and without a limit the state is as it always was."""
    config = optimizer_config(weight_decay=0.1)
    params, gradients = {"kernel": jnp.ones((2, 2))}, {"kernel": jnp.full((2, 2), 50.0)}
    plain, clipping = (create_optimizer(config, optax.constant_schedule(0.1), clip_norm=norm) for norm in (0.0, 1e-3))
    expected, _ = plain.update({"kernel": gradients["kernel"] * 1e-5}, plain.init(params), params)  # of norm 1e-3
    updates, _ = clipping.update(gradients, clipping.init(params), params)
    np.testing.assert_allclose(updates["kernel"], expected["kernel"], rtol=1e-5)
    assert len(plain.init(params)) == 3


def test_schedules():
    rate = 0.2
    assert [float(schedule(learning_rate=rate)(t)) for t in (0, 69)] == pytest.approx([rate, rate])
    linear = schedule(learning_rate=rate, schedule="linear")
    assert [float(linear(t)) for t in (0, 35, 70)] == pytest.approx([rate, rate / 2, 0])
    cosine = schedule(learning_rate=rate, schedule="cosine")
    expected = [rate * (1 + np.cos(np.pi * t / 70)) / 2 for t in (0, 20, 70)]
    assert [float(cosine(t)) for t in (0, 20, 70)] == pytest.approx(expected)
    warm = schedule(learning_rate=rate, schedule="linear", warmup_epochs=2.0)
    assert [float(warm(t)) for t in (0, 7, 14, 42, 70)] == pytest.approx([0, rate / 2, rate, rate / 2, 0])


def test_a_warm_up_does_not_depend_on_the_length_of_the_run():
    config = optimizer_config(learning_rate=0.2, warmup_epochs=30.0)
    short, long = (create_schedule(config, num_epochs=epochs, steps_per_epoch=7) for epochs in (10, 40))
    assert [float(short(t)) for t in range(70)] == [float(long(t)) for t in range(70)]
    assert float(short(69)) == pytest.approx(0.2 * 69 / 210)
    assert [float(long(t)) for t in (210, 279)] == pytest.approx([0.2, 0.2])


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match=r"config.optimizer.name='rmsprob' is not known \(did you mean rmsprop"):
        create_optimizer(optimizer_config(name="rmsprob"), optax.constant_schedule(0.1))
    with pytest.raises(ConfigError, match="config.optimizer.schedule='cosin' is not known"):
        schedule(schedule="cosin")
