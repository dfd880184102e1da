"""Optimizers against Keras, schedules against their formulas."""

import re

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest

from jaxconv.config import default_config
from jaxconv.errors import ConfigError
from jaxconv.training.optimizers import SCHEDULES, create_optimizer, create_schedule


def optimizer_config(**fields):
    config = default_config()
    config.optimizer.update(fields)
    return config.optimizer


def optimizer(clip_norm=0.0, num_epochs=1, steps_per_epoch=1, **fields):
    config = optimizer_config(**fields)
    return create_optimizer(config, num_epochs=num_epochs, steps_per_epoch=steps_per_epoch, clip_norm=clip_norm)


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
    ours = optimizer(name=name, learning_rate=0.01)
    params = jnp.asarray(start)
    state, variable = ours.init(params), keras.Variable(start)
    for _ in range(10):
        gradient = rng.normal(size=(4, 3)).astype(np.float32)
        updates, state = ours.update(jnp.asarray(gradient), state, params)
        params = optax.apply_updates(params, updates)
        peer.apply([keras.ops.convert_to_tensor(gradient)], [variable])
    np.testing.assert_allclose(params, variable.numpy(), rtol=1e-4, atol=1e-5)


def test_weight_decay_is_decoupled_and_spares_biases():
    decaying = optimizer(weight_decay=0.1, learning_rate=0.5)
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    updates, _ = decaying.update({"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}, decaying.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.5 * 0.1, rtol=1e-6)
    np.testing.assert_array_equal(updates["bias"], 0)


@pytest.mark.parametrize("clip_norm", [0.5, 3.0, 100.0])
def test_gradients_are_clipped_to_a_norm_of_all_together(clip_norm):
    rng = np.random.default_rng(0)
    params = {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}
    gradients = {key: rng.normal(size=leaf.shape).astype(np.float32) for key, leaf in params.items()}
    norm = np.sqrt(sum(np.sum(np.float64(leaf) ** 2) for leaf in gradients.values()))
    assert 3 < norm < 100
    clipping = optimizer(clip_norm, name="sgd", momentum=0.0, learning_rate=0.1)
    updates, _ = clipping.update(gradients, clipping.init(params), params)
    for key, leaf in gradients.items():
        np.testing.assert_allclose(updates[key], -0.1 * leaf * min(1, clip_norm / norm), rtol=1e-5)


def test_what_is_clipped_is_the_gradient_alone():
    """Neither weight decay nor the update of Adam, and without a limit the state is as it always was."""
    params, gradients = {"kernel": jnp.ones((2, 2))}, {"kernel": jnp.full((2, 2), 50.0)}
    plain, clipping = (optimizer(norm, weight_decay=0.1, learning_rate=0.1) for norm in (0.0, 1e-3))
    expected, _ = plain.update({"kernel": gradients["kernel"] * 1e-5}, plain.init(params), params)  # of norm 1e-3
    updates, _ = clipping.update(gradients, clipping.init(params), params)
    np.testing.assert_allclose(updates["kernel"], expected["kernel"], rtol=1e-5)
    assert len(plain.init(params)) == 3


# ---- Groups


PARAMS = {
    "Conv_0": {"kernel": jnp.ones((3, 3, 2, 4)), "bias": jnp.ones(4)},
    "logits": {"kernel": jnp.ones((4, 5)), "bias": jnp.ones(5)},
}


def trained(ours, params, steps=3):
    """The parameters after so many steps along random gradients, and the state."""
    state, update = ours.init(params), jax.jit(ours.update)
    for seed in range(steps):
        rng = np.random.default_rng(seed)
        grads = jax.tree.map(lambda leaf, rng=rng: rng.normal(size=leaf.shape).astype(np.float32), params)
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def assert_equal(one, other):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, other)


def test_each_parameter_is_trained_by_the_first_group_that_matches():
    own = {"name": "sgd", "learning_rate": 0.3, "momentum": 0.5}
    groups = (("logits/*", own), ("*/bias", {"name": "rmsprop"}))
    fields = {"learning_rate": 0.1, "schedule": "cosine", "num_epochs": 2, "steps_per_epoch": 3}
    ours, _ = trained(optimizer(groups=groups, **fields), PARAMS)
    adam, sgd, rms = (trained(optimizer(**(fields | new)), PARAMS)[0] for new in ({}, own, {"name": "rmsprop"}))
    assert_equal(
        ours,
        {"Conv_0": {"kernel": adam["Conv_0"]["kernel"], "bias": rms["Conv_0"]["bias"]}} | {"logits": sgd["logits"]},
    )


def test_weight_decay_is_on_kernels_and_on_groups_that_name_it():
    groups = (("logits/*", {"weight_decay": 0.2}), ("Conv_0/bias", {"learning_rate": 0.5}))
    ours = optimizer(groups=groups, weight_decay=0.1, learning_rate=0.5)
    updates, _ = ours.update(jax.tree.map(jnp.zeros_like, PARAMS), ours.init(PARAMS), PARAMS)
    rates = {"Conv_0": {"kernel": 0.1, "bias": 0.0}, "logits": {"kernel": 0.2, "bias": 0.2}}
    jax.tree.map(lambda update, rate: np.testing.assert_allclose(update, -0.5 * rate, rtol=1e-6), updates, rates)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("epochs", [0, 1, 1.5, None])
def test_a_group_stays_after_its_epochs(schedule, epochs):
    fields = {"schedule": schedule, "learning_rate": 0.1, "num_epochs": 3, "steps_per_epoch": 2, "name": "sgd"}
    ours = optimizer(groups=(("logits/*", {"epochs": epochs}),), **fields)
    after = [trained(ours, PARAMS, steps)[0] for steps in range(7)]
    length = 6 if epochs is None else round(epochs * 2)
    for step in range(6):
        has_stayed = np.array_equal(after[step]["logits"]["bias"], after[step + 1]["logits"]["bias"])
        assert has_stayed == (step >= length)
        assert not np.array_equal(after[step]["Conv_0"]["bias"], after[step + 1]["Conv_0"]["bias"])
    alone = optimizer(**(fields | {"num_epochs": length / 2}))
    assert_equal(after[length]["logits"], trained(alone, PARAMS, length)[0]["logits"])


def test_the_gradients_of_all_groups_are_clipped_together():
    fields = {"name": "sgd", "momentum": 0.0, "learning_rate": 1.0}
    ours, plain = (optimizer(0.5, groups=groups, **fields) for groups in ((("*/bias", {"name": "sgd"}),), ()))
    assert_equal(trained(ours, PARAMS)[0], trained(plain, PARAMS)[0])


def test_muon_for_kernels_beside_other_groups():
    groups = (("logits/*", {"name": "sgd", "learning_rate": 0.01}),)
    params, state = trained(optimizer(name="muon", learning_rate=1e-9, groups=groups), PARAMS)
    assert np.linalg.norm(params["Conv_0"]["kernel"]) == pytest.approx(2)
    assert np.linalg.norm(params["logits"]["kernel"]) == pytest.approx(np.sqrt(20), rel=0.05)
    momenta = [leaf.shape for leaf in jax.tree.leaves(state) if leaf.ndim]
    assert sorted(momenta) == sorted(leaf.shape for leaf in jax.tree.leaves(PARAMS))  # each parameter has one


def test_without_groups_the_state_is_as_it_always_was():
    _, adam = trained(optimizer(), PARAMS, steps=0)
    assert jax.tree.structure(adam) == jax.tree.structure(
        (optax.scale_by_adam().init(PARAMS), optax.EmptyState(), optax.ScaleByScheduleState(jnp.zeros((), jnp.int32)))
    )


@pytest.mark.parametrize("pattern", ["head/*", "conv_0/*", "Conv_0", "*/bias", ""])
def test_a_group_without_parameters_is_refused(pattern):
    ours = optimizer(groups=(("*/bias", {}), (pattern, {"epochs": 1})))
    sentence = (
        rf"^config.optimizer.groups: '{re.escape(pattern)}' matches no parameter that the groups before it leave; "
        r"the net has Conv_0/bias, Conv_0/kernel, logits/bias, logits/kernel\.$"
    )
    with pytest.raises(ConfigError, match=sentence):
        ours.init(PARAMS)


# ---- Schedules


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
        optimizer(name="rmsprob")
    with pytest.raises(
        ConfigError, match=r"config.optimizer.groups\['\*'\].name='rmsprob' is not known \(did you mean"
    ):
        optimizer(groups=(("*", {"name": "rmsprob"}),))
    with pytest.raises(ConfigError, match="config.optimizer.schedule='cosin' is not known"):
        schedule(schedule="cosin")
