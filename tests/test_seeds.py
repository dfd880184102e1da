"""python -m jaxconv.seeds as a user starts it, and its rule for how many seeds train side by side."""

import json
import math
import os
import re
import shutil

import filelock
import pytest

from jaxconv import seeds
from jaxconv.config import default_config
from jaxconv.platform import accelerators
from tests.conftest import launch, read, start, wait_for_step

LENET = "--config=configs/lenet.py"


def start_seeds(*arguments, **keywords):
    return start("jaxconv.seeds", *arguments, program="-m", **keywords)


def run_seeds(*arguments, status=0, **keywords):
    """What it prints to stdout and to stderr, which is no traceback."""
    process = start_seeds(*arguments, **keywords)
    out, err = process.communicate(timeout=240)
    assert process.returncode == status, f"{arguments}\n{out}\n{err}"
    assert "Traceback" not in err
    return out, err


def flags(tiny_config, workdir, num_seeds=2):
    """The command's arguments, of runs that are those of the fixture `finished`."""
    return [f"--num_seeds={num_seeds}", f"--config={tiny_config}", f"--workdir={workdir}", "--config.num_devices=1"]


@pytest.fixture(scope="module")
def pair(tiny_config, tmp_path_factory):
    """Two seeds, killed within the first and gone on with: where they are, and what was printed at the end."""
    workdir = tmp_path_factory.mktemp("seeds") / "pair"
    process = start_seeds(*flags(tiny_config, workdir))
    wait_for_step(workdir / "seed_0", 4, process)
    process.kill()
    process.communicate()
    return workdir, *run_seeds(*flags(tiny_config, workdir))


@pytest.fixture
def first_of_pair(pair, tmp_path):
    """A copy of the first seed alone."""
    workdir = tmp_path / "seeds"
    shutil.copytree(pair[0] / "seed_0", workdir / "seed_0")
    return workdir


def test_each_seed_ends_as_an_uninterrupted_run_of_launch(pair, finished, tiny_config, tmp_path):
    """Bit for bit: the parameters' SHA-256 is in the summary."""
    workdir, _, said = pair
    launch(*flags(tiny_config, tmp_path / "run")[1:], "--config.seed=1")
    assert read(workdir / "seed_0") == read(finished[0])
    assert read(workdir / "seed_1") == read(tmp_path / "run")
    assert "seed 0: Resumed at step " in said
    assert re.findall(r"^seed 1: Epoch (\d)/5 ", said, re.MULTILINE) == list("12345")
    assert sorted(path.name for path in workdir.iterdir()) == ["seed_0", "seed_1", "seeds.json"]


def test_what_it_writes_and_prints(pair, tiny_config):
    workdir, out, _ = pair
    found = json.loads((workdir / "seeds.json").read_text())
    assert found["command"] == " ".join(["python -m jaxconv.seeds", *flags(tiny_config, workdir)])
    assert (found["n"], found["seeds"], found["failed"]) == (2, [0, 1], [])
    summaries = [json.loads((workdir / f"seed_{seed}/summary.json").read_text()) for seed in (0, 1)]
    rows = {line[:10].strip(): line[10:].split() for line in out.splitlines()}
    keys = ("test_accuracy", "test_loss", "val_accuracy", "wall_seconds", "clock_seconds")
    for column, key in enumerate(keys):
        a, b = (summary[key] for summary in summaries)
        assert found[key]["values"] == [a, b]
        assert found[key]["mean"] == pytest.approx((a + b) / 2)
        assert found[key]["std"] == pytest.approx(abs(a - b) / math.sqrt(2))
        half = 12.7062 * abs(a - b) / 2  # Student's t for one degree of freedom
        assert found[key]["interval"] == pytest.approx([(a + b) / 2 - half, (a + b) / 2 + half], rel=1e-4)
        if key == "test_loss":
            printed = [f"{value:.4f}" for value in (a, b, (a + b) / 2)]
            assert [rows[name][column] for name in ("0", "1", "mean")] == printed
    assert rows["mean"][0].endswith("%")
    assert "n = 2. " in out
    assert out.endswith(f"\n{workdir}/seeds.json\n")


def test_the_same_command_keeps_what_is_finished(pair, tiny_config):
    workdir, out, _ = pair
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("seed_*/**/*")}
    again, said = run_seeds(*flags(tiny_config, workdir))
    assert again == out
    assert said == f"0 of 2 seeds to train in {workdir}, 1 at a time.\n"
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("seed_*/**/*")} == before


def test_one_seed_has_no_deviation(first_of_pair, tiny_config):
    out, _ = run_seeds(*flags(tiny_config, first_of_pair, num_seeds=1), "--json")
    found = json.loads(out)
    assert (found["n"], found["test_loss"]["std"], found["test_loss"]["interval"]) == (1, None, None)
    assert found["test_loss"]["mean"] == found["test_loss"]["values"][0]
    assert found == json.loads((first_of_pair / "seeds.json").read_text())


def test_what_no_split_measures_is_a_dash(first_of_pair, tiny_config):
    path = first_of_pair / "seed_0" / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"val_accuracy": None}))
    out, _ = run_seeds(*flags(tiny_config, first_of_pair, num_seeds=1))
    rows = [line.split() for line in out.splitlines()]
    assert [row[3] for row in rows if row[:1] in (["0"], ["mean"])] == ["-", "-"]
    found = json.loads((first_of_pair / "seeds.json").read_text())
    assert (found["val_accuracy"]["mean"], found["val_accuracy"]["values"]) == (None, [None])


def test_a_signal_stops_all_in_good_order(tiny_config, tmp_path):
    arguments = [*flags(tiny_config, tmp_path, num_seeds=3), "--at_once=2", "--config.num_epochs=50"]
    process = start_seeds(*arguments)
    for seed in (0, 1):
        wait_for_step(tmp_path / f"seed_{seed}", 4, process)
    process.terminate()
    out, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert "Traceback" not in said
    assert out == ""
    for seed in (0, 1):
        stop = re.search(rf"seed {seed}: seeds\.py: Stopped by SIGTERM after (step|epoch) (\d+) of \d+\.", said)
        assert stop
        step = int(stop[2]) * (11 if stop[1] == "epoch" else 1)
        assert max(int(path.name) for path in (tmp_path / f"seed_{seed}/checkpoints").iterdir()) == step
    assert sorted(path.name for path in tmp_path.iterdir()) == ["seed_0", "seed_1"]
    *_, sentence, command = said.splitlines()
    assert sentence == "seeds.py: Stopped by SIGTERM. Go on with:"
    assert command == " ".join(["python -m jaxconv.seeds", *map(str, arguments)])


def test_the_others_go_on_without_a_seed_that_fails(pair, first_of_pair, tiny_config):
    """The first fails: another process holds its workdir."""
    shutil.copytree(pair[0] / "seed_1", first_of_pair / "seed_1")
    (first_of_pair / "seed_0" / "summary.json").unlink()
    with filelock.FileLock(first_of_pair / "seed_0" / "lock"):
        out, said = run_seeds(*flags(tiny_config, first_of_pair), status=1)
    assert re.search(r"^seed 0: seeds\.py: --workdir=\S+/seed_0 is in use by process", said, re.MULTILINE)
    last = said.splitlines()[-1]
    assert last == (
        "seeds.py: Not all seeds are trained: seed 0 ended with exit status 1; its own lines say why. "
        "The same command again tries those alone."
    )
    assert "Failed and left out: 0." in out
    found = json.loads((first_of_pair / "seeds.json").read_text())
    assert (found["n"], found["seeds"], found["failed"]) == (1, [1], [0])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "--config is missing: choose one of"),
        ([LENET, "--num_seeds=0"], "flag --num_seeds=0: 0 is not a positive integer."),
        ([LENET, "--config.batchsize=3"], "config.batchsize is not a field of the config"),
        ([LENET, "--config.seed=2147483647"], "config.seed=2147483648 must be from 0 to 2147483647."),
        ([LENET, "--mode=report"], "Unknown command line flag 'mode'"),
        ([LENET, "--num_processes=2"], "jaxconv.seeds is for one process: start it alone, without --coordinator"),
        ([LENET, "--workdir=README.md"], "--workdir=README.md cannot be written (File exists)"),
    ],
)
def test_wrong_command_lines(arguments, sentence):
    status = 1 if "README" in sentence else 2
    out, err = run_seeds(*arguments, status=status)
    assert out == ""
    assert err.startswith("seeds.py: ")
    assert sentence in err
    assert err.count("\n") == 1, err


def test_one_of_several_processes_is_refused():
    several = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}
    _, err = run_seeds(LENET, status=2, env=several)
    assert "jaxconv.seeds is for one process" in err


def test_workdirs_of_another_config_are_refused_before_a_seed_starts(first_of_pair, tiny_config):
    _, err = run_seeds(*flags(tiny_config, first_of_pair), "--config.batch_size=32", status=2)
    assert f"--workdir={first_of_pair}/seed_0 holds a run of another config:\n  config.batch_size: 16 there" in err
    assert "to train" not in err


@pytest.mark.parametrize(
    ("cores", "num_seeds", "at_once", "side_by_side"),
    [(2, 5, None, 1), (1, 5, None, 1), (4, 5, None, 2), (64, 5, None, 5), (64, 5, 3, 3), (2, 5, 4, 4), (2, 1, 4, 1)],
)
def test_side_by_side_on_a_cpu(monkeypatch, cores, num_seeds, at_once, side_by_side):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")  # of no use to it
    monkeypatch.setattr(os, "sched_setaffinity", None, raising=False)
    monkeypatch.setattr(seeds, "cores", lambda: cores)
    assert seeds.places(default_config(), num_seeds, at_once) == [{}] * side_by_side


@pytest.mark.parametrize(
    ("visible", "num_devices", "at_once", "shares"),
    [
        (None, None, None, [None]),
        ("3", None, None, [None]),
        ("0,1", None, None, ["0", "1"]),
        ("0,1", 2, None, [None]),
        ("0,1,2,3", None, None, ["0", "1", "2"]),
        ("0,1,2,3", 2, None, ["0,1", "2,3"]),
        ("GPU-a,GPU-b,GPU-c,GPU-d", None, 2, ["GPU-a,GPU-b", "GPU-c,GPU-d"]),
        ("0", None, 2, [None, None]),
    ],
)
def test_side_by_side_on_gpus(monkeypatch, visible, num_devices, at_once, shares):
    monkeypatch.setattr(accelerators, "may_be_here", lambda: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    config = default_config()
    config.num_devices = num_devices
    expected = [{"CUDA_VISIBLE_DEVICES": share} if share else {} for share in shares]
    assert seeds.places(config, 3, at_once) == expected


def test_a_finished_seed_starts_once_more_for_a_report(first_of_pair, tiny_config):
    process = start_seeds(*flags(tiny_config, first_of_pair, num_seeds=1), "--config.report=True")
    assert process.stderr.readline() == f"1 of 1 seeds to train in {first_of_pair}, 1 at a time.\n"
    process.kill()
    process.communicate()
