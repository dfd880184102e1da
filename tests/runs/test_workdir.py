"""The config of a run and that of the command line."""

import json

import pytest

from jaxconv import experiment
from jaxconv.errors import ConfigError
from jaxconv.runs import workdir

NEW = ["pool_strides", "pool_padding", "global_pooling"]


@pytest.fixture
def run_of_an_earlier_version(tiny, tmp_path):
    """A workdir whose config.json lacks fields that came later."""
    config = experiment.resolve(tiny)
    with workdir.claim(tmp_path, config):
        written = json.loads((tmp_path / "config.json").read_text())
    for field in NEW:
        del written["model"][field]
    del written["augment"]["noise"]
    (tmp_path / "config.json").write_text(json.dumps(written))
    return tmp_path


def test_a_run_of_an_earlier_version_goes_on(run_of_an_earlier_version, tiny):
    config = experiment.resolve(tiny)
    workdir.check(run_of_an_earlier_version, config)
    with workdir.claim(run_of_an_earlier_version, config):
        assert json.loads((run_of_an_earlier_version / "config.json").read_text())["model"]["pool_padding"] == "valid"


def test_but_not_with_another_value_of_a_new_field(run_of_an_earlier_version, tiny):
    tiny.model.pool_padding, tiny.augment.noise = "same", 0.1
    with pytest.raises(ConfigError) as refusal:
        workdir.check(run_of_an_earlier_version, experiment.resolve(tiny))
    assert "config.model.pool_padding: 'valid' there, 'same' here" in str(refusal.value)
    assert "config.augment.noise: 0.0 there, 0.1 here" in str(refusal.value)


def test_a_field_that_is_gone_is_a_difference(tiny, tmp_path):
    config = experiment.resolve(tiny)
    with workdir.claim(tmp_path, config):
        written = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(written | {"old": 3}))
    with pytest.raises(ConfigError, match=r"config.old: 3 there, '\(absent\)' here"):
        workdir.check(tmp_path, config)


@pytest.mark.parametrize(
    ("epochs", "best_epoch", "num_epochs", "patience", "expected"),
    [
        (5, 1, 5, 0, True),
        (4, 1, 5, 0, False),
        (4, 1, 5, 4, False),
        (4, 1, 5, 3, True),
        (4, 4, 5, 1, False),
        (5, 5, 5, 1, True),  # at the last epoch, whichever is the best
        (6, 1, 5, 3, False),  # trained for more epochs than these
    ],
)
def test_a_run_is_finished_at_its_last_epoch_or_some_after_its_best(epochs, best_epoch, num_epochs, patience, expected):
    config = {"num_epochs": num_epochs, "early_stopping_epochs": patience}
    assert workdir.is_finished(epochs, best_epoch, config) is expected


def test_a_run_of_an_earlier_version_never_stops_early():
    assert workdir.is_finished(5, 1, {"num_epochs": 5})
    assert not workdir.is_finished(4, 1, {"num_epochs": 5})


def test_a_run_does_not_start_from_itself(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.init_from = "runs/../run/"
    (tmp_path / "runs").mkdir()
    with pytest.raises(ConfigError, match=r"config.init_from=runs/../run/ is the --workdir of this run: name another"):
        workdir.check(tmp_path / "run", experiment.resolve(tiny))
