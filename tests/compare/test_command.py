"""python -m jaxconv.compare as a user starts it, its page in a browser, and what it refuses."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import pytest

from jaxconv.compare.__main__ import compare
from jaxconv.errors import ConfigError, UserError
from tests.browser import chromium
from tests.conftest import NO_NETWORK, ROOT


def start(*arguments, **keywords):
    command = [sys.executable, "-m", "jaxconv.compare", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | NO_NETWORK | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, **pipes, **keywords)


def run(*arguments, status=0, **keywords):
    process = start(*arguments, **keywords)
    out, err = process.communicate(timeout=120)
    assert process.returncode == status, err
    return out, err


def test_the_command(two, tmp_path):
    out, err = run(*two, cwd=tmp_path)
    assert err == ""
    *text, path = out.splitlines()
    assert path == "comparison.html"
    assert any(re.fullmatch(r"first +81.82% +69.67% to 89.81% +55 +60.00% +2 of 2 *", line) for line in text)
    assert any(re.fullmatch(r"first +second +\+18.18 points +0.041 +15 +5 *", line) for line in text)
    assert all(len(line) <= 160 for line in text)
    page = tmp_path / "comparison.html"
    assert page.stat().st_size < 5e6
    look_at(page)


def look_at(page: pathlib.Path):
    with chromium(390, 800) as window:
        window.get(page.as_uri())
        assert window.get_log("browser") == []
        events = [json.loads(entry["message"])["message"] for entry in window.get_log("performance")]
        requests = [event["params"]["request"]["url"] for event in events if event["method"].endswith("WillBeSent")]
        assert {url for url in requests if not url.startswith("data:")} == {page.as_uri()}
        widths = window.execute_script("return [...document.images].map(image => image.naturalWidth)")
        assert len(widths) == 17
        assert all(widths)
        assert window.execute_script("return document.documentElement.scrollWidth") == 390
        assert window.execute_script("return [...document.images].every(image => image.alt)")
        assert window.execute_script("return [...document.querySelectorAll('th')].every(cell => cell.scope)")
        assert window.execute_script("return document.querySelectorAll('svg[role=img][aria-label]').length") == 4


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        ([], 2, "Name two runs or more"),
        (["{run}"], 2, "Name two runs or more"),
        (["{run}", "{other}", "--outptu=x"], 2, "Unknown command line flag 'outptu'"),
        (["{run}", "{other}", "--output"], 2, "Missing value for flag --output"),
        (["{run}", "{dir}/nothing"], 2, "nothing is not a directory"),
        (["{run}", "{file}"], 2, "file is not a directory"),
        (["{run}", "{other}", "{run}/../first/"], 2, "is named twice"),
        (["{run}", "{other}", "--output={dir}/nothing/page.html"], 2, "there is no directory"),
        (["{run}", "{other}", "--output={file}/page.html"], 2, "there is no directory"),
        (["{run}", "{other}", "--output={dir}"], 2, "is a directory: name a file"),
        (["{run}", "{other}", "--output=/proc/page.html"], 1, "--output=/proc/page.html cannot be written"),
    ],
)
def test_wrong_command_lines(tmp_path, arguments, status, sentence):
    places = {"run": tmp_path / "first", "other": tmp_path / "second", "dir": tmp_path, "file": tmp_path / "file"}
    places["run"].mkdir()
    places["other"].mkdir()
    places["file"].write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    out, err = run(*(argument.format(**places) for argument in arguments), status=status, cwd=tmp_path)
    assert out == ""
    assert err.startswith("jaxconv.compare: ")
    assert sentence in err
    assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_wrong_command_line_is_answered_before_jax_and_tensorflow_are_imported():
    code = (
        "import sys, pathlib; from jaxconv.compare import __main__ as command\n"
        "try: command.compare([pathlib.Path('a')], pathlib.Path('b'))\n"
        "except command.ConfigError: print([name for name in ('jax', 'tensorflow') if name in sys.modules])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout == "[]\n"


def truncate(path):
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize(
    ("damage", "error", "sentence"),
    [
        (lambda run: (run / "config.json").unlink(), ConfigError, "second holds no run"),
        (lambda run: (run / "history.jsonl").unlink(), UserError, "second has not finished an epoch yet"),
        (lambda run: (run / "history.jsonl").write_text("{"), UserError, "history.jsonl cannot be read as lines"),
        (lambda run: (run / "config.json").write_text("{"), UserError, "config.json cannot be read as JSON"),
        (lambda run: (run / "config.json").write_text("[]"), UserError, "second is not what a run writes"),
        (lambda run: (run / "signature.json").write_text("{"), UserError, "signature.json cannot be read as JSON"),
        (lambda run: (run / "summary.json").write_text("{"), UserError, "summary.json cannot be read as JSON"),
        (lambda run: truncate(run / "predictions.npz"), UserError, "predictions.npz is broken"),
        (lambda run: (run / "predictions.npz").write_text(""), UserError, "predictions.npz is broken"),
        (lambda run: (run / "signature.json").unlink(), UserError, "does not fit the classes of the run"),
    ],
)
def test_a_run_that_is_broken(two, tmp_path, damage, error, sentence):
    damage(two[1])
    with pytest.raises(error, match=sentence) as refusal:
        compare(two, tmp_path / "page.html")
    assert type(refusal.value) is error
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "page.html").exists()


def test_broken_predictions_by_the_command(two, tmp_path):
    truncate(two[1] / "predictions.npz")
    out, err = run(*two, status=1, cwd=tmp_path)
    assert (out, err.count("\n")) == ("", 1)
    assert "predictions.npz is broken" in err
    assert not (tmp_path / "comparison.html").exists()


@pytest.mark.usefixtures("no_network")
def test_data_that_is_gone_is_said_on_stderr(two, tmp_path, capsys):
    for workdir in two:
        path = workdir / "config.json"
        path.write_text(re.sub(r'"data_dir": "[^"]*"', f'"data_dir": "{tmp_path}"', path.read_text()))
    compare(two, tmp_path / "page.html")
    captured = capsys.readouterr()
    assert captured.err.startswith("jaxconv.compare: The pictures of the examples are left out. ")
    assert captured.err.count("\n") == 1
    assert captured.out.endswith("page.html\n")


def test_a_terminal_of_80_columns(two, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TERM", "dumb")  # without colours
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    compare(two, tmp_path / "page.html")
    *text, _ = capsys.readouterr().out.splitlines()
    assert max(map(len, text)) <= 80
    assert any("second" in line and "63.64%" in line and "50.42% to 75.07%" in line for line in text)


def test_ctrl_c_ends_quietly(two, tmp_path):
    shutil.move(two[1] / "config.json", tmp_path)
    os.mkfifo(two[1] / "config.json")
    process = start(*two, cwd=tmp_path)
    with open(two[1] / "config.json", "w"):  # opens when the process opens it, and keeps it waiting
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 128 + signal.SIGINT
    assert not (tmp_path / "comparison.html").exists()
