"""Checkpoints: which are kept, what a broken one does, what a full disk does."""

import errno
import gc
import json
import os
import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxconv import experiment, train
from jaxconv.config import to_json
from jaxconv.errors import ConfigError, UserError
from jaxconv.evaluate import evaluate
from jaxconv.runs import checkpoint
from jaxconv.runs import workdir as files
from jaxconv.training import optimizers

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


# Damage to a checkpoint that a whole run goes on from.


def flip_bits(directory):
    for path in arrays(directory):
        data = bytearray(path.read_bytes())
        for i in range(0, len(data), 61):  # not all bytes of a file are in use
            data[i] ^= 1
        path.write_bytes(data)


def remove_progress(directory):
    shutil.rmtree(directory / "progress")


def a_directory_for_a_file(directory):  # cannot be read, whoever asks
    path = arrays(directory)[0]
    path.unlink()
    path.mkdir()


DAMAGE = [flip_bits, remove_progress, a_directory_for_a_file]


# Damage to any single file of one.


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def remove(path):
    path.unlink()


def change_byte(share, bit):
    def change(path):
        data = bytearray(path.read_bytes())
        data[round(share * (len(data) - 1))] ^= 1 << bit
        path.write_bytes(data)

    return change


TO_A_FILE = [truncate, empty, remove]
TO_A_FILE += [change_byte(share, bit) for share, bit in ((0, 0), (0.07, 3), (0.31, 6), (0.5, 1), (0.77, 5), (1, 2))]


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


@pytest.fixture
def restored(tiny, run):
    """The step, the digest of the arrays and the progress that a run would go on from."""
    parts = experiment.set_up(experiment.resolve(tiny))

    def restore(workdir):
        state, progress = checkpoint.restore_latest(workdir, parts.state, print)
        return int(state.step), checkpoint.sha256(checkpoint._arrays(state)), progress

    return restore


def test_any_file_damaged_in_any_way_is_harmless_or_detected(run, restored, tmp_path):
    workdir, _ = run
    newest_step, before = restored(workdir), restored_without_newest(workdir, restored, tmp_path)
    files = [path.relative_to(workdir) for path in newest(workdir).rglob("*") if path.is_file()]
    assert len(files) >= 8
    detected = set()
    for file in files:
        for number, damage in enumerate(TO_A_FILE):
            shutil.copytree(workdir, copy := tmp_path / "copy")
            damage(copy / file)
            after = restored(copy)
            assert after in (newest_step, before), (file, number)
            if after == before:
                detected.add(file)
            shutil.rmtree(copy)
    assert {file.parts[2] for file in detected} == {"progress", "state"}  # what is left is Orbax' own, and not needed


def restored_without_newest(workdir, restored, tmp_path):
    shutil.copytree(workdir, copy := tmp_path / "copy")
    shutil.rmtree(newest(copy))
    before = restored(copy)
    shutil.rmtree(copy)
    return before


def test_an_empty_directory_is_no_checkpoint(run, restored):
    workdir, _ = run
    for path in newest(workdir).iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert restored(workdir)[0] == 16


def test_all_broken_is_refused_and_nothing_overwritten(tiny, run):
    workdir, _ = run
    for directory in (workdir / "checkpoints").iterdir():
        for path in arrays(directory):
            path.write_bytes(path.read_bytes()[:-10])
    before = {path: path.read_bytes() for path in (workdir / "checkpoints").rglob("*") if path.is_file()}
    for attempt in (train.train, evaluate):
        with pytest.raises(UserError, match="None of the checkpoints in .* is whole"):
            attempt(tiny, workdir)
    assert {path: path.read_bytes() for path in (workdir / "checkpoints").rglob("*") if path.is_file()} == before


def test_an_error_of_reading_that_passes_is_none(run, restored, monkeypatch):
    workdir, _ = run
    whole, restore, errors = restored(workdir), checkpoint.restore, [OSError(errno.EIO, "Input/output error")]

    def unsteady(*arguments):
        if errors:
            raise errors.pop()
        return restore(*arguments)

    monkeypatch.setattr(checkpoint, "restore", unsteady)
    assert restored(workdir) == whole
    assert not (workdir / "broken").exists()


def test_an_error_of_reading_that_stays_is_said_and_nothing_moved(run, restored, monkeypatch):
    workdir, _ = run
    there = sorted((workdir / "checkpoints").iterdir())
    unreadable = arrays(newest(workdir))[0]
    read_bytes = pathlib.Path.read_bytes

    def refuse(path):
        if path == unreadable:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return read_bytes(path)

    def restore(*arguments):
        raise ValueError("whatever TensorStore makes of it")

    monkeypatch.setattr(pathlib.Path, "read_bytes", refuse)
    monkeypatch.setattr(checkpoint, "restore", restore)
    with pytest.raises(UserError, match=rf"{unreadable} cannot be read \(Input/output error\): .* nothing was changed"):
        restored(workdir)
    assert sorted((workdir / "checkpoints").iterdir()) == there


def rewrite_progress(workdir, **changes):
    """Change what the newest checkpoint says, with a digest that is right."""
    path = newest(workdir) / "progress" / "metadata"
    progress = json.loads(path.read_text()) | changes
    progress.pop("sha256")
    path.write_text(json.dumps(progress | {"sha256": checkpoint._json_sha256(progress)}))


def test_another_schema_is_refused_by_name(tiny, run):
    workdir, _ = run
    rewrite_progress(workdir, schema=4)
    for attempt in (train.train, evaluate):
        with pytest.raises(UserError, match="is of schema 4, and this jaxconv reads schema 3"):
            attempt(tiny, workdir)


def test_the_first_schema_which_had_no_digest_of_its_own_is_refused_by_name(tiny, run):
    workdir, _ = run
    path = newest(workdir) / "progress" / "metadata"
    progress = json.loads(path.read_text()) | {"schema": 1}
    del progress["sha256"]
    path.write_text(json.dumps(progress))
    with pytest.raises(UserError, match="is of schema 1, and this jaxconv reads schema 3"):
        train.train(tiny, workdir)


def test_other_versions_are_named_once(tiny, run, capsys):
    workdir, summary = run
    assert summary["versions"].keys() >= {"jax", "tensorflow", "onednn", "data", "processor"}
    assert summary["versions"]["data"] == "tiny/1.0.0"
    rewrite_progress(workdir, versions=summary["versions"] | {"jax": "0.9.9", "onednn": None})
    train.train(tiny, workdir)
    said = [line for line in capsys.readouterr().err.splitlines() if "bits may differ" in line]
    assert said == [
        f"Begun with jax 0.9.9 (now {jax.__version__}), onednn None (now {summary['versions']['onednn']}): "
        "bits may differ from those of a run that nothing interrupted."
    ]


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


def test_batch_statistics_are_part_of_a_checkpoint(tiny, tmp_path):
    """A run that goes on from the middle of an epoch ends as one that nothing interrupted."""
    tiny.model.batch_norm, tiny.checkpoint_every_steps = True, 8
    whole = train.train(tiny, tmp_path / "run")
    before = restored_collections(tiny, tmp_path / "run")
    for name in ("summary.json", "checkpoints/22"):
        path = tmp_path / "run" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    again = train.train(tiny, tmp_path / "run")
    assert (again["params_sha256"], again["test_loss"]) == (whole["params_sha256"], whole["test_loss"])
    assert restored_collections(tiny, tmp_path / "run") == before


def restored_collections(tiny, workdir):
    parts = experiment.set_up(experiment.resolve(tiny))
    state, _ = checkpoint.restore(workdir, 22, parts.state)
    assert set(state.collections) == {"batch_stats"}
    return checkpoint.sha256(state.collections)


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


def numbers(tiny, workdir, step):
    """The parameters of a checkpoint."""
    parts = experiment.set_up(experiment.resolve(tiny))
    state, _ = checkpoint.restore(workdir, step, parts.state)
    return jax.tree.leaves(state.params)


def test_a_loss_that_is_not_finite_ends_the_run(tiny, tmp_path):
    tiny.optimizer.name, tiny.optimizer.learning_rate, tiny.checkpoint_every_steps = "sgd", 1e30, 1
    with pytest.raises(UserError, match=r"not finite at step \d+ \(learning rate 1e\+30\); the checkpoint of step"):
        train.train(tiny, tmp_path / "run")
    for step in checkpoint.steps(tmp_path / "run"):
        assert all(np.isfinite(leaf).all() for leaf in numbers(tiny, tmp_path / "run", step))

    tiny.stop_on_nan = False
    summary = train.train(tiny, tmp_path / "run")
    assert summary["epochs"] == 2
    train.train(tiny, tmp_path / "run")  # which only reads the summary
    for line in [*(tmp_path / "run" / "history.jsonl").read_text().splitlines(), summary_text(tmp_path / "run")]:
        json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    last = json.loads((tmp_path / "run" / "history.jsonl").read_text().splitlines()[-1])
    assert last["train_loss"] is None  # JSON has no NaN
    assert json.loads(summary_text(tmp_path / "run"))["test_loss"] is None


def summary_text(workdir):
    return (workdir / "summary.json").read_text()


@pytest.mark.parametrize(
    ("poisoned_step", "said"),
    [
        (4, "A parameter, .* is not finite at step 4"),
        (2, "The loss is not finite at step 3"),
        (11, "A parameter, .* step 11"),
    ],
)
def test_no_checkpoint_holds_a_parameter_that_is_not_finite(tiny, tmp_path, monkeypatch, poisoned_step, said):
    """A step whose loss is finite, and whose update is not."""

    def poison(*arguments, **keywords):
        return lambda step: jnp.where(step == poisoned_step - 1, jnp.nan, 1e-3)

    monkeypatch.setattr(optimizers, "create_schedule", poison)
    tiny.checkpoint_every_steps = 4
    with pytest.raises(UserError, match=said):
        train.train(tiny, tmp_path / "run")
    kept = checkpoint.steps(tmp_path / "run")
    assert kept == [step for step in (8, 4) if step < poisoned_step]
    assert all(np.isfinite(leaf).all() for step in kept for leaf in numbers(tiny, tmp_path / "run", step))


def test_the_test_set_is_opened_for_a_finished_run_alone(tiny, tmp_path, capsys):
    workdir = tmp_path / "run"
    summary = train.train(tiny, workdir)
    finished = evaluate(tiny, workdir)
    assert (finished["test_loss"], finished["val_accuracy"]) == (summary["test_loss"], summary["val_accuracy"])
    capsys.readouterr()
    (workdir / "summary.json").unlink()
    (workdir / "history.jsonl").write_text("")  # the checkpoint knows better
    assert evaluate(tiny, workdir) == {key: finished[key] for key in ("val_loss", "val_accuracy")}
    assert "The test set stays closed until the run is finished." in capsys.readouterr().err
    tiny.num_epochs = 3  # finished with 2, and to be trained further
    files.write_atomically(workdir / "config.json", to_json(experiment.resolve(tiny)))
    files.write_summary(workdir, summary)
    assert "test_loss" not in evaluate(tiny, workdir)


def test_a_longer_warm_up_than_the_run_goes_on_exactly(tiny, tmp_path):
    tiny.optimizer.warmup_epochs, tiny.num_epochs = 3.0, 1
    train.train(tiny, tmp_path / "run")
    tiny.num_epochs = 2
    longer, whole = train.train(tiny, tmp_path / "run"), train.train(tiny, tmp_path / "whole")
    assert longer["params_sha256"] == whole["params_sha256"]


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
