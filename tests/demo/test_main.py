"""python -m jaxconv.demo as a user starts it: where it listens, what it refuses, how it ends."""

import re
import signal
import socket
import subprocess
import sys

import pytest

from tests.conftest import ROOT, TINY_SHAPE, start
from tests.demo.common import call
from tests.runs.test_trained import make_run, snapshot


def demo(*arguments, **keywords):
    return start("jaxconv.demo", *arguments, program="-m", **keywords)


def end(process):
    """The exit status, stdout and stderr of a process that ends by itself."""
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.fixture
def run(tiny, tmp_path):
    make_run(tmp_path / "a run", tiny, TINY_SHAPE)
    return tmp_path / "a run"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_a_signal_and_writes_nothing(run, signum):
    before = snapshot(run)
    process = demo(f"--workdir={run}", "--port=0")
    try:
        line = process.stdout.readline()
        match = re.fullmatch(r"Open http://127\.0\.0\.1:(\d+) \(Ctrl-C stops it\)\.\n", line)
        assert match, line
        port = int(match[1])
        page = call(port, "GET", "/", headers={"Host": f"localhost:{port}"}).body.decode()
        assert "<h1>a run</h1>" in page
        assert "50.0%" in page
        assert call(port, "POST", "/look", b"text").status == 422
        assert call(port, "GET", "/", headers={"Host": "example.com"}).status == 400
        with socket.create_connection(("127.0.0.1", port)) as upload:  # it does not wait for the rest
            upload.sendall(b"POST /look HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc")
            assert call(port, "GET", "/page.js").status == 200
            process.send_signal(signum)
            assert end(process) == (128 + signum, "", "")
    finally:
        process.kill()
        process.communicate()
    assert snapshot(run) == before


def test_the_port_is_in_use(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        status, out, err = end(demo(f"--workdir={tmp_path}/run", f"--port={port}"))
    sentence = "cannot be used (address already in use): name another, or 0 for any that is free."
    assert (status, out, err) == (1, "", f"jaxconv.demo: --port={port} {sentence}\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "--workdir is missing: name the workdir of a run, such as --workdir=runs/quickstart."),
        (["--workdir=nowhere"], "--workdir=nowhere holds no run: train one with --mode=train first."),
        (["--workdir=run", "--port=65536"], "--port=65536 must be from 0 to 65535."),
        (["--workdir=run", "--port=http"], "flag --port=http: invalid literal for int() with base 10: 'http'."),
        (["--workdir=run", "--host=192.0.2.1"], "--host=192.0.2.1 is not an address of this machine: leave it out, "),
        (["--workdir=run", "--host=a..b"], "--host=a..b is not an address of this machine: leave it out, "),
        (["--wrkdir=run"], "Unknown command line flag 'wrkdir'. Did you mean: workdir ?\n"),
        (["run"], "'run' does not belong to a flag: write --FLAG=VALUE."),
    ],
)
def test_wrong_command_lines(tmp_path, arguments, sentence):
    status, out, err = end(demo(*arguments, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}))
    assert (status, out) == (2, "")
    assert err.startswith(f"jaxconv.demo: {sentence}")
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_run_without_an_epoch(run):
    for path in (run / "checkpoints").iterdir():
        path.rename(run / path.name)
    status, out, err = end(demo(f"--workdir={run}", "--port=0"))
    assert (status, out) == (1, "")
    assert re.fullmatch(r"jaxconv\.demo: .*has not finished an epoch.*\n", err)


@pytest.mark.parametrize(("shape", "dtype"), [((8, 20, 20, 1), "uint8"), ((40, 1), "float32")])
def test_a_net_of_clips_or_signals(tiny, tmp_path, shape, dtype):
    make_run(tmp_path / "run", tiny, shape, dtype)
    before = snapshot(tmp_path)
    assert end(demo(f"--workdir={tmp_path}/run", "--port=0")) == (
        2,
        "",
        f"jaxconv.demo: The demo reads images, and the net of this run takes {dtype} arrays of shape {shape}: "
        "use --mode=report, or --mode=export and call the exported net.\n",
    )
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("package", ["starlette", "uvicorn"])
def test_without_its_packages(package):
    program = (
        f"import runpy, sys; sys.modules[{package!r}] = None; sys.argv[1:] = ['--workdir=run', '--port=0']; "
        "runpy.run_module('jaxconv.demo', run_name='__main__', alter_sys=True)"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert process.returncode == 1
    sentence = rf"jaxconv\.demo: The demo needs the package {package}[.\w]*: pip install -e '\.\[demo\]', and .*\n"
    assert re.fullmatch(sentence, process.stderr)


def test_help():
    status, out, err = end(demo("--help"))
    assert (status, err) == (0, "")
    assert "python -m jaxconv.demo --workdir=" in out
    assert "--port" in out
