"""Charts fit light and dark pages, and can be read without colour."""

import re

import numpy as np
import pytest

from jaxconv.report import charts, measures
from tests.report.test_measures import random_predictions

HISTORY = [
    {"epoch": epoch, "train_loss": 1 / epoch, "val_loss": None if epoch == 2 else 0.5, "val_accuracy": accuracy}
    for epoch, accuracy in enumerate((0.2, 0.5, 0.9, 0.9, 0.6), start=1)
]
PAPERS = ("#ffffff", "#14171a")


def some_charts():
    predictions = random_predictions()
    keys = {"train_loss": "training", "val_loss": "validation"}
    return [
        charts.curves({"": HISTORY}, keys, "loss", "loss.svg", "The loss."),
        charts.curves({"one": HISTORY, "two": HISTORY[:1]}, {"val_loss": ""}, "loss", "loss.svg", "The loss."),
        charts.confusion(measures.confusion(predictions), list("abcdefg"), "the split 'test'"),
        charts.confusion(np.eye(60, dtype=int), [f"class {i}" for i in range(60)], "the split 'test'"),
        charts.reliability(measures.reliability(predictions), "the split 'test'"),
    ]


def test_charts_need_nothing_from_elsewhere_and_repeat():
    for chart, again in zip(some_charts(), some_charts(), strict=True):
        assert chart == again
        text = chart.content.decode()
        assert text.startswith("<svg ")
        assert "currentColor" in text
        assert re.findall(r'(?:href|src)="(?!#|data:)', text) == []
        ids = re.findall(r'<g[^>]* id="', text)
        assert ids == []
        assert len(chart.content) < 200_000


def test_curves_mark_the_best_epoch_and_name_their_lines():
    one, two, *_ = (chart.content.decode() for chart in some_charts())
    assert one.count("> training<") == one.count("> validation<") == 1
    assert one.count("> one<") == 0
    assert two.count("> one<") == two.count("> two<") == 1


def test_class_names_are_shown_as_far_as_there_is_room():
    few, many = (chart.content.decode() for chart in some_charts()[2:4])
    assert all(f">{name}<" in few for name in "abcdefg")
    assert "class 7" not in many


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("paper", PAPERS)
def test_colours_are_seen_on_both_papers(paper):
    """The contrast of graphics is at least 3, as WCAG 2.1 has it."""
    for colour in charts.COLOURS:
        lighter, darker = sorted([luminance(colour), luminance(paper)], reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 3, colour
