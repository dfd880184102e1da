"""The table and the figure of test accuracy against time, from what `benchmarks.time_to_accuracy` wrote."""

import itertools
import json
import pathlib
import statistics
from typing import Any

import numpy as np

from jaxconv.report import measures

RECIPES = {"MNIST": "keras-lenet", "CIFAR-10": "keras-cifar_deep_augment"}
"""The contestant that the times of others are shares of, by data set: the lecture's best recipe in Keras."""

STYLES = {
    "Keras, the lecture's nets": ("#d55e00", "s"),
    "PyTorch, the record recipe": ("#cc79a7", "D"),
    "jaxconv, the lecture's nets": ("#009e73", "o"),
    "jaxconv, recipes against the clock": ("#2f81f7", "o"),
}
"""Colour and marker of each group of contestants: read on a light and a dark page, and by colour-blind people."""
KERAS, TORCH, OURS, LADDER = STYLES

TICKS = {
    "MNIST": (0.9, 0.95, 0.97, 0.98, 0.985, 0.99, 0.993, 0.995, 0.997, 0.998),
    "CIFAR-10": (0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.92, 0.94, 0.96),
}
"""Accuracies that an axis may show."""


def read(directory: pathlib.Path) -> dict[str, dict[str, Any]]:
    """The results of a machine by the names of the contestants: a data set after the other, the fastest first."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(directory.glob("*.json"))}
    order = list(RECIPES)
    key = {name: (order.index(result["data"]), _seconds(result)) for name, result in found.items()}
    return {name: found[name] for name in sorted(found, key=lambda name: key[name])}


def machine(result: dict[str, Any]) -> str:
    """The processor and cores that a result is of."""
    return f"{result['processor']}, {result['machine']['cores']} cores"


def machines(directory: pathlib.Path) -> dict[str, pathlib.Path]:
    """The folders of the machines with results, by processor and cores: the one with most contestants first."""
    found = [(path, read(path)) for path in sorted(directory.glob("*/")) if any(path.glob("*.json"))]
    found.sort(key=lambda entry: -len(entry[1]))
    return {machine(next(iter(results.values()))): path for path, results in found}


def _seconds(result: dict[str, Any]) -> float:
    return statistics.mean(result["clock_seconds"])


def _accuracy(result: dict[str, Any]) -> float:
    """The mean over the seeds; after fewer epochs than the recipe's, that of all of them as published."""
    return result["published"] if result["scaled"] else statistics.mean(result["accuracies"])


def _std(result: dict[str, Any]) -> float | None:
    """The standard deviation over the seeds; None for one, or where the accuracy is not theirs."""
    return None if result["scaled"] else measures.spread(np.array(result["accuracies"])).std


def rows(directory: pathlib.Path) -> list[dict[str, str]]:
    """A row for each result of a machine, by the titles of the columns."""
    results = read(directory)
    lines = []
    for result in results.values():
        recipe = results.get(RECIPES[result["data"]])
        std = _std(result)
        accuracy = f"{_accuracy(result):.2%}" if std is None else f"{100 * _accuracy(result):.2f} ± {std:.2%}"
        seconds = _seconds(result)
        lines.append(
            {
                "contestant": result["title"],
                "data": result["data"],
                "dtype": result["dtype"],
                "test accuracy": f"{accuracy} ({_source(result)})",
                "seconds by the clock": (f"{seconds:,.0f}" if seconds >= 100 else f"{seconds:.1f}")
                + (" †" if result["scaled"] else ""),
                "share of Keras": _share(seconds / _seconds(recipe)) if recipe else "",
                "wall of the command": f"{result['wall_seconds']:,.0f} s",
            }
        )
    return lines


def _source(result: dict[str, Any]) -> str:
    if result["scaled"]:
        return "results/" if result["group"] == OURS else "lecture"
    return f"n = {result['n']}"


def _share(share: float) -> str:
    return f"{share:.0%}" if share >= 0.1 else f"{share:.1%}"


def notes(directory: pathlib.Path) -> list[str]:
    """The lines below the table: the machine, remarks on single results, and what the mark † means."""
    results = read(directory).values()
    lines = [f"Machine: {machine(next(iter(results)))}."]
    lines += [f"{of['title']}: {of['remark']}" for of in results if "remark" in of]
    if scaled := [f"{of['title']} {of['epochs']} of {of['recipe_epochs']}" for of in results if of["scaled"]]:
        lines.append(
            f"† fewer epochs than the recipe's were run ({'; '.join(scaled)}): the seconds by the clock are scaled to "
            "all of them, and the accuracy is that of the lecture, or of the whole run in results/."
        )
    return lines


def plot(directory: pathlib.Path, path: pathlib.Path) -> None:
    """Draw test accuracy against minutes on a machine, a panel for each data set; its axis is logarithmic in errors."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    results = read(directory)
    sets = [data for data in RECIPES if any(result["data"] == data for result in results.values())]
    parts = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    with matplotlib.rc_context(dict.fromkeys(parts, "gray")):  # on a light and on a dark page
        figure = Figure(figsize=(5 * len(sets), 4.4), layout="constrained")
        FigureCanvasAgg(figure)
        handles, panels = {}, []
        for axis, data in zip(figure.subplots(1, len(sets), squeeze=False).flat, sets, strict=True):
            of_data = {name: result for name, result in results.items() if result["data"] == data}
            for group, (color, marker) in STYLES.items():
                of_group = [result for result in of_data.values() if result["group"] == group]
                x = [_seconds(result) / 60 for result in of_group]
                y = [1 - _accuracy(result) for result in of_group]
                if group == LADDER:
                    axis.plot(x, y, color=color, linewidth=1, alpha=0.5)
                for result, *point in zip(of_group, x, y, strict=True):
                    std, fill = _std(result), "none" if result["scaled"] else color
                    handles.setdefault(group, axis.errorbar(*point, std, fmt=marker, color=color, ms=7, mfc=fill))
            _scale(axis, data, of_data)
            panels.append((axis, of_data))
        figure.legend(handles.values(), handles, loc="outside upper left", ncols=4, frameon=False, handletextpad=0.2)
        figure.draw_without_rendering()  # labels are placed in the axes as they will be
        figure.set_layout_engine("none")
        for axis, of_data in panels:
            _label(axis, of_data)
        figure.savefig(path, dpi=180, transparent=True)


def _scale(axis: Any, data: str, results: dict[str, dict[str, Any]]) -> None:
    errors = [1 - _accuracy(result) for result in results.values()]
    minutes = [_seconds(result) / 60 for result in results.values()]
    low, high = min(errors) / 1.25, min(max(errors) * 1.25, 0.95)
    ticks = [1 - accuracy for accuracy in TICKS[data] if low <= 1 - accuracy <= high]
    axis.set(title=data, xlabel="minutes from the first look at the data to the last prediction")
    axis.set(xscale="log", yscale="log", ylim=(high, low), xlim=(min(minutes) / 3, max(minutes) * 4))
    axis.set_yticks(ticks, [f"{100 * (1 - tick):g}%" for tick in ticks])
    axis.set_yticks([], minor=True)
    places = [m * 10.0**power for power in range(-3, 4) for m in (1, 3)]
    places = [place for place in places if axis.get_xlim()[0] <= place <= axis.get_xlim()[1]]
    axis.set_xticks(places, [f"{place:g}" for place in places])
    axis.set_xticks([], minor=True)
    axis.grid(alpha=0.15)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_ylabel("test accuracy")


def _label(axis: Any, results: dict[str, dict[str, Any]]) -> None:
    """Write the name and accuracy of each contestant beside its point, where nothing else is."""
    from matplotlib.transforms import Bbox

    points = {
        name: axis.transData.transform((_seconds(result) / 60, 1 - _accuracy(result)))
        for name, result in results.items()
    }
    unit = axis.figure.dpi / 72  # a point in pixels
    ladder = [points[name] for name, result in results.items() if result["group"] == LADDER]
    line = [place for ends in itertools.pairwise(ladder) for place in np.linspace(*ends, 50)]
    taken = [Bbox.from_bounds(x, y, 1, 1) for x, y in line]
    taken += [Bbox.from_bounds(x - 5 * unit, y - 5 * unit, 10 * unit, 10 * unit) for x, y in points.values()]
    places = sorted(itertools.product((1, -1, 0), range(-6, 7)), key=lambda place: abs(place[1]))  # side, lines up
    for result in results.values():
        color, _ = STYLES[result["group"]]
        text = axis.annotate(
            f"{result['title'].split(', ')[-1]} {_accuracy(result):.2%}",
            (_seconds(result) / 60, 1 - _accuracy(result)),
            xytext=(0, 0),
            textcoords="offset points",
            color=color,
            va="center",
            fontsize=8,
        )
        for side, up in places:
            text.set(position=(8 * side, 11 * up), ha={1: "left", -1: "right", 0: "center"}[side])
            box = text.get_window_extent()
            inside = axis.bbox.x0 <= box.x0 and box.x1 <= axis.bbox.x1
            if inside and not any(box.overlaps(other) for other in taken):
                break
        taken.append(text.get_window_extent())
