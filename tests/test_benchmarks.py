"""A benchmark says how far it is without a terminal, keeps what it has when interrupted, and measures processes."""

import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import communication, interleave
from jaxconv.platform import devices
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


TIME_TO_ACCURACY = """
import json, pathlib, sys
from absl import app
from benchmarks import time_to_accuracy

time_to_accuracy.STORED = pathlib.Path(sys.argv.pop())

def run(command, environment):
    given = dict(argument.split("=") for argument in command[2:])
    if command[1] == "jaxconv.seeds":
        workdir, seeds = pathlib.Path(given["--workdir"]), list(range(int(given["--num_seeds"])))
        found = {"seeds": seeds, "test_accuracy": {"values": [0.99 for _ in seeds]}}
        (workdir / "seeds.json").write_text(json.dumps(found))
        summary = {"config": {"compute_dtype": "bfloat16"}}
        for seed in seeds:
            (workdir / f"seed_{seed}").mkdir()
            (workdir / f"seed_{seed}" / "summary.json").write_text(json.dumps(summary | {"clock_seconds": 10.0 + seed}))
    else:
        epochs = int(given.get("--epochs", 20))
        result = {"accuracy": 0.5, "seconds": 40.0, "epochs": epochs, "recipe_epochs": 20, "scaled": epochs < 20}
        result["dtype"] = "float32"
        pathlib.Path(given["--json"]).write_text(json.dumps(result))

time_to_accuracy.run = run
time_to_accuracy.check = lambda names: None  # Keras is an extra
app.run(time_to_accuracy.main)
"""


def test_accuracy_against_time_is_stored_contestant_by_contestant(tmp_path):
    program = [sys.executable, "-c", TIME_TO_ACCURACY]
    flags = ["--contestants=keras-lenet,lenet,mnist_fast", "--lecture_epochs=2", str(tmp_path)]
    env = os.environ | {"COLUMNS": "200"}
    out = subprocess.run([*program, *flags], cwd=ROOT, capture_output=True, text=True, check=True, env=env).stdout
    (folder,) = tmp_path.iterdir()
    assert folder.name.endswith(f"-{interleave.machine()['cores']}-cores")
    fast, lenet, keras = (
        json.loads((folder / f"{n}.json").read_text()) for n in ("mnist_fast", "lenet", "keras-lenet")
    )
    assert (fast["n"], fast["clock_seconds"]) == (5, [10.0, 11.0, 12.0, 13.0, 14.0])
    assert fast["command"] == "python -m jaxconv.seeds --num_seeds=5 --at_once=1 --config=configs/mnist_fast.py"
    whole = json.loads((ROOT / "results" / "lenet.seeds.json").read_text())["test_accuracy"]["mean"]
    assert lenet["command"].endswith("--config=configs/lenet.py --config.num_epochs=2")
    assert (lenet["n"], lenet["clock_seconds"], lenet["scaled"]) == (1, [100.0], True)  # 10 s for 2 epochs of 20
    assert (lenet["published"], lenet["epochs"], lenet["recipe_epochs"]) == (whole, 2, 20)
    assert (keras["clock_seconds"], keras["scaled"], keras["published"]) == ([40.0], True, 0.9921)
    assert re.search(
        r"jaxconv, mnist_fast +\W +MNIST +\W +bfloat16 +\W +99.00 ± 0.00% \(n = 5\) +\W +12.0 +\W +30% ", out
    )
    assert "jaxconv, lenet 2 of 20" in out
    assert f"{whole:.2%} (results/)" in out
    again = subprocess.run([*program, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True, env=env)
    assert again.stdout == out


def test_an_unknown_contestant_is_refused_before_anything_runs():
    command = [sys.executable, "-m", "benchmarks.time_to_accuracy", "--contestants=lenet,caffe"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "there is no 'caffe'; there are keras-mlp, " in done.stderr + done.stdout


AIRBENCH = """
import json, sys
import torch
from benchmarks.peers import airbench94_muon as peer

torch.manual_seed(0)
gradient = torch.randn(24, 54)
images = torch.randn(200, 3, 8, 8).cumsum(3)
images -= images.mean((0, 2, 3), keepdim=True)
filters = peer.whitening(images)
outputs = torch.nn.functional.conv2d(images, filters)
order = torch.arange(8.0)[:, None, None, None].expand(8, 36, 36, 3)
net = peer.Net()
views = peer.predict(net, torch.zeros(4, 3, 32, 32, dtype=peer.DTYPE), batch_size=3)
batches = list(peer.train_batches(order, torch.arange(8), 3, epoch=0))
print(json.dumps({
    "gradient": gradient.tolist(),
    "orthogonal": peer.orthogonal(gradient).float().tolist(),
    "transposed": peer.orthogonal(gradient.T).float().T.tolist(),
    "whitened": (outputs.transpose(0, 1).reshape(24, -1) @ outputs.transpose(0, 1).reshape(24, -1).T
                 / (200 * 49)).tolist(),
    "views": list(views.shape),
    "batches": [[list(x.shape), x[:, 0, 0, 0].tolist(), y.tolist()] for x, y in batches],
    "dtypes": sorted({str(p.dtype) for p in net.parameters()}),
}))
"""


def test_the_parts_of_the_record_recipe():
    pytest.importorskip("torch")
    done = subprocess.run([sys.executable, "-c", AIRBENCH], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    x = np.array(result["gradient"])
    x /= np.linalg.norm(x)
    for _ in range(3):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    np.testing.assert_allclose(result["orthogonal"], x, atol=0.02)  # of bfloat16
    np.testing.assert_allclose(result["transposed"], x, atol=0.02)
    # The variances are so much larger than the 5e-4 beside them that these do not count.
    expected = np.kron([[1, -1], [-1, 1]], np.eye(12))
    np.testing.assert_allclose(result["whitened"], expected, atol=0.01)
    assert result["views"] == [4, 10]
    assert result["dtypes"] == ["torch.bfloat16"] * devices.cpu_has_bfloat16() + ["torch.float32"]
    first, second = result["batches"]  # the last two examples are left out
    assert first[0] == second[0] == [3, 3, 32, 32]
    assert first[1] == first[2]
    assert len({*first[2], *second[2]}) == 6


STEP_COST = """
import json, sys
from benchmarks import step_cost
from jaxconv.config import load
from jaxconv.models import registry, summary

config = load(sys.argv[1])
config.model.filters, config.model.global_pooling, config.mixup = ((16, 16),), "average", 0.0
config.progressive_resizing, config.num_epochs = ((0.5, 1),), 3
model = registry.create_model(config.model, 4)
forward = sum(2 * layer.multiplications for layer in summary.layers(summary.trace(model, (8, 8, 3))))
print(json.dumps([step_cost.count(config), forward * config.batch_size]))
"""


def test_the_cost_of_a_step_is_about_three_times_that_of_the_forward_pass(tiny_config):
    """One pass forward, one for the gradient of the activations and one for that of the parameters, in each phase."""
    done = subprocess.run(
        [sys.executable, "-c", STEP_COST, tiny_config], cwd=ROOT, capture_output=True, text=True, check=True
    )
    (first, rest), forward = json.loads(done.stdout)
    assert (first["phase"]["share"], first["steps"], rest["phase"]["share"], rest["steps"]) == (0.5, 11, 1.0, 22)
    assert 2 * forward < rest["flops"] < 4 * forward
    assert 0.2 < first["flops"] / rest["flops"] < 0.4
