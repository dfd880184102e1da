"""The tables and figures of finished runs, made from results/: NAME.json (a summary) and NAME.history.jsonl of each.

python -m tools.results puts the tables, that of results/benchmarks/ too, into README.md, and draws docs/curves.
"""

import json
import pathlib
import statistics
from typing import Any

from rich import box
from rich.table import Table

RESULTS, README, DOCS = pathlib.Path("results"), pathlib.Path("README.md"), pathlib.Path("docs")
BEGIN = "<!-- made by: python -m tools.results -->\n"
BEGIN_SPEED = "<!-- made by: python -m tools.results, from results/benchmarks/train_step.json -->\n"
END = "<!-- end -->\n"

LECTURE = {"mlp": 0.975, "lenet": 0.9921, "cifar_simple": 0.664, "cifar_deep": 0.769, "cifar_deep_augment": 0.783}
"""Test accuracy of each net of the lecture "Deep Learning with ConvNets"."""


def read(results: pathlib.Path) -> dict[str, dict[str, Any]]:
    """The summaries in `results` by the names of their configs: the lecture's in its order, then the others."""
    summaries = {path.stem: json.loads(path.read_text()) for path in sorted(results.glob("*.json"))}
    names = [name for name in LECTURE if name in summaries] + [name for name in summaries if name not in LECTURE]
    return {name: summaries[name] for name in names}


def rows(results: pathlib.Path) -> list[dict[str, str]]:
    """A row for each summary in `results`, by the titles of the columns."""
    return [
        {
            "config": name,
            "data": summary["config"]["data"]["name"],
            "parameters": f"{summary['num_params']:,}",
            "epochs": str(summary["epochs"]),
            "wall time": _minutes(summary["wall_seconds"]),
            "validation": f"{summary['val_accuracy']:.2%}",
            "test": f"{summary['test_accuracy']:.2%}",
            "lecture": f"{LECTURE[name]:.2%}" if name in LECTURE else "",
            "difference": f"{100 * (summary['test_accuracy'] - LECTURE[name]):+.2f}" if name in LECTURE else "",
        }
        for name, summary in read(results).items()
    ]


def text_table(results: pathlib.Path) -> Table:
    """The rows for a terminal."""
    lines = rows(results)
    table = Table(*lines[0], box=box.SIMPLE_HEAD)
    for column in table.columns[2:]:
        column.justify = "right"
    for line in lines:
        table.add_row(*line.values())
    return table


def markdown_table(results: pathlib.Path) -> str:
    """The rows for the README, each with the command that makes it."""
    lines = [{"command": f"`python launch.py --config=configs/{row.pop('config')}.py`"} | row for row in rows(results)]
    return _markdown(lines, text_columns=2)


def speed_table(benchmark: pathlib.Path) -> str:
    """Images per second of a training step as `benchmarks.train_step` wrote them, in Markdown."""
    lines = []
    for net, result in json.loads(benchmark.read_text())["nets"].items():
        medians = {name: f"{statistics.median(figures):,.0f}" for name, figures in result["images_per_s"].items()}
        ratios = {
            f"ratio to the fastest, {kind}": f"{ratio['median']:.2f} ({ratio['lowest']:.2f} to {ratio['highest']:.2f})"
            for kind, ratio in result["ratios"].items()
        }
        lines.append({"images/s": net} | {k: v for k, v in medians.items() if not k.endswith("+allocator")} | ratios)
    return _markdown(lines, text_columns=1)


def _markdown(lines: list[dict[str, str]], text_columns: int) -> str:
    head = [" | ".join(lines[0]), " | ".join(["---"] * text_columns + ["--:"] * (len(lines[0]) - text_columns))]
    return "".join(f"| {line} |\n" for line in [*head, *(" | ".join(line.values()) for line in lines)])


def write(readme: pathlib.Path, begin: str, table: str) -> None:
    """Put a table between its marks in the README."""
    before, rest = readme.read_text().split(begin)
    _, after = rest.split(END, maxsplit=1)
    readme.write_text(before + begin + table + END + after)


def plot(results: pathlib.Path, docs: pathlib.Path) -> None:
    """Draw validation accuracy of all runs by data set, and for each run what the lecture shows of it."""
    summaries = read(results)
    history = {
        name: [json.loads(line) for line in (results / f"{name}.history.jsonl").read_text().splitlines()]
        for name in summaries
    }
    sets: dict[str, list[str]] = {}
    for name, summary in summaries.items():
        data = summary["config"]["data"]["name"].removesuffix("_frame")  # a frame beside its clips
        sets.setdefault(data, []).append(name)
    figure, axes = _panels(list(sets))
    for axis, names in zip(axes, sets.values(), strict=True):
        for name in names:
            axis.plot(*_series(history[name], "val_accuracy"), label=name)
        axis.set(ylabel="validation accuracy")
        axis.legend(frameon=False, loc="lower right")
    figure.savefig(docs / "curves.png", dpi=130)

    (docs / "curves").mkdir(exist_ok=True)
    for name, records in history.items():
        figure, axes = _panels(["accuracy", "loss"])
        for axis, measure in zip(axes, ("accuracy", "loss"), strict=True):
            axis.plot(*_series(records, f"train_{measure}"), label="training")
            axis.plot(*_series(records, f"val_{measure}"), label="validation")
            axis.legend(frameon=False)
        figure.suptitle(f"{name}: test accuracy {summaries[name]['test_accuracy']:.2%}", x=0.02, ha="left")
        figure.savefig(docs / "curves" / f"{name}.png", dpi=110)


def _panels(titles: list[str]) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.figure import Figure

    columns = min(len(titles), 3)
    rows = -(-len(titles) // columns)
    figure = Figure(figsize=(5 * columns, 3.5 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for axis in axes[len(titles) :]:
        axis.remove()
    axes = axes[: len(titles)]
    for axis, title in zip(axes, titles, strict=True):
        axis.set(title=title, xlabel="epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _series(records: list[dict[str, Any]], key: str) -> tuple[list[int], list[float]]:
    return [record["epoch"] for record in records], [record[key] for record in records]


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def main() -> None:
    """Remake what the README shows."""
    write(README, BEGIN, markdown_table(RESULTS))
    if (benchmark := RESULTS / "benchmarks" / "train_step.json").exists():
        write(README, BEGIN_SPEED, speed_table(benchmark))
    plot(RESULTS, DOCS)


if __name__ == "__main__":
    main()
