"""The record recipe, configs/cifar94.py, as a whole: kills, devices, processes, accelerators."""

import random
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jaxconv import experiment, feed
from jaxconv.config import load
from jaxconv.runs import trained
from jaxconv.train import train
from tests.conftest import ROOT, launch, read, start, wait_for_step


@pytest.fixture(scope="module")
def recipe(tfds_dir, tmp_path_factory):
    """A config file: the recipe with a small net on the set "tiny", 3 epochs of 13 steps."""
    path = tmp_path_factory.mktemp("configs") / "record.py"
    path.write_text(
        f"""
from jaxconv.config import load

def get_config():
    config = load({str(ROOT / "configs/cifar94.py")!r})
    config.data.name = "tiny"
    config.data.data_dir = {str(tfds_dir)!r}
    config.data.train = "train[:208]"  # batches without padding: batch norm over two examples magnifies rounding
    config.model.filters = ((8, 8), (12, 16))
    config.batch_size = 16
    config.accumulate_steps = 1  # batch norm over parts of three images would magnify rounding
    config.num_epochs = 3
    config.optimizer.learning_rate = 0.18  # that of the recipe, for 2,000 images, magnifies rounding in batches of 16
    config.progressive_resizing = ((0.625, 1), (0.75, 2))  # full size magnifies rounding more
    config.report = False
    return config
"""
    )
    return path


def parameters(workdir):
    return flatten_dict(trained.load(workdir).variables, sep="/")


def test_killed_at_a_random_step_it_ends_as_uninterrupted(recipe, tmp_path):
    flags = [f"--config={recipe}", "--config.num_devices=1", "--config.checkpoint_every_steps=3"]
    flags += ["--config.data.train=train[:200]", "--config.batch_size=20", "--config.accumulate_steps=5"]
    launch(*flags, f"--workdir={tmp_path}/whole")
    process = start(*flags, f"--workdir={tmp_path}/run")
    wait_for_step(tmp_path / "run", random.randrange(1, 26), process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    again = launch(*flags, f"--workdir={tmp_path}/run")
    assert "Resumed at step" in again.stderr
    assert read(tmp_path / "run")[1]["params_sha256"] == read(tmp_path / "whole")[1]["params_sha256"]
    assert read(tmp_path / "run") == read(tmp_path / "whole")


SEVERAL_DEVICES = """
import pathlib, sys
import jax

jax.config.update("jax_num_cpu_devices", 8)
from jaxconv.config import load
from jaxconv.train import train

config = load(sys.argv[1])
config.compute_dtype, config.num_epochs = "float32", 2
config.model.pooling = "average"  # rounding decides between values that nearly tie for a maximum, and Muon magnifies it
for count in (1, 2, 4, 8):
    config.num_devices = count
    train(config, pathlib.Path(sys.argv[2], str(count)))
"""


def assert_equal_to_rounding(workdir, expected):
    found, expected = parameters(workdir), parameters(expected)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        difference = np.linalg.norm(found[name] - values) / np.linalg.norm(values)
        assert difference < 1e-3, (name, difference)


def test_several_devices_and_two_processes_agree_with_one_device(recipe, tmp_path):
    """Over 26 steps of float32. Statistics of batch norm, sums and steps of Muon are those of the whole batch."""
    launch(SEVERAL_DEVICES, recipe, tmp_path, program="-c")
    flags = [f"--config={recipe}", "--config.compute_dtype=float32", "--config.num_epochs=2", "--config.num_devices=2"]
    flags += ["--config.model.pooling=average", f"--workdir={tmp_path}/processes"]
    process = start("jaxconv.local", "--num_processes=2", "--", "launch.py", *flags, program="-m")
    _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    for run in ("2", "4", "8", "processes"):
        assert_equal_to_rounding(tmp_path / run, tmp_path / "1")


def test_a_whole_epoch_on_the_device_lowers_for_accelerators(recipe):
    """As one program, in bfloat16."""
    config = load(str(recipe))
    config.data.pipeline, config.ops, config.num_devices = "device", "stock", 1
    config.compute_dtype = "bfloat16"
    setup = experiment.set_up(experiment.resolve(config))
    traced = feed.trace_run(setup)
    for platform in ("cuda", "tpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        convolutions = [line for line in text.splitlines() if "stablehlo.convolution" in line]
        assert len(convolutions) == 1 + 3 * 4
        assert all("bf16" in line for line in convolutions)
        assert "stablehlo.while" in text
        assert not any("jaxconv" in line for line in text.splitlines() if "custom_call" in line)


def test_the_whitening_kernel_is_not_trained(recipe, tmp_path):
    config = load(str(recipe))
    config.num_devices, config.num_epochs = 1, 1
    setup = experiment.set_up(experiment.resolve(config))
    kernel = setup.state.collections["whitening"]["Whitening_0"]["kernel"]
    assert jnp.abs(kernel).max() > 0
    train(config, tmp_path / "run")
    trained_net = parameters(tmp_path / "run")
    np.testing.assert_array_equal(trained_net["whitening/Whitening_0/kernel"], jax.device_get(kernel))
