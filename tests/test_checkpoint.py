"""Checkpoints: which are kept, what a broken one does, what a full disk does."""

import gc
import json
import pathlib
import re
import shutil

import jax
import numpy as np
import pytest

from jaxconv import checkpoint, train
from jaxconv.errors import ConfigError, UserError

# Orbax leaves coroutines behind when it cannot read what they were to read.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _collect_them_here():
    yield
    gc.collect()


@pytest.fixture
def run(tiny, tmp_path):
    """A finished run of two epochs with two checkpoints, and its summary taken away so that it can go on."""
    tiny.checkpoint_every_steps = 8
    summary = train.train(tiny, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    return tmp_path / "run", summary


def newest(workdir):
    return max((workdir / "checkpoints").iterdir(), key=lambda path: int(path.name))


def arrays(directory):
    """The files of a checkpoint that hold its arrays, the largest first."""
    files = [path for path in (directory / "state").rglob("*") if path.is_file() and "/d/" in str(path)]
    return sorted(files, key=lambda path: -path.stat().st_size)


def truncate(directory):
    for path in arrays(directory):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty_file(directory):
    arrays(directory)[0].write_bytes(b"")


def remove_file(directory):
    arrays(directory)[0].unlink()


def flip_bits(directory):
    for path in arrays(directory):
        data = bytearray(path.read_bytes())
        for i in range(0, len(data), 61):  # not all bytes of a file are in use
            data[i] ^= 1
        path.write_bytes(data)


def empty_directory(directory):
    for path in directory.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def remove_progress(directory):
    shutil.rmtree(directory / "progress")


def a_directory_for_a_file(directory):  # cannot be read, whoever asks
    path = arrays(directory)[0]
    path.unlink()
    path.mkdir()


DAMAGE = [truncate, empty_file, remove_file, flip_bits, empty_directory, remove_progress, a_directory_for_a_file]


def test_the_two_latest_and_the_best_are_kept(tiny, tmp_path):
    tiny.num_epochs, tiny.optimizer.learning_rate = 6, 0.03
    summary = train.train(tiny, tmp_path / "run")
    kept = {int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert kept == {55, 66, summary["best_epoch"] * 11}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_broken_checkpoint_is_put_aside_for_the_one_before(tiny, run, capsys, damage):
    workdir, summary = run
    damage(newest(workdir))
    again = train.train(tiny, workdir)
    assert again["params_sha256"] == summary["params_sha256"]
    said = capsys.readouterr().err
    assert re.search(r"The checkpoint of step 22 is broken and kept in .*broken/22: going back to step 16\.", said)
    assert "Resumed at step" in said
    assert (workdir / "broken" / "22").is_dir()


def test_all_broken_is_refused_and_nothing_overwritten(tiny, run):
    workdir, _ = run
    for directory in (workdir / "checkpoints").iterdir():
        for path in arrays(directory):
            path.write_bytes(path.read_bytes()[:-10])
    before = {path: path.read_bytes() for path in (workdir / "checkpoints").rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="None of the checkpoints in .* is whole"):
        train.train(tiny, workdir)
    assert {path: path.read_bytes() for path in (workdir / "checkpoints").rglob("*") if path.is_file()} == before


def test_another_schema_is_refused_by_name(tiny, run):
    workdir, _ = run
    path = newest(workdir) / "progress" / "metadata"
    progress = json.loads(path.read_text())
    path.write_text(json.dumps(progress | {"schema": 0}))
    with pytest.raises(UserError, match="is of schema 0, and this jaxconv reads schema 1"):
        train.train(tiny, workdir)


def test_a_small_disk_is_refused_at_the_start(tiny, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10_000))
    with pytest.raises(UserError, match=r"need 0\.0 MB, and .* has 0\.0 MB free"):
        train.train(tiny, tmp_path / "run")


def test_more_epochs_go_on_where_the_schedule_does_not_depend_on_them(tiny, run, tmp_path):
    workdir, _ = run
    tiny.num_epochs = 3
    longer = train.train(tiny, workdir)
    whole = train.train(tiny, tmp_path / "whole")
    assert longer["params_sha256"] == whole["params_sha256"]
    assert len((workdir / "history.jsonl").read_text().splitlines()) == 3
    tiny.num_epochs = 1
    with pytest.raises(ConfigError, match="config.num_epochs=1, but the run in .* is at epoch 3"):
        train.train(tiny, workdir)


def test_more_epochs_are_refused_where_the_schedule_depends_on_them(tiny, tmp_path):
    tiny.optimizer.schedule = "cosine"
    train.train(tiny, tmp_path / "run")
    tiny.num_epochs = 3
    with pytest.raises(ConfigError, match="config.num_epochs: 2 there, 3 here"):
        train.train(tiny, tmp_path / "run")


def test_a_moved_workdir_goes_on(tiny, run, tmp_path):
    workdir, summary = run
    shutil.rmtree(newest(workdir))
    moved = workdir.rename(tmp_path / "moved")
    assert train.train(tiny, moved)["params_sha256"] == summary["params_sha256"]


def test_a_loss_that_is_not_finite_ends_the_run(tiny, tmp_path):
    tiny.optimizer.name, tiny.optimizer.learning_rate, tiny.checkpoint_every_steps = "sgd", 1e30, 1
    with pytest.raises(UserError, match=r"not finite at step \d+ \(learning rate 1e\+30\); the checkpoint of step"):
        train.train(tiny, tmp_path / "run")
    kept = [int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir()]
    with checkpoint.open_checkpoints(tmp_path / "run") as checkpoints:
        parts = train.set_up(train.resolve_config(tiny))
        state, _ = checkpoint.restore(checkpoints, max(kept), parts.state, train.replicated(parts.mesh))
    assert np.isfinite(state.epoch_sums.loss)

    tiny.stop_on_nan = False
    summary = train.train(tiny, tmp_path / "run")
    assert summary["epochs"] == 2
    last = json.loads((tmp_path / "run" / "history.jsonl").read_text().splitlines()[-1])
    assert last["train_loss"] is None  # JSON has no NaN


def test_the_digest_sees_path_dtype_shape_and_bytes():
    trees = [
        {"a": np.zeros((2, 3), np.float32)},
        {"b": np.zeros((2, 3), np.float32)},
        {"a": np.zeros((3, 2), np.float32)},
        {"a": np.zeros((2, 3), np.int32)},
        {"a": np.ones((2, 3), np.float32)},
        {"a": np.zeros((2, 3), np.float32), "b": np.zeros(())},
    ]
    assert len({checkpoint.sha256(tree) for tree in trees}) == len(trees)
    assert checkpoint.sha256({"a": jax.numpy.zeros((2, 3))}) == checkpoint.sha256(trees[0])


def test_nothing_of_a_workdir_is_pickled(run):
    workdir, _ = run
    for path in pathlib.Path(workdir).rglob("*"):
        if path.is_file():
            assert not path.read_bytes().startswith((b"\x80\x04", b"\x80\x05")), path
