"""The lecture's results table, reproduced: train what is not finished, and set the figures beside the lecture's.

python -m tools.reproduce             # all of the lecture: about an hour on 2 cores
python -m tools.reproduce lenet mlp   # these alone

The runs are those of launch.py in runs/, which go on where they were. Summaries and histories are collected in
results/, from which the README's table and the figures in docs/ are made.
"""

import pathlib
import shutil
import subprocess
import sys

from rich.console import Console

from jaxconv.config import did_you_mean
from tools import results

RUNS, CONFIGS = pathlib.Path("runs"), pathlib.Path("configs")


def reproduce(names: list[str]) -> None:
    """Train each config to its end and collect its results in results/.

    Raises:
        SystemExit: a run failed; launch.py has said why.
    """
    for name in names:
        workdir = RUNS / name
        command = ["launch.py", f"--config={CONFIGS / name}.py", f"--workdir={workdir}"]
        print(f"python {' '.join(command)}", file=sys.stderr, flush=True)
        status = subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL).returncode
        if status:
            sys.exit(status)
        shutil.copyfile(workdir / "summary.json", results.RESULTS / f"{name}.json")
        shutil.copyfile(workdir / "history.jsonl", results.RESULTS / f"{name}.history.jsonl")


def main(names: list[str]) -> None:
    """Reproduce the configs named, or those of the lecture, then print and write the table."""
    known = [path.stem for path in sorted(CONFIGS.glob("*.py"))]
    for name in names:
        if name not in known:
            print(f"{name!r} is no config{did_you_mean(name, known)}: choose from {', '.join(known)}.", file=sys.stderr)
            sys.exit(2)
    reproduce(names or list(results.LECTURE))
    results.main()
    Console().print(results.text_table(results.RESULTS))


if __name__ == "__main__":
    main(sys.argv[1:])
