"""A benchmark says how far it is without a terminal, and keeps what it has when it is interrupted."""

import json
import re
import signal
import subprocess
import sys

from tests.conftest import ROOT

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
