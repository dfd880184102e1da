"""Test accuracy against time: this project's recipes, Keras' training of the lecture's nets, PyTorch's record recipe.

python -m benchmarks.time_to_accuracy --contestants=lenet,keras-lenet [--num_seeds=5] [--lecture_epochs=2]
python -m benchmarks.time_to_accuracy

Each contestant trains in processes of its own, one after the other, and its result is stored as it ends, in
results/time_to_accuracy/MACHINE/NAME.json. So the comparison can be made in parts, on one machine. Then, and without
--contestants at once, the table of this machine is printed; `python -m tools.results` puts tables and figure into the
README and the site.

"Seconds by the clock" run from the first look at the data to the last prediction for the test set, without loading:
clock_seconds of a run of this project, and the same of the peers. "Wall of the command" is all of it, with all seeds
and the start of Python. "Share of Keras" is of its 20 epochs of LeNet, or of its 50 augmented epochs on CIFAR-10.
With --lecture_epochs, the lecture's nets run fewer epochs than their recipes, and the seconds are scaled to all of
them. Keras' first epoch, which compiles, is not scaled. Ours are scaled as a whole, the test included. The accuracy is
then the lecture's for Keras, and that of the whole run in results/ for ours.
PyTorch runs with the memory allocator set as this project sets it for itself, for its own guide advises another one
than the default, and the recipe takes less time so. Peers: pip install -e ".[benchmarks]".
"""

import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from absl import app, flags

from benchmarks import interleave
from jaxconv import config as configs
from jaxconv.platform import allocator
from tools import time_to_accuracy
from tools.results import LECTURE, RESULTS, read_seeds
from tools.time_to_accuracy import KERAS, LADDER, OURS, TORCH

STORED = RESULTS / "time_to_accuracy"
MNIST, CIFAR = time_to_accuracy.RECIPES


class Contestant(NamedTuple):
    """Who trains what."""

    group: str
    data: str
    title: str


CONTESTANTS = {
    **{
        f"keras-{net}": Contestant(KERAS, MNIST if net in ("mlp", "lenet") else CIFAR, f"Keras, {net}")
        for net in LECTURE
    },
    "torch-airbench94_muon": Contestant(TORCH, CIFAR, "PyTorch, airbench94_muon"),
    **{net: Contestant(OURS, MNIST if net in ("mlp", "lenet") else CIFAR, f"jaxconv, {net}") for net in LECTURE},
    "mnist_fast": Contestant(LADDER, MNIST, "jaxconv, mnist_fast"),
    **{
        name: Contestant(LADDER, CIFAR, f"jaxconv, {name}")
        for name in ("cifar_minute", "cifar90", "cifar94", "airbench94_muon")
    },
}
"""Those of this project by the names of their configs."""

_CONTESTANTS = flags.DEFINE_list("contestants", [], f"Those to run, any of {', '.join(CONTESTANTS)}.")
_NUM_SEEDS = flags.DEFINE_integer(
    "num_seeds", None, "Seeds of each contestant; 1 for the lecture's nets and 5 for others if not given.", 1
)
_LECTURE_EPOCHS = flags.DEFINE_integer(
    "lecture_epochs", None, "Most epochs of the lecture's nets, in Keras and here; all if not given.", 1
)


def processor() -> str:
    """The name of this machine's processor, with its family."""
    import jax

    from jaxconv.platform import devices

    return devices.processor(jax.local_devices(backend="cpu")[0])


def run(command: list[str], environment: dict[str, str]) -> None:
    """Run Python in the root of the repository; its output goes where ours goes.

    Raises:
        SystemExit: it failed.
    """
    status = subprocess.run([sys.executable, *command], env=os.environ | environment).returncode
    if status:
        sys.exit(f"python {' '.join(command)} ended with status {status}: what it wrote above says why.")


def run_ours(name: str, num_seeds: int, epochs: int | None = None) -> dict[str, Any]:
    """Train a config with jaxconv.seeds, for all of its epochs or fewer."""
    command = ["-m", "jaxconv.seeds", f"--num_seeds={num_seeds}", "--at_once=1", f"--config=configs/{name}.py"]
    recipe_epochs = configs.load(f"configs/{name}.py").num_epochs
    if epochs:
        command.append(f"--config.num_epochs={epochs}")
    epochs = epochs or recipe_epochs
    with tempfile.TemporaryDirectory() as workdir:
        run([*command, f"--workdir={workdir}"], {})
        found = json.loads((pathlib.Path(workdir) / "seeds.json").read_text())
        summaries = [
            json.loads((pathlib.Path(workdir) / f"seed_{seed}" / "summary.json").read_text()) for seed in found["seeds"]
        ]
    return {
        "dtype": summaries[0]["config"]["compute_dtype"],
        "command": " ".join(["python", *command]),
        "accuracies": found["test_accuracy"]["values"],
        "clock_seconds": [summary["clock_seconds"] * recipe_epochs / epochs for summary in summaries],
        "scaled": epochs < recipe_epochs,
        "epochs": epochs,
        "recipe_epochs": recipe_epochs,
    }


def run_peer(command: list[str], num_seeds: int, environment: dict[str, str]) -> dict[str, Any]:
    """Train by a module of benchmarks.peers, seed after seed."""
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as directory:
        for seed in range(num_seeds):
            path = pathlib.Path(directory) / f"{seed}.json"
            run([*command, f"--seed={seed}", f"--json={path}"], environment)
            results.append(json.loads(path.read_text()))
    return {
        "dtype": results[0]["dtype"],
        "command": " ".join(["python", *command, "--seed=0"]),
        "environment": environment,
        "accuracies": [result["accuracy"] for result in results],
        "clock_seconds": [result["seconds"] for result in results],
        "scaled": results[0].get("scaled", False),
        "epochs": results[0]["epochs"],
        "recipe_epochs": results[0].get("recipe_epochs", results[0]["epochs"]),
    }


def fewer_epochs(net: str) -> int | None:
    """Return --lecture_epochs if the recipe of a net has more epochs, else None."""
    asked = _LECTURE_EPOCHS.value
    return asked if asked and asked < configs.load(f"configs/{net}.py").num_epochs else None


def measure(name: str) -> dict[str, Any]:
    """Run a contestant, with all its seeds; return what is stored of it."""
    group, data, title = CONTESTANTS[name]
    num_seeds = _NUM_SEEDS.value or (1 if group in (KERAS, OURS) else 5)
    began = time.perf_counter()
    if group == KERAS:
        net = name.removeprefix("keras-")
        epochs = fewer_epochs(net)
        command = ["-m", "benchmarks.peers.keras_lecture", f"--net={net}", *([f"--epochs={epochs}"] if epochs else [])]
        found = run_peer(command, num_seeds, {})
        found["published"] = LECTURE[net]
    elif group == TORCH:
        found = run_peer(["-m", f"benchmarks.peers.{name.removeprefix('torch-')}"], num_seeds, allocator.ENVIRONMENT)
    elif group == OURS:
        found = run_ours(name, num_seeds, fewer_epochs(name))
        whole = json.loads((RESULTS / f"{name}.json").read_text())
        found["published"] = read_seeds(RESULTS, name, whole)["test_accuracy"]["mean"]
    else:
        found = run_ours(name, num_seeds)
    return {
        "group": group,
        "data": data,
        "title": title,
        "n": num_seeds,
        **found,
        "wall_seconds": time.perf_counter() - began,
        "processor": processor(),
        "machine": interleave.machine(),
        "versions": interleave.versions(),
    }


def check(names: Sequence[str]) -> None:
    """Refuse contestants that are unknown, or whose packages are missing, before hours of the others have gone by.

    Raises:
        SystemExit: there is one.
    """
    for name in names:
        if name not in CONTESTANTS:
            sys.exit(f"--contestants: there is no {name!r}; there are {', '.join(CONTESTANTS)}.")
        package = {KERAS: "keras", TORCH: "torch"}.get(CONTESTANTS[name].group)
        if package and importlib.util.find_spec(package) is None:
            sys.exit(f'{name} needs {package}: pip install -e ".[benchmarks]".')


def main(argv: list[str]) -> None:
    """Measure and store, then print the table."""
    check(_CONTESTANTS.value)
    this = {"processor": processor(), "machine": interleave.machine()}
    folder = STORED / re.sub(r"\W+", "-", time_to_accuracy.machine(this).lower())
    try:
        for name in _CONTESTANTS.value:
            result = measure(name)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    except KeyboardInterrupt:
        sys.exit(130)
    if not (rows := time_to_accuracy.rows(folder)):
        sys.exit(f"Nothing is stored in {folder}: name --contestants to run.")
    interleave.report("Test accuracy against time", rows, {"interrupted": False}, None)
    for note in time_to_accuracy.notes(folder):
        print(note)


if __name__ == "__main__":
    app.run(main)
