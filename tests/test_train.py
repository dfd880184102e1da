"""What a run says of its input pipeline, and what it always ends in."""

import json
import shutil
import time

import jax
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from jaxconv import experiment
from jaxconv.data import pipeline
from jaxconv.data.tensorflow import import_tfds
from jaxconv.errors import ConfigError, UserError
from jaxconv.evaluate import evaluate
from jaxconv.models import registry
from jaxconv.ops import onednn
from jaxconv.parallel.mesh import make_mesh
from jaxconv.platform import devices
from jaxconv.report.run import report
from jaxconv.runs import checkpoint
from jaxconv.runs.trained import load
from jaxconv.runs.workdir import check, claim
from jaxconv.train import train
from jaxconv.training.views import mean_logits
from tests.conftest import TINY_SHAPE, prepare, read


@pytest.fixture
def slow_pipeline(monkeypatch):
    fast = pipeline.train_batches

    def slow(*arguments, **keywords):
        for batch in fast(*arguments, **keywords):
            time.sleep(0.05)
            yield batch

    monkeypatch.setattr(pipeline, "train_batches", slow)


@pytest.mark.usefixtures("slow_pipeline")
def test_a_pipeline_that_cannot_keep_up_is_named_once_with_the_figure(tiny, tmp_path, capsys):
    train(tiny, tmp_path / "run")
    said = [line for line in capsys.readouterr().err.splitlines() if "cannot keep up" in line]
    history = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert len(history) == 2
    assert all(record["data_wait"] > 0.1 for record in history)
    assert len(said) == 1
    assert f"waited for data {history[0]['data_wait']:.0%} of epoch 1" in said[0]


PINNED = "ec4563db9e00f624f6e457931968e6c6c9b29c39bc8eac692b9a856a2a851f4b"
"""params_sha256 of the run below with jaxlib 0.10.2. A change of this digest changes the result of every run."""
PINNED_ON = {"AMD EPYC (family 25, model 17)", "Intel(R) Xeon(R) Processor (family 6, model 167)"}
"""The processors that it was seen on. Others may round differently."""
ABSOLUTE_SUM, TEST_LOSS = 224.44196212367387, 2.3151531982421876


def test_a_run_ends_in_the_parameters_that_it_always_had(tiny, tmp_path):
    tiny.data.name, tiny.data.data_dir = "mnist_sample", None
    tiny.data.train, tiny.data.validation, tiny.data.test = "train[:200]", "train[200:300]", "train[300:400]"
    tiny.model.filters, tiny.batch_size = ((4,), (6,)), 32
    tiny.augment.rotation, tiny.augment.horizontal_flip = 10.0, True
    summary = train(tiny, tmp_path / "run")
    versions = summary["versions"]
    if versions["processor"] in PINNED_ON and versions["jaxlib"] == "0.10.2" and summary["config"]["ops"] == "onednn":
        assert summary["params_sha256"] == PINNED
    # Elsewhere the kernels differ, and the result agrees to rounding.
    setup = experiment.set_up(experiment.resolve(tiny))
    state, _ = checkpoint.restore(tmp_path / "run", summary["steps"], setup.state)
    total = sum(np.abs(np.asarray(leaf, np.float64)).sum() for leaf in jax.tree.leaves(state.params))
    assert total == pytest.approx(ABSOLUTE_SUM, rel=1e-4)
    assert summary["test_loss"] == pytest.approx(TEST_LOSS, rel=1e-3)


def test_what_auto_meant_is_kept_on_resume(tiny, tmp_path):
    tiny.ops, tiny.checkpoint_every_steps = "xla", 8
    whole = train(tiny, tmp_path / "run")
    assert whole["config"]["ops"] == "xla"
    (tmp_path / "run" / "summary.json").unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "22")
    tiny.ops = "auto"
    again = train(tiny, tmp_path / "run")
    assert (again["config"]["ops"], again["params_sha256"]) == ("xla", whole["params_sha256"])
    assert json.loads((tmp_path / "run" / "config.json").read_text())["ops"] == "xla"


def test_auto_is_bfloat16_where_it_is_fast(tiny, monkeypatch):
    tiny.compute_dtype = "auto"
    for has_onednn, has_bfloat16, expected in (
        (True, True, "bfloat16"),
        (True, False, "float32"),
        (False, True, "float32"),
    ):
        monkeypatch.setattr(onednn, "is_available", lambda has=has_onednn: has)
        monkeypatch.setattr(devices, "cpu_has_bfloat16", lambda has=has_bfloat16: has)
        assert experiment.resolve(tiny).compute_dtype == expected
    monkeypatch.setattr(jax, "default_backend", lambda: "cuda")
    assert experiment.resolve(tiny).compute_dtype == "bfloat16"


def test_the_dtype_that_auto_meant_is_kept_on_another_machine(tiny, tmp_path, monkeypatch):
    tiny.compute_dtype, tiny.checkpoint_every_steps = "auto", 8
    monkeypatch.setattr(devices, "cpu_has_bfloat16", lambda: False)
    whole = train(tiny, tmp_path / "run")
    assert whole["config"]["compute_dtype"] == "float32"
    (tmp_path / "run" / "summary.json").unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "22")
    monkeypatch.setattr(devices, "cpu_has_bfloat16", lambda: True)
    tiny.model = registry.resolve(tiny.model)
    check(tmp_path / "run", tiny)  # as jaxconv.seeds asks, which does not resolve the dtype
    assert train(tiny, tmp_path / "run")["params_sha256"] == whole["params_sha256"]
    tiny.compute_dtype = "bfloat16"
    with pytest.raises(ConfigError, match="compute_dtype: 'float32' there, 'bfloat16' here"):
        train(tiny, tmp_path / "run")


def test_a_net_reads_words_of_one_hot_characters(tiny, tmp_path):
    """Texts of 24 of 5 characters: does the word "abc" occur? A window of 3 characters sees it, wherever it is."""
    rng = np.random.default_rng(0)

    def texts(count):
        for i in range(count):
            characters = rng.integers(0, 5, 24)
            if i % 2:
                place = rng.integers(0, 22)
                characters[place : place + 3] = 0, 1, 2
            label = int("012" in "".join(map(str, characters)))
            yield {"text": np.eye(5, dtype=np.float32)[characters], "label": label}

    features = import_tfds().features
    described = {
        "text": features.Tensor(shape=(24, 5), dtype=np.float32),
        "label": features.ClassLabel(num_classes=2),
    }
    prepare("texts", tmp_path / "data", described, {"train": texts(1200), "test": texts(300)})
    tiny.data.name, tiny.data.data_dir = "texts", str(tmp_path / "data")
    tiny.model.filters, tiny.model.kernel_size, tiny.model.global_pooling = ((16,),), (3,), "max"
    tiny.model.dropout = tiny.model.dense_dropout = 0.0
    tiny.optimizer.learning_rate, tiny.num_epochs = 1e-2, 8
    summary = train(tiny, tmp_path / "run")
    assert summary["test_accuracy"] > 0.95


# ---- Early stopping


@pytest.fixture
def stops_early(tiny):
    """A run whose validation accuracy never changes: its best epoch is the first one."""
    tiny.optimizer.learning_rate, tiny.early_stopping_epochs, tiny.num_epochs = 1e-30, 2, 9
    return tiny


def test_a_run_stops_early(stops_early, tmp_path, monkeypatch, capsys):
    batches, dropped = pipeline.train_batches, []

    def watched(*arguments, **keywords):
        try:
            yield from batches(*arguments, **keywords)
        finally:
            dropped.append((tmp_path / "run" / "summary.json").exists())

    monkeypatch.setattr(pipeline, "train_batches", watched)
    summary = train(stops_early, tmp_path / "run")
    assert (summary["epochs"], summary["steps"], summary["best_epoch"]) == (3, 33, 1)
    assert dropped == [False]  # before the test
    accuracy = f"{summary['val_accuracy']:.4f}"
    early = f"after epoch 3 of 9: 2 epochs brought no better validation accuracy than {accuracy} of epoch 1."
    assert f"Stopped early {early}" in capsys.readouterr().err

    stops_early.num_epochs = 12
    assert train(stops_early, tmp_path / "run") == json.loads(json.dumps(summary))
    assert "is finished: it stopped early after epoch 3 of 12; name another" in capsys.readouterr().err
    assert evaluate(stops_early, tmp_path / "run")["test_loss"] == summary["test_loss"]
    stops_early.num_epochs = 2
    with pytest.raises(ConfigError, match="config.num_epochs=2, but the run in .* is at epoch 3"):
        train(stops_early, tmp_path / "run")
    stops_early.num_epochs, stops_early.early_stopping_epochs = 9, 3
    with pytest.raises(ConfigError, match="config.early_stopping_epochs: 2 there, 3 here"):
        train(stops_early, tmp_path / "run")


def test_a_run_that_goes_on_stops_early_where_it_would_have(stops_early, tmp_path, capsys):
    train(stops_early, tmp_path / "run")
    whole = read(tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    capsys.readouterr()
    train(stops_early, tmp_path / "run")  # as after a kill between the last epoch and the test
    said = capsys.readouterr().err
    assert "Resumed at step 33 of 99." in said
    assert "Stopped early after epoch 3 of 9" in said
    assert "Epoch" not in said
    assert read(tmp_path / "run") == whole
    (tmp_path / "run" / "summary.json").unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "33")
    train(stops_early, tmp_path / "run")
    assert read(tmp_path / "run") == whole


# ---- The clock of the records


@pytest.mark.parametrize("where", ["host", "device"])
def test_the_clock_counts_validation_and_test_but_neither_loading_nor_compilation(where, tiny, tmp_path, monkeypatch):
    tiny.data.pipeline = where

    def slow(name, seconds):
        fast = getattr(experiment, name)
        monkeypatch.setattr(experiment, name, lambda *arguments: time.sleep(seconds) or fast(*arguments))

    slow("compile_eval_step", 4)
    slow("ready", 2)  # of validation and of test
    slow("evaluate", 0.5)
    summary, workdir = train(tiny, tmp_path / "run"), tmp_path / "run"
    assert 3 * 0.5 < summary["clock_seconds"] < summary["wall_seconds"] - 8

    (workdir / "summary.json").unlink()
    shutil.rmtree(workdir / "checkpoints" / "22")
    again = train(tiny, workdir)
    assert again["clock_seconds"] > 3 * 0.5
    setup = experiment.set_up(experiment.resolve(tiny))
    _, progress = checkpoint.restore(workdir, 11, setup.state)
    assert 0.5 < progress["clock_seconds"] < again["clock_seconds"] - 2 * 0.5


# ---- Test-time views


def test_validation_and_test_average_over_the_views(tiny, tmp_path):
    tiny.evaluation.views, tiny.num_epochs = "mirror_and_shifts", 1
    summary = train(tiny, tmp_path / "run")
    setup = experiment.set_up(experiment.resolve(tiny))
    variables, _ = checkpoint.restore_best_variables(tmp_path / "run")
    test = setup.source.load("test")

    def logits_of(images):
        return setup.model.apply(variables, setup.signature.normalize(images), train=False)

    logits = mean_logits(logits_of, test.images, "mirror_and_shifts")
    with np.load(tmp_path / "run" / "predictions.npz") as predictions:
        np.testing.assert_allclose(predictions["probabilities"], jax.nn.softmax(logits), rtol=1e-4, atol=1e-6)
        assert not np.allclose(predictions["probabilities"], jax.nn.softmax(logits_of(test.images)), rtol=1e-3)
    assert evaluate(tiny, tmp_path / "run").items() >= {"test_loss": summary["test_loss"]}.items()


def test_signals_have_no_views(tiny, tmp_path):
    tiny.data.name, tiny.data.data_dir, tiny.evaluation.views = "mnist1d", None, "mirror"
    with pytest.raises(
        ConfigError, match=r"config.evaluation.views='mirror' is for images and clips, .* \(40, 1\): set"
    ):
        train(tiny, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ---- No validation split


@pytest.mark.parametrize("where", ["host", "device"])
def test_a_run_without_validation_keeps_its_last_epoch(where, tiny, tmp_path, capsys):
    tiny.data.name, tiny.data.data_dir = "mnist_sample", None
    tiny.data.train, tiny.data.validation, tiny.data.test = "train[:200]", None, "train[300:400]"
    tiny.batch_size, tiny.checkpoint_every_steps, tiny.data.pipeline = 32, 5, where
    summary, workdir = train(tiny, tmp_path / "run"), tmp_path / "run"
    history, _ = whole = read(workdir)
    assert [(record["val_loss"], record["val_accuracy"]) for record in history] == [(None, None)] * 2
    assert (summary["best_epoch"], summary["val_accuracy"], summary["steps"]) == (2, None, 14)
    said = capsys.readouterr().err
    assert "200 examples to train on, none to validate" in said
    assert "acc" in said
    assert "val_" not in said
    events = EventAccumulator(str(workdir / "tensorboard")).Reload()
    assert not [name for name in events.Tags()["scalars"] if name.startswith("val_")]

    assert evaluate(tiny, workdir) == {key: summary[key] for key in ("test_loss", "test_accuracy")}
    assert "The run has no validation split: config.data.validation is None." in capsys.readouterr().err
    text = report(tiny, workdir).read_text()
    assert "The run has no validation split: the parameters of this report are those of the last epoch." in text

    resumed(tiny, workdir, without=[14])
    assert "Resumed at step 10 of 14." in capsys.readouterr().err
    assert read(workdir) == whole

    (workdir / "summary.json").unlink()  # as after a kill before the test
    assert evaluate(tiny, workdir) == {}
    assert "The best epoch so far is 2. The test set stays closed" in capsys.readouterr().err
    with pytest.raises(UserError, match="no predictions of its test set, and no validation split to report instead"):
        report(tiny, workdir)

    tiny.init_from, tiny.num_epochs = str(workdir), 1
    train(tiny, tmp_path / "next")
    assert f"Starts from {workdir}, epoch 2: all 3 layers." in capsys.readouterr().err


# ---- Average


def resumed(config, workdir, *, without):
    """Take the result and the last checkpoints of a finished run away, as a kill would have, and train on."""
    (workdir / "summary.json").unlink()
    for step in without:
        shutil.rmtree(workdir / "checkpoints" / str(step))
    return train(config, workdir)


def test_a_run_with_an_average(tiny, tmp_path, capsys):
    """A kill changes nothing, and all that reads the net takes the average."""
    tiny.model.batch_norm, tiny.checkpoint_every_steps, tiny.ema_decay = True, 8, 0.9
    summary = train(tiny, tmp_path / "run")
    setup = experiment.set_up(experiment.resolve(tiny))
    state, _ = checkpoint.restore(tmp_path / "run", 22, setup.state)
    assert summary["params_sha256"] == checkpoint.sha256(state.params)

    whole = read(tmp_path / "run")
    capsys.readouterr()
    resumed(tiny, tmp_path / "run", without=[22])
    assert "Resumed at step 16 of 22." in capsys.readouterr().err
    assert read(tmp_path / "run") == whole

    state, _ = checkpoint.restore(tmp_path / "run", summary["best_epoch"] * 11, setup.state)
    average, _ = checkpoint.restore_best_variables(tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, average, state.ema)
    assert checkpoint.sha256(average["params"]) != checkpoint.sha256(state.params)
    with np.load(tmp_path / "run" / "predictions.npz") as predictions:
        images = setup.source.load("test").images
        logits = setup.model.apply(average, setup.signature.normalize(images), train=False)
        np.testing.assert_allclose(predictions["probabilities"], jax.nn.softmax(logits), rtol=1e-4, atol=1e-6)
    evaluated = evaluate(tiny, tmp_path / "run")
    assert (evaluated["test_loss"], evaluated["val_accuracy"]) == (summary["test_loss"], summary["val_accuracy"])

    tiny.init_from, tiny.optimizer.learning_rate = str(tmp_path / "run"), 1e-30
    train(tiny, tmp_path / "next")
    taken, _ = checkpoint.restore_best_variables(tmp_path / "next")
    jax.tree.map(np.testing.assert_array_equal, taken["params"], average["params"])


# ---- Muon


def test_a_run_with_muon_groups_and_lookahead(tiny, tmp_path, capsys):
    """It learns, a kill changes nothing, and another run starts from it."""
    tiny.model.batch_norm, tiny.checkpoint_every_steps, tiny.num_epochs = True, 8, 4
    tiny.model.dropout = tiny.model.dense_dropout = 0.0
    tiny.optimizer.update(name="muon", learning_rate=0.1, momentum=0.6, schedule="linear")
    tiny.optimizer.groups = (
        ("logits/*", {"name": "sgd", "learning_rate": 0.01}),
        ("Conv_0/bias", {"learning_rate": 0.01, "epochs": 1}),
    )
    tiny.loss_reduction, tiny.lookahead_steps, tiny.clip_norm, tiny.ema_decay = "sum", 5, 50.0, 0.5
    summary = train(tiny, tmp_path / "run")
    whole = history, _ = read(tmp_path / "run")
    assert history[-1]["train_loss"] < 0.7 * history[0]["train_loss"]
    assert [epoch["learning_rate"] for epoch in history] == pytest.approx(
        [0.1 * (44 - n) / 44 for n in (10, 21, 32, 43)]
    )
    assert summary["test_accuracy"] > 0.6
    capsys.readouterr()
    resumed(tiny, tmp_path / "run", without=[44])
    assert "Resumed at step 40 of 44." in capsys.readouterr().err
    assert read(tmp_path / "run") == whole

    assert load(tmp_path / "run").config.optimizer.groups == tiny.optimizer.groups
    tiny.init_from = str(tmp_path / "run")
    train(tiny, tmp_path / "next")
    assert "all 4 layers." in capsys.readouterr().err

    tiny.init_from, tiny.optimizer.groups = None, tiny.optimizer.groups[:1]
    with pytest.raises(ConfigError, match="config.optimizer.groups: "):
        train(tiny, tmp_path / "run")


def test_a_group_without_parameters_is_refused_before_the_workdir_is_touched(tiny, tmp_path):
    tiny.optimizer.groups = (("head/*", {"learning_rate": 0.01}),)
    with pytest.raises(
        ConfigError, match=r"config.optimizer.groups: 'head/\*' matches no parameter .* logits/kernel\."
    ):
        train(tiny, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ---- Remat


def test_remat_takes_less_memory_on_a_cpu(tiny):
    tiny.model.filters, tiny.model.pool_size = ((8, 8),) * 4, 1

    def temporary_bytes(remat):
        tiny.remat = remat
        config = experiment.resolve(tiny)
        mesh = make_mesh(1, config.batch_size)
        _, _, state = experiment.create(config, mesh, TINY_SHAPE, num_classes=4, steps_per_epoch=3)
        step = experiment.compile_train_step(config, mesh, state, TINY_SHAPE)
        return step.memory_analysis().temp_size_in_bytes

    assert temporary_bytes(remat=True) < 0.75 * temporary_bytes(remat=False)


def test_a_run_with_remat_is_as_one_without(tiny, tmp_path, capsys):
    plain = train(tiny, tmp_path / "plain")
    tiny.remat = True
    summary = train(tiny, tmp_path / "run")
    assert summary["test_loss"] == pytest.approx(plain["test_loss"], rel=1e-3)
    tiny.remat, tiny.init_from, tiny.num_epochs = False, str(tmp_path / "run"), 1
    train(tiny, tmp_path / "next")
    assert f"Starts from {tmp_path}/run, epoch {summary['best_epoch']}: all 3 layers." in capsys.readouterr().err


# ---- Start from another run


def test_a_run_starts_from_the_best_epoch_of_another_and_goes_on_without_it(tiny, tmp_path, capsys):
    tiny.model.batch_norm = True
    other = train(tiny, tmp_path / "other")
    tiny.num_epochs, tiny.optimizer.name, tiny.optimizer.weight_decay = 1, "sgd", 0.1
    tiny.init_from, tiny.freeze_stages, tiny.class_weights = str(tmp_path / "other"), 1, "balanced"
    tiny.model.dense, tiny.mixup = (6,), 0.2
    capsys.readouterr()
    train(tiny, tmp_path / "run")
    said = f"Starts from {tmp_path}/other, epoch {other['best_epoch']}: 2 of 4 layers; new: Dense_0, logits."
    assert said in capsys.readouterr().err
    taken, trained = (checkpoint.restore_best_variables(tmp_path / name)[0] for name in ("other", "run"))
    for collection, layer in (("params", "Conv_0"), ("params", "BatchNorm_0"), ("batch_stats", "BatchNorm_0")):
        jax.tree.map(np.testing.assert_array_equal, trained[collection][layer], taken[collection][layer])

    whole = read(tmp_path / "run")
    for path in ("other", "run/checkpoints/11"):  # what is left is the start
        shutil.rmtree(tmp_path / path)
    (tmp_path / "run" / "summary.json").unlink()
    train(tiny, tmp_path / "run")
    assert "Resumed at step 0 of 11." in capsys.readouterr().err
    assert read(tmp_path / "run") == whole


def test_a_run_that_none_can_start_from_is_refused(tiny, tmp_path):
    tiny.num_epochs = 1
    with claim(tmp_path / "begun", experiment.resolve(tiny)):
        pass
    train(tiny, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "broken")
    shutil.rmtree(tmp_path / "broken" / "checkpoints" / "11" / "state")
    tiny.model.filters, tiny.model.dense = ((5,),), (6,)
    for name, sentence in {
        "nowhere": "holds no run: name the --workdir of one.",
        "begun": "has not finished an epoch",
        "broken": "None of the checkpoints in .* is whole",
        "whole": "has no layer with the name and the shapes of one of this net",
        "run": "is the --workdir of this run",
    }.items():
        tiny.init_from = str(tmp_path / name)
        with pytest.raises(UserError, match=f"config.init_from={tmp_path}/{name}.*{sentence}"):
            train(tiny, tmp_path / "run")
    assert not (tmp_path / "run").exists()
