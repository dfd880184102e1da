"""Whole runs of launch.py, as a user starts them."""

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import jax
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from jaxconv import experiment
from jaxconv.config import load
from jaxconv.evaluate import evaluate
from jaxconv.ops import onednn
from jaxconv.runs import checkpoint
from tests.conftest import NO_NETWORK, ROOT, TINY_TEST, launch, read, start, wait_for_step

EPOCHS, STEPS_PER_EPOCH = 5, 11


def test_a_run_leaves_what_it_promises(finished, tiny_config):
    workdir, _ = finished
    history, summary = read(workdir)
    assert [(record["epoch"], record["step"]) for record in history] == [(e, e * STEPS_PER_EPOCH) for e in range(1, 6)]
    assert history[0]["learning_rate"] > history[-1]["learning_rate"] > 0
    best = max(history, key=lambda record: record["val_accuracy"])
    expected = {
        "model": "cifar_simple",
        "epochs": EPOCHS,
        "steps": EPOCHS * STEPS_PER_EPOCH,
        "best_epoch": best["epoch"],
        "val_accuracy": best["val_accuracy"],
        "test_examples": TINY_TEST,
        "devices": 1,
        "processes": 1,
        "platform": "cpu",
        "num_params": 3 * 3 * 3 * 4 + 4 + (4 * 4 * 4) * 8 + 8 + 8 * 4 + 4,
    }
    assert {key: summary[key] for key in expected} == expected
    assert re.fullmatch("[0-9a-f]{64}", summary["params_sha256"])
    assert summary["versions"].keys() >= {"jax", "flax", "optax"}
    assert summary["config"]["model"]["kernel_size"] == 3  # resolved
    assert json.loads((workdir / "config.json").read_text()) == summary["config"]


def test_what_a_person_sees(finished):
    workdir, process = finished
    _, summary = read(workdir)
    assert process.stdout == f"Test score: {summary['test_loss']:.4f}\nTest accuracy: {summary['test_accuracy']:.4f}\n"
    assert re.search(r"Conv_0 +\(8, 8, 4\) +112\b.*total +668\b", process.stderr, re.DOTALL)
    number = r"\d\.\d{4}"
    line = (
        rf"Epoch (\d)/5 - \d+s [\d.]+ms/step - loss: {number} - acc: {number}"
        rf" - val_loss: {number} - val_acc: {number} - data_wait: [\d.]+%$"
    )
    assert re.findall(line, process.stderr, re.MULTILINE) == list("12345")
    assert "\x1b" not in process.stderr


def test_tensorboard_has_the_same_series(finished):
    workdir, _ = finished
    events = EventAccumulator(str(workdir / "tensorboard")).Reload()
    for record in read(workdir)[0]:
        for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate"):
            (value,) = (event.value for event in events.Scalars(name) if event.step == record["step"])
            assert value == pytest.approx(record[name], rel=1e-6)


def test_a_finished_run_says_so(finished, tiny_config):
    workdir, first = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    again = launch(f"--config={tiny_config}", f"--workdir={workdir}", "--config.num_devices=1")
    assert "is finished" in again.stderr
    assert again.stdout == first.stdout
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before


def test_evaluate_reads_the_best_parameters(finished, tiny_config):
    workdir, first = finished
    process = launch(f"--config={tiny_config}", f"--workdir={workdir}", "--mode=evaluate", "--config.num_devices=1")
    _, summary = read(workdir)
    assert process.stdout.endswith(first.stdout)
    assert f"Validation accuracy: {summary['val_accuracy']:.4f}\n" in process.stdout


def test_a_workdir_of_another_config_is_refused(finished, tiny_config):
    workdir, _ = finished
    before = (workdir / "config.json").read_text()
    process = launch(f"--config={tiny_config}", f"--workdir={workdir}", "--config.seed=7", status=2)
    assert "holds a run of another config:\n  config.seed: 0 there, 7 here\n" in process.stderr
    assert "Traceback" not in process.stderr
    assert (workdir / "config.json").read_text() == before


def test_killed_in_mid_epoch_and_resumed_equals_uninterrupted(tiny_config, tmp_path):
    """On two devices, with all that a state can hold; tests/test_survive.py and test_processes.py kill plainer runs."""
    flags = [f"--config={tiny_config}", "--config.num_devices=2"]
    flags += ["--config.compute_dtype=bfloat16", "--config.model.batch_norm=True"]
    flags += ["--config.accumulate_steps=2", "--config.ema_decay=0.9", "--config.clip_norm=1.0"]
    launch(*flags, f"--workdir={tmp_path}/whole")
    arguments = [*flags, f"--workdir={tmp_path}/run"]
    steps = []
    for target in (4, 2 * STEPS_PER_EPOCH + 8):
        process = start(*arguments)
        steps.append(wait_for_step(tmp_path / "run", target, process))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    process = launch(*arguments)
    resumed_at = int(re.search(r"Resumed at step (\d+) of 55\.", process.stderr)[1])
    assert resumed_at >= steps[-1]
    (history, summary), (whole_history, whole_summary) = read(tmp_path / "run"), read(tmp_path / "whole")
    assert history == whole_history
    assert summary == whole_summary


@pytest.mark.parametrize("recipe", ["mnist1d", "moving_digits"])
def test_signals_and_clips_are_trained_resumed_evaluated_and_drawn(recipe, tmp_path):
    small = [
        "--config.data.train=train[:320]",
        "--config.data.validation=train[320:400]",
        "--config.data.test=test[:80]",
    ]
    small += ["--config.model.filters=((4,), (4,))", "--config.num_epochs=3", "--config.checkpoint_every_steps=2"]
    arguments = [f"--config=configs/{recipe}.py", *small, "--config.augment.noise=0.1", "--config.report=False"]
    whole = launch(*arguments, f"--workdir={tmp_path}/whole")
    process = start(*arguments, f"--workdir={tmp_path}/run")
    wait_for_step(tmp_path / "run", 2, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    resumed = launch(*arguments, f"--workdir={tmp_path}/run")
    assert "Resumed at step " in resumed.stderr
    assert resumed.stdout == whole.stdout
    assert read(tmp_path / "run") == read(tmp_path / "whole")
    evaluated = launch(*arguments, f"--workdir={tmp_path}/run", "--mode=evaluate")
    assert evaluated.stdout.endswith(whole.stdout)
    drawn = launch(*arguments, f"--workdir={tmp_path}/run", "--mode=preview")
    assert drawn.stdout == f"{tmp_path}/run/figures/preview.png\n"
    assert (tmp_path / "run" / "figures" / "preview.png").exists()


def test_one_and_four_devices_agree(tiny_config, tmp_path):
    runs = {}
    for devices in (1, 4):
        flags = [f"--config.num_devices={devices}", "--config.num_epochs=2"]
        launch(f"--config={tiny_config}", f"--workdir={tmp_path}/{devices}", *flags)
        runs[devices] = read(tmp_path / str(devices))
        assert runs[devices][1]["devices"] == devices
    for one, four in zip(runs[1][0], runs[4][0], strict=True):
        assert one["train_loss"] == pytest.approx(four["train_loss"], rel=1e-4)
        assert one["val_loss"] == pytest.approx(four["val_loss"], rel=1e-4)
    assert runs[1][1]["test_loss"] == pytest.approx(runs[4][1]["test_loss"], rel=1e-4)


def test_a_bar_on_a_terminal(tiny_config, tmp_path):
    terminal, stderr = pty.openpty()
    chunks = []

    def drain():
        with os.fdopen(terminal, "rb", 0) as f:
            try:
                while chunk := f.read(65536):
                    chunks.append(chunk)
            except OSError:  # the other end is closed
                pass

    reader = threading.Thread(target=drain)
    reader.start()
    process = start(
        f"--config={tiny_config}",
        f"--workdir={tmp_path}/run",
        "--config.num_epochs=1",
        stderr=stderr,
        env={"TERM": "xterm", "COLUMNS": "120"},
    )
    process.communicate(timeout=120)
    os.close(stderr)
    reader.join()
    seen = b"".join(chunks).decode()
    assert process.returncode == 0, seen
    assert re.search(r"Epoch 1/1 .*━", seen)
    assert "Epoch 1/1 - " in seen
    assert ("; 1 x cpu with oneDNN; " if onednn.is_available() else " x cpu without oneDNN; ") in seen  # the default


def test_missing_data_is_one_sentence(tmp_path):
    process = launch(
        f"--config={ROOT}/configs/mlp.py",
        f"--workdir={tmp_path}/run",
        f"--config.data.data_dir={tmp_path}/nothing",
        status=1,
    )
    assert "Traceback" not in process.stderr
    sentence = process.stderr.splitlines()[-1]
    for part in ("'mnist'", f"{tmp_path}/nothing", "connect", "config.data.data_dir", "configs/quickstart.py"):
        assert part in sentence
    assert not (tmp_path / "run").exists()


def test_evaluate_in_a_loop_beside_a_training_that_checkpoints_every_step(tiny_config, finished, tmp_path):
    """The training ends as if nobody had looked, and each look finds figures of an epoch that was finished."""
    workdir = tmp_path / "run"
    flags = [f"--config={tiny_config}", f"--workdir={workdir}", "--config.num_devices=1"]
    training = start(*flags, "--config.checkpoint_every_steps=1")
    wait_for_step(workdir, STEPS_PER_EPOCH, training)
    config = load(str(tiny_config))
    config.num_devices = 1
    looks = []
    while training.poll() is None:
        looks.append(evaluate(config, workdir))
    _, said = training.communicate()
    assert training.returncode == 0, said
    (history, summary), (whole, whole_summary) = read(workdir), read(finished[0])
    assert history == whole
    assert summary["params_sha256"] == whole_summary["params_sha256"]
    assert looks
    assert {look["val_accuracy"] for look in looks} <= {record["val_accuracy"] for record in history}


def test_readers_beside_a_writer_that_deletes_what_they_read(tiny, tmp_path):
    parts = experiment.set_up(experiment.resolve(tiny))
    workdir = tmp_path
    progress = {"history": [], "versions": {}}
    found, done = [], threading.Event()

    def write():
        with checkpoint.open_checkpoints(workdir) as checkpoints:
            for step in range(1, 40):
                progress["history"].append({"epoch": step, "val_accuracy": step / 100, "step": step})
                checkpoint.save(checkpoints, parts.state.replace(step=jax.numpy.int32(step)), progress)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    wait_until = time.monotonic() + 60
    while not checkpoint.steps(workdir) and time.monotonic() < wait_until:
        time.sleep(0.01)
    while not done.is_set():
        state, best = checkpoint.restore_best(workdir, parts.state)
        assert int(state.step) == best["step"]
        found.append(best["step"])
    writer.join()
    assert found == sorted(found)
    assert len(set(found)) > 3


def test_ctrl_c_during_a_download(tmp_path):
    """From a proxy that takes every connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        process = start(
            f"--config={ROOT}/configs/mlp.py",
            f"--workdir={tmp_path}/run",
            f"--config.data.data_dir={tmp_path}/nothing",
            env=dict.fromkeys(NO_NETWORK, address),
        )
        proxy.settimeout(60)
        connection, _ = proxy.accept()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        connection.close()
    assert process.returncode == 130, said
    assert "Stopped by SIGINT" in said
    assert "could not be downloaded" not in said
    assert "Traceback" not in said


IN_FLIGHT = """
import pathlib, sys, time
import jax, jax.numpy as jnp
from jaxconv import cli, train
from jaxconv.config import default_config
from jaxconv.errors import UserError

def slow(x):
    time.sleep(2)
    print("the step has ended", flush=True)
    return x

def fail(config, workdir):
    kept.append(jax.jit(lambda x: jax.pure_callback(slow, x, x))(jnp.ones(3)))
    raise UserError("It failed.")

kept = []
train.train = fail
cli.run("train", default_config(), cli.Arguments(pathlib.Path("unused")))
"""


def test_a_fatal_error_waits_for_the_step_in_flight():
    process = subprocess.run([sys.executable, "-c", IN_FLIGHT], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert process.returncode == 1, process.stderr
    assert process.stdout == "the step has ended\n"
    assert process.stderr.endswith("It failed.\n")


def test_evaluate_without_a_run(tiny_config, tmp_path):
    process = launch(f"--config={tiny_config}", f"--workdir={tmp_path}/run", "--mode=evaluate", status=2)
    assert "holds no run" in process.stderr
    assert "Traceback" not in process.stderr
