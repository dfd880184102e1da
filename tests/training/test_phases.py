"""The phases of a run: small images first, and parameters that stand still after a while."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxconv import experiment
from jaxconv.config import default_config, validate
from jaxconv.errors import ConfigError
from jaxconv.parallel.mesh import make_mesh
from jaxconv.train import train
from jaxconv.training.phases import WHOLE, Phase, phase_of, phases, resized
from jaxconv.training.step import make_train_step
from tests.conftest import TINY_SHAPE, read


def test_the_phases_of_a_run():
    config = default_config()
    config.num_epochs = 7
    config.progressive_resizing = ((0.5, 2), (0.75, 1))
    config.optimizer.groups = (("*/bias", {"epochs": 3}), ("logits/*", {"learning_rate": 0.1}))
    still = (0,)
    expected = [Phase(0.5), Phase(0.5), Phase(0.75), Phase(1.0, still), Phase(1.0, still)]
    assert [phase_of(config, epoch) for epoch in range(5)] == expected
    assert phases(config, 0, 7) == [Phase(0.5), Phase(0.75), Phase(1.0, still)]
    assert phases(config, 2, 3) == [Phase(0.75)]
    assert phases(default_config(), 0, 20) == [WHOLE]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((32, 32, 3), (24, 24, 3)), ((40, 1), (30, 1)), ((5, 16, 8, 2), (5, 12, 6, 2)), ((1, 1, 1), (1, 1, 1))],
)
def test_the_shape_of_a_smaller_image(shape, expected):
    assert resized(shape, 0.75) == expected


def state_and_batch(tiny):
    tiny.model.global_pooling = "max"
    config = experiment.resolve(tiny)
    mesh = make_mesh(1, config.batch_size)
    _, _, state = experiment.create(config, mesh, TINY_SHAPE, num_classes=4, steps_per_epoch=10)
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.normal(size=(16, *TINY_SHAPE)).astype(np.float32),
        "label": rng.integers(0, 4, 16).astype(np.int32),
        "weight": np.full(16, 1 / 16, np.float32),
    }
    return config, state, batch


def test_a_step_on_smaller_images_is_a_step_on_resized_images(tiny):
    tiny.model.dropout = tiny.model.dense_dropout = 0.0
    config, state, batch = state_and_batch(tiny)
    resized_batch = batch | {"image": jax.image.resize(batch["image"], (16, 4, 4, 3), "linear")}
    expected, expected_sums = jax.jit(make_train_step(config))(state, resized_batch)
    found, sums = jax.jit(make_train_step(config, phase=Phase(0.5)))(state, batch)
    assert float(sums.loss) == pytest.approx(float(expected_sums.loss), rel=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found.params, expected.params)


def test_parameters_that_stand_still_need_no_gradient_and_others_move_as_before(tiny):
    tiny.ops, tiny.optimizer.name = "stock", "sgd"
    tiny.optimizer.groups = (("Conv_0/*", {"epochs": 0.0}),)
    config, state, batch = state_and_batch(tiny)
    whole, still = (jax.jit(make_train_step(config, phase=phase)) for phase in (WHOLE, phase_of(config, 0)))
    expected, found = whole(state, batch)[0], still(state, batch)[0]
    for layer, parts in expected.params.items():
        for part, values in parts.items():
            np.testing.assert_array_equal(found.params[layer][part], values, err_msg=f"{layer}/{part}")
    assert jnp.all(found.params["Conv_0"]["kernel"] == state.params["Conv_0"]["kernel"])
    convolutions = [step.lower(state, batch).as_text().count("stablehlo.convolution") for step in (whole, still)]
    assert convolutions[1] < convolutions[0]


def test_a_parameter_stands_still_with_its_own_group_alone(tiny):
    """The first pattern that matches decides, not any."""
    tiny.optimizer.name, tiny.optimizer.groups = "sgd", (("logits/*", {"momentum": 0.5}), ("*/kernel", {"epochs": 0.0}))
    config, state, batch = state_and_batch(tiny)
    after = jax.jit(make_train_step(config, phase=phase_of(config, 0)))(state, batch)[0]
    moved = jax.tree.map(lambda new, old: bool(jnp.any(new != old)), after.params, state.params)
    assert moved["logits"] == {"kernel": True, "bias": True}
    assert moved["Conv_0"] == {"kernel": False, "bias": True}


def test_a_run_with_smaller_images_first_resumes_bit_for_bit(tiny, tmp_path):
    tiny.model.global_pooling, tiny.progressive_resizing = "average", ((0.5, 1),)
    tiny.checkpoint_every_steps = 3
    whole = train(tiny, tmp_path / "whole")
    train(tiny, tmp_path / "run")
    for name in ("summary.json", "history.jsonl"):
        (tmp_path / "run" / name).unlink()
    for path in (tmp_path / "run/checkpoints").iterdir():
        if path.name.isdigit() and int(path.name) > 12:
            path.rename(tmp_path / path.name)
    assert train(tiny, tmp_path / "run")["params_sha256"] == whole["params_sha256"]
    tiny.data.pipeline = "device"
    train(tiny, tmp_path / "device")
    for on_device, on_host in zip(read(tmp_path / "device")[0], read(tmp_path / "whole")[0], strict=True):
        assert on_device["train_loss"] == pytest.approx(on_host["train_loss"], rel=1e-3)


def test_a_net_whose_parameters_fit_one_size_is_refused(tiny, tmp_path):
    tiny.progressive_resizing = ((0.5, 1),)
    with pytest.raises(ConfigError, match=r"progressive_resizing=.* set config.model.global_pooling to"):
        train(tiny, tmp_path / "run")


@pytest.mark.parametrize("value", [((0.5,),), ((1.5, 1),), ((0.5, 0),), ((0, 1),), (0.5, 1)])
def test_what_is_no_pair_of_a_share_and_epochs_is_refused(value):
    config = default_config()
    config.progressive_resizing = value
    with pytest.raises(ConfigError, match=r"config.progressive_resizing=.* must be a tuple of pairs"):
        validate(config)
