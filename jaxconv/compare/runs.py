"""The runs of a comparison: what is read of each, and which of them are on the same data."""

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxconv.config import Config
from jaxconv.errors import ConfigError, UserError, printable
from jaxconv.runs import checkpoint, trained
from jaxconv.runs import predictions as kept
from jaxconv.runs import workdir as files
from jaxconv.runs.predictions import Predictions


class Run(NamedTuple):
    """What a run has left so far."""

    name: str
    """What the comparison calls it."""
    config: Config
    """Its resolved config. A field that an earlier version did not have has its default."""
    class_names: tuple[str, ...] | None
    """None: an earlier version began the run, and did not keep them."""
    history: list[dict[str, Any]]
    """Its epochs, one or more, as in history.jsonl."""
    best: dict[str, Any]
    """The best of them."""
    summary: dict[str, Any] | None
    """What summary.json says. None: the run is not finished."""
    predictions: Predictions | None
    """What its net says of the test set. None: the run is not finished, or an earlier version finished it."""

    @property
    def versions(self) -> dict[str, str]:
        """What it was computed with, as in summary.json. There is nothing of a run that is not finished."""
        return self.summary["versions"] if self.summary else {}


def load(workdirs: Sequence[pathlib.Path]) -> list[Run]:
    """Read runs. Nothing of them is changed, and they may be in training.

    Raises:
        UserError: a directory holds no run with a finished epoch, or a file of a run is broken.
    """
    names = [pathlib.Path(os.path.abspath(workdir)).name for workdir in workdirs]
    if len(set(names)) < len(names):
        names = list(map(str, workdirs))
    return [_load(workdir, printable(name)) for workdir, name in zip(workdirs, names, strict=True)]


def _load(workdir: pathlib.Path, name: str) -> Run:
    if (recorded := files.read_config(workdir)) is None:
        raise ConfigError(f"{workdir} holds no run: name the workdir of one.")
    try:
        config = trained.to_config(recorded)
        signature = files.read_json(workdir / "signature.json")
        class_names = tuple(signature["class_names"]) if signature else None
        if not (history := files.read_history(workdir)):
            raise UserError(f"The run in {workdir} has not finished an epoch yet: compare it later.")
        summary, best = files.read_summary(workdir), checkpoint.best_epoch(history)
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"A file of the run in {workdir} is not what a run writes ({error}): put it back, or leave the run out."
        ) from None
    predictions = kept.read(workdir) if summary else None  # a run that goes on for more epochs has old ones
    if predictions and predictions.probabilities.shape != (len(predictions.label), len(class_names or ())):
        raise UserError(
            f"{workdir / kept.FILE} does not fit the classes of the run: put it back, or leave the run out."
        )
    return Run(name, config, class_names, history, best, summary, predictions)


def in_words(runs: Sequence[Run]) -> str:
    """Write the names of runs as in "a, b and c"."""
    *most, last = (run.name for run in runs)
    return f"{', '.join(most)} and {last}" if most else last


def grouped(runs: Sequence[Run], same: Callable[[Run, Run], bool]) -> list[list[Run]]:
    """Part runs into groups, in each of which all are the `same` as the first."""
    groups: list[list[Run]] = []
    for run in runs:
        group = next((group for group in groups if same(group[0], run)), None)
        if group:
            group.append(run)
        else:
            groups.append([run])
    return groups


def same_test(first: Run, second: Run) -> bool:
    """Return whether two runs that kept their predictions were tested on the same examples."""
    if first.predictions is None or second.predictions is None:
        return False
    return (
        _same(first, second, "test")
        and first.versions.get("data") == second.versions.get("data")
        and np.array_equal(first.predictions.label, second.predictions.label)
    )


def same_data(first: Run, second: Run) -> bool:
    """Return whether two runs were validated on the same examples and, as far as it is known, tested on the same."""
    if not _same(first, second, "validation"):
        return False
    unknown = first.predictions is None or second.predictions is None
    return _same(first, second, "test") if unknown else same_test(first, second)


def _same(first: Run, second: Run, split: str) -> bool:
    keys = ("name", split, "held_out", "split_seed")
    return first.class_names == second.class_names and all(
        first.config.data[key] == second.config.data[key] for key in keys
    )
