"""A comparison of runs from top to bottom, and the page that shows it."""

from collections.abc import Sequence
from typing import NamedTuple

from jaxconv.compare import disagreements, pairs, tables
from jaxconv.compare.disagreements import Disagreements
from jaxconv.compare.runs import Run, grouped, in_words, same_test
from jaxconv.compare.tables import Table
from jaxconv.report import charts, page
from jaxconv.report.page import Figure

CARDS = 24
"""The number of examples on which runs disagree that the page shows."""

_MOST_NAMED = 3

_MEASURES_TRAINING = ("label_smoothing", "mixup", "class_weights")
"""Fields that change what the training loss measures."""


class Comparison(NamedTuple):
    """What there is to say of several runs."""

    runs: list[Run]
    results: Table
    costs: Table
    fields: Table
    pairs: Table
    curves: list[list[Figure]]
    """Those of validation, if any run has such a split, and those of training."""
    curve_notes: list[str]
    disagreements: list[Disagreements]
    """One for each group of runs on the same test set."""

    @property
    def tables(self) -> list[Table]:
        """All tables, in the order of the page."""
        return [self.results, self.costs, self.fields, self.pairs]


def compare(runs: list[Run]) -> Comparison:
    """Compare two runs or more. The test examples on which they disagree are loaded, if the data is still there."""
    groups = [group for group in grouped([run for run in runs if run.predictions], same_test) if len(group) > 1]
    drawn, notes = _curves(runs)
    return Comparison(
        runs=runs,
        results=tables.results(runs),
        costs=tables.costs(runs),
        fields=tables.fields(runs),
        pairs=pairs.table(pairs.compare(groups)),
        curves=drawn,
        curve_notes=notes,
        disagreements=[disagreements.find(group, CARDS // len(groups)) for group in groups],
    )


def to_html(comparison: Comparison) -> str:
    """Write the page."""
    runs = comparison.runs
    title = in_words(runs) if len(runs) <= _MOST_NAMED else f"{len(runs)} runs"
    return page.render("compare.html", title=title, ways=disagreements.WAYS, **comparison._asdict())


def _curves(runs: Sequence[Run]) -> tuple[list[list[Figure]], list[str]]:
    """Draw accuracy and loss by epoch, and say what does not compare."""
    validated = [run for run in runs if run.best["val_accuracy"] is not None]
    measured, notes = ["accuracy", "loss"], []
    if len({len(run.class_names) for run in runs if run.class_names}) > 1:
        measured.remove("loss")
        notes.append("The losses are left out: they do not compare where the numbers of classes differ.")
    elif differ := [key for key in _MEASURES_TRAINING if len({run.config[key] for run in runs}) > 1]:
        notes.append(f"The training losses do not compare: the runs differ in {' and '.join(differ)}.")

    if len(validated) < len(runs):
        without = in_words([run for run in runs if run.best["val_accuracy"] is None])
        notes.append(f"There is no validation split, so the last epoch counts as the best: {without}.")

    def draw(runs: Sequence[Run], split: str, measure: str) -> Figure:
        key, name = f"{'val' if split == 'validation' else 'train'}_{measure}", f"{split} {measure}"
        values = [f"{run.name} {_number(run.best[key], measure)}" for run in runs]
        alt = f"The {name} of the runs by epoch. In their best epochs: {', '.join(values)}."
        return charts.curves({run.name: run.history for run in runs}, {key: ""}, name, f"{key}.svg", alt)

    drawn = {"validation": validated, "training": runs}
    return [[draw(of, split, measure) for measure in measured] for split, of in drawn.items() if of], notes


def _number(value: float | None, measure: str) -> str:
    if value is None:  # it was not finite
        return "nan"
    return f"{value:.2%}" if measure == "accuracy" else f"{value:.4f}"
