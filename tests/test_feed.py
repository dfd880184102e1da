"""Whole runs with config.data.pipeline=device: as those of the host, bit for bit after a kill, without TensorFlow."""

import json
import re
import shutil
import signal
import sys

import jax
import numpy as np
import pytest

from jaxconv import experiment
from jaxconv.config import default_config
from jaxconv.data import device
from jaxconv.errors import ConfigError, UserError
from jaxconv.evaluate import evaluate
from jaxconv.runs import checkpoint
from jaxconv.train import train
from jaxconv.training.chunks import ChunkSize
from tests.conftest import ROOT, TINY_TEST, launch, read, start, wait_for_step

DEVICE = "--config.data.pipeline=device"


@pytest.fixture
def on_device(tiny):
    """A run of two epochs of 11 steps whose augmentation, batch norm, mixup and dropout are on."""
    tiny.data.pipeline = "device"
    tiny.augment.rotation, tiny.augment.horizontal_flip, tiny.augment.noise = 10.0, True, 0.1
    tiny.model.batch_norm, tiny.mixup = True, 0.2
    return tiny


@pytest.fixture(scope="module")
def whole(tiny_config, tmp_path_factory):
    """A run on one device that nothing interrupted, and what it printed."""
    workdir = tmp_path_factory.mktemp("runs") / "device"
    return workdir, launch(f"--config={tiny_config}", f"--workdir={workdir}", "--config.num_devices=1", DEVICE)


def parameters(config, workdir):
    """The parameters after the last step."""
    setup = experiment.set_up(experiment.resolve(config))
    return checkpoint.restore(workdir, setup.last_step, setup.state)[0].params


def assert_agree(run, other, rel):
    """The runs saw the same examples in the same order."""
    (history, summary), (others_history, others) = run, other
    for epoch, expected in zip(history, others_history, strict=True):
        assert epoch["step"] == expected["step"]
        for key in ("train_loss", "val_loss"):
            assert epoch[key] == pytest.approx(expected[key], rel=rel)
    assert summary["test_loss"] == pytest.approx(others["test_loss"], rel=rel)
    assert summary["test_examples"] == others["test_examples"]


def test_a_run_on_the_device_agrees_with_one_of_the_host(on_device, tmp_path):
    # Batch norm makes the bias before it useless: its gradient is rounding alone, which Adam would blow up.
    on_device.model.batch_norm, on_device.optimizer.name, on_device.optimizer.learning_rate = False, "sgd", 0.05
    train(on_device, tmp_path / "device")
    ours = parameters(on_device, tmp_path / "device")
    on_device.data.pipeline = "host"
    train(on_device, tmp_path / "host")
    theirs = parameters(on_device, tmp_path / "host")
    jax.tree.map(lambda our, their: np.testing.assert_allclose(our, their, atol=1e-5), ours, theirs)
    assert_agree(read(tmp_path / "device"), read(tmp_path / "host"), rel=1e-3)
    with np.load(tmp_path / "device/predictions.npz") as our, np.load(tmp_path / "host/predictions.npz") as their:
        np.testing.assert_array_equal(our["label"], their["label"])
        np.testing.assert_allclose(our["probabilities"], their["probabilities"], atol=1e-3)


def test_what_a_chunk_holds_does_not_change_the_result(on_device, tmp_path, monkeypatch):
    """Nor does a start in mid-epoch, or an evaluation by the host."""
    expected = train(on_device, tmp_path / "whole")
    monkeypatch.setattr(ChunkSize, "__call__", lambda self: 3)
    on_device.checkpoint_every_steps = 8
    again = train(on_device, tmp_path / "run")
    assert again["params_sha256"] == expected["params_sha256"]
    assert read(tmp_path / "run")[0] == read(tmp_path / "whole")[0]
    (tmp_path / "run/summary.json").unlink()
    shutil.rmtree(tmp_path / "run/checkpoints/22")
    monkeypatch.setattr(ChunkSize, "__call__", lambda self: 100)
    assert train(on_device, tmp_path / "run")["params_sha256"] == expected["params_sha256"]
    on_device.data.pipeline = "host"
    assert evaluate(on_device, tmp_path / "run")["test_loss"] == pytest.approx(expected["test_loss"], rel=1e-4)


def test_auto_is_recorded_and_kept_on_resume(on_device, tmp_path, monkeypatch):
    on_device.data.pipeline, on_device.checkpoint_every_steps = "auto", 8
    augmentation = on_device.augment
    on_device.augment = default_config().augment
    whole = train(on_device, tmp_path / "run")
    assert whole["config"]["data"]["pipeline"] == "device"
    assert json.loads((tmp_path / "run/config.json").read_text())["data"]["pipeline"] == "device"
    (tmp_path / "run/summary.json").unlink()
    shutil.rmtree(tmp_path / "run/checkpoints/22")
    monkeypatch.setattr(device, "fits", lambda splits, mesh: False)
    again = train(on_device, tmp_path / "run")
    assert (again["config"]["data"]["pipeline"], again["params_sha256"]) == ("device", whole["params_sha256"])
    on_device.num_epochs = 1
    assert train(on_device, tmp_path / "other")["config"]["data"]["pipeline"] == "host"
    monkeypatch.undo()
    on_device.augment = augmentation  # which is slow on the device, if it is a CPU
    assert train(on_device, tmp_path / "augmented")["config"]["data"]["pipeline"] == "host"
    monkeypatch.setattr(experiment, "is_installed", lambda: False)
    assert train(on_device, tmp_path / "third")["config"]["data"]["pipeline"] == "device"
    on_device.data.pipeline = "host"
    with pytest.raises(ConfigError, match="needs TensorFlow.* pip install .*, or set config.data.pipeline to 'device'"):
        train(on_device, tmp_path / "fourth")


def test_images_that_are_not_in_memory_are_for_the_host(on_device, tmp_path):
    on_device.data.in_memory, on_device.num_epochs = "no", 1
    with pytest.raises(ConfigError, match=r"'device' keeps the images in memory.* set config.data.pipeline to 'host'"):
        train(on_device, tmp_path / "refused")
    on_device.data.pipeline, on_device.augment = "auto", default_config().augment
    assert train(on_device, tmp_path / "run")["config"]["data"]["pipeline"] == "host"


def test_bfloat16_parts_of_a_batch_and_an_average(on_device, tmp_path):
    """The fields of a step are those of the host's step."""
    on_device.compute_dtype, on_device.accumulate_steps, on_device.ema_decay = "bfloat16", 2, 0.9
    on_device.remat, on_device.clip_norm = True, 1.0
    whole = train(on_device, tmp_path / "device")
    (tmp_path / "device/summary.json").unlink()
    shutil.rmtree(tmp_path / "device/checkpoints/22")
    assert train(on_device, tmp_path / "device")["params_sha256"] == whole["params_sha256"]
    on_device.data.pipeline = "host"
    train(on_device, tmp_path / "host")
    assert_agree(read(tmp_path / "device"), read(tmp_path / "host"), rel=0.1)


def test_a_loss_that_is_not_finite_ends_the_run_at_its_step(on_device, tmp_path, monkeypatch):
    monkeypatch.setattr(ChunkSize, "__call__", lambda self: 100)
    on_device.optimizer.name, on_device.optimizer.learning_rate, on_device.model.batch_norm = "sgd", 1e30, False
    with pytest.raises(UserError, match=r"not finite at step [2345] \(learning rate 1e\+30\); there is no checkpoint"):
        train(on_device, tmp_path / "run")


def test_early_stopping(on_device, tmp_path):
    on_device.optimizer.learning_rate, on_device.early_stopping_epochs, on_device.num_epochs = 1e-30, 2, 9
    on_device.model.batch_norm = False
    summary = train(on_device, tmp_path / "run")
    assert (summary["epochs"], summary["steps"], summary["best_epoch"]) == (3, 33, 1)


def test_killed_in_mid_epoch_and_resumed_equals_uninterrupted(tiny_config, whole, tmp_path):
    arguments = [f"--config={tiny_config}", f"--workdir={tmp_path}/run", "--config.num_devices=1", DEVICE]
    process = start(*arguments)
    wait_for_step(tmp_path / "run", 16, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    process = launch(*arguments)
    assert re.search(r"Resumed at step (\d+) of 55\.", process.stderr)
    assert read(tmp_path / "run") == read(whole[0])


def test_a_signal_is_answered_within_a_chunk(tiny_config, whole, tmp_path):
    arguments = [f"--config={tiny_config}", f"--workdir={tmp_path}/run", "--config.num_devices=1", DEVICE]
    arguments += ["--config.num_epochs=100000", "--config.optimizer.schedule=constant"]
    process = start(*arguments)
    wait_for_step(tmp_path / "run", 40, process)
    process.terminate()
    _, said = process.communicate(timeout=20)
    assert process.returncode == 143, said
    step = int(re.search(r"after (step|epoch) (\d+) of", said)[2])
    assert step


def test_one_and_four_devices_agree_with_the_host(tiny_config, whole, finished, tmp_path):
    launch(f"--config={tiny_config}", f"--workdir={tmp_path}/four", "--config.num_devices=4", DEVICE)
    four = read(tmp_path / "four")
    assert four[1]["devices"] == 4
    assert_agree(four, read(whole[0]), rel=1e-3)
    assert_agree(four, read(finished[0]), rel=1e-3)


def test_two_processes_are_as_one(tiny_config, whole, tmp_path):
    flags = [f"--config={tiny_config}", f"--workdir={tmp_path}/run", "--config.num_devices=2", DEVICE]
    process = start("jaxconv.local", "--num_processes=2", "--", "launch.py", *flags, program="-m")
    _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert_agree(read(tmp_path / "run"), read(whole[0]), rel=1e-3)
    with np.load(tmp_path / "run/predictions.npz") as predictions:
        assert list(predictions["index"]) == list(range(TINY_TEST))


WITHOUT_TENSORFLOW = """
import runpy, sys
sys.modules["tensorflow"] = sys.modules["tensorflow_datasets"] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_run_begun_with_tensorflow_goes_on_without_it(tiny_config, whole, tfds_dir, tmp_path):
    """From the file of jaxconv.data.prepare; and a report with augmented images needs none either."""
    shutil.copytree(tfds_dir, tmp_path / "data")
    data = f"--config.data.data_dir={tmp_path}/data"
    launch("jaxconv.data.prepare", "--name=tiny", f"--data_dir={tmp_path}/data", program="-m")
    shutil.copytree(whole[0], tmp_path / "run")
    (tmp_path / "run/summary.json").unlink()
    for step in (44, 52, 55):
        shutil.rmtree(tmp_path / f"run/checkpoints/{step}", ignore_errors=True)
    (tmp_path / "without.py").write_text(WITHOUT_TENSORFLOW)
    arguments = [ROOT / "launch.py", f"--config={tiny_config}", f"--workdir={tmp_path}/run", "--config.num_devices=1"]
    environment = {"PYTHONPATH": str(ROOT), "TFDS_DATA_DIR": ""}
    run = {"program": tmp_path / "without.py", "env": environment}
    refused = launch(*arguments, data, status=2, **run)
    assert "config.data.pipeline='host' needs TensorFlow" in refused.stderr
    missing = launch(*arguments, DEVICE, f"--config.data.data_dir={tmp_path}", status=1, **run)
    assert f"{tmp_path}/jaxconv/tiny.npz: write it where there is TensorFlow" in missing.stderr
    process = launch(*arguments, DEVICE, data, "--config.report=True", **run)
    assert "Resumed at step" in process.stderr
    assert "bits may differ" not in process.stderr
    assert (tmp_path / "run/report.html").exists()
    (history, summary), (expected, expected_summary) = read(tmp_path / "run"), read(whole[0])
    assert history == expected
    assert summary["params_sha256"] == expected_summary["params_sha256"]
    assert sys.modules["tensorflow"]  # of this process, which has it
