"""A whole epoch as a user lives it, input pipeline and metrics included: ours is launch.py itself.

python -m benchmarks.train_epoch [--net=cifar_deep] [--peers=keras-tensorflow,torch] [--examples=16128] [--rounds=3]
    [--json=FILE]

Each round runs every contestant's whole command once, in turn, and takes the fastest of its last two epochs. Beside
images per second: seconds from the command to the end of the first step, and the peak of resident memory. The first
start of this project is also measured cold, with nothing in its cache. "step alone" is our step from a batch in memory
(benchmarks.train_step), and the column "of the step" is the share of its speed. "device" is launch.py with
config.data.pipeline=device, "augmented" with the transformations of configs/cifar_deep_augment.py, and "augmented
device" with both. Peers: pip install -e ".[benchmarks]".
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import app, flags

from benchmarks import contestants, interleave
from benchmarks.contestants import NETS
from benchmarks.epochs import PEERS
from jaxconv import config as configs

EPOCHS = 3
OURS = ("jaxconv", "device", "augmented", "augmented device")
"""The runs of launch.py."""

_NET = flags.DEFINE_enum("net", "cifar_deep", list(NETS), "The net.")
_PEERS = flags.DEFINE_list("peers", list(PEERS), f"Any of {', '.join(PEERS)}.")
_EXAMPLES = flags.DEFINE_integer("examples", 16128, "Examples in an epoch.", lower_bound=128)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Examples in a step.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Runs of each contestant.", lower_bound=1)
_JSON = flags.DEFINE_string("json", None, "File for the result.")


def run(command: list[str], env: dict[str, str]) -> dict[str, Any] | None:
    """Run a contestant; None if its packages are not installed."""
    began, first_step, images_per_s, errors = time.perf_counter(), None, [], []
    process = subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | env | {"TF_CPP_MIN_LOG_LEVEL": "2"},
    )
    assert process.stdout
    try:
        for line in process.stdout:
            errors.append(line)
            record = json.loads(line) if line.startswith("{") else {}
            if "missing" in record:
                return None
            if "first_step" in record or line.startswith("First step"):
                first_step = time.perf_counter() - began
            if "images_per_s" in record:
                images_per_s.append(record["images_per_s"])
    except KeyboardInterrupt:
        process.kill()
        raise
    _, status, usage = os.wait4(process.pid, 0)
    if status or first_step is None:
        raise RuntimeError("".join(errors))
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"images_per_s": images_per_s, "seconds_to_first_step": first_step, "peak_bytes": peak}


def run_step(net: str, batch_size: int, env: dict[str, str]) -> dict[str, Any]:
    """Our step alone: the first figure is taken like those of an epoch that compiles, and not used."""
    command = [sys.executable, "-m", "benchmarks.contestants", "jaxconv", net, str(batch_size)]
    environment = os.environ | env | contestants.environment("jaxconv")
    process = subprocess.run(command, input="\n" * EPOCHS, capture_output=True, text=True, env=environment, check=True)
    _, *figures = process.stdout.split()
    return {"images_per_s": [float(figure) for figure in figures]}


def run_ours(net: str, examples: int, batch_size: int, env: dict[str, str], kind: str = OURS[0]) -> dict[str, Any]:
    """The same of launch.py, in a workdir of its own. `kind` is one of `OURS`."""
    with tempfile.TemporaryDirectory() as workdir:
        overrides = {
            "data.train": f"train[:{examples}]",
            "data.validation": "train[-128:]",
            "data.test": "test[:128]",
            "num_epochs": EPOCHS,
            "batch_size": batch_size,
            "data.pipeline": "device" if "device" in kind else "host",
            "report": False,  # the peers make none
        }
        if "augmented" in kind:
            augment = configs.load("configs/cifar_deep_augment.py").augment
            overrides |= {f"augment.{field}": value for field, value in augment.items()}
        flags = [f"--config.{key}={value}" for key, value in overrides.items()]
        result = run(["launch.py", f"--config=configs/{net}.py", f"--workdir={workdir}", *flags], env)
        assert result is not None
        history = (pathlib.Path(workdir) / "history.jsonl").read_text().splitlines()
        result["images_per_s"] = [json.loads(line)["images_per_s"] for line in history]
        return result


def measure(net: str, examples: int, batch_size: int) -> tuple[dict[str, list[Any]], float | None, bool]:
    """Run every contestant in turn.

    Returns:
        The outcomes of each, round by round; the seconds to the first step of a cold start of ours, None if it did not
        end; and whether Ctrl-C came first. The outcomes are then those of the rounds that were whole.
    """
    runs: dict[str, list[Any]] = {name: [] for name in (*OURS, "step alone", *_PEERS.value)}
    cold = None
    try:
        with tempfile.TemporaryDirectory() as cache, interleave.progress() as say:
            say("jaxconv: a cold start")
            env = {"XDG_CACHE_HOME": cache}
            cold = run_ours(net, examples, batch_size, env)["seconds_to_first_step"]
            for number in range(_ROUNDS.value):
                for name in runs:
                    say(f"round {number + 1}: {name}")
                    if name in OURS:
                        runs[name].append(run_ours(net, examples, batch_size, env, name))
                    elif name == "step alone":
                        runs[name].append(run_step(net, batch_size, env))
                    else:
                        command = ["-m", "benchmarks.epochs", name, net, str(examples), str(EPOCHS), str(batch_size)]
                        runs[name].append(run(command, env))
    except KeyboardInterrupt:
        whole = min(map(len, runs.values()))
        return {name: outcomes[:whole] for name, outcomes in runs.items() if whole}, cold, True
    return runs, cold, False


def main(argv: list[str]) -> None:
    """Measure, print and write."""
    net, examples, batch_size = _NET.value, _EXAMPLES.value, _BATCH_SIZE.value
    runs, cold, interrupted = measure(net, examples, batch_size)
    rows, result = [], {}
    for name, outcomes in runs.items():
        if None in outcomes:
            rows.append(
                {"": name, "images/s": "missing"}
                | dict.fromkeys(("ratio", "of the step", "first step", "peak memory"), "")
            )
            result[name] = None
            continue
        # The first epoch compiles; of the others the faster one.
        speeds = [max(outcome["images_per_s"][1:]) for outcome in outcomes]
        ours = [max(outcome["images_per_s"][1:]) for outcome in runs["jaxconv"]]
        middle, lowest, highest = interleave.ratio(ours, speeds)
        of_step, *_ = interleave.ratio(speeds, [max(outcome["images_per_s"][1:]) for outcome in runs["step alone"]])
        first = peak = ""
        if name != "step alone":
            first = f"{statistics.median(outcome['seconds_to_first_step'] for outcome in outcomes):.1f} s"
            peak = f"{max(outcome['peak_bytes'] for outcome in outcomes) / 2**30:.2f} GiB"
        rows.append(
            {
                "": name,
                "images/s": f"{statistics.median(speeds):,.0f}",
                "ratio": "" if name == "jaxconv" else f"{middle:.2f} ({lowest:.2f} to {highest:.2f})",
                "of the step": "" if name == "step alone" else f"{of_step:.0%}",
                "first step": first + (f" ({cold:.1f} cold)" if name == "jaxconv" else ""),
                "peak memory": peak,
            }
        )
        result[name] = {
            "runs": outcomes,
            "ratio": {"median": middle, "lowest": lowest, "highest": highest},
            "of_the_step": of_step,
        }
    result = {
        "command": "python -m benchmarks.train_epoch",
        "net": net,
        "examples": examples,
        "batch_size": batch_size,
        "rounds": _ROUNDS.value,
        "interrupted": interrupted,
        "seconds_to_first_step_cold": cold,
        "contestants": result,
        "machine": interleave.machine(),
        "versions": interleave.versions(),
    }
    interleave.report(f"{net}: epochs of {examples:,} examples, batch {batch_size}", rows, result, _JSON.value)


if __name__ == "__main__":
    app.run(main)
