"""The README's table of results, made from the summary.json files in results/.

python -m jaxconv.results results README.md
"""

import json
import pathlib
import sys

BEGIN, END = "<!-- made by: python -m jaxconv.results results README.md -->\n", "<!-- end -->\n"


def table(results: pathlib.Path) -> str:
    """A Markdown table with a row for each summary in `results`, in the order of test accuracy within a data set."""
    summaries = {path.stem: json.loads(path.read_text()) for path in results.glob("*.json")}
    rows = [
        "| command | data | parameters | epochs | validation accuracy | test accuracy |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for name, summary in sorted(
        summaries.items(), key=lambda item: (item[1]["config"]["data"]["name"], item[1]["test_accuracy"])
    ):
        rows.append(
            f"| `python launch.py --config=configs/{name}.py` | {summary['config']['data']['name']} "
            f"| {summary['num_params']:,} | {summary['epochs']} "
            f"| {summary['val_accuracy']:.2%} | {summary['test_accuracy']:.2%} |"
        )
    return "\n".join(rows) + "\n"


def write(results: pathlib.Path, readme: pathlib.Path) -> None:
    """Put the table between its marks in the README."""
    before, rest = readme.read_text().split(BEGIN)
    _, after = rest.split(END)
    readme.write_text(before + BEGIN + table(results) + END + after)


if __name__ == "__main__":
    write(*map(pathlib.Path, sys.argv[1:]))
