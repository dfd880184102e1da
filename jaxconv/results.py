"""The README's table and picture, made from results/: NAME.json (a summary) and NAME.history.jsonl of each run.

python -m jaxconv.results results README.md docs/curves.png
"""

import json
import pathlib
import sys
from typing import Any

BEGIN = "<!-- made by: python -m jaxconv.results results README.md docs/curves.png -->\n"
END = "<!-- end -->\n"


def read(results: pathlib.Path) -> dict[str, dict[str, Any]]:
    """The summaries in `results` by the names of their configs, by data set and then by test accuracy."""
    summaries = {path.stem: json.loads(path.read_text()) for path in results.glob("*.json")}
    return dict(sorted(summaries.items(), key=lambda item: (_data(item[1]), item[1]["test_accuracy"])))


def table(results: pathlib.Path) -> str:
    """A Markdown table with a row for each summary in `results`."""
    lines = [
        "| command | data | parameters | epochs | validation accuracy | test accuracy |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for name, summary in read(results).items():
        lines.append(
            f"| `python launch.py --config=configs/{name}.py` | {_data(summary)} | {summary['num_params']:,} "
            f"| {summary['epochs']} | {summary['val_accuracy']:.2%} | {summary['test_accuracy']:.2%} |"
        )
    return "\n".join(lines) + "\n"


def write(results: pathlib.Path, readme: pathlib.Path) -> None:
    """Put the table between its marks in the README."""
    before, rest = readme.read_text().split(BEGIN)
    _, after = rest.split(END)
    readme.write_text(before + BEGIN + table(results) + END + after)


def plot(results: pathlib.Path, figure: pathlib.Path) -> None:
    """Draw validation accuracy by epoch, a panel for each data set."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    summaries = read(results)
    sets = list(dict.fromkeys(map(_data, summaries.values())))
    fig, axes = plt.subplots(1, len(sets), figsize=(5 * len(sets), 3.5), layout="constrained", squeeze=False)
    for axis, data in zip(axes[0], sets, strict=True):
        axis.set(title=data, xlabel="epoch")
        for name, summary in summaries.items():
            if _data(summary) == data:
                history = [json.loads(line) for line in (results / f"{name}.history.jsonl").read_text().splitlines()]
                accuracy = [100 * record["val_accuracy"] for record in history]
                axis.plot([record["epoch"] for record in history], accuracy, label=name)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, loc="lower right")
    axes[0, 0].set_ylabel("validation accuracy, %")
    fig.savefig(figure, dpi=130)


def _data(summary: dict[str, Any]) -> str:
    return summary["config"]["data"]["name"]


if __name__ == "__main__":
    results, readme, figure = map(pathlib.Path, sys.argv[1:])
    write(results, readme)
    plot(results, figure)
