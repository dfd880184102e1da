"""Rounds of several contestants, each in a process of its own, one at a time and in turn.

A contestant is a command that says READY on a line of stdout when it has warmed up, and from then on answers each
line of stdin with one figure: images per second of a round. `answer` is its side of that.
"""

import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any, NamedTuple

from rich.console import Console
from rich.table import Table

from jaxconv.platform import limits

READY, MISSING = "ready", "missing"
_ROUND_SECONDS = 2.0
_PACKAGES = ["jax", "flax", "optax", "keras", "tensorflow", "tensorflow-cpu", "torch"]


def answer(run: Callable[[int], object], images_per_step: int) -> None:
    """Measure `run`, which does so many steps and waits for the last one, once for each line of stdin."""

    def seconds(steps: int) -> float:
        began = time.perf_counter()
        run(steps)
        return time.perf_counter() - began

    run(3)  # compiles, and wakes what sleeps
    steps = 1
    while seconds(steps) < _ROUND_SECONDS / 4:
        steps *= 2
    steps = max(3, round(steps * _ROUND_SECONDS / seconds(steps)))
    print(READY, flush=True)
    for _ in sys.stdin:
        print(images_per_step * steps / seconds(steps), flush=True)


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str], object]]:
    """A function that says how far a benchmark is, on stderr: in one changing line on a terminal, else in many."""
    console = Console(stderr=True, highlight=False)
    if console.is_terminal:
        with console.status("") as status:
            yield status.update
    else:
        yield console.print


class Command(NamedTuple):
    """Arguments of Python, and what is set in its environment."""

    arguments: list[str]
    environment: dict[str, str]


class Comparison(NamedTuple):
    """What came of the contestants."""

    figures: dict[str, list[float]]
    """By the name of each, round by round."""
    missing: list[str]
    """The names of those that are not installed."""
    interrupted: bool
    """Whether Ctrl-C came first; the figures are then those of the rounds that were whole."""


def compare(commands: Mapping[str, Command], *, rounds: int, say: Callable[[str], object]) -> Comparison:
    """Start all contestants, then measure them round by round."""
    figures: dict[str, list[float]] = {}
    missing: list[str] = []
    try:
        with contextlib.ExitStack() as stack:
            running = {}
            for name, command in commands.items():
                say(f"{name}: starting")
                errors = stack.enter_context(tempfile.TemporaryFile("w+"))
                if (pipes := _start(name, command, stack, errors)) is None:
                    missing.append(name)
                else:
                    running[name], figures[name] = pipes, []
            names = list(running)
            for number in range(rounds):
                for name in names[number % len(names) :] + names[: number % len(names)]:
                    go, answers = running[name]
                    go.write("\n")
                    go.flush()
                    figures[name].append(float(answers.readline()))
                    say(f"round {number + 1}: {name} {figures[name][-1]:,.0f}")
    except KeyboardInterrupt:
        whole = min(map(len, figures.values()), default=0)
        return Comparison({name: speeds[:whole] for name, speeds in figures.items() if whole}, missing, True)
    return Comparison(figures, missing, False)


def _start(name: str, command: Command, stack: contextlib.ExitStack, errors: IO[str]) -> tuple[IO[str], IO[str]] | None:
    """The stdin and stdout of a contestant that is ready; None if it is not installed."""
    process = stack.enter_context(
        subprocess.Popen(
            [sys.executable, *command.arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | command.environment | {"TF_CPP_MIN_LOG_LEVEL": "2"},
        )
    )
    stack.callback(process.kill)
    assert process.stdin and process.stdout
    first = process.stdout.readline().strip()
    if first not in (READY, MISSING):
        errors.seek(0)
        raise RuntimeError(f"{name} failed:\n{errors.read()}")
    return (process.stdin, process.stdout) if first == READY else None


def ratio(ours: list[float], theirs: list[float]) -> tuple[float, float, float]:
    """Median, lowest and highest of our figure over theirs, by round."""
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


def present(title: str, unit: str, comparison: Comparison, about: dict[str, Any], path: str | None) -> None:
    """Print the speeds of all contestants and the ratios of ours ("jaxconv") to theirs, and write them to `path`.

    Args:
        title: title of the table.
        unit: what is counted in a second, such as "images".
        comparison: the figures.
        about: what the result says beside them, such as the command.
        path: file for the result. None: it is only printed.
    """
    figures, missing, interrupted = comparison
    speed = f"{unit}/s"
    rows, ratios = [], {}
    for name, speeds in figures.items():
        row = {"": name, speed: f"{statistics.median(speeds):,.0f}", "our ratio": ""}
        if name != "jaxconv":
            middle, lowest, highest = ratio(figures["jaxconv"], speeds)
            row["our ratio"] = f"{middle:.2f} ({lowest:.2f} to {highest:.2f})"
            ratios[name] = {"median": middle, "lowest": lowest, "highest": highest}
        rows.append(row)
    rows += [{"": name, speed: "missing", "our ratio": ""} for name in missing]
    result = about | {
        "interrupted": interrupted,
        f"{unit}_per_s": figures,
        "missing": missing,
        "ratios": ratios,
        "machine": machine(),
        "versions": versions(),
    }
    report(title, rows, result, path)


def machine() -> dict[str, Any]:
    """What the figures depend on beside the code."""
    model = platform.processor()
    with contextlib.suppress(OSError, StopIteration), open("/proc/cpuinfo") as cpuinfo:
        model = next(line.split(":")[1].strip() for line in cpuinfo if line.startswith("model name"))
    return {"cpu": model, "cores": limits.cores(), "system": platform.platform(), "python": platform.python_version()}


def versions() -> dict[str, str]:
    """Versions of ours and the peers' packages, of those that are installed."""
    import importlib.metadata

    found = {}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def report(title: str, rows: list[dict[str, str]], result: dict[str, Any], path: str | None) -> None:
    """Print the rows as a table and write the result to `path`; end with status 130 if it was interrupted."""
    if rows:
        table = Table(*rows[0], title=title, title_justify="left")
        for column in table.columns[1:]:
            column.justify = "right"
        for row in rows:
            table.add_row(*row.values())
        Console().print(table)
    if path:
        with open(path, "w") as file:
            json.dump(result, file, indent=1)
            file.write("\n")
    if result["interrupted"]:
        sys.exit(130)
