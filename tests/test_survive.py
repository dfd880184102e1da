"""What a night can bring: kills, signals, a second start, a disk that ends, other devices.

python -m pytest -m survive -n 0 -s     the long harness: 100 kills and more device counts
"""

import json
import os
import random
import re
import resource
import signal
import subprocess
import time

import pytest

from tests.conftest import launch, read, start, wait_for_step

LAST_STEP = 55


def arguments(tiny_config, workdir, devices=1):
    return [f"--config={tiny_config}", f"--workdir={workdir}", f"--config.num_devices={devices}"]


def wait_for(condition, process, seconds=120):
    """Wait until the condition holds or the process ends; the truth of the condition."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        if process.poll() is not None:
            return False
        time.sleep(0.002)
    raise AssertionError("nothing happened")


class Run:
    """A run of launch.py, and what it has come to since it started: what others left in its workdir does not count."""

    def __init__(self, flags, workdir, log):
        self.workdir, self.log = workdir, log
        self.there = self.files()
        with open(log, "w") as stderr:
            self.process = start(*flags, stdout=subprocess.DEVNULL, stderr=stderr)

    def files(self):
        """The names of the checkpoints, finished or not."""
        return {path.name for path in self.workdir.glob("checkpoints/*")}

    def said(self, pattern):
        """Whether it printed something like this."""
        return re.search(pattern, self.log.read_text())

    def is_writing(self):
        """Whether it has begun a checkpoint and not finished it."""
        return any("tmp" in name for name in self.files() - self.there)

    def has_written(self):
        """Whether it has finished a checkpoint."""
        return any(name.isdigit() for name in self.files() - self.there)

    def is_testing(self):
        """Whether it has nothing left to do but the final test."""
        last = self.said(rf"Epoch 5/5|Resumed at step {LAST_STEP} ")
        return bool(last) and not (self.workdir / "summary.json").exists()


# Moments of a process, each a condition on what it did itself; a kill follows after a random part of so many seconds,
# and counts if the condition still holds then.
MOMENTS = {
    "starting": (lambda run: not run.said("."), 4.0),
    "compiling": (lambda run: run.said("examples to train on") and not run.said("First step done|Epoch"), 2.0),
    "in a step": (lambda run: run.said("First step done") and not run.is_writing() and not run.is_testing(), 0.3),
    "writing a checkpoint": (lambda run: run.is_writing(), 0.01),
    "between checkpoints": (lambda run: run.has_written() and not run.is_writing() and not run.is_testing(), 0.2),
    "in the final test": (lambda run: run.is_testing(), 0.3),
}


def kill_at(moment, run, rng):
    """Kill the run at the moment; False if it came to its end first."""
    holds, within = MOMENTS[moment]
    while wait_for(lambda: run.process.poll() is None and holds(run), run.process):
        time.sleep(rng.random() * within)
        os.kill(run.process.pid, signal.SIGSTOP)  # so that what is seen is what is killed
        _, status = os.waitpid(run.process.pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            run.process.returncode = os.waitstatus_to_exitcode(status)
            break
        if holds(run):
            run.process.kill()
            run.process.wait()
            return True
        run.process.send_signal(signal.SIGCONT)
    assert run.process.returncode == 0, run.log.read_text()
    return False


def survive_kills(kills, moments, tiny_config, finished, tmp_path, seed):
    """Kill runs at the given moments until there were so many kills; each run must end as if none had been."""
    rng = random.Random(seed)
    runs, record = 0, []
    while len(record) < kills:
        workdir = tmp_path / str(runs)
        flags = arguments(tiny_config, workdir)
        for _ in range(rng.randint(1, 4)):
            moment = moments[len(record) % len(moments)]
            if len(record) < kills and kill_at(moment, Run(flags, workdir, tmp_path / "log"), rng):
                record.append(moment)
        launch(*flags)
        assert read(workdir) == read(finished[0]), (runs, record)
        runs += 1
    return record


def test_killed_at_random_moments(tiny_config, finished, tmp_path):
    moments = ["writing a checkpoint", "compiling", "in the final test", "in a step"]
    assert survive_kills(4, moments, tiny_config, finished, tmp_path, seed=0) == moments


@pytest.mark.survive
def test_killed_100_times_at_random_moments(tiny_config, finished, tmp_path):
    record = survive_kills(100, list(MOMENTS), tiny_config, finished, tmp_path, seed=1)
    counts = {moment: record.count(moment) for moment in MOMENTS}
    print(*(f"{moment}: {count} kills" for moment, count in counts.items()), sep="\n")
    assert min(counts.values()) >= 12


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_in_good_order(tiny_config, finished, tmp_path, signum):
    workdir = tmp_path / "run"
    run = arguments(tiny_config, workdir)
    process = start(*run)
    wait_for_step(workdir, 4, process)
    process.send_signal(signum)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signum, said
    assert "Traceback" not in said
    stopped = re.search(
        rf"Stopped by {signum.name} after (step|epoch) (\d+) of \d+\. Go on with:\npython launch.py", said
    )
    step = int(stopped[2]) * (11 if stopped[1] == "epoch" else 1)
    assert max(int(path.name) for path in (workdir / "checkpoints").iterdir()) == step
    resume = said.splitlines()[-1].split()
    assert resume == ["python", "launch.py", *run]
    again = launch(*resume[2:])
    assert f"Resumed at step {step} of {LAST_STEP}." in again.stderr
    assert read(workdir) == read(finished[0])


def test_a_signal_before_the_first_step(tiny_config, tmp_path):
    process = start(*arguments(tiny_config, tmp_path / "run"))
    wait_for(lambda: (tmp_path / "run" / "config.json").exists(), process)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert "Stopped by SIGTERM" in said
    assert "Traceback" not in said


def test_a_second_start_is_refused_and_a_dead_ones_lock_is_not(tiny_config, finished, tmp_path):
    workdir = tmp_path / "run"
    run = arguments(tiny_config, workdir)
    first = start(*run)
    wait_for(lambda: (workdir / "config.json").exists(), first)
    first.send_signal(signal.SIGSTOP)
    second = launch(*run, status=1)
    assert re.search(rf"is in use by process {first.pid} on \S+: wait for it", second.stderr)
    first.kill()
    first.communicate()
    launch(*run)
    assert read(workdir) == read(finished[0])


def resume_on(devices, tiny_config, finished, tmp_path, *, begun_on=8):
    workdir = tmp_path / "run"
    process = start(*arguments(tiny_config, workdir, begun_on))
    wait_for_step(workdir, 15, process)
    process.kill()
    process.communicate()
    launch(*arguments(tiny_config, workdir, devices))
    (history, summary), (whole, whole_summary) = read(workdir), read(finished[0])
    assert summary["devices"] == devices
    for record, expected in zip(history, whole, strict=True):
        assert record["step"] == expected["step"]
        for key in ("train_loss", "val_loss"):
            assert record[key] == pytest.approx(expected[key], rel=1e-3)
    assert summary["test_loss"] == pytest.approx(whole_summary["test_loss"], rel=1e-3)


def test_a_run_on_eight_devices_goes_on_with_two(tiny_config, finished, tmp_path):
    resume_on(2, tiny_config, finished, tmp_path)


@pytest.mark.survive
@pytest.mark.parametrize(("begun_on", "devices"), [(8, 1), (8, 4), (1, 8), (1, 2)])
def test_a_run_goes_on_with_any_number_of_devices(tiny_config, finished, tmp_path, begun_on, devices):
    resume_on(devices, tiny_config, finished, tmp_path, begun_on=begun_on)


def test_a_disk_that_ends_in_mid_run(tiny_config, finished, tmp_path):
    """No file may grow beyond a few kilobytes: what the system then answers is that of a full disk."""
    workdir = tmp_path / "run"
    run = arguments(tiny_config, workdir)
    process = start(*run)
    kept = wait_for_step(workdir, 15, process)
    process.kill()
    process.communicate()

    process = start(*run)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (2000, 2000))
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1, said
    sentence = said.splitlines()[-1]
    checkpoint = r"could not be written to .*: it needs [\d.,]+ MB, .* is whole\. Make room"
    assert re.search(checkpoint + r"|cannot be written \(File too large\): make room", sentence), said
    assert "Traceback" not in said
    assert (workdir / "checkpoints" / str(kept)).is_dir()

    launch(*run)
    assert read(workdir) == read(finished[0])


def test_nothing_in_a_workdir_is_executed(tiny_config, tmp_path):
    """A config.json is data: what looks like code in it stays text."""
    workdir = tmp_path / "run"
    workdir.mkdir()
    trap = tmp_path / "trap"
    config = {"seed": f"__import__('pathlib').Path({str(trap)!r}).touch()"}
    (workdir / "config.json").write_text(json.dumps(config))
    for name in ("sitecustomize.py", "launch.py", "config.py", "conftest.py"):
        (workdir / name).write_text(f"open({str(trap)!r}, 'w')")
    launch(*arguments(tiny_config, workdir), status=2)
    assert not trap.exists()
