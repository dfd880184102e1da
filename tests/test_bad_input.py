"""A table of what can be wrong with a run: each row ends in one sentence, before the workdir is touched."""

import errno
import json
import math
import os
import re

import pytest

from jaxconv import experiment
from jaxconv.config import validate
from jaxconv.data import pipeline
from jaxconv.errors import ConfigError, UserError
from jaxconv.runs.workdir import claim
from jaxconv.train import train
from tests.conftest import ROOT, launch

HUGE, NAN, INF = 10**12, math.nan, math.inf

VALUES = [
    ("seed", -1),
    ("seed", HUGE),
    ("num_epochs", 0),
    ("num_epochs", -3),
    ("num_epochs", HUGE),
    ("batch_size", 0),
    ("batch_size", -1),
    ("batch_size", HUGE),
    ("accumulate_steps", 0),
    ("accumulate_steps", -2),
    ("accumulate_steps", 3),  # does not divide the batch
    ("accumulate_steps", HUGE),
    ("num_devices", 0),
    ("num_devices", -2),
    ("num_devices", 3),  # does not divide the batch
    ("num_devices", 16),  # more than there are
    ("num_devices", HUGE),
    ("checkpoint_every_steps", -1),
    ("ema_decay", -0.1),
    ("ema_decay", 1.0),
    ("ema_decay", NAN),
    ("clip_norm", -0.1),
    ("clip_norm", NAN),
    ("clip_norm", INF),
    ("label_smoothing", -0.1),
    ("label_smoothing", 1.0),
    ("label_smoothing", NAN),
    ("label_smoothing", INF),
    ("mixup", -0.2),
    ("mixup", INF),
    ("init_from", "/nowhere"),
    ("init_from", ""),
    ("freeze_stages", -1),
    ("freeze_stages", 2),  # more than there are
    ("freeze_stages", HUGE),
    ("class_weights", "balance"),
    ("early_stopping_epochs", -1),
    ("augment.rotation", -1.0),
    ("augment.rotation", 181.0),
    ("augment.rotation", NAN),
    ("augment.width_shift", 1.5),
    ("augment.height_shift", -0.1),
    ("augment.rescaling", 1.0),
    ("augment.zoom", 1.0),
    ("augment.zoom", NAN),
    ("augment.shear", 90.0),
    ("augment.crop_padding", -1),
    ("augment.crop_padding", 9),  # larger than the images
    ("augment.crop_padding", HUGE),
    ("augment.fill", "mirror"),
    ("augment.channel_shift", 256.0),
    ("augment.brightness", 1.1),
    ("augment.contrast", INF),
    ("augment.cutout", -1),
    ("augment.cutout", 9),  # larger than the images
    ("evaluation.views", "flip"),
    ("data.name", "cifar_10"),
    ("data.name", ""),
    ("data.name", "../tiny"),
    ("data.name", "/etc/passwd"),
    ("data.train", "trian"),
    ("data.train", ""),
    ("data.train", "train[:0]"),
    ("data.train", "train[:150%]"),
    ("data.train", "train[80%"),
    ("data.validation", "train[100%:]"),
    ("data.validation", "valid"),
    ("data.test", "tset"),
    ("data.name", "fashion_mnist"),  # not prepared there, and no network
    ("augment.noise", -0.1),
    ("augment.noise", NAN),
    ("model.name", "lenett"),
    ("model.name", ""),
    ("model.filters", (4,)),
    ("model.filters", ((4,), ())),
    ("model.filters", ((0,),)),
    ("model.filters", ((-4,),)),
    ("model.filters", ((4.5,),)),
    ("model.filters", ((HUGE,),)),
    ("model.filters", ((4,), (4,), (4,), (4,))),  # leaves no pixels
    ("model.kernel_size", 0),
    ("model.kernel_size", -3),
    ("model.kernel_size", HUGE),
    ("model.kernel_size", (3, 3, 3)),  # of images of two dimensions
    ("model.kernel_size", (3, 0)),
    ("model.kernel_size", ()),
    ("model.kernel_size", (3, "3")),
    ("model.kernel_size", 65536),  # more memory than there is
    ("model.strides", 0),
    ("model.strides", (1,)),
    ("model.strides", (0, 1)),
    ("model.strides", HUGE),
    ("model.padding", "full"),
    ("model.pooling", "median"),
    ("model.pool_size", 0),
    ("model.pool_size", 100),
    ("model.pool_size", (2, 2, 2)),
    ("model.pool_size", (1, 100)),
    ("model.pool_strides", 0),
    ("model.pool_strides", (2,)),
    ("model.pool_padding", "full"),
    ("model.global_pooling", "mean"),
    ("model.dropout", -0.5),
    ("model.dropout", 1.0),
    ("model.dropout", NAN),
    ("model.dense", ("many",)),
    ("model.dense", (0,)),
    ("model.dense", (HUGE,)),
    ("model.dense_dropout", 2.0),
    ("model.dense_dropout", NAN),
    ("model.activation", "relo"),
    ("optimizer.name", "adamm"),
    ("optimizer.name", ""),
    ("optimizer.learning_rate", 0.0),
    ("optimizer.learning_rate", -0.1),
    ("optimizer.learning_rate", NAN),
    ("optimizer.learning_rate", INF),
    ("optimizer.schedule", "cosin"),
    ("optimizer.warmup_epochs", -1.0),
    ("optimizer.warmup_epochs", NAN),
    ("optimizer.warmup_epochs", 1e300),
    ("optimizer.momentum", 1.0),
    ("optimizer.momentum", -0.1),
    ("optimizer.weight_decay", -1e-4),
    ("optimizer.weight_decay", NAN),
    ("optimizer.weight_decay", INF),
    ("optimizer.groups", (("head/*", {}),)),
    ("optimizer.groups", (("*", {"name": "adamm"}),)),
    ("optimizer.groups", (("*", {"learning_rate": INF}),)),
    ("optimizer.groups", (("*", {"epochs": 1e300}),)),
    ("loss_reduction", "max"),
    ("lookahead_steps", -1),
    ("lookahead_steps", HUGE),
    ("lookahead_alpha", 1.5),
    ("lookahead_alpha", NAN),
]


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(("key", "value"), VALUES)
def test_a_value_is_refused(tiny, tmp_path, key, value):
    tiny.update_from_flattened_dict({key: value})

    def run():
        validate(tiny)
        train(tiny, tmp_path / "run")

    with pytest.raises(UserError) as refusal:
        run()
    assert refusal.value.exit_status in (1, 2)
    sentence = str(refusal.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    assert key.split(".")[-1] in sentence or repr(value) in sentence or "stage" in sentence.lower()
    assert not (tmp_path / "run").exists()


def test_one_example_is_enough(tiny, tmp_path):
    tiny.data.train, tiny.data.validation, tiny.data.test = "train[:1]", "train[1:2]", "test[:1]"
    summary = train(tiny, tmp_path / "run")
    assert (summary["steps"], summary["test_examples"]) == (2, 1)


def test_a_workdir_that_is_a_file(tiny, tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(UserError, match="is a file"):
        train(tiny, tmp_path / "run")
    assert (tmp_path / "run").read_text() == "mine"


def test_a_workdir_that_cannot_be_made(tiny, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="cannot be written"):
        train(tiny, tmp_path / "file" / "run")


def test_a_workdir_in_a_place_that_takes_none():
    process = launch(f"--config={ROOT}/configs/quickstart.py", "--workdir=/proc/nope", status=1)
    assert re.search(r"--workdir=/proc/nope cannot be written \(.+\): make room, or name another\.$", process.stderr)
    assert "Traceback" not in process.stderr


def test_a_workdir_that_became_another_runs_meanwhile(tiny, tmp_path):
    """As if the other had been claimed and left between the first look and the lock."""
    tiny.seed = 7
    with claim(tmp_path / "run", tiny):
        pass
    tiny.seed = 8
    with pytest.raises(ConfigError, match=r"config.seed: 7 there, 8 here"), claim(tmp_path / "run", tiny):
        pass


def test_a_run_that_another_process_finished_meanwhile(tiny, tmp_path, monkeypatch, capsys):
    set_up, finished = experiment.set_up, []

    def slowly(config, clock):
        if not finished:
            finished.append(None)
            finished[0] = train(tiny, tmp_path / "run")
        return set_up(config, clock)

    monkeypatch.setattr(experiment, "set_up", slowly)
    assert train(tiny, tmp_path / "run") == json.loads(json.dumps(finished[0]))
    assert "is finished; name another --workdir" in capsys.readouterr().err


def test_an_error_of_reading_data_is_not_said_of_the_workdir(tiny, tmp_path, monkeypatch):
    def broken(*arguments, **keywords):
        raise OSError(errno.EIO, "Input/output error", "the data")

    monkeypatch.setattr(pipeline, "train_batches", broken)
    with pytest.raises(OSError, match="the data"):
        train(tiny, tmp_path / "run")


@pytest.mark.parametrize("name", ["config.json", "summary.json"])
def test_a_broken_file_of_a_run(tiny, tmp_path, name):
    with claim(tmp_path, experiment.resolve(tiny)):
        pass
    (tmp_path / name).write_text("{")
    with pytest.raises(UserError, match=f"{name} cannot be read as JSON"):
        train(tiny, tmp_path)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="no such permissions")
def test_a_workdir_that_is_read_only(tiny, tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    workdir.chmod(0o555)
    user = os.geteuid()
    if user == 0:  # who may write everywhere
        os.seteuid(65534)
    try:
        with pytest.raises(UserError, match="cannot be written .Permission denied."), claim(workdir, tiny):
            pass
    finally:
        os.seteuid(user)
    assert not list(workdir.iterdir())
