"""A benchmark says how far it is without a terminal, keeps what it has when interrupted, and measures processes."""

import json
import re
import signal
import subprocess
import sys

import pytest

from benchmarks import communication
from tests.conftest import ROOT
from tools.results import plot_scaling, scaling_tables

PROGRAM = """
import signal, sys
from absl import app
from benchmarks import interleave, train_step

CONTESTANT = "import sys, time; print('ready', flush=True)\\nfor _ in sys.stdin: time.sleep(0.05); print(7, flush=True)"
Command = interleave.Command
interleave.Command = lambda arguments, environment: Command(["-c", CONTESTANT], environment)
# A shell lets the jobs of its background ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
app.run(train_step.main)
"""


def test_progress_without_a_terminal_and_a_result_when_interrupted(tmp_path):
    path = tmp_path / "result.json"
    flags = ["--nets=mlp,lenet", "--peers=flax", "--rounds=1000", f"--json={path}"]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    said = [line for line, _ in zip(process.stderr, range(12), strict=False)]
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert said[0] == "mlp: jaxconv: starting\n"
    assert re.fullmatch(r"mlp: round \d+: (jaxconv|flax|flax\+allocator) 7\n", said[-1])
    result = json.loads(path.read_text())
    assert result["interrupted"]
    assert list(result["nets"]) == ["mlp"]
    figures = result["nets"]["mlp"]["images_per_s"]
    assert list(figures) == ["jaxconv", "flax", "flax+allocator"]
    assert {len(speeds) for speeds in figures.values()} == {len(figures["flax"])}
    assert len(figures["flax"]) >= 2
    assert "jaxconv" in out


SCALING = """
import sys
from absl import app
from benchmarks import interleave, scaling

CONTESTANT = "import sys; print('ready', flush=True)\\nfor _ in sys.stdin: print(500, flush=True)"
Command = interleave.Command
interleave.Command = lambda arguments, environment: Command(["-c", CONTESTANT], environment)
app.run(scaling.main)
"""


def test_layouts_in_turn_and_the_tables_and_the_figure_of_them(tmp_path):
    path = tmp_path / "scaling.json"
    flags = ["--nets=mlp", "--batch_sizes=128", "--rounds=2", f"--json={path}"]
    program = [sys.executable, "-c", SCALING, *flags]
    out = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "mlp, batch 128" in out
    result = json.loads(path.read_text())
    assert re.search(r"\(family \d+, model \d+\)", result["processor"]) or not sys.platform.startswith("linux")
    mlp = result["nets"]["mlp"]
    assert (mlp["parameters"], mlp["arrays"], mlp["multiplications"]) == (118282, 6, 784 * 128 + 128 * 128 + 128 * 10)
    layouts = ["1 x 1", "1 x 2", "2 x 1", "2 x 2", "alone"]
    assert mlp["images_per_s"] == {"128": {layout: [500, 500] for layout in layouts}}
    assert result["all_reduce"]["seconds"][str(4 * 118282)] == [1 / 500, 1 / 500]
    steps, _, check, _, estimate = scaling_tables(path).values()
    assert "| mlp | 128 | 256 | 256 | 256 | 256 | 256 | 1.00 (1.00 to 1.00) |\n" in steps
    assert "| mlp | 128 | 256 | 20.0 | 276 | 256 | 20.0 | 0.00 |\n" in check  # 10 all-reduces of 2 ms each
    assert estimate.count("\n") == 6
    plot_scaling(path, tmp_path)
    assert (tmp_path / "scaling.png").stat().st_size > 10_000


def test_a_step_of_two_processes_answers():
    """The second process ends with the first one."""
    command = [sys.executable, "-m", "benchmarks.scaling", "step", "mlp", "32", "2", "1"]
    done = subprocess.run(command, cwd=ROOT, input="\n", capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    ready, figure = done.stdout.split()
    assert ready == "ready"
    assert float(figure) > 0


def test_the_constants_of_a_link_come_out_of_its_all_reduces():
    link = communication.Link(latency=1e-4, bandwidth=1e9)
    assert link.all_reduce(1, 10**6) == 0
    assert link.all_reduce(2, 10**6) == pytest.approx(2 * 1e-4 + 1e-3)
    assert link.all_reduce(4, 10**6, messages=3) == pytest.approx(3 * 6 * 1e-4 + 1.5e-3)
    measured = {size: link.all_reduce(4, size) for size in (10**3, 10**5, 10**7)}
    assert communication.fit(4, measured) == pytest.approx(link)


def test_the_memory_of_a_run_on_a_folder_epoch_by_epoch(tmp_path):
    path = tmp_path / "large_set.json"
    program = [sys.executable, "-m", "benchmarks.large_set", "--examples=120", "--epochs=2", f"--json={path}"]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert re.search(r"120 images, \d MB of files, 1 MB decoded", done.stdout)
    assert re.search(r"epoch 2, peak +\W +[\d,]+ ", done.stdout)
    result = json.loads(path.read_text())
    assert (result["examples"], result["decoded_bytes"]) == (120, 120 * 64 * 64 * 3)
    assert 10**8 < result["baseline_bytes"] <= result["preparation_peak_bytes"]
    assert len(result["epochs"]) == 2
    for epoch in result["epochs"]:
        assert result["baseline_bytes"] < epoch["end_bytes"] <= epoch["peak_bytes"]
        assert 0 <= epoch["data_wait"] <= 1
