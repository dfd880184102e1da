"""Charts: curves, the confusion matrix and the reliability diagram, as SVG that fits light and dark pages."""

import contextlib
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Int
from matplotlib.figure import Figure as Drawing

from jaxconv.report.measures import Reliability
from jaxconv.report.page import Figure

COLOURS = ("#2b7bba", "#d95f02", "#1b9e77", "#b0489a", "#a6761d", "#7570b3", "#d43d51", "#6b8e23")
"""Colours of lines, told apart on white and on near-black, also by most colour-blind people."""

_DASHES = ("-", "--", ":")
_INK = "#010203"  # stands for the colour of the text around a chart, see `to_figure`
_MOST_NUMBERS, _MOST_NAMES = 20, 40

Record = dict[str, Any]


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Draw within this context. Charts are transparent, and their text and axes have the colour of the page's text."""
    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "jaxconv",
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
    }
    inked = ["text.color", "xtick.color", "ytick.color", "grid.color"]
    inked += ["axes.edgecolor", "axes.labelcolor", "axes.titlecolor"]
    settings |= dict.fromkeys(inked, _INK)
    with matplotlib.rc_context(settings):
        yield


def to_figure(drawing: Drawing, name: str, alt: str) -> Figure:
    """Write a drawing as SVG, for use within a page and as a file. Call it within `style`."""
    file = io.StringIO()
    drawing.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg ") :].replace(_INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # several charts of a page would have the same ids
    return Figure(name, svg.encode(), alt)


def curves(
    histories: Mapping[str, Sequence[Record]], keys: Mapping[str, str], ylabel: str, name: str, alt: str
) -> Figure:
    """Draw values of the epochs of runs, with a dot at each run's best epoch.

    Args:
        histories: the epochs of each run, as in history.jsonl, by the name of the run. That of a single run may be "".
        keys: what to draw of an epoch, such as "val_loss", and the name of its line, such as "validation".
        ylabel: the name of the values.
        name: the name of the file.
        alt: what the chart shows.
    """
    with style():
        drawing = Drawing(figsize=(4.6, 3.1), layout="constrained")
        axis: Any = drawing.subplots()
        lines = [(run, key) for run in histories for key in keys]
        for number, (run, key) in enumerate(lines):
            label = " ".join(part for part in (run, keys[key]) if part).replace("$", r"\$")
            line = {"color": COLOURS[number % len(COLOURS)], "linestyle": _DASHES[number // len(COLOURS) % 3]}
            _curve(axis, histories[run], key, f" {label}", line)  # a label that begins with "_" would not be shown
        axis.set(xlabel="epoch", ylabel=ylabel)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.15)
        axis.legend()
        return to_figure(drawing, name, alt)


def _curve(axis: Any, history: Sequence[Record], key: str, label: str, line: dict[str, Any]) -> None:
    epochs = [record["epoch"] for record in history]
    values = [math.nan if record[key] is None else record[key] for record in history]
    axis.plot(epochs, values, label=label, linewidth=1.6, marker="." if len(epochs) < 4 else None, **line)
    if key.startswith("val_"):
        best = max(range(len(history)), key=lambda i: (history[i]["val_accuracy"] or 0, -i))
        axis.plot(epochs[best], values[best], "o", color=line["color"], markersize=6)


def confusion(counts: Int[np.ndarray, "labels predicted"], class_names: Sequence[str], split: str) -> Figure:
    """Draw a confusion matrix. The colour of a cell is its share of the examples of its true class."""
    classes = len(class_names)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(max(3.6, 0.42 * classes + 1.4), 8)
    with style():
        drawing = Drawing(figsize=(side, side), layout="constrained")
        axis: Any = drawing.subplots()
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="none")
        axis.set(xlabel="predicted", ylabel="true")
        axis.spines[:].set_visible(False)
        if classes <= _MOST_NAMES:
            shown = [name if len(name) <= 14 else f"{name[:13]}…" for name in class_names]
            turned = 0 if max(map(len, shown)) <= 2 else 90
            axis.set_xticks(range(classes), shown, rotation=turned)
            axis.set_yticks(range(classes), shown)
            axis.tick_params(length=0)
        if classes <= _MOST_NUMBERS:
            for row, column in np.argwhere(counts > 0):
                colour = "white" if shares[row, column] > 0.5 else "#1c2024"
                axis.text(column, row, f"{counts[row, column]}", ha="center", va="center", color=colour, fontsize=8)
        wrong, examples = int(counts.sum() - np.trace(counts)), int(counts.sum())
        alt = (
            f"Confusion matrix of {classes} classes on {split}: {wrong:,} of {examples:,} examples are predicted wrong."
        )
        return to_figure(drawing, "confusion.svg", alt)


def reliability(measured: Reliability, split: str) -> Figure:
    """Draw accuracy by confidence, and below it how many predictions each bin has."""
    width = measured.edges[1]
    centres = measured.edges[:-1] + width / 2
    with style():
        drawing = Drawing(figsize=(4.2, 4.2), layout="constrained")
        above, below = drawing.subplots(2, sharex=True, height_ratios=(3, 1))
        above.bar(centres, measured.accuracy, 0.92 * width, color=COLOURS[0], label="accuracy")
        above.plot([0, 1], [0, 1], "--", color=_INK, linewidth=1, label="perfectly calibrated")
        above.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
        drawing.legend(loc="outside upper center", ncols=2)
        below.bar(centres, measured.examples / measured.examples.sum(), 0.92 * width, color=COLOURS[0])
        below.set(xlabel="confidence", ylabel="share")
        alt = (
            f"Reliability diagram on {split}: accuracy by confidence. The expected calibration error is "
            f"{measured.ece:.1%}."
        )
        return to_figure(drawing, "reliability.svg", alt)
