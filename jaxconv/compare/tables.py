"""Tables of what runs reached, what they cost, and how their configs differ; for the page and for the terminal."""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxconv.compare.runs import Run, grouped, in_words, same_data
from jaxconv.config import FIELDS, flatten
from jaxconv.report import measures
from jaxconv.report.page import duration
from jaxconv.runs.workdir import FREE_TO_CHANGE

NONE = "-"

HOW_IT_RUNS = FREE_TO_CHANGE - {"data.dir"}  # another folder may hold other images
"""Fields that change results by rounding at most."""


class Table(NamedTuple):
    """A table of text, and sentences that belong to it."""

    title: str
    columns: Sequence[str]
    """The most important ones come first: a phone shows those."""
    numbers: Collection[str]
    """The columns of numbers."""
    rows: Sequence[Sequence[str]]
    """Where there is none, the sentences stand alone."""
    findings: Sequence[str]
    """What the reader must know of it."""
    notes: Sequence[str]
    """How it is to be read."""


def results(runs: Sequence[Run]) -> Table:
    """Write a row for each run: what it reached."""
    numbers = ("test", "95% interval", "test examples", "validation", "best epoch")
    note = (
        "Accuracies, with the parameters of the epoch that is best on the validation split, or of the last one where "
        "there is none. Wilson's 95% interval says how well so many examples measure an accuracy."
    )
    rows = [_result(run) for run in runs]
    return Table("Results", ("run", *numbers), numbers, rows, findings=_warnings(runs), notes=[note])


def _result(run: Run) -> list[str]:
    tested = [NONE, NONE, NONE]
    if run.summary:
        correct, examples = _tested(run, run.summary)
        low, high = measures.interval(correct, examples)
        tested = [f"{correct / examples:.2%}", f"{low:.2%} to {high:.2%}", f"{examples:,}"]
    accuracy = run.best["val_accuracy"]
    validated = NONE if accuracy is None else f"{accuracy:.2%}"
    return [run.name, *tested, validated, f"{run.best['epoch']} of {len(run.history)}"]


def _tested(run: Run, summary: dict[str, Any]) -> tuple[int, int]:
    """Count the test examples that a finished run has right, and all of them."""
    if run.predictions is None:
        return round(summary["test_accuracy"] * summary["test_examples"]), summary["test_examples"]
    return int(np.sum(run.predictions.predicted == run.predictions.label)), len(run.predictions.label)


def _warnings(runs: Sequence[Run]) -> list[str]:
    """Say of which runs the test accuracy is missing, or cannot be compared with that of others."""
    warnings = []
    if unfinished := [run for run in runs if run.summary is None]:
        warnings.append(f"Not finished: {in_words(unfinished)}. The test set stays closed until the end of a run.")
    if alone := [run for run in runs if run.summary and run.predictions is None]:
        warnings.append(
            f"Finished by an earlier version of jaxconv, which kept no predictions: {in_words(alone)}. Left out where "
            "runs are compared example by example."
        )
    if len(groups := grouped(runs, same_data)) > 1:
        places = [f"{in_words(group)} on {_data(group[0])}" for group in groups]
        alike = len({_data(group[0]) for group in groups}) == 1
        hidden = " (their classes, labels or held-out parts differ)" if alike else ""
        warnings.append(
            f"The runs are on different data: {'; '.join(places)}{hidden}. Accuracies and losses on different examples "
            "do not compare, and only runs with the same test set are compared example by example."
        )
    return warnings


def _data(run: Run) -> str:
    data, version = run.config.data, run.versions.get("data")
    return f"{data.name}{f' ({version})' if version else ''}, validation {data.validation!r}, test {data.test!r}"


def costs(runs: Sequence[Run]) -> Table:
    """Write a row for each run: its net, and what it took to train it."""
    numbers = ("parameters", "images/s", "wall time")
    columns, rows = ("run", "model", "data", *numbers, "devices"), [_cost(run) for run in runs]
    machines: dict[str, list[Run]] = {}
    for run in runs:
        if run.summary:
            machines.setdefault(run.versions.get("processor", "an unknown processor"), []).append(run)
    named = [f"{in_words(there)} on {processor}" for processor, there in machines.items()]
    differ = "The processors differ, so images/s and wall times do not compare"
    return Table(
        "Net, data and speed",
        columns,
        numbers,
        rows,
        findings=[f"{differ}: {'; '.join(named)}."] if len(named) > 1 else [],
        notes=[f"Trained on {processor}." for processor in machines] if len(named) == 1 else [],
    )


def _cost(run: Run) -> list[str]:
    seconds = sum(epoch["seconds"] for epoch in run.history)
    speed = sum(epoch["images_per_s"] * epoch["seconds"] for epoch in run.history) / seconds
    parameters = wall_time = devices = NONE
    if run.summary:
        parameters, wall_time = f"{run.summary['num_params']:,}", duration(run.summary["wall_seconds"])
        devices = f"{run.summary['devices']} x {run.summary['platform']}"
    return [run.name, run.config.model.name, run.config.data.name, parameters, f"{speed:,.0f}", wall_time, devices]


def fields(runs: Sequence[Run]) -> Table:
    """Write a row for each field of the configs that differs; last those of `HOW_IT_RUNS`, with a star."""
    configs = [flatten(run.config) for run in runs]
    differ = [key for key in FIELDS if any(config[key] != configs[0][key] for config in configs)]
    differ.sort(key=HOW_IT_RUNS.__contains__)
    rows = [[f"{key} *" if key in HOW_IT_RUNS else key, *(str(config[key]) for config in configs)] for key in differ]
    return Table(
        "What differs in the configs",
        ("field", *(run.name for run in runs)),
        (),
        rows,
        findings=[] if differ else ["They have the same config."],
        notes=["* A field of where or how a run computes. It changes results by rounding at most."]
        if HOW_IT_RUNS.intersection(differ)
        else [],
    )
