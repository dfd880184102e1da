"""Measures of predictions: scikit-learn, SciPy, and values by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.calibration import calibration_curve

from jaxconv.report import measures
from jaxconv.runs.predictions import Predictions


def of(label, predicted, num_classes, confidence=0.9):
    """Predictions of these classes, with this confidence."""
    confidence = np.broadcast_to(confidence, len(label))
    probabilities = np.repeat((1 - confidence[:, None]) / (num_classes - 1), num_classes, axis=1)
    probabilities[np.arange(len(label)), predicted] = confidence
    return Predictions("test", np.array(label, np.int32), probabilities.astype(np.float32))


def random_predictions(examples=500, num_classes=7, seed=0):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(num_classes, 0.3), examples).astype(np.float32)
    label = np.where(rng.random(examples) < 0.6, probabilities.argmax(1), rng.integers(0, num_classes, examples))
    return Predictions("test", label.astype(np.int32), probabilities)


@given(st.integers(1, 5000), st.floats(0, 1))
def test_wilsons_interval_by_its_formula(examples, share):
    correct = round(share * examples)
    low, high = measures.interval(correct, examples)
    p, z = correct / examples, norm.ppf(0.975)
    centre = (p + z**2 / (2 * examples)) / (1 + z**2 / examples)
    half = z / (1 + z**2 / examples) * np.sqrt(p * (1 - p) / examples + z**2 / (4 * examples**2))
    np.testing.assert_allclose([low, high], np.clip([centre - half, centre + half], 0, 1), atol=1e-9)


def test_classes_by_hand():
    first, second, third = measures.by_class(of([0, 0, 0, 1, 1, 0], [0, 0, 1, 1, 0, 0], 3))
    assert first == (4, 0.75, 0.75, 0.75)
    assert second == (2, 0.5, 0.5, 0.5)
    assert third.examples == 0  # no example, and no prediction
    assert np.isnan([third.recall, third.precision]).all()


def test_the_confusion_matrix_counts_every_example():
    predictions = random_predictions()
    counts = measures.confusion(predictions)
    expected = np.zeros((7, 7), int)
    np.add.at(expected, (predictions.label, predictions.predicted), 1)
    np.testing.assert_array_equal(counts, expected)
    np.testing.assert_array_equal([c.examples for c in measures.by_class(predictions)], counts.sum(axis=1))
    np.testing.assert_allclose([c.recall for c in measures.by_class(predictions)], np.diag(counts) / counts.sum(axis=1))
    np.testing.assert_allclose(
        [c.precision for c in measures.by_class(predictions)], np.diag(counts) / counts.sum(axis=0)
    )


def test_calibration_as_scikit_learn_has_it():
    predictions = random_predictions()
    measured = measures.reliability(predictions)
    correct, confidence = predictions.predicted == predictions.label, predictions.probabilities.max(axis=1)
    accuracy, mean_confidence = calibration_curve(correct, confidence.astype(float), n_bins=measures.BINS)
    there = measured.examples > 0
    np.testing.assert_allclose(measured.accuracy[there], accuracy)
    np.testing.assert_allclose(measured.confidence[there], mean_confidence)
    assert np.isnan(measured.accuracy[~there]).all()
    assert measured.examples.sum() == 500


def test_the_calibration_error_by_hand():
    # Six of confidence 0.9, four of them right; two of confidence 0.5, both right.
    predictions = of([0] * 8, [0, 0, 0, 0, 1, 1, 0, 0], 3, confidence=[0.9] * 6 + [0.5] * 2)
    assert measures.reliability(predictions).ece == pytest.approx((6 * abs(4 / 6 - 0.9) + 2 * abs(1 - 0.5)) / 8)


def test_mcnemar_by_hand():
    first = np.array([True] * 10 + [False] * 2 + [True] * 5)
    second = np.array([False] * 10 + [True] * 2 + [True] * 5)
    tested = measures.mcnemar(first, second)
    assert tested[:2] == (10, 2)
    assert tested.p_value == pytest.approx(2 * (1 + 12 + 66) / 2**12)
    assert measures.mcnemar(second, first) == (2, 10, tested.p_value)
    assert measures.mcnemar(first, first) == (0, 0, 1.0)


def test_spread_over_seeds_by_hand():
    """The mean of 1, 2, 4, 5 is 3; squares of the distances add up to 10; Student's t for 3 degrees is 3.18245."""
    mean, std, interval = measures.spread(np.array([1.0, 2.0, 4.0, 5.0]))
    assert mean == 3
    assert std == pytest.approx(math.sqrt(10 / 3))
    assert interval == pytest.approx((0.094836, 5.905164), abs=1e-5)  # 3 - and + 3.18245 * 1.82574 / 2


def test_one_seed_has_no_spread():
    assert measures.spread(np.array([0.9])) == (0.9, None, None)


def test_seeds_that_agree():
    assert measures.spread(np.array([0.5, 0.5, 0.5])) == (0.5, 0, (0.5, 0.5))
