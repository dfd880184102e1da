"""The README's table and the figures say what results/ says."""

import io
import json
import sys

from matplotlib.image import imread
from rich.console import Console

from jaxconv import seeds
from tests.conftest import ROOT
from tools.results import (
    BEGIN,
    BEGIN_BFLOAT16,
    BEGIN_SPEED,
    BEGIN_TIME,
    END,
    LECTURE,
    bfloat16_table,
    markdown_table,
    plot,
    read,
    scaling_tables,
    speed_table,
    text_table,
    time_table,
    write,
)
from tools.time_to_accuracy import machines


def test_the_readme_is_up_to_date():
    readme = (ROOT / "README.md").read_text()
    assert BEGIN + markdown_table(ROOT / "results") + END in readme
    assert BEGIN_SPEED + speed_table(ROOT / "results" / "benchmarks" / "train_step.json") + END in readme
    assert BEGIN_BFLOAT16 + bfloat16_table(ROOT / "results") + END in readme
    fullest, *others = machines(ROOT / "results" / "time_to_accuracy").values()
    assert BEGIN_TIME + time_table(fullest) + END in readme
    assert BEGIN_TIME + "\n".join(map(time_table, others)) + END in (ROOT / "docs" / "results.md").read_text()
    page = (ROOT / "docs" / "distributed.md").read_text()
    for begin, table in scaling_tables(ROOT / "results" / "benchmarks" / "scaling.json").items():
        assert begin + table + END in page


def test_the_lecture_comes_first_and_in_its_order():
    names = list(read(ROOT / "results"))
    lecture = [name for name in names if name in LECTURE]
    assert names[: len(lecture)] == lecture == [name for name in LECTURE if name in names]


def fake(results, name, **fields):
    """The results of a run of two epochs."""
    results.mkdir(exist_ok=True)
    summary = {
        "config": {"data": {"name": "mnist"}},
        "num_params": 1234,
        "epochs": 2,
        "wall_seconds": 95.4,
        "val_accuracy": 0.5,
        "test_accuracy": 0.98765,
    }
    (results / f"{name}.json").write_text(json.dumps(summary | fields))
    record = {"train_loss": 1.0, "train_accuracy": 0.5, "val_loss": 2.0, "val_accuracy": 0.4}
    lines = [json.dumps(record | {"epoch": epoch}) for epoch in (1, 2)]
    (results / f"{name}.history.jsonl").write_text("\n".join(lines))


def test_a_row_for_each_summary(tmp_path):
    results, readme = tmp_path / "results", tmp_path / "README.md"
    fake(results, "mine")
    fake(results, "lenet", wall_seconds=600, test_accuracy=0.9911)
    readme.write_text(f"above\n{BEGIN}old\n{END}below\n")
    write(readme, BEGIN, markdown_table(results))
    command = "| `python launch.py --config=configs/"
    lenet = f"{command}lenet.py` | mnist | 1,234 | 2 | 10 min | 50.00% | 99.11% (n = 1) | 99.21% | -0.10 |"
    mine = f"{command}mine.py` | mnist | 1,234 | 2 | 95 s | 50.00% | 98.77% (n = 1) |  |  |"
    text = readme.read_text()
    assert text.startswith("above\n" + BEGIN)
    assert text.endswith(f"{lenet}\n{mine}\n{END}below\n")
    assert "old" not in text


def test_a_row_of_several_seeds(tmp_path):
    fake(tmp_path, "lenet", test_accuracy=0.99)
    figures = {
        "val_accuracy": {"mean": 0.98504, "std": 0.00352},
        "test_accuracy": {"mean": 0.9906, "std": 0.0012},
        "wall_seconds": {"mean": 100.4, "std": 1.0},
    }
    command = "python -m jaxconv.seeds --num_seeds=5 --config=configs/lenet.py"
    (tmp_path / "lenet.seeds.json").write_text(json.dumps({"command": command, "n": 5} | figures))
    row = "mnist | 1,234 | 2 | 100 s | 98.50 ± 0.35% | 99.06 ± 0.12% (n = 5) | 99.21% | -0.15 |"
    assert markdown_table(tmp_path).endswith(f"| `{command}` | {row}\n")


def test_a_run_that_was_not_validated(tmp_path):
    fake(tmp_path, "mine", val_accuracy=None)
    fake(tmp_path, "other")
    assert "| 95 s | - | 98.77% (n = 1) |" in markdown_table(tmp_path)
    (tmp_path / "docs").mkdir()
    plot(tmp_path, tmp_path / "docs")
    assert imread(tmp_path / "docs" / "curves" / "mine.png").std() > 0.05


def test_the_difference_that_bfloat16_makes_is_paired_by_seed(tmp_path):
    for name, values in (("mine", [0.5, 0.6, 0.7]), ("mine_bfloat16", [0.51, 0.61, 0.74])):
        figure = {"mean": sum(values) / 3, "std": 0.1, "values": values}
        of_seeds = {"command": name, "n": 3, "seeds": [0, 1, 2], "test_accuracy": figure}
        (tmp_path / f"{name}.seeds.json").write_text(json.dumps(of_seeds))
    # The differences 1, 1 and 4 have the mean 2, the deviation 3 ** 0.5, and 4.303 of t with two degrees of freedom.
    expected = "| mine | 3 | 60.00 ± 10.00% | 62.00 ± 10.00% | +2.00 (-2.30 to +6.30) | `mine_bfloat16` |\n"
    assert bfloat16_table(tmp_path).endswith(expected)


def test_what_jaxconv_seeds_writes_of_one_seed(tmp_path, monkeypatch):
    fake(tmp_path, "mine", test_loss=0.1)
    expected = markdown_table(tmp_path).replace("launch.py", "-m jaxconv.seeds")
    (tmp_path / "seed_3").mkdir()
    (tmp_path / "seed_3" / "summary.json").write_text((tmp_path / "mine.json").read_text())
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "jaxconv.seeds", "--config=configs/mine.py"])
    seeds.summarize(tmp_path, [3])
    (tmp_path / "seeds.json").rename(tmp_path / "mine.seeds.json")
    assert markdown_table(tmp_path) == expected


def test_the_same_for_a_terminal(tmp_path):
    fake(tmp_path, "lenet")
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(text_table(tmp_path))
    assert "lenet mnist 1,234 2 95 s 50.00% 98.77% (n = 1) 99.21% -0.44" in " ".join(console.export_text().split())


def test_a_figure_of_all_and_one_of_each(tmp_path):
    docs = tmp_path / "docs"
    docs.mkdir()
    fake(tmp_path / "results", "mine")
    fake(tmp_path / "results", "other", config={"data": {"name": "cifar10"}})
    plot(tmp_path / "results", docs)
    for name in ("curves.png", "curves/mine.png", "curves/other.png"):
        assert imread(docs / name).std() > 0.05
