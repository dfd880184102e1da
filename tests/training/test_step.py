"""The loss against Keras, and one step of training against its parts."""

import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest
import scipy.stats

from jaxconv.config import default_config
from jaxconv.models.convnet import ConvNet
from jaxconv.ops import dispatch
from jaxconv.training.losses import balanced, cross_entropy, mix
from jaxconv.training.optimizers import OPTIMIZERS, create_optimizer
from jaxconv.training.state import Sums, create_state
from jaxconv.training.step import eval_step, make_train_step, sums_of
from tests.conftest import ROOT
from tests.ops.conftest import FORMS


def random_batch(size, classes=5, seed=0, shape=(6, 6, 2)):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.normal(size=(size, *shape)).astype(np.float32),
        "label": rng.integers(0, classes, size).astype(np.int32),
        "weight": np.full(size, 1 / size, np.float32),
    }


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_the_loss_equals_keras(label_smoothing):
    batch = random_batch(9)
    logits = np.random.default_rng(1).normal(size=(9, 5)).astype(np.float32)
    sums = sums_of(cross_entropy(jnp.asarray(logits), batch, label_smoothing), jnp.asarray(logits), batch)
    peer = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing, reduction="sum")
    np.testing.assert_allclose(sums.loss, peer(np.eye(5)[batch["label"]], logits), rtol=1e-5)
    assert float(sums.correct) == np.sum(logits.argmax(1) == batch["label"])
    assert float(sums.examples) == 9


def padded(batch, by):
    """The batch with other examples behind it, of no weight."""
    junk = random_batch(by, seed=9)
    return {key: np.concatenate([batch[key], junk[key] * (key != "weight")]) for key in batch}


def test_padding_changes_nothing():
    config = default_config()
    model = ConvNet(5, filters=((3,),))
    batch = random_batch(6)
    step = jax.jit(make_train_step(config))

    def run(batch):
        state = create_state(model, optax.sgd(0.1), (6, 6, 2), seed=0)
        state, sums = step(state, batch)
        return state.params, sums, eval_step(state, batch, Sums.zero())[0]

    for plain, with_padding in zip(jax.tree.leaves(run(batch)), jax.tree.leaves(run(padded(batch, 4))), strict=True):
        np.testing.assert_allclose(with_padding, plain, rtol=1e-5, atol=1e-6)


def test_padding_changes_no_batch_statistics():
    model, batch = ConvNet(5, filters=((3, 4),), batch_norm=True), random_batch(6)
    step = jax.jit(make_train_step(default_config()))

    def run(batch):
        state, sums = step(create_state(model, optax.sgd(0.1), (6, 6, 2), seed=0), batch)
        return state.params, state.collections, sums

    before = create_state(model, optax.sgd(0.1), (6, 6, 2), seed=0).collections
    plain, with_padding = run(batch), run(padded(batch, 4))
    for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(with_padding), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-6)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(plain[1]), strict=True):
        assert not np.allclose(old, new)


def test_evaluation_uses_the_running_statistics():
    model, batch = ConvNet(5, filters=((3,),), batch_norm=True), random_batch(8)
    state = create_state(model, optax.sgd(0.1), (6, 6, 2), seed=0)
    evaluated, probabilities = eval_step(state, batch, Sums.zero())
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    shifted = batch | {"image": np.concatenate([batch["image"][:4], 100 + batch["image"][4:]])}
    np.testing.assert_allclose(  # the first half does not see the second
        model.apply(state.variables, shifted["image"], train=False)[:4],
        model.apply(state.variables, batch["image"], train=False)[:4],
        rtol=1e-5,
    )
    stats = jax.tree.map(lambda leaf: leaf + 1, state.collections)
    of_others, _ = eval_step(state.replace(collections=stats), batch, Sums.zero())
    assert float(of_others.loss) != float(evaluated.loss)


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


# ---- Frozen stages


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_frozen_stages_keep_their_values_exactly(name):
    config = default_config()
    config.model.filters, config.freeze_stages = ((3,), (4,)), 1
    config.optimizer.update(name=name, weight_decay=0.5, learning_rate=0.1)
    model = ConvNet(5, filters=config.model.filters, batch_norm=True, frozen_stages=1)
    optimizer = create_optimizer(config.optimizer, num_epochs=1, steps_per_epoch=2)
    before = create_state(model, optimizer, (6, 6, 2), seed=0)
    step, after = jax.jit(make_train_step(config)), before
    for seed in range(2):
        after, _ = step(after, random_batch(6, seed=seed))
    for collection, layers in after.variables.items():
        for layer, arrays in layers.items():
            unchanged = are_equal(arrays, before.variables[collection][layer])
            assert unchanged == (layer in ("Conv_0", "BatchNorm_0")), layer


def are_equal(one, other):
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


@pytest.mark.parametrize(("frozen", "convolutions"), [(0, 3 + 5), (1, 3 + 3), (2, 3 + 1), (3, 3)])
def test_no_gradient_is_computed_for_frozen_stages(frozen, convolutions):
    """A convolution takes one more for the gradient of its kernel, and one for that of its input."""
    config = default_config()
    config.model.filters, config.freeze_stages = ((3,), (4,), (5,)), frozen
    model = ConvNet(5, filters=config.model.filters, frozen_stages=frozen)
    state = create_state(model, optax.sgd(0.1), (8, 8, 2), seed=0)
    step = jax.make_jaxpr(make_train_step(config))(state, random_batch(6, shape=(8, 8, 2)))
    assert str(step).count("conv_general_dilated[") == convolutions


# ---- bfloat16


@pytest.mark.parametrize("form", ["stock", *FORMS])
def test_a_step_in_bfloat16_is_that_in_float32_to_its_rounding(form):
    config, batch = default_config(), random_batch(32, shape=(8, 8, 16))
    fields = {"filters": ((16, 16),), "batch_norm": True, "dense": (32,), "kernels": dispatch.KERNELS[form]}

    def run(dtype):
        model = ConvNet(5, **fields, dtype=dtype)
        state = create_state(model, optax.sgd(1.0), (8, 8, 16), seed=0)
        logits, kept = model.apply(state.variables, batch["image"], train=False, mutable=["stages"])
        assert logits.dtype == jnp.float32
        assert kept["stages"]["stage_1"][0].dtype == dtype
        after, sums = jax.jit(make_train_step(config))(state, batch)
        kept = after.params, after.collections, sums
        assert {leaf.dtype for leaf in jax.tree.leaves(kept)} == {jnp.dtype(jnp.float32)}
        gradients = jax.tree.map(lambda new, old: old - new, after.params, state.params)
        return gradients, after.collections, sums.means()

    (exact, stats, (loss, _)), (rounded, rounded_stats, (rounded_loss, _)) = run("float32"), run("bfloat16")
    assert rounded_loss == pytest.approx(loss, rel=0.01)
    for (path, a), b in zip(jax.tree.leaves_with_path(stats), jax.tree.leaves(rounded_stats), strict=True):
        np.testing.assert_allclose(b, a, rtol=0.02, atol=2e-3, err_msg=str(path))
    for (path, a), b in zip(jax.tree.leaves_with_path(exact), jax.tree.leaves(rounded), strict=True):
        if "Conv" in str(path) and "bias" in str(path):
            continue  # before batch norm, the gradient of a bias is 0 but for rounding
        assert np.vdot(a, b) > 0.98 * np.linalg.norm(a) * np.linalg.norm(b), path
        assert np.linalg.norm(b) == pytest.approx(np.linalg.norm(a), rel=0.1), path


# ---- Class weights


def test_balanced_class_weights_equal_scikit_learns():
    labels = np.random.default_rng(0).choice([0, 1, 2, 4], 57, p=[0.7, 0.1, 0.1, 0.1]).astype(np.int32)
    counts = np.bincount(labels)
    weights = balanced(labels, 6)
    assert weights.dtype == np.float32
    np.testing.assert_array_equal(weights[[3, 5]], 0)  # which have no examples
    np.testing.assert_allclose(weights[[0, 1, 2, 4]], 57 / (4 * counts[[0, 1, 2, 4]]), rtol=1e-6)
    np.testing.assert_allclose(weights[labels].mean(), 1, rtol=1e-6)
    utils = pytest.importorskip("sklearn.utils.class_weight")
    theirs = utils.compute_class_weight("balanced", classes=np.array([0, 1, 2, 4]), y=labels)
    np.testing.assert_allclose(weights[[0, 1, 2, 4]], theirs, rtol=1e-6)


def test_a_step_with_class_weights_equals_keras():
    model, batch = ConvNet(5), random_batch(8)
    weights = np.array([0.5, 3.0, 1.0, 0.2, 2.0], np.float32)
    state = create_state(model, optax.sgd(0.5), (6, 6, 2), seed=0)
    layers = keras.layers
    net = keras.Sequential([keras.Input((6, 6, 2)), layers.Flatten(), layers.Dense(5)])
    net.set_weights([np.asarray(state.params["logits"][part]) for part in ("kernel", "bias")])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    net.compile(keras.optimizers.SGD(0.5), loss, metrics=["accuracy"])
    theirs = net.train_on_batch(batch["image"], batch["label"], class_weight=dict(enumerate(weights.tolist())))
    after, sums = jax.jit(make_train_step(default_config(), weights))(state, padded(batch, 4))
    np.testing.assert_allclose(sums.means(), theirs, rtol=1e-5)
    for part, weight in zip(("kernel", "bias"), net.get_weights(), strict=True):
        np.testing.assert_allclose(after.params["logits"][part], weight, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_after_mixup_each_label_has_the_weight_of_its_class(label_smoothing):
    weights, batch = jnp.asarray([0.5, 3.0, 1.0, 0.2, 2.0]), random_batch(8)
    logits = jnp.asarray(np.random.default_rng(1).normal(size=(8, 5)), jnp.float32)
    mixed = mix(batch, 0.7, jax.random.key(3))

    def weighted(label):
        return weights[label] * cross_entropy(logits, batch | {"label": label}, label_smoothing)

    share = mixed["share"]
    expected = share * weighted(batch["label"]) + (1 - share) * weighted(mixed["second_label"])
    np.testing.assert_allclose(cross_entropy(logits, mixed, label_smoothing, weights), expected, rtol=1e-5)


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


# ---- Mixup


def test_mixed_images_and_their_loss_are_of_both_in_their_shares():
    batch = random_batch(8)
    mixed = mix(batch, 0.7, jax.random.key(3))
    share = float(mixed["share"][0])
    assert 0.5 <= share < 1
    np.testing.assert_array_equal(mixed["share"], np.float32(share))
    second = {key: np.roll(batch[key], 1, axis=0) for key in ("image", "label")}
    np.testing.assert_allclose(
        mixed["image"], share * batch["image"] + (1 - share) * second["image"], rtol=1e-5, atol=1e-6
    )
    logits = jnp.asarray(np.random.default_rng(1).normal(size=(8, 5)), jnp.float32)
    first_loss, second_loss = (
        cross_entropy(logits, batch | {"label": label}) for label in (batch["label"], second["label"])
    )
    loss = cross_entropy(logits, mixed)
    np.testing.assert_allclose(loss, share * first_loss + (1 - share) * second_loss, rtol=1e-5)
    assert float(sums_of(loss, logits, mixed).correct) == np.sum(logits.argmax(1) == batch["label"])


def test_nothing_is_mixed_with_padding():
    batch = random_batch(6)
    batch["weight"][4:] = 0
    mixed = mix(batch, 0.7, jax.random.key(3))
    np.testing.assert_array_equal(mixed["share"][0], 1)  # the last example of the batch comes before the first
    np.testing.assert_array_equal(mixed["image"][0], batch["image"][0])
    np.testing.assert_array_equal(mixed["share"][1:5] < 1, [True] * 4)


def test_the_share_follows_its_distribution():
    batch = random_batch(2)
    shares = jax.vmap(lambda key: mix(batch, 0.4, key)["share"][0])(jax.random.split(jax.random.key(0), 2000))
    drawn = np.random.default_rng(0).beta(0.4, 0.4, 2000)
    assert scipy.stats.ks_2samp(shares, np.maximum(drawn, 1 - drawn)).pvalue > 0.01


def test_a_step_with_mixup_is_that_of_the_mixed_batch():
    config = default_config()
    config.mixup = 1.0
    model, batch = ConvNet(num_classes=5, filters=((3,),), dense=(4,)), random_batch(6)
    state = create_state(model, optax.sgd(0.1), (6, 6, 2), seed=0)
    rng = jax.random.fold_in(jax.random.wrap_key_data(state.dropout_rng), state.step)
    mixed = mix(batch, 1.0, jax.random.fold_in(rng, 1))
    ours, _ = jax.jit(make_train_step(config))(state, batch)
    theirs, _ = jax.jit(make_train_step(default_config()))(state, mixed)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), ours.params, theirs.params)


# ---- Accumulation


def accumulating(steps):
    config = default_config()
    config.accumulate_steps = steps
    return config


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
@pytest.mark.parametrize("steps", [2, 3, 6])
def test_the_parts_of_a_batch_add_up(steps, label_smoothing):
    model = ConvNet(5, filters=((3,),), dense=(4,))
    weights = np.array([0.5, 3.0, 1.0, 0.2, 2.0], np.float32)
    batch = padded(random_batch(8), 4)  # in 6 parts of which two are half padding

    def run(config):
        config.label_smoothing = label_smoothing
        state = create_state(model, optax.sgd(0.5, momentum=0.9), (6, 6, 2), seed=0)
        step = jax.jit(make_train_step(config, weights))
        for _ in range(2):
            state, sums = step(state, batch)
        return state.params, sums

    whole, parts = run(default_config()), run(accumulating(steps))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), parts, whole)


@pytest.mark.parametrize("steps", [1, 3])
def test_the_sum_of_the_losses_has_as_many_times_the_gradient(steps):
    """As many as there are examples; padding and the reported loss stay as they are."""
    model, batch = ConvNet(5, filters=((3,),), dense=(4,)), padded(random_batch(8), 4)
    weights = np.array([0.5, 3.0, 1.0, 0.2, 2.0], np.float32)

    def run(reduction, rate):
        config = accumulating(steps)
        config.loss_reduction, config.label_smoothing, config.mixup = reduction, 0.2, 0.4
        state = create_state(model, optax.sgd(rate), (6, 6, 2), seed=0)
        step = jax.jit(make_train_step(config, weights))
        for _ in range(2):
            state, sums = step(state, batch)
        return state.params, sums

    got, want = run("sum", 0.1 / 8), run("mean", 0.1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, want)


def test_the_gradient_of_the_whole_batch_is_clipped():
    model, batch = ConvNet(5, filters=((3,),)), random_batch(8)
    optimizer = create_optimizer(default_config().optimizer, num_epochs=1, steps_per_epoch=1, clip_norm=0.1)
    state = create_state(model, optimizer, (6, 6, 2), seed=0)
    whole, parts = (jax.jit(make_train_step(accumulating(steps)))(state, batch)[0].opt_state for steps in (1, 4))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), parts, whole)
    norm = np.sqrt(sum(np.sum(leaf**2) for leaf in jax.tree.leaves(whole[1].mu)))
    np.testing.assert_allclose(norm, 0.1 * 0.1, rtol=1e-5)  # Adam's momentum takes a tenth of it


def one_after_the_other(state, batch, parts, rng):
    """Gradients, statistics and loss of a step in parts, by hand: each deals out every `parts`-th row."""
    grads, collections, losses = [], state.collections, []
    for number in range(parts):
        part = {key: value[number::parts] for key, value in batch.items()}

        def loss(params, collections=collections, part=part, number=number):
            logits, after = state.apply_fn(
                {"params": params, **collections},
                part["image"],
                train=True,
                weight=part["weight"],
                rngs={"dropout": jax.random.fold_in(rng, 2 + number)},
                mutable=["batch_stats"],
            )
            return jnp.sum(cross_entropy(logits, part) * part["weight"]), after

        (value, collections), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
        grads.append(gradient)
        losses.append(value)
    return jax.tree.map(lambda *leaves: sum(leaves), *grads), collections, sum(losses)


def test_each_part_has_its_own_dropout_and_passes_its_batch_statistics_on():
    model = ConvNet(5, filters=((3,),), dense=(6,), batch_norm=True, dropout=0.5, dense_dropout=0.2)
    state, batch = create_state(model, optax.sgd(0.5), (6, 6, 2), seed=0), random_batch(12)
    config = accumulating(3)
    config.mixup = 0.4
    rng = jax.random.fold_in(jax.random.wrap_key_data(state.dropout_rng), state.step)
    mixed = mix(batch, 0.4, jax.random.fold_in(rng, 1))  # of the whole batch, before
    grads, collections, loss = jax.jit(one_after_the_other, static_argnums=2)(state, mixed, 3, rng)
    after, sums = jax.jit(make_train_step(config))(state, batch)
    params = jax.tree.map(lambda p, g: p - 0.5 * g, state.params, grads)
    for got, want in ((after.params, params), (after.collections, collections), (sums.loss / 12, loss)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), got, want)


def test_a_part_of_nothing_but_padding_changes_nothing():
    model = ConvNet(5, filters=((3,),), batch_norm=True)
    state, batch = create_state(model, optax.sgd(0.5), (6, 6, 2), seed=0), random_batch(2)
    two, sums = jax.jit(make_train_step(accumulating(2)))(state, batch)
    with_empty, padded_sums = jax.jit(make_train_step(accumulating(4)))(state, padded(batch, 6))
    assert float(padded_sums.examples) == 2
    for got, want in ((with_empty.variables, two.variables), (padded_sums, sums)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, want)


# ---- Exponential moving average


def test_the_average_is_that_of_numpy():
    config = default_config()
    config.ema_decay = 0.3  # reached in the fourth step
    config.model.filters, config.freeze_stages = ((3,), (4,)), 1
    model = ConvNet(5, filters=config.model.filters, batch_norm=True, frozen_stages=1)
    state = create_state(model, optax.sgd(0.5), (6, 6, 2), seed=0, keeps_ema=True)
    step, expected = jax.jit(make_train_step(config)), jax.tree.map(np.float64, state.variables)
    frozen = state.variables["params"]["Conv_0"]
    for number in range(7):
        state, _ = step(state, random_batch(6, seed=number))
        kept = min(0.3, (1 + number) / (10 + number))
        scaled = jax.tree.map(lambda old, kept=kept: kept * old, expected)
        expected = jax.tree.map(lambda old, new, kept=kept: old + (1 - kept) * new, scaled, state.variables)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), state.ema, expected)
    assert are_equal(state.ema["params"]["Conv_0"], frozen)
    assert not are_equal(state.ema["batch_stats"], state.collections)


def test_the_average_changes_no_step_and_is_what_is_evaluated():
    model, batch = ConvNet(5, filters=((3,),), batch_norm=True), random_batch(6)
    config = default_config()
    plain, _ = jax.jit(make_train_step(config))(create_state(model, optax.adam(0.1), (6, 6, 2), seed=0), batch)
    config.ema_decay = 0.9
    start = create_state(model, optax.adam(0.1), (6, 6, 2), seed=0, keeps_ema=True)
    state, _ = jax.jit(make_train_step(config))(start, batch)
    for got, want in ((state.variables, plain.variables), (state.opt_state, plain.opt_state)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), got, want)
    _, probabilities = eval_step(state, batch, Sums.zero())
    logits = model.apply(state.ema, batch["image"], train=False)
    np.testing.assert_allclose(probabilities, jax.nn.softmax(logits), rtol=1e-5)
    assert not np.allclose(probabilities, eval_step(plain, batch, Sums.zero())[1], rtol=1e-3)


# ---- Lookahead


def test_lookahead_is_that_of_numpy():
    """Parameters, batch statistics and the average over them, in twice three steps and one more."""
    config, model = default_config(), ConvNet(5, filters=((3,), (4,)), batch_norm=True, frozen_stages=1)
    config.model.filters, config.freeze_stages, config.ema_decay = model.filters, 1, 0.3
    state = create_state(model, optax.sgd(0.5), (6, 6, 2), seed=0, keeps_ema=True, looks_ahead=True)
    plain = jax.jit(make_train_step(config.copy_and_resolve_references()))
    config.lookahead_steps, config.lookahead_alpha = 3, 0.4
    step, start = jax.jit(make_train_step(config)), state.variables
    fast, slow, average = state, jax.tree.map(np.float64, start), jax.tree.map(np.float64, start)
    for number in range(7):
        batch = random_batch(6, seed=number)
        state, _ = step(state, batch)
        fast, _ = plain(fast, batch)
        if number in (2, 5):
            slow = jax.tree.map(lambda old, new: old + 0.4 * (new - old), slow, fast.variables)
            fast = fast.replace(params=slow["params"], collections={"batch_stats": slow["batch_stats"]})
        kept = min(0.3, (1 + number) / (10 + number))
        average = jax.tree.map(lambda old, new, kept=kept: kept * old + (1 - kept) * new, average, fast.variables)
        for got, want in ((state.variables, fast.variables), (state.slow, slow), (state.ema, average)):
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), got, want)
    for collection, layers in start.items():
        for layer in layers:
            unchanged = are_equal(state.slow[collection][layer], start[collection][layer])
            assert unchanged == (layer in ("Conv_0", "BatchNorm_0")), layer


def test_looking_ahead_by_nothing_goes_back():
    model, config = ConvNet(5, filters=((3,),)), default_config()
    config.lookahead_steps, config.lookahead_alpha = 2, 0.0
    before = create_state(model, optax.sgd(0.5), (6, 6, 2), seed=0, looks_ahead=True)
    step = jax.jit(make_train_step(config))
    once, _ = step(before, random_batch(6))
    twice, _ = step(once, random_batch(6))
    assert not are_equal(once.params, before.params)
    assert are_equal(twice.params, before.params)


# ---- Several devices

STEPS = """
import sys
import jax, numpy as np
from jaxconv.config import default_config
from jaxconv.models.registry import create_model
from jaxconv.ops import dispatch
from jaxconv.parallel.mesh import make_mesh
from jaxconv.parallel.sharding import replicated, split_by_example
from jaxconv.training.optimizers import create_optimizer
from jaxconv.training.state import create_state
from jaxconv.training.step import make_train_step

jax.config.update("jax_num_cpu_devices", 4)
config = default_config()
config.model.name, config.model.batch_norm = "cifar_simple", True
config.model.filters, config.model.dense, config.model.dropout, config.model.dense_dropout = ((8,),), (), 0.0, 0.0
rng = np.random.default_rng(0)
batch = {
    "image": rng.normal(size=(16, 8, 8, 3)).astype(np.float32),
    "label": rng.integers(0, 5, 16).astype(np.int32),
    "weight": np.full(16, 1 / 12, np.float32) * (np.arange(16) < 12),
}

def run(count, optimizer={}, **fields):
    config.update(fields)
    config.optimizer.update(optimizer)
    model = create_model(config.model, 5, dispatch.KERNELS[config.ops], remat=config.remat)
    mesh = make_mesh(count, 16, config.accumulate_steps)
    optimizer = create_optimizer(config.optimizer, num_epochs=1, steps_per_epoch=2)
    state = create_state(model, optimizer, (8, 8, 3), seed=0, looks_ahead=bool(config.lookahead_steps))
    state, on_devices = jax.device_put(state, replicated(mesh)), jax.device_put(batch, split_by_example(mesh))
    with jax.set_mesh(mesh):
        lowered = jax.jit(make_train_step(config), out_shardings=replicated(mesh)).lower(state, on_devices)
        assert ("jaxconv" in lowered.as_text()) == (config.ops == "onednn")
        step = lowered.compile()
    for _ in range(2):
        state, sums = jax.block_until_ready(step(state, on_devices))
    return state.variables, sums

def compare(one, other):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), one, other)

config.optimizer.update(name="sgd", learning_rate=0.1)
for ops in sys.argv[1:]:
"""


def on_four_devices(lines):
    """Run a program in which `run` makes two steps on so many devices and `compare` compares what they lead to."""
    program = STEPS + textwrap.indent(textwrap.dedent(lines), "    ")
    process = subprocess.run(
        [sys.executable, "-c", program, *FORMS], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert process.returncode == 0, process.stderr


def test_parts_and_remat_are_the_same_on_several_devices():
    on_four_devices("""
        one = run(1, ops=ops, accumulate_steps=4, remat=False)
        compare(run(4, remat=True), one)
    """)


def test_muon_groups_sums_and_lookahead_are_the_same_on_several_devices():
    on_four_devices("""
        groups = (("*/bias", {"name": "sgd", "learning_rate": 0.01}),)
        fields = {"lookahead_steps": 2, "loss_reduction": "sum"}
        one = run(1, ops=ops, optimizer={"name": "muon", "groups": groups}, **fields)
        compare(run(4), one)
        compare(run(2, accumulate_steps=1), one)
    """)
