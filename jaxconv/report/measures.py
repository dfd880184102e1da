"""What predictions are worth: intervals, classes, calibration, whether two nets differ, and how far seeds spread."""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import binomtest, t
from sklearn import metrics

from jaxconv.runs.predictions import Predictions

BINS = 15
"""Bins of confidence of equal width, as in arXiv:1706.04599."""


def interval(correct: int, examples: int) -> tuple[float, float]:
    """Compute Wilson's interval, which holds the accuracy over all possible examples in 95 of 100 cases."""
    found = binomtest(correct, examples).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


class OfClass(NamedTuple):
    """How well a class is told from the others. A value that would divide by zero is nan."""

    examples: int
    recall: float
    """The share of the examples of the class that are predicted as it: the accuracy of the class."""
    precision: float
    """The share of the examples predicted as the class that are of it."""
    f1: float
    """The harmonic mean of the two."""


def by_class(predictions: Predictions) -> list[OfClass]:
    """Measure each class."""
    labels = range(predictions.probabilities.shape[1])
    measured: Any = metrics.precision_recall_fscore_support(
        predictions.label,
        predictions.predicted,
        labels=labels,
        zero_division=np.nan,  # type: ignore[arg-type]
    )
    precision, recall, f1, examples = (values.tolist() for values in measured)
    return [OfClass(*row) for row in zip(examples, recall, precision, f1, strict=True)]


def confusion(predictions: Predictions) -> Int[np.ndarray, "labels predicted"]:
    """Count the examples of each label by predicted class."""
    labels = range(predictions.probabilities.shape[1])
    return metrics.confusion_matrix(predictions.label, predictions.predicted, labels=labels)


class Reliability(NamedTuple):
    """How often predictions of a confidence are right. A bin without predictions has accuracy and confidence nan."""

    edges: Float[np.ndarray, " bins+1"]
    examples: Int[np.ndarray, " bins"]
    confidence: Float[np.ndarray, " bins"]
    """The mean probability of the predicted class."""
    accuracy: Float[np.ndarray, " bins"]

    @property
    def ece(self) -> float:
        """The expected calibration error (arXiv:1706.04599): the mean distance of accuracy and confidence."""
        gaps = np.abs(np.nan_to_num(self.accuracy - self.confidence))
        return float(np.sum(gaps * self.examples) / self.examples.sum())


def reliability(predictions: Predictions) -> Reliability:
    """Sort predictions into bins of confidence, and compare it with the accuracy in each."""
    confidence = predictions.probabilities.max(axis=1).astype(np.float64)
    correct = predictions.predicted == predictions.label
    edges = np.linspace(0, 1, BINS + 1)
    bins = np.searchsorted(edges[1:-1], confidence)
    examples = np.bincount(bins, minlength=BINS)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(bins, weights=values, minlength=BINS) / examples for values in (confidence, correct)]
    return Reliability(edges, examples, *means)


class McNemar(NamedTuple):
    """Two nets on the same examples."""

    only_first: int
    """Examples that only the first net has right."""
    only_second: int
    p_value: float
    """The probability of such a difference, or a larger one, where both are right equally often."""


def mcnemar(first: Bool[np.ndarray, " examples"], second: Bool[np.ndarray, " examples"]) -> McNemar:
    """Test whether two nets are right equally often: McNemar's exact test, a binomial test on where they differ.

    Args:
        first: whether the first net is right, for each example.
        second: whether the second net is right.
    """
    only_first, only_second = int(np.sum(first & ~second)), int(np.sum(second & ~first))
    differ = only_first + only_second
    return McNemar(only_first, only_second, float(binomtest(only_first, differ).pvalue) if differ else 1.0)


class Spread(NamedTuple):
    """What a figure is over several seeds."""

    mean: float
    std: float | None
    """The standard deviation of a sample, which divides by n - 1. None: there is one value."""
    interval: tuple[float, float] | None
    """Student's interval, which holds the mean over all possible seeds in 95 of 100 cases. None: there is one value."""


def spread(values: Float[np.ndarray, " seeds"]) -> Spread:
    """Measure how far a figure spreads over seeds."""
    mean = float(values.mean())
    if len(values) == 1:
        return Spread(mean, None, None)
    std = float(values.std(ddof=1))
    half = float(t.ppf(0.975, len(values) - 1)) * std / math.sqrt(len(values))
    return Spread(mean, std, (mean - half, mean + half))
