"""Several processes train as one: what they leave, how they stop, what they refuse. tests/test_hosts.py has more."""

import re
import signal

import numpy as np
import pytest

from jaxconv.errors import UserError
from jaxconv.platform import cluster
from jaxconv.runs.trained import to_config
from jaxconv.runs.workdir import claim, read_config
from tests.conftest import TINY_TEST, launch, read, start, wait_for_step

LAST_STEP = 55


def start_all(tiny_config, workdirs, *flags):
    """A process for each workdir, of a run on four devices."""
    port = cluster.free_port()
    count = len(workdirs)
    return [
        start(
            f"--config={tiny_config}",
            f"--workdir={workdir}",
            "--config.num_devices=4",
            f"--coordinator=localhost:{port}",
            f"--num_processes={count}",
            f"--process_id={process_id}",
            *flags,
        )
        for process_id, workdir in enumerate(workdirs)
    ]


def end_all(processes):
    """What each process says, and its exit status; no line of one is unlabelled, and none is a traceback."""
    said = [process.communicate(timeout=120)[1] for process in processes]
    for process_id, lines in enumerate(said):
        assert all(line.startswith(f"process {process_id}: ") for line in lines.splitlines()), lines
        assert "Traceback" not in lines
    return said, [process.returncode for process in processes]


def run_all(tiny_config, workdir):
    said, statuses = end_all(start_all(tiny_config, [workdir, workdir]))
    assert statuses == [0, 0], said
    assert said[1] == ""
    return said[0]


def assert_agree(workdir, other):
    """The runs saw the same examples in the same order: they agree to rounding."""
    (history, summary), (expected_history, expected) = read(workdir), read(other)
    for epoch, expected_epoch in zip(history, expected_history, strict=True):
        assert epoch["step"] == expected_epoch["step"]
        for key in ("train_loss", "val_loss"):
            assert epoch[key] == pytest.approx(expected_epoch[key], rel=1e-3)
    assert summary["test_loss"] == pytest.approx(expected["test_loss"], rel=1e-3)
    assert summary["test_examples"] == expected["test_examples"] == TINY_TEST


@pytest.fixture(scope="module")
def pair(tiny_config, tmp_path_factory):
    """A run of two processes with two devices each, which nothing interrupted, and what it printed."""
    workdir = tmp_path_factory.mktemp("runs") / "pair"
    flags = [f"--config={tiny_config}", f"--workdir={workdir}", "--config.num_devices=4", "--config.report=True"]
    process = start("jaxconv.local", "--num_processes=2", "--", "launch.py", *flags, program="-m")
    out, said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    return workdir, out, said


def test_two_processes_are_as_one(pair, tiny_config, finished, tmp_path):
    workdir, out, said = pair
    launch(f"--config={tiny_config}", f"--workdir={tmp_path}/four", "--config.num_devices=4")
    assert_agree(workdir, finished[0])
    assert_agree(workdir, tmp_path / "four")
    _, summary = read(workdir)
    assert (summary["processes"], summary["devices"]) == (2, 4)
    assert re.fullmatch(rf"Test score: .*\nTest accuracy: .*\nReport: {workdir}/report.html\n", out)
    assert "4 x cpu" in said
    assert " in 2 processes; " in said
    assert "process 1: " not in said
    assert (workdir / "report.html").exists()
    files = {path.relative_to(tmp_path / "four").parts[0] for path in (tmp_path / "four").rglob("*")}
    assert {path.name for path in workdir.iterdir()} == files | {"report.html", "figures"}


def test_evaluation_counts_every_example_once(pair, finished):
    with np.load(pair[0] / "predictions.npz") as ours, np.load(finished[0] / "predictions.npz") as expected:
        assert list(ours["index"]) == list(range(TINY_TEST))
        np.testing.assert_array_equal(ours["label"], expected["label"])
        np.testing.assert_allclose(ours["probabilities"], expected["probabilities"], atol=1e-3)


def test_process_0_decides_which_checkpoint_is_whole(pair, tiny_config, tmp_path):
    """And the run ends as one that nothing interrupted, bit for bit."""
    workdir = tmp_path / "run"
    processes = start_all(tiny_config, [workdir, workdir])
    wait_for_step(workdir, 16, processes[0])
    processes[1].kill()
    said, statuses = end_all(processes)
    assert statuses == [1, -signal.SIGKILL]
    assert re.search(r"Stopped, because process 1 on \S+ was lost: its connection closed\. Repeat the same", said[0])
    newest = max((workdir / "checkpoints").glob("[0-9]*[0-9]"), key=lambda path: int(path.name))
    largest = max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])
    again = run_all(tiny_config, workdir)
    assert f"The checkpoint of step {newest.name} is broken" in again
    expected = read(pair[0])
    expected[1]["config"]["report"] = False
    assert read(workdir) == expected


def test_a_signal_to_one_process_stops_all_at_one_step(finished, tiny_config, tmp_path):
    """And one process, then two go on, with the same number of devices."""
    workdir = tmp_path / "run"
    processes = start_all(tiny_config, [workdir, workdir])
    wait_for_step(workdir, 8, processes[0])
    with pytest.raises(UserError, match="is in use by process"), claim(workdir, to_config(read_config(workdir))):
        pass
    processes[1].terminate()
    said, statuses = end_all(processes)
    assert statuses == [143, 143], said
    stops = [re.search(r"Stopped by SIGTERM after ((?:step|epoch) (\d+)) of", lines) for lines in said]
    assert stops[0]
    assert stops[1]
    assert stops[0][1] == stops[1][1]
    step = int(stops[0][2]) * (11 if "epoch" in stops[0][1] else 1)
    assert max(int(path.name) for path in (workdir / "checkpoints").iterdir()) == step
    assert "--process_id=1" in said[1].splitlines()[-1]

    alone = start(f"--config={tiny_config}", f"--workdir={workdir}", "--config.num_devices=4")
    wait_for_step(workdir, 30, alone)
    alone.terminate()
    said = alone.communicate(timeout=60)[1]
    assert alone.returncode == 143
    assert f"Resumed at step {step} of {LAST_STEP}." in said
    assert "Resumed at step" in run_all(tiny_config, workdir)
    assert_agree(workdir, finished[0])


def test_parts_and_an_average_are_those_of_two_processes(tiny_config, tmp_path):
    flags = ["--config.accumulate_steps=2", "--config.ema_decay=0.9", "--config.clip_norm=1.0", "--config.num_epochs=2"]
    flags += ["--config.model.batch_norm=True"]
    launch(f"--config={tiny_config}", "--config.num_devices=4", *flags, f"--workdir={tmp_path}/whole")
    said, statuses = end_all(start_all(tiny_config, [tmp_path / "two", tmp_path / "two"], *flags))
    assert statuses == [0, 0], said
    assert_agree(tmp_path / "two", tmp_path / "whole")


@pytest.mark.survive
def test_views_without_a_validation_split_are_those_of_two_processes_on_the_device(tiny_config, tmp_path):
    flags = ["--config.data.validation=None", "--config.data.pipeline=device", "--config.num_epochs=2"]
    flags += ["--config.evaluation.views=mirror_and_shifts"]
    flags += ["--config.augment.horizontal_flip=False", "--config.augment.alternating_flip=True"]
    launch(f"--config={tiny_config}", f"--workdir={tmp_path}/one", "--config.num_devices=4", *flags)
    said, statuses = end_all(start_all(tiny_config, [tmp_path / "two", tmp_path / "two"], *flags))
    assert statuses == [0, 0], said
    (history, summary), (expected_history, expected) = read(tmp_path / "two"), read(tmp_path / "one")
    losses, expected_losses = ([epoch["train_loss"] for epoch in of] for of in (history, expected_history))
    assert losses == pytest.approx(expected_losses, rel=1e-3)
    assert summary["test_loss"] == pytest.approx(expected["test_loss"], rel=1e-3)
    assert (summary["best_epoch"], summary["val_accuracy"]) == (2, None)


def test_what_processes_must_have_in_common(tiny_config, tmp_path):
    processes = start_all(tiny_config, [tmp_path / "one", tmp_path / "other"])
    said, statuses = end_all(processes)
    assert statuses == [1, 1]
    assert re.search(
        r"--workdir=\S+/other is not that of process 0.*: name a directory that all machines share", said[1]
    )
    assert re.search(r"process 1 on \S+ ended with exit status 1; its own lines say why", said[0])


def test_processes_with_other_configs_are_refused(tiny_config, tmp_path):
    port = cluster.free_port()
    flags = [f"--config={tiny_config}", f"--workdir={tmp_path}/run", f"--coordinator=localhost:{port}"]
    processes = [
        start(*flags, "--num_processes=2", f"--process_id={process_id}", f"--config.seed={process_id}")
        for process_id in range(2)
    ]
    said, statuses = end_all(processes)
    assert statuses == [2, 2]
    assert "config.seed: 0 there, 1 here" in said[1]
    assert not (tmp_path / "run").exists()


def test_other_modes_are_for_one_process(tiny_config, tmp_path):
    flags = ["--coordinator=localhost:1234", "--num_processes=2", "--process_id=1"]
    refused = launch(f"--config={tiny_config}", f"--workdir={tmp_path}/run", "--mode=evaluate", *flags, status=2)
    assert "--mode=evaluate is for one process" in refused.stderr
