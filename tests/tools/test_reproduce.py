"""python -m tools.reproduce, as a user calls it, in a checkout with one small config."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tools.results import BEGIN, END


@pytest.fixture
def checkout(tiny_config, tmp_path):
    (tmp_path / "configs").mkdir()
    shutil.copy(tiny_config, tmp_path / "configs" / "mine.py")
    shutil.copy(ROOT / "launch.py", tmp_path)
    for name in ("results", "docs"):
        (tmp_path / name).mkdir()
    (tmp_path / "README.md").write_text(BEGIN + END)
    return tmp_path


def reproduce(checkout, *arguments):
    command = [sys.executable, "-m", "tools.reproduce", *arguments]
    return subprocess.run(
        command,
        cwd=checkout,
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "200", "PYTHONPATH": str(ROOT)},
    )


def test_runs_collects_and_presents(checkout):
    first = reproduce(checkout, "mine")
    assert first.returncode == 0, first.stderr
    assert "Epoch 5/5" in first.stderr
    summary = json.loads((checkout / "results" / "mine.json").read_text())
    assert f"{summary['test_accuracy']:.2%}" in first.stdout
    assert "--config=configs/mine.py" in (checkout / "README.md").read_text()
    assert (checkout / "docs" / "curves" / "mine.png").exists()
    again = reproduce(checkout, "mine")
    assert "is finished" in again.stderr
    assert again.stdout == first.stdout


def test_a_config_that_is_not_there(checkout):
    process = reproduce(checkout, "min")
    assert process.returncode == 2
    assert process.stderr == "'min' is no config (did you mean mine?): choose from mine.\n"


def test_a_run_that_fails_is_not_collected(checkout):
    (checkout / "configs" / "mine.py").write_text("def get_config():\n    raise ValueError('no')\n")
    process = reproduce(checkout, "mine")
    assert process.returncode == 2
    assert "configs/mine.py failed" in process.stderr
    assert not list((checkout / "results").iterdir())
