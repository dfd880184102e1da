"""The test examples on which runs disagree: some are right and others wrong."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from jaxconv.compare.runs import Run, grouped, in_words
from jaxconv.data import sources
from jaxconv.data.examples import Examples
from jaxconv.errors import UserError
from jaxconv.report import examples
from jaxconv.report.page import Figure

WAYS = 6
"""Ways to disagree that are shown, the most frequent ones."""


class Answer(NamedTuple):
    """What a run says of an example."""

    run: str
    predicted: str
    """The name of the most probable class."""
    probability: float
    is_right: bool


class Card(NamedTuple):
    """An example on which runs disagree."""

    figure: Figure | None
    """None: the data is gone."""
    number: int
    """Its place in the split, from 0."""
    true: str
    """The name of its class."""
    answers: list[Answer]


class Way(NamedTuple):
    """A way to disagree: which runs are right, and which are wrong."""

    title: str
    examples: int
    """The number of examples, of which `cards` shows some."""
    cards: list[Card]


class Disagreements(NamedTuple):
    """Where runs on the same test set disagree."""

    runs: str
    """Their names."""
    split: str
    tested: int
    """The number of test examples."""
    differ: int
    """The number of those on which the runs disagree."""
    num_ways: int
    """The number of ways to disagree."""
    ways: list[Way]
    """The most frequent of them."""
    note: str | None
    """Why the pictures are left out."""
    are_wide: bool
    """Whether the pictures are: those of signals and clips, not those of images."""


def find(group: Sequence[Run], most: int) -> Disagreements:
    """Find where runs disagree.

    Args:
        group: two runs or more on the same test set. All of them have their predictions.
        most: the number of examples to show.
    """
    kept = [run.predictions for run in group if run.predictions]
    label, split = kept[0].label, kept[0].split
    right = np.stack([predictions.predicted == label for predictions in kept])
    of_true = np.stack([predictions.probabilities[np.arange(len(label)), label] for predictions in kept])
    where = np.flatnonzero(right.any(axis=0) & ~right.all(axis=0))
    who, way, counts = np.unique(right[:, where], axis=1, return_inverse=True, return_counts=True)
    shown = np.argsort(-counts, kind="stable")[:WAYS]
    data, note = _load(group) if len(where) else (None, None)

    def card(index: int) -> Card:
        return _card(group, index, None if data is None else data.images[index])

    ways = []
    for number in shown:
        mine = where[way == number]
        clearest = mine[np.argsort(-gaps(of_true[:, mine], right[:, mine]), kind="stable")]
        cards = [card(int(index)) for index in clearest[: most // len(shown)]]
        ways.append(Way(_title(group, who[:, number]), int(counts[number]), cards))
    return Disagreements(
        runs=in_words(group),
        split=split,
        tested=len(label),
        differ=len(where),
        num_ways=len(counts),
        ways=ways,
        note=note,
        are_wide=data is not None and data.images.ndim != 4,
    )


def gaps(
    of_true: Float[np.ndarray, "runs examples"], right: Bool[np.ndarray, "runs examples"]
) -> Float[np.ndarray, " examples"]:
    """Compute by how much runs that are right give the true class a larger probability than those that are wrong.

    Args:
        of_true: the probability of the true class.
        right: whether a run is right. For each example some are, and some are not.

    Returns:
        The difference of the two means.
    """
    return np.mean(of_true, axis=0, where=right) - np.mean(of_true, axis=0, where=~right)


def _title(group: Sequence[Run], right: Bool[np.ndarray, " runs"]) -> str:
    rights = [run for run, is_right in zip(group, right, strict=True) if is_right]
    wrongs = [run for run, is_right in zip(group, right, strict=True) if not is_right]
    if len(rights) == 1:
        return f"Only {in_words(rights)} is right"
    if len(wrongs) == 1:
        return f"Only {in_words(wrongs)} is wrong"
    return f"{in_words(rights)} are right, {in_words(wrongs)} wrong"


def _card(group: Sequence[Run], index: int, image: np.ndarray | None) -> Card:
    answers, true = [], ""
    for run in group:
        assert run.predictions
        assert run.class_names
        label, predicted = run.predictions.label[index], run.predictions.predicted[index]
        true = run.class_names[label]
        probability = float(run.predictions.probabilities[index, predicted])
        answers.append(Answer(run.name, run.class_names[predicted], probability, bool(predicted == label)))
    alt = f"Example {index} of the test set, of class {true}."
    figure = None if image is None else examples.draw(image, f"example_{index}", alt)
    return Card(figure, index, true, answers)


def _load(group: Sequence[Run]) -> tuple[Examples | None, str | None]:
    """Load the test set from where the first of the runs found it that still can; or say why none can."""
    reasons = []
    for run, *_ in grouped(group, lambda first, other: first.config.data == other.config.data):
        assert run.predictions
        try:
            source = sources.open_source(run.config.data)
            split = source.load(run.predictions.split)
        except UserError as error:
            reasons.append(str(error))
            continue
        if source.class_names == run.class_names and np.array_equal(split.labels, run.predictions.label):
            return split, None
        reasons.append(f"The split {run.predictions.split!r} has changed since {run.name} was tested.")
    return None, f"The pictures of the examples are left out. {reasons[0]}"
