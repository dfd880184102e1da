"""The README's table says what results/ says."""

import json

from jaxconv.results import BEGIN, END, table, write
from tests.conftest import ROOT


def test_the_readme_is_up_to_date():
    readme = (ROOT / "README.md").read_text()
    assert BEGIN + table(ROOT / "results") + END in readme


def test_a_row_for_each_summary(tmp_path):
    summary = {
        "config": {"data": {"name": "mnist"}},
        "num_params": 1234,
        "epochs": 3,
        "val_accuracy": 0.5,
        "test_accuracy": 0.98765,
    }
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "mine.json").write_text(json.dumps(summary))
    readme = tmp_path / "README.md"
    readme.write_text(f"above\n{BEGIN}old\n{END}below\n")
    write(tmp_path / "results", readme)
    row = "| `python launch.py --config=configs/mine.py` | mnist | 1,234 | 3 | 50.00% | 98.77% |\n"
    text = readme.read_text()
    assert text.startswith("above\n" + BEGIN)
    assert text.endswith(row + END + "below\n")
    assert "old" not in text
