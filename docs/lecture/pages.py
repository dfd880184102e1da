"""What the pages of the lecture have in common: a look, pictures, tables, and training."""

import json
import math
import pathlib
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown
from jaxtyping import Float32, Int

from jaxconv import experiment
from jaxconv.config import Config, load
from jaxconv.platform import compatibility
from jaxconv.report import measures
from jaxconv.runs import console, trained
from jaxconv.runs.trained import Trained
from jaxconv.train import train as train_run

ROOT = pathlib.Path(__file__).parents[2]
RUNS = ROOT / "runs" / "lecture"
BLUE, ORANGE, GREEN = "#2b7bba", "#d95f02", "#1b9e77"

sys.path.insert(0, str(ROOT))  # for tools, which is not installed

compatibility.quiet()
console.console.quiet = True

plt.rcParams.update(
    {
        "figure.dpi": 110,
        "figure.constrained_layout.use": True,
        "font.size": 9,
        "axes.titlesize": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "image.cmap": "gray",
    }
)


class Run(NamedTuple):
    """A finished run."""

    net: Trained
    """The net at the end of its best epoch."""
    summary: dict[str, Any]
    """What is in summary.json, such as test_accuracy."""
    history: list[dict[str, Any]]
    """The epochs, as in history.jsonl."""


def recipe(name: str) -> Config:
    """Return the config in configs/NAME.py."""
    return load(str(ROOT / "configs" / f"{name}.py"))


experiment.start_jax(recipe("lenet"))


def train(config: Config, name: str) -> Run:
    """Train a config from the start, as launch.py does, in the workdir runs/lecture/NAME."""
    workdir = RUNS / name
    shutil.rmtree(workdir, ignore_errors=True)
    summary = train_run(config, workdir)
    history = [json.loads(line) for line in (workdir / "history.jsonl").read_text().splitlines()]
    return Run(trained.load(workdir), summary, history)


def stored(name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Read what a run of configs/NAME.py left in results/: its summary.json, and the epochs as in history.jsonl."""
    results = ROOT / "results"
    history = (results / f"{name}.history.jsonl").read_text().splitlines()
    return json.loads((results / f"{name}.json").read_text()), [json.loads(line) for line in history]


def tested(summary: dict[str, Any]) -> tuple[float, float, float]:
    """Return the test accuracy in a summary, and the ends of its 95% interval, by Wilson."""
    count = summary["test_examples"]
    return summary["test_accuracy"], *measures.interval(round(summary["test_accuracy"] * count), count)


def difference(first: dict[str, Any], second: dict[str, Any]) -> tuple[float, float, float]:
    """Subtract the test accuracy in the first of two summaries from that in the second.

    Returns:
        The difference and the ends of its 95% interval, by Newcombe (1998) from the intervals of both. It takes the two
        for tested on different images, and is wider than it need be where the images are the same.
    """
    (a, a_low, a_high), (b, b_low, b_high) = tested(first), tested(second)
    return b - a, b - a - math.hypot(b - b_low, a_high - a), b - a + math.hypot(b_high - b, a - a_low)


def logits(net: Trained, images: np.ndarray) -> Float32[np.ndarray, "images classes"]:
    """Compute the logits of images as they are stored (images, *spatial, channels), such as bytes from 0 to 255."""
    apply = jax.jit(lambda images: net.model.apply(net.variables, net.signature.normalize(images), train=False))
    return np.concatenate([apply(images[start : start + 1000]) for start in range(0, len(images), 1000)])


def accuracy(net: Trained, images: np.ndarray, labels: Int[np.ndarray, " images"]) -> float:
    """Return the share of images of which the largest logit is that of the label."""
    return float((logits(net, images).argmax(-1) == labels).mean())


def show_images(images: Sequence[Any], titles: Sequence[str] = (), *, columns: int = 10, size: float = 0.9) -> None:
    """Draw images (height, width[, channels]) in rows, each `size` inches wide, with a title above each."""
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    _, axes = plt.subplots(rows, columns, figsize=(columns * size, rows * (size + 0.25 * bool(titles))))
    for axis in np.ravel(axes):
        axis.axis("off")
    for number, (image, axis) in enumerate(zip(images, np.ravel(axes), strict=False)):
        axis.imshow(np.squeeze(image))
        if titles:
            axis.set_title(titles[number])
    plt.show()


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Markdown:
    """Make a table. Columns of numbers are on the right."""
    rows = [list(row) for row in rows]
    numbers = [all(isinstance(row[column], int | float) for row in rows) for column in range(len(header))]
    lines = [header, ["--:" if number else "---" for number in numbers]]
    lines += [[f"{cell:,}" if isinstance(cell, int) else cell for cell in row] for row in rows]
    return Markdown("\n".join(f"| {' | '.join(map(str, line))} |" for line in lines))
