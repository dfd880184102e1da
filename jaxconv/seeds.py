"""Train a config with several seeds, and say how far their results spread.

python -m jaxconv.seeds --num_seeds=5 --config=configs/quickstart.py
python -m jaxconv.seeds --num_seeds=5 --config=configs/quickstart.py --config.num_epochs=5 --workdir=runs/short

The seeds are config.seed, config.seed + 1 and so on. Each is a run as launch.py makes it, in WORKDIR/seed_N, without a
report unless --config.report asks for it. Mean, standard deviation and 95% interval go to stdout, as a table or with
--json, and to WORKDIR/seeds.json. The same command again goes on: it keeps the seeds that are finished, and the others
go on from their checkpoints.

How many train side by side: one for each two cores of a CPU. These nets use two cores well (benchmarks/NOTES.md), and
were not measured on more. So on two cores it is one at a time, and also where a process cannot be kept on its cores
(macOS, Windows). Where JAX may find an accelerator it is one at a time, since each run takes all there are; but if
CUDA_VISIBLE_DEVICES names several GPUs, each run gets config.num_devices of them, or one. --at_once chooses another
number. All share the cores. With other cores or devices, a run agrees to rounding, not bit for bit.
"""

import math
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from absl import flags

from jaxconv import cli
from jaxconv.config import Config, validate
from jaxconv.errors import ConfigError, UserError
from jaxconv.platform import accelerators, children, cluster, supervisor
from jaxconv.platform.limits import cores
from jaxconv.runs import interrupt

_SEED = "JAXCONV_SEED"
"""In the environment of a child: the seed that it trains. Its command is that of its parent."""

_CORES = 2
"""Cores of a run that has others beside it, or more."""

_FORMATS = {
    "test_accuracy": "{:.2%}",
    "test_loss": "{:.4f}",
    "val_accuracy": "{:.2%}",
    "wall_seconds": "{:.1f}",
    "clock_seconds": "{:.2f}",
}
"""The figures, by their keys in summary.json."""

_SEVERAL = ("coordinator", "num_processes", "process_id")


def main(config: Config) -> None:
    """Train the seeds that the command line asks for; in a child, one of them."""
    given = flags.FLAGS
    directory = pathlib.Path(given.workdir or f"runs/{pathlib.Path(given.config or '').stem}_seeds")
    if given["config.report"].value is None:
        config.report = False
    if _SEED in os.environ:
        config.seed = int(os.environ[_SEED])
        cli.run("train", config, cli.Arguments(_workdir(directory, config.seed)))
        return
    with cli.ends_in_a_sentence():
        if any(given[name].value is not None for name in _SEVERAL) or cluster.find(None, None, None):
            raise ConfigError(
                "jaxconv.seeds is for one process: start it alone, without --coordinator, --num_processes and "
                "--process_id, and not as one of several under SLURM, Open MPI or Cloud TPU."
            )
        validate(config)
        configs = [_with_seed(config, config.seed + number) for number in range(given.num_seeds)]
        failed = train(configs, directory, places(config, given.num_seeds, given.at_once))
        trained = [config.seed for config in configs if config.seed not in dict(failed)]
        if trained:
            found = summarize(directory, trained, [seed for seed, _ in failed])
            print(_to_json(found) if given.json else _to_text(found, directory), end="")
        if failed:
            how = "; ".join(f"seed {seed} {supervisor.describe(status)}" for seed, status in failed)
            error = UserError(f"Not all seeds are trained: {how}. The same command again tries those alone.")
            error.exit_status = children.exit_status(failed[0][1])
            raise error


def _workdir(directory: pathlib.Path, seed: int) -> pathlib.Path:
    return directory / f"seed_{seed}"


def _with_seed(config: Config, seed: int) -> Config:
    """Copy a config, with another seed.

    Raises:
        ConfigError: a value is wrong.
    """
    config = config.copy_and_resolve_references()
    config.seed = seed
    validate(config)
    return config


def places(config: Config, num_seeds: int, at_once: int | None = None) -> list[dict[str, str]]:
    """Choose how many seeds train side by side, and on which GPUs; the docstring of this module says by which rule.

    Args:
        config: the config.
        num_seeds: how many there are.
        at_once: how many the user wants side by side.

    Returns:
        What the environment of each of those side by side holds.
    """
    gpus = []
    if accelerators.may_be_here():
        gpus = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        wanted = len(gpus) // (config.num_devices or 1)
    else:
        wanted = cores() // _CORES if hasattr(os, "sched_setaffinity") else 1
    count = max(1, min(at_once or wanted, num_seeds))
    share = len(gpus) // count
    if count == 1 or share == 0:
        return [{}] * count
    return [{"CUDA_VISIBLE_DEVICES": ",".join(gpus[n * share : (n + 1) * share])} for n in range(count)]


def train(
    configs: Sequence[Config], directory: pathlib.Path, places: Sequence[dict[str, str]]
) -> list[tuple[int, int]]:
    """Train one seed a config, each in a process of its own that has the command of this one.

    Args:
        configs: the configs, which differ in their seeds.
        directory: where the workdirs are.
        places: one for each process at a time, as `places` returns them.

    Returns:
        The seed and the exit status of each run that failed, in the order in which they ended.

    Raises:
        UserError: `directory` cannot be made, or a workdir holds another run.
        Interrupted: a signal came; it was passed on, and each run has written its checkpoint.
    """
    from jaxconv.models import registry
    from jaxconv.runs import workdir as files

    left = []
    for config in configs:
        resolved = config.copy_and_resolve_references()
        resolved.model = registry.resolve(config.model)
        workdir = _workdir(directory, config.seed)
        files.check(workdir, resolved)
        if config.report or files.read_finished(workdir, config) is None:  # a finished run may lack its report
            left.append(config.seed)
    with files.writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    print(
        f"{len(left)} of {len(configs)} seeds to train in {directory}, {len(places)} at a time.",
        file=sys.stderr,
        flush=True,
    )
    command = [sys.executable, *sys.orig_argv[1:]]
    runs = [children.Child(command, {_SEED: str(seed)}, label=f"seed {seed}: ") for seed in left]
    outcome = children.run(runs, places, stdout=subprocess.DEVNULL)
    if outcome.signum:
        raise interrupt.Interrupted(outcome.signum)
    return [(left[number], status) for number, status in outcome.failed]


def summarize(directory: pathlib.Path, seeds: Sequence[int], failed: Sequence[int] = ()) -> dict[str, Any]:
    """Measure how far the results of finished runs spread, and write it to seeds.json.

    Args:
        directory: where the workdirs are.
        seeds: the seeds of the runs.
        failed: those of runs that failed and are left out.

    Returns:
        What seeds.json holds: command, n, seeds, failed, and mean, std, interval and values of each figure. A figure
        that is not finite, or that no split measures, is nan here, and null there.

    Raises:
        UserError: a summary cannot be read, or the file not be written.
    """
    import numpy as np

    from jaxconv.report import measures
    from jaxconv.runs import workdir as files

    summaries = [files.read_json(_workdir(directory, seed) / "summary.json") for seed in seeds]
    found = {"command": interrupt.command(), "n": len(seeds), "seeds": list(seeds), "failed": list(failed)}
    for key in _FORMATS:
        # null becomes nan, and so does what an earlier version did not measure.
        values = np.array([summary.get(key) for summary in summaries], dtype=np.float64)
        found[key] = {**measures.spread(values)._asdict(), "values": values.tolist()}
    files.write_atomically(directory / "seeds.json", _to_json(found))
    return found


def _to_json(found: dict[str, Any]) -> str:
    from jaxconv.runs import workdir as files

    return files.dumps(found, indent=2) + "\n"


def _to_text(found: dict[str, Any], directory: pathlib.Path) -> str:
    """Write a table for stdout: a row for each seed, then what they have in common."""
    from jaxconv.compare import tables, terminal

    def row(name: str, values: Iterable[float]) -> list[str]:
        formatted = zip(_FORMATS.values(), values, strict=True)
        return [name, *(tables.NONE if math.isnan(value) else form.format(value) for form, value in formatted)]

    figures = [found[key] for key in _FORMATS]
    rows = [row(str(seed), (of["values"][number] for of in figures)) for number, seed in enumerate(found["seeds"])]
    rows.append(row("mean", (of["mean"] for of in figures)))
    note = f"n = {found['n']}: one seed has no deviation."
    if found["n"] > 1:
        rows.append(row("deviation", (of["std"] for of in figures)))
        for name, end in (("95% from", 0), ("95% to", 1)):
            rows.append(row(name, (of["interval"][end] for of in figures)))
        note = (
            f"n = {found['n']}. The deviation is that of a sample. Student's 95% interval says how well so many seeds "
            "measure the mean over all seeds."
        )
    numbers = ("test accuracy", "test loss", "validation accuracy", "wall seconds", "clock seconds")
    left_out = [f"Failed and left out: {', '.join(map(str, found['failed']))}."] if found["failed"] else []
    table = tables.Table("Seeds", ("seed", *numbers), numbers, rows, findings=left_out, notes=[note])
    return f"{terminal.to_text([table])}{directory / 'seeds.json'}\n"


if __name__ == "__main__":
    flags.DEFINE_string(
        "config", None, "The recipe: a file such as configs/lenet.py. --config.KEY=VALUE changes a field of it."
    )
    flags.DEFINE_integer("num_seeds", 5, "How many seeds to train, from config.seed on.", lower_bound=1)
    flags.DEFINE_string("workdir", None, "Where the runs are kept; runs/NAME_seeds for configs/NAME.py if not given.")
    flags.DEFINE_integer(
        "at_once", None, "How many train side by side; as many as cores or devices suggest if not given.", lower_bound=1
    )
    flags.DEFINE_bool("json", False, "Print the results as JSON.")
    for name in _SEVERAL:
        flags.DEFINE_string(name, None, "Refused: each seed is a run of one process.")
    cli.start(main)
