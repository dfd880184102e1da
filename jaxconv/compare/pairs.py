"""Pairs of runs on the same test set: does chance explain that one of them is right more often?"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxconv.compare.runs import Run, in_words
from jaxconv.compare.tables import Table
from jaxconv.report import measures
from jaxconv.runs.predictions import Predictions

LEVEL = 0.05
"""Below this p, chance is called an unlikely explanation."""


class Pair(NamedTuple):
    """Two runs on the same test set."""

    first: Run
    second: Run
    examples: int
    measured: measures.McNemar
    corrected: float
    """The p value, corrected by Holm's method for the number of pairs."""


def compare(groups: Sequence[Sequence[Run]]) -> list[Pair]:
    """Compare all pairs of each group of runs on the same test set. All of them have their predictions."""
    pairs = [pair for group in groups for pair in itertools.combinations(group, 2)]
    right = {run.name: _right(run.predictions) for group in groups for run in group if run.predictions}
    measured = [measures.mcnemar(right[first.name], right[second.name]) for first, second in pairs]
    corrected = holm([found.p_value for found in measured])
    return [
        Pair(first, second, len(right[first.name]), found, p_value)
        for (first, second), found, p_value in zip(pairs, measured, corrected, strict=True)
    ]


def _right(predictions: Predictions) -> np.ndarray:
    return predictions.predicted == predictions.label


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p values for their number, so that chance makes any of them small no more often than a single one."""
    order = np.argsort(p_values, kind="stable")
    corrected = np.empty(len(p_values))
    factors = np.arange(len(p_values), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(factors * np.take(p_values, order)), 1)
    return corrected.tolist()


def table(pairs: Sequence[Pair]) -> Table:
    """Write a row for each pair, and a sentence on what its p says."""
    title = "Could the difference be chance?"
    if not pairs:
        why = "No two of the runs have their predictions of the same test set, so none are compared example by example."
        return Table(title, (), (), (), findings=[why], notes=[])
    several = len(pairs) > 1
    numbers = ("difference", "p", *["p, corrected"] * several, "only first right", "only second right")
    return Table(
        title,
        ("first", "second", *numbers),
        numbers,
        [_row(pair, several) for pair in pairs],
        findings=[sentence(pair) for pair in pairs],
        notes=_notes(len(pairs)),
    )


def _row(pair: Pair, several: bool) -> list[str]:
    only_first, only_second, p_value = pair.measured
    difference = 100 * (only_first - only_second) / pair.examples
    return [
        pair.first.name,
        pair.second.name,
        f"{difference:+.2f} points",
        _written(p_value),
        *[_written(pair.corrected)] * several,
        f"{only_first:,}",
        f"{only_second:,}",
    ]


def sentence(pair: Pair) -> str:
    """Say what the p of a pair says, and what it does not."""
    only_first, only_second, _ = pair.measured
    better, worse, more, less = pair.first, pair.second, only_first, only_second
    if only_second > only_first:
        better, worse, more, less = worse, better, less, more
    if not more:
        return f"{in_words((better, worse))} are right on the same examples."
    examples = f"{more:,} example{'s' * (more != 1)}"
    is_equal = "" if pair.corrected < 0.001 else "= "
    counts = (
        f"{better.name} is right on {examples} where {worse.name} is wrong, and wrong on {less:,} where it is right: "
        f"p {is_equal}{_written(pair.corrected)}."
    )
    verdict = "seldom makes" if pair.corrected < LEVEL else "can well make"
    return f"{counts} Chance alone {verdict} such a difference."


def _written(p_value: float) -> str:
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def _notes(pairs: int) -> list[str]:
    notes = [
        "p is the probability of such a difference, or a larger one, if both nets were right equally often (McNemar's "
        f"exact test). Below {LEVEL} it speaks for a real difference between the nets. A larger p shows neither which "
        "net is better nor that they are equal.",
        "The test is about these nets as they are trained. Another seed makes another net: to compare recipes, train "
        "each with several seeds.",
    ]
    if pairs > 1:
        notes.append(
            f"Among {pairs} comparisons a small p is found by chance more easily than in one. So p is corrected by "
            "Holm's method, and the sentences have the corrected p."
        )
    return notes
