"""The tables and figures of finished runs, made from results/: NAME.json (a summary) and NAME.history.jsonl of each.

Where there is NAME.seeds.json, the seeds.json of jaxconv.seeds, accuracies and the wall time are means over its seeds.

python -m tools.results puts the tables, also those of results/benchmarks/, into README.md and docs/distributed.md, and
draws docs/curves, docs/scaling.png and docs/time_to_accuracy.png.
"""

import json
import math
import pathlib
import statistics
from typing import Any, NamedTuple

import numpy as np
from rich import box
from rich.table import Table

from benchmarks import communication, interleave
from benchmarks.communication import Link
from jaxconv.report import measures
from tools import time_to_accuracy

RESULTS, README, DOCS = pathlib.Path("results"), pathlib.Path("README.md"), pathlib.Path("docs")
BEGIN = "<!-- made by: python -m tools.results -->\n"
BEGIN_SPEED = "<!-- made by: python -m tools.results, from results/benchmarks/train_step.json -->\n"
BEGIN_BFLOAT16 = "<!-- made by: python -m tools.results, from results/*_bfloat16.seeds.json -->\n"
BEGIN_TIME = "<!-- made by: python -m tools.results, from results/time_to_accuracy/ -->\n"
BEGIN_SCALING = "<!-- made by: python -m tools.results, from results/benchmarks/scaling.json: {} -->\n"
END = "<!-- end -->\n"

LECTURE = {"mlp": 0.975, "lenet": 0.9921, "cifar_simple": 0.664, "cifar_deep": 0.769, "cifar_deep_augment": 0.783}
"""Test accuracy of each net of the lecture "Deep Learning with ConvNets"."""


class Machines(NamedTuple):
    """What several machines, or a machine of several devices, may have between them. The figures are nominal."""

    link: Link
    """The latency is our guess at its order of magnitude."""
    peak: float | None
    """Operations a second of a device. None: it is a CPU such as that of the measured steps."""


MACHINES = {
    "10 Gbit Ethernet": Machines(Link(50e-6, 1.25e9), None),
    "100 Gbit Ethernet": Machines(Link(20e-6, 12.5e9), None),
    "NVLink, H100": Machines(Link(3e-6, 450e9), 67e12),
    "ICI, TPU v5e": Machines(Link(1e-6, 50e9), 197e12),
}
PER_DEVICE = 128
"""Images of a step on each device, in the estimate."""


def read(results: pathlib.Path) -> dict[str, dict[str, Any]]:
    """The summaries in `results` by the names of their configs: the lecture's in its order, then the others."""
    paths = [path for path in sorted(results.glob("*.json")) if not path.name.endswith(".seeds.json")]
    summaries = {path.stem: json.loads(path.read_text()) for path in paths}
    names = [name for name in LECTURE if name in summaries] + [name for name in summaries if name not in LECTURE]
    return {name: summaries[name] for name in names}


def read_seeds(results: pathlib.Path, name: str, summary: dict[str, Any]) -> dict[str, Any]:
    """What NAME.seeds.json in `results` holds; without it, the same of the one run with this summary."""
    if (path := results / f"{name}.seeds.json").exists():
        return json.loads(path.read_text())
    figures = {key: {"mean": summary[key], "std": None} for key in ("val_accuracy", "test_accuracy", "wall_seconds")}
    return {"command": f"python launch.py --config=configs/{name}.py", "n": 1} | figures


def rows(results: pathlib.Path) -> list[dict[str, str]]:
    """A row for each summary in `results`, by the titles of the columns."""
    return [_row(name, summary, read_seeds(results, name, summary)) for name, summary in read(results).items()]


def _row(name: str, summary: dict[str, Any], seeds: dict[str, Any]) -> dict[str, str]:
    return {
        "config": name,
        "command": f"`{seeds['command']}`",
        "data": summary["config"]["data"]["name"],
        "parameters": f"{summary['num_params']:,}",
        "epochs": str(summary["epochs"]),
        "wall time": _minutes(seeds["wall_seconds"]["mean"]),
        "validation": _percent(seeds["val_accuracy"]),
        "test": f"{_percent(seeds['test_accuracy'])} (n = {seeds['n']})",
        "lecture": f"{LECTURE[name]:.2%}" if name in LECTURE else "",
        "difference": f"{100 * (seeds['test_accuracy']['mean'] - LECTURE[name]):+.2f}" if name in LECTURE else "",
    }


def _percent(figure: dict[str, Any]) -> str:
    if figure["mean"] is None:  # no split measures it
        return "-"
    if figure["std"] is None:
        return f"{figure['mean']:.2%}"
    return f"{100 * figure['mean']:.2f} ± {figure['std']:.2%}"


def text_table(results: pathlib.Path) -> Table:
    """The rows for a terminal, without the commands."""
    lines = _without("command", rows(results))
    table = Table(*lines[0], box=box.SIMPLE_HEAD)
    for column in table.columns[2:]:
        column.justify = "right"
    for line in lines:
        table.add_row(*line.values())
    return table


def markdown_table(results: pathlib.Path) -> str:
    """The rows for the README, each with the command that makes it."""
    return _markdown(_without("config", rows(results)), text_columns=2)


def _without(title: str, lines: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{key: text for key, text in line.items() if key != title} for line in lines]


def speed_table(benchmark: pathlib.Path) -> str:
    """Images per second of a step as `benchmarks.train_step` wrote them, a column for each net, in Markdown."""
    columns = {}
    for net, result in json.loads(benchmark.read_text())["nets"].items():
        columns[net] = {
            name: f"{statistics.median(figures):,.0f}"
            for name, figures in result["images_per_s"].items()
            if not name.endswith("+allocator")
        } | {
            f"ratio {kind}": f"{ratio['median']:.2f} ({ratio['lowest']:.2f} to {ratio['highest']:.2f})"
            for kind, ratio in result["ratios"].items()
        }
    names = next(iter(columns.values()))
    return _markdown([{"images/s": name} | {net: of[name] for net, of in columns.items()} for name in names], 1)


def bfloat16_table(results: pathlib.Path) -> str:
    """Test accuracies of NAME.seeds.json and NAME_bfloat16.seeds.json, and Student's 95% interval of the difference."""
    lines = []
    for path in sorted(results.glob("*_bfloat16.seeds.json")):
        name = path.name.removesuffix("_bfloat16.seeds.json")
        single, half = (json.loads(of.read_text()) for of in (results / f"{name}.seeds.json", path))
        assert single["seeds"] == half["seeds"]  # each seed with the same initial parameters and order
        values = zip(half["test_accuracy"]["values"], single["test_accuracy"]["values"], strict=True)
        spread = measures.spread(np.array([a - b for a, b in values]))
        low, high = spread.interval or (math.nan, math.nan)
        lines.append(
            {
                "test accuracy": name,
                "n": str(half["n"]),
                "float32": _percent(single["test_accuracy"]),
                "bfloat16": _percent(half["test_accuracy"]),
                "difference, points": f"{100 * spread.mean:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})",
                "command": f"`{half['command']}`",
            }
        )
    return _markdown(lines, text_columns=1)


def time_table(directory: pathlib.Path) -> str:
    """Test accuracy against time as `benchmarks.time_to_accuracy` stored it for a machine, in Markdown."""
    lines = time_to_accuracy.rows(directory)
    return "\n".join([_markdown(lines, text_columns=3), *(f"{note}\n" for note in time_to_accuracy.notes(directory))])


def scaling_tables(benchmark: pathlib.Path) -> dict[str, str]:
    """The tables in Markdown of what `benchmarks.scaling` wrote on a CPU, by their marks."""
    result = json.loads(benchmark.read_text())
    reduced = {int(size): statistics.median(seconds) for size, seconds in result["all_reduce"]["seconds"].items()}
    link = communication.fit(2, reduced)
    steps, checks, machines, estimates = [], [], [], []
    for net, costs in result["nets"].items():
        for batch_size, figures in costs["images_per_s"].items():
            seconds = {layout: int(batch_size) / statistics.median(speeds) for layout, speeds in figures.items()}
            middle, lowest, highest = interleave.ratio(figures["2 x 1"], figures["1 x 1"])
            row = {"ms a step": net, "batch": batch_size}
            steps.append(
                row
                | {layout: _ms(of_layout) for layout, of_layout in seconds.items()}
                | {"speed of 2 x 1 to 1 x 1": f"{middle:.2f} ({lowest:.2f} to {highest:.2f})"}
            )
            talk = link.all_reduce(2, 4 * costs["parameters"], _messages(costs, one_by_one=True))
            checks.append(
                row
                | {"alone": _ms(seconds["alone"]), "+ all-reduce, predicted": _ms(talk)}
                | {"2 x 1, predicted": _ms(seconds["alone"] + talk), "2 x 1, measured": _ms(seconds["2 x 1"])}
                | {"more than 1 x 1, predicted": _ms(seconds["alone"] + talk - seconds["1 x 1"])}
                | {"more than 1 x 1, measured": _ms(seconds["2 x 1"] - seconds["1 x 1"])}
            )
    for name, (assumed, peak) in MACHINES.items():
        row = {"link": name, "latency": f"{1e6 * assumed.latency:g} µs", "one way": f"{assumed.bandwidth / 1e9:g} GB/s"}
        machines.append(row | {f"ms of {net}": _ms(_compute(costs, peak)) for net, costs in result["nets"].items()})
    row = {"link": "gloo on this machine, measured", "latency": f"{1e6 * link.latency:.0f} µs"}
    machines.append(
        row | {"one way": f"{link.bandwidth / 1e9:.2g} GB/s"} | {f"ms of {net}": "" for net in result["nets"]}
    )
    for net, costs in result["nets"].items():
        for name, (assumed, peak) in MACHINES.items():
            row = {"ms": net, "link": name}
            for devices in (2**n for n in range(1, 9)):
                talk = assumed.all_reduce(devices, 4 * costs["parameters"], _messages(costs, one_by_one=peak is None))
                row[str(devices)] = f"{_ms(talk)} ({talk / (talk + _compute(costs, peak)):.0%})"
            estimates.append(row)
    all_reduce = [
        {"bytes": f"{size:,}", "ms, measured": _ms(seconds), "ms, by the fit": _ms(link.all_reduce(2, size))}
        for size, seconds in reduced.items()
    ]
    about = f"On {result['machine']['cores']} cores of {result['processor']}, jax {result['versions']['jax']}"
    return {
        BEGIN_SCALING.format("steps"): (
            f"{about}; medians of {result['rounds']} rounds in turn.\n\n{_markdown(steps, text_columns=1)}"
        ),
        BEGIN_SCALING.format("all-reduce"): _markdown(all_reduce, text_columns=0),
        BEGIN_SCALING.format("check"): _markdown(checks, text_columns=1),
        BEGIN_SCALING.format("links"): _markdown(machines, text_columns=1),
        BEGIN_SCALING.format("estimate"): _markdown(estimates, text_columns=2),
    }


def _messages(costs: dict[str, Any], one_by_one: bool) -> int:
    """How many all-reduces follow each other in a step: of gradients and sums, by gloo one by one; and of signals."""
    sums = 3
    return (costs["arrays"] + sums if one_by_one else 1) + 1


def _compute(costs: dict[str, Any], peak: float | None) -> float:
    """The seconds in which a device computes its part of a step, as measured or at its peak."""
    if peak is None:
        return PER_DEVICE / statistics.median(costs["images_per_s"][str(PER_DEVICE)]["1 x 1"])
    # Forwards, and backwards to the inputs and to the parameters: a multiplication and an addition each.
    return PER_DEVICE * costs["multiplications"] * 3 * 2 / peak


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:#.3g}".rstrip(".")


def _markdown(lines: list[dict[str, str]], text_columns: int) -> str:
    head = [" | ".join(lines[0]), " | ".join(["---"] * text_columns + ["--:"] * (len(lines[0]) - text_columns))]
    return "".join(f"| {line} |\n" for line in [*head, *(" | ".join(line.values()) for line in lines)])


def write(readme: pathlib.Path, begin: str, table: str) -> None:
    """Put a table between its marks in the README, or in another page."""
    before, rest = readme.read_text().split(begin)
    _, after = rest.split(END, maxsplit=1)
    readme.write_text(before + begin + table + END + after)


def plot(results: pathlib.Path, docs: pathlib.Path) -> None:
    """Draw validation accuracy of all runs that have it by data set, and for each run what the lecture shows of it."""
    summaries = read(results)
    history = {
        name: [json.loads(line) for line in (results / f"{name}.history.jsonl").read_text().splitlines()]
        for name in summaries
    }
    sets: dict[str, list[str]] = {}
    for name, summary in summaries.items():
        if summary["val_accuracy"] is None:
            continue
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
            if summaries[name]["val_accuracy"] is not None:
                axis.plot(*_series(records, f"val_{measure}"), label="validation")
            axis.legend(frameon=False)
        figure.suptitle(f"{name}: test accuracy {summaries[name]['test_accuracy']:.2%}", x=0.02, ha="left")
        figure.savefig(docs / "curves" / f"{name}.png", dpi=110)


def plot_scaling(benchmark: pathlib.Path, docs: pathlib.Path) -> None:
    """Draw images per second by layout, a panel for each net and a line for each batch size."""
    import matplotlib

    nets = json.loads(benchmark.read_text())["nets"]
    parts = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    with matplotlib.rc_context(dict.fromkeys(parts, "gray")):  # on a light and on a dark page
        figure, axes = _panels(list(nets), xlabel="processes x devices of each", size=(3, 2.8))
        for axis, costs in zip(axes, nets.values(), strict=True):
            for batch_size, figures in costs["images_per_s"].items():
                speeds = {layout: of_layout for layout, of_layout in figures.items() if layout != "alone"}
                middles = [statistics.median(of_layout) for of_layout in speeds.values()]
                below = [middle - min(of_layout) for middle, of_layout in zip(middles, speeds.values(), strict=True)]
                above = [max(of_layout) - middle for middle, of_layout in zip(middles, speeds.values(), strict=True)]
                label = f"batch {batch_size}"
                axis.errorbar(list(speeds), middles, (below, above), marker="o", capsize=3, label=label)
            axis.set(ylim=(0, None))
            axis.yaxis.set_major_formatter("{x:,.0f}")
        axes[0].set(ylabel="images/s")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=9, frameon=False)
        figure.savefig(docs / "scaling.png", dpi=180, transparent=True)


def _panels(titles: list[str], xlabel: str = "epoch", size: tuple[float, float] = (5, 3.5)) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.figure import Figure

    columns = min(len(titles), 3)
    rows = -(-len(titles) // columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for axis in axes[len(titles) :]:
        axis.remove()
    axes = axes[: len(titles)]
    for axis, title in zip(axes, titles, strict=True):
        axis.set(title=title, xlabel=xlabel)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _series(records: list[dict[str, Any]], key: str) -> tuple[list[int], list[float]]:
    return [record["epoch"] for record in records], [record[key] for record in records]


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def main() -> None:
    """Remake what the README and the pages show."""
    write(README, BEGIN, markdown_table(RESULTS))
    if (benchmark := RESULTS / "benchmarks" / "train_step.json").exists():
        write(README, BEGIN_SPEED, speed_table(benchmark))
    if any(RESULTS.glob("*_bfloat16.seeds.json")):
        write(README, BEGIN_BFLOAT16, bfloat16_table(RESULTS))
    if machines := time_to_accuracy.machines(RESULTS / "time_to_accuracy"):
        fullest, *others = machines.values()
        write(README, BEGIN_TIME, time_table(fullest))
        write(DOCS / "results.md", BEGIN_TIME, "\n".join(map(time_table, others)))
        time_to_accuracy.plot(fullest, DOCS / "time_to_accuracy.png")
    if (benchmark := RESULTS / "benchmarks" / "scaling.json").exists():
        for begin, table in scaling_tables(benchmark).items():
            write(DOCS / "distributed.md", begin, table)
        plot_scaling(benchmark, DOCS)
    plot(RESULTS, DOCS)


if __name__ == "__main__":
    main()
