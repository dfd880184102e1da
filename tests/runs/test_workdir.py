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
