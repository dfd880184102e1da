"""The report of a run: by launch.py as users make it, looked at in a browser, and of every kind of data and state."""

import html
import json
import os
import re
import shutil

import numpy as np
import pytest

from jaxconv.config import load
from jaxconv.data import sources
from jaxconv.data.examples import Examples, Source
from jaxconv.errors import ConfigError, UserError
from jaxconv.report.run import MISTAKES, is_current, report
from jaxconv.runs import predictions as kept
from jaxconv.runs import workdir as files
from jaxconv.runs.predictions import Predictions
from jaxconv.train import train
from tests.browser import chromium
from tests.conftest import launch
from tests.runs.test_trained import make_run, snapshot


@pytest.fixture(scope="module")
def reported(tiny_config, tmp_path_factory):
    """A run that made its report: its workdir, and the process."""
    workdir = tmp_path_factory.mktemp("reported") / "a run"
    arguments = [f"--config={tiny_config}", f"--workdir={workdir}", "--config.num_epochs=2", "--config.report"]
    return workdir, launch(*arguments), arguments


def config_of(tiny_config):
    """The config of that run."""
    config = load(str(tiny_config))
    config.num_epochs = 2
    return config


def text_of(page):
    """The words of a page, without its figures, as a person reads them."""
    page = re.sub(r"<(style|svg)\b.*?</\1>|</?(b|code)>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


def test_training_ends_with_the_path_of_the_report(reported):
    workdir, process, arguments = reported
    page = workdir / "report.html"
    assert process.stdout.splitlines()[-1] == f"Report: {page}"
    assert re.search(r"^The report took \d+\.\d s\.$", process.stderr, re.MULTILINE)
    summary = json.loads((workdir / "summary.json").read_text())
    predictions = kept.read(workdir)
    assert predictions.split == "test"
    correct = int((predictions.predicted == predictions.label).sum())
    assert correct / len(predictions.label) == pytest.approx(summary["test_accuracy"])
    text = text_of(page.read_text())
    assert f"Test accuracy {summary['test_accuracy']:.2%} 95% interval" in text
    assert f"{len(predictions.label) - correct} of 55 examples are predicted wrong" in text
    assert f"best epoch {summary['best_epoch']} of 2" in text
    assert f"--workdir='{workdir}'" in text.replace("'--workdir=", "--workdir='")  # shlex quotes the whole argument
    assert summary["params_sha256"] in text
    assert "test split 'test'" in text
    names = {path.name for path in (workdir / "figures").iterdir()}
    assert names >= {"loss.svg", "accuracy.svg", "confusion.svg", "reliability.svg", "filters.png", "augmented.svg"}
    assert names >= {"mistake_1.png", "hard_1.png", "sample_1.png", "chosen_1.png", "stage_1_1.png"}
    assert page.stat().st_size < 5_000_000

    made = page.stat().st_mtime_ns
    again = launch(*arguments)
    assert again.stdout == process.stdout
    assert "The report took" not in again.stderr
    assert page.stat().st_mtime_ns == made


def test_a_report_that_a_kill_left_out_is_made_by_the_same_command(reported, tmp_path):
    workdir, _, arguments = reported
    shutil.copytree(workdir, tmp_path / "run", ignore=shutil.ignore_patterns("report.html"))
    process = launch(*arguments, f"--workdir={tmp_path}/run")
    assert process.stdout.splitlines()[-1] == f"Report: {tmp_path}/run/report.html"
    assert "The report took" in process.stderr


@pytest.mark.parametrize(("width", "dark"), [(390, True), (1280, False)])
def test_in_a_browser(reported, width, dark):
    page = reported[0] / "report.html"
    with chromium(width, dark=dark) as window:
        window.get(page.as_uri())
        assert window.get_log("browser") == []
        requests = [json.loads(entry["message"])["message"] for entry in window.get_log("performance")]
        urls = [r["params"]["request"]["url"] for r in requests if r["method"] == "Network.requestWillBeSent"]
        assert [url for url in urls if not url.startswith("data:")] == [page.as_uri()]
        images = window.execute_script("return [...document.images].map(i => [i.complete, i.naturalWidth, i.alt])")
        assert len(images) >= 40
        assert all(complete and size and alt for complete, size, alt in images)
        charts = window.execute_script(
            "return [...document.querySelectorAll('svg')].map(s => [s.getBoundingClientRect().width, "
            "s.getAttribute('aria-label')])"
        )
        assert len(charts) >= 5
        assert all(size > 100 and label for size, label in charts)
        assert window.execute_script("return document.scrollingElement.scrollWidth") <= width
        ink, paper = window.execute_script(
            "const style = getComputedStyle(document.body); return [style.color, style.backgroundColor]"
        )
        light, dark_one = (sum(map(int, re.findall(r"\d+", colour))) for colour in (ink, paper))
        assert (light > dark_one) == dark


def test_report_is_switched_off(finished):
    workdir, process = finished
    assert not (workdir / "report.html").exists()
    assert "report" not in (process.stdout + process.stderr).lower()
    assert kept.read(workdir) is not None


def test_before_the_end_the_report_shows_the_validation_split(reported, tiny_config, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(reported[0], workdir, ignore=shutil.ignore_patterns("summary.json", "report.html", "figures"))
    config = config_of(tiny_config)
    best = max(files.read_history(workdir), key=lambda record: record["val_accuracy"])
    text = text_of(report(config, workdir).read_text())
    assert "The run is not finished." in text
    assert "Test" not in text.replace("The test set stays closed", "")
    assert f"Validation accuracy {best['val_accuracy']:.2%} 95% interval" in text
    assert "42 examples" in text
    assert "validation split 'train[80%:]'" in text


def test_before_the_end_the_report_predicts_as_the_run_validates(tiny, tmp_path):
    tiny.evaluation.views, tiny.num_epochs = "mirror_and_shifts", 1
    train(tiny, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    (record,) = files.read_history(tmp_path / "run")
    assert f"Validation accuracy {record['val_accuracy']:.2%} 95%" in text_of(
        report(tiny, tmp_path / "run").read_text()
    )


def test_data_that_is_gone(reported, tiny_config, tmp_path):
    """What kept predictions show is shown. Without them nothing is written."""
    workdir, config = tmp_path / "run", config_of(tiny_config)
    shutil.copytree(reported[0], workdir, ignore=shutil.ignore_patterns("report.html", "figures"))
    config.data.data_dir = str(tmp_path / "gone")
    text = text_of(report(config, workdir).read_text())
    assert "Figures that need the data are left out. config.data.name='tiny' is neither" in text
    assert "Confusion matrix, test split 'test'" in text
    assert "Most confident mistakes" not in text
    assert {path.suffix for path in (workdir / "figures").iterdir()} == {".svg", ".png"}

    for name in ("summary.json", "report.html"):
        (workdir / name).unlink()
    before = snapshot(workdir)
    with pytest.raises(
        UserError, match=r"kept no predictions, and its data cannot be read\. config\.data\.name='tiny'"
    ):
        report(config, workdir)
    assert snapshot(workdir) == before


def test_labels_that_have_changed(reported, tiny_config, tmp_path):
    shutil.copytree(reported[0], tmp_path / "run")
    there = kept.read(tmp_path / "run")
    kept.write(tmp_path / "run", there._replace(label=there.label[::-1]))
    text = text_of(report(config_of(tiny_config), tmp_path / "run").read_text())
    assert "The split 'test' has changed since the run predicted its classes." in text
    assert "Most confident mistakes" not in text


def test_runs_that_have_nothing_to_show(tiny, tmp_path):
    with pytest.raises(ConfigError, match="holds no run"):
        report(tiny, tmp_path / "none")
    make_run(tmp_path / "run", tiny, (8, 8, 3), val_accuracies=())
    before = snapshot(tmp_path / "run")
    with pytest.raises(UserError, match="has not finished an epoch"):
        report(tiny, tmp_path / "run")
    assert snapshot(tmp_path / "run") == before
    assert not (tmp_path / "none").exists()


KINDS = {
    "signal": ((40, 1), "float32", {}),
    "spectrogram": ((40, 12), "float32", {"model.filters": ((4,),)}),
    "image of two channels": ((12, 10, 2), "float32", {}),
    "image, dense net": ((8, 8, 3), "uint8", {"model.filters": (), "model.dense": (6,)}),
    "image, linear net": ((8, 8, 3), "uint8", {"model.filters": (), "model.dense": ()}),
    "clip": ((8, 20, 20, 1), "uint8", {"model.filters": ((3,), (4,), (5,))}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_data(kind, tiny, tmp_path, monkeypatch):
    shape, dtype, fields = KINDS[kind]
    tiny.update_from_flattened_dict(fields)
    make_run(tmp_path / "run", tiny, shape, dtype)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (100, *shape)).astype(dtype)
    examples = Examples(images, rng.integers(0, 10, 100).astype(np.int32))
    names = tuple(f"class {i}" for i in range(10))
    source = Source(names, shape, "mine", lambda split: examples, lambda split: None)
    monkeypatch.setattr(sources, "open_source", lambda data: source)
    page = report(tiny, tmp_path / "run").read_text()
    text = text_of(page)
    assert "Most confident mistakes" in text
    assert ("Grad-CAM" in text) == ("net" not in kind)
    assert ("Feature maps" in text) == ("net" not in kind)
    assert len(page) < 2_000_000


def test_the_mistakes_are_the_most_confident_ones(reported, tiny_config, tmp_path):
    shutil.copytree(reported[0], tmp_path / "run")
    there, rng = kept.read(tmp_path / "run"), np.random.default_rng(0)
    made = rng.dirichlet(np.ones(4), len(there.label)).astype(np.float32)
    made[7] = 0.01, 0.01, 0.01, 0.01
    made[7, (there.label[7] + 1) % 4] = 0.97
    kept.write(tmp_path / "run", Predictions("test", there.label, made))
    text = text_of(report(config_of(tiny_config), tmp_path / "run").read_text())
    wrong = [i for i in range(len(made)) if made[i].argmax() != there.label[i]]
    wrong.sort(key=lambda i: -made[i].max())
    assert [int(number) for number in re.findall(r"Example (\d+)\.", text)] == wrong[:MISTAKES]
    label = there.label[7]
    assert f"{(label + 1) % 4} with 97.0%; truly {label}, 1.0%. Example 7." in text
    right = sorted(made[i].max() for i in range(len(made)) if i not in wrong)
    hard = text.split("Right, and least certain")[1].split("Calibration")[0]
    assert [float(share) for share in re.findall(r"([\d.]+)%", hard)] == [round(100 * float(p), 1) for p in right][:28]


def test_the_report_is_current_until_the_run_ends_anew(tmp_path):
    assert not is_current(tmp_path)
    (tmp_path / "summary.json").write_text("{}")
    assert not is_current(tmp_path)
    (tmp_path / "report.html").write_text("")
    assert is_current(tmp_path)
    os.utime(tmp_path / "summary.json", (2e9, 2e9))
    assert not is_current(tmp_path)
