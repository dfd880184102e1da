"""What is said of runs that are compared: the numbers are made, and known."""

import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest

from jaxconv.compare import disagreements, pairs, tables
from jaxconv.compare.comparison import compare, to_html
from jaxconv.compare.runs import grouped, load, same_test
from jaxconv.compare.terminal import to_text
from jaxconv.runs import workdir as files
from tests.compare.conftest import change, make


def said(*of):
    """All text of tables, each run of spaces and line breaks as one space."""
    return " ".join(to_text(of).split())


def pairs_of(runs):
    return pairs.table(pairs.compare([runs]))


def test_results(two):
    results = tables.results(load(two))
    assert results.rows == [
        ["first", "81.82%", "69.67% to 89.81%", "55", "60.00%", "2 of 2"],
        ["second", "63.64%", "50.42% to 75.07%", "55", "60.00%", "2 of 2"],
    ]
    assert not results.findings


@pytest.mark.parametrize("both", [True, False])
def test_runs_that_were_not_validated(both, two):
    for workdir in two if both else two[1:]:
        change(workdir / "summary.json", val_accuracy=None)
        records = [record | {"val_loss": None, "val_accuracy": None} for record in files.read_history(workdir)]
        files.write_history(workdir, records)
    compared = compare(load(two))
    assert [row[-2:] for row in compared.results.rows] == [["-" if both else "60.00%", "2 of 2"], ["-", "2 of 2"]]
    assert [len(row) for row in compared.curves] == ([2] if both else [2, 2])
    who = "first and second" if both else "second"
    assert f"There is no validation split, so the last epoch counts as the best: {who}." in to_html(compared)


def test_costs(tiny, test_set, tmp_path):
    runs = [make(tmp_path / name, tiny, test_set.labels, range(9), processor=name) for name in ("slow", "fast")]
    costs = tables.costs(load(runs))
    assert costs.rows[0] == ["slow", "cifar_simple", "tiny", "1,234", "105", "5 s", "1 x cpu"]
    (finding,) = costs.findings
    assert finding == "The processors differ, so images/s and wall times do not compare: slow on slow; fast on fast."
    change(runs[1] / "summary.json", versions={"processor": "slow"})
    costs = tables.costs(load(runs))
    assert (costs.findings, costs.notes) == ([], ["Trained on slow."])


def test_fields_that_differ(two):
    runs = load(two)
    fields = tables.fields(runs)
    assert fields.columns == ("field", "first", "second")
    ops = runs[0].config.ops
    assert fields.rows == [["optimizer.learning_rate", "0.001", "0.01"], ["ops *", ops, "stock"]]
    assert fields.notes
    assert tables.fields([runs[0]] * 2).findings == ["They have the same config."]


def test_a_field_that_an_earlier_version_did_not_have_has_its_default(two):
    path = two[1] / "config.json"
    recorded = json.loads(path.read_text())
    del recorded["model"]["pool_strides"], recorded["mixup"]
    path.write_text(json.dumps(recorded))
    assert [row[0] for row in tables.fields(load(two)).rows] == ["optimizer.learning_rate", "ops *"]


def test_a_pair(two):
    compared = compare(load(two))
    p_value = binomtest(15, 20).pvalue
    assert f"{p_value:.3f}" == "0.041"
    assert compared.pairs.rows == [["first", "second", "+18.18 points", "0.041", "15", "5"]]
    sentence = "first is right on 15 examples where second is wrong, and wrong on 5 where it is right: p = 0.041."
    for text in (said(*compared.tables), to_html(compared)):
        assert sentence in text
        assert "Chance alone seldom makes such a difference." in text


def test_a_small_difference_is_called_neither_proof_nor_equality(tiny, test_set, tmp_path):
    rights = {"first": range(30), "second": [*range(28), 40, 41, 42]}
    runs = load([make(tmp_path / name, tiny, test_set.labels, right) for name, right in rights.items()])
    (finding,) = pairs_of(runs).findings
    assert finding.startswith("second is right on 3 examples where first is wrong, and wrong on 2 where it is right:")
    assert finding.endswith("p = 1.000. Chance alone can well make such a difference.")


def test_runs_that_are_right_on_the_same_examples(two, tmp_path):
    copy = shutil.copytree(two[0], tmp_path / "copy")
    compared = compare(load([two[0], copy]))
    assert compared.pairs.findings == ["first and copy are right on the same examples."]
    assert [(found.differ, found.ways) for found in compared.disagreements] == [(0, [])]
    assert "disagree on <b>0</b>" in to_html(compared)


def test_holm():
    assert pairs.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert pairs.holm([0.2]) == [0.2]
    assert pairs.holm([0.5, 0.9, 0.8]) == [1, 1, 1]


def test_several_pairs_are_corrected(two, tiny, test_set, tmp_path):
    third = make(tmp_path / "third", tiny, test_set.labels, range(44))
    table = pairs_of(load([*two, third]))
    rows = {(row[0], row[1]): row[3:5] for row in table.rows}
    smallest, middle = binomtest(15, 20).pvalue, binomtest(14, 19).pvalue
    assert rows["first", "second"] == [f"{smallest:.3f}", f"{3 * smallest:.3f}"]
    assert rows["second", "third"] == [f"{middle:.3f}", f"{2 * middle:.3f}"]
    assert rows["first", "third"] == ["1.000", "1.000"]
    assert f"wrong on 5 where it is right: p = {3 * smallest:.3f}. Chance alone can well make" in said(table)
    assert "Among 3 comparisons" in said(table)


def test_disagreements(two, test_set):
    found = disagreements.find(load(two), 24)
    assert (found.tested, found.differ, found.num_ways, found.note) == (55, 20, 2, None)
    assert [(way.title, way.examples) for way in found.ways] == [
        ("Only first is right", 15),
        ("Only second is right", 5),
    ]
    # The made confidence grows with the number.
    assert [[card.number for card in way.cards] for way in found.ways] == [
        [*range(44, 32, -1)],
        [54, 53, 52, 51, 50],
    ]
    card, label = found.ways[0].cards[0], int(test_set.labels[44])
    wrong = str((label + 1) % 4)
    assert card.true == str(label)
    assert [answer[:2] for answer in card.answers] == [("first", str(label)), ("second", wrong)]
    assert [answer.is_right for answer in card.answers] == [True, False]
    assert card.answers[0].probability == pytest.approx(0.5 + 0.4 * 44 / 54)
    drawn = np.asarray(Image.open(io.BytesIO(card.figure.content)))
    np.testing.assert_array_equal(drawn[::12, ::12], test_set.images[44])


def test_disagreements_of_three(two, tiny, test_set, tmp_path):
    third = make(tmp_path / "third", tiny, test_set.labels, [*range(40), 50])
    found = disagreements.find(load([*two, third]), 24)
    assert {way.title: way.examples for way in found.ways} == {
        "Only second is wrong": 10,
        "Only first is right": 5,
        "Only second is right": 4,
        "Only first is wrong": 1,
    }
    assert [len(way.cards) for way in found.ways] == [6, 5, 4, 1]


def test_gaps():
    of_true = np.array([[0.9, 0.5], [0.7, 0.1], [0.2, 0.3]])
    right = np.array([[True, False], [True, False], [False, True]])
    np.testing.assert_allclose(disagreements.gaps(of_true, right), [0.6, 0.0], atol=1e-12)


def test_a_run_that_is_not_finished(two):
    (two[1] / "summary.json").unlink()
    compared = compare(load(two))
    assert compared.results.rows[1] == ["second", "-", "-", "-", "60.00%", "2 of 2"]
    assert not compared.disagreements
    for text in (said(*compared.tables), to_html(compared)):
        assert "Not finished: second. The test set stays closed" in text
        assert "none are compared example by example" in text


def test_a_run_that_goes_on_for_more_epochs_is_not_finished(two):
    change(two[1] / "config.json", num_epochs=9)
    assert load(two)[1].predictions is None
    assert load(two)[1].summary is None


def test_a_run_of_an_earlier_version(two):
    (two[1] / "predictions.npz").unlink()
    (two[1] / "signature.json").unlink()
    compared = compare(load(two))
    assert compared.results.rows[1][1:4] == ["63.64%", "50.42% to 75.07%", "55"]
    assert "which kept no predictions: second." in said(compared.results)
    to_html(compared)


def alter_split(workdir, label):
    recorded = json.loads((workdir / "config.json").read_text())
    recorded["data"]["test"] = "test[:100%]"
    change(workdir / "config.json", data=recorded["data"])


def alter_labels(workdir, label):
    with np.load(workdir / "predictions.npz") as arrays:
        arrays = dict(arrays)
    np.savez_compressed(workdir / "predictions.npz", **arrays | {"label": arrays["label"][::-1]})


def alter_classes(workdir, label):
    change(workdir / "signature.json", class_names=["a", "b", "c", "d"])


def alter_version(workdir, label):
    change(workdir / "summary.json", versions={"data": "tiny 2.0.0"})


@pytest.mark.parametrize("alter", [alter_split, alter_labels, alter_classes, alter_version])
def test_runs_on_different_data(two, test_set, alter):
    alter(two[1], test_set.labels)
    runs = load(two)
    (finding,) = tables.results(runs).findings
    assert finding.startswith("The runs are on different data: first on tiny")
    assert len(grouped(runs, same_test)) == 2


def test_runs_on_the_same_test_set_are_compared_among_themselves(two, tiny, test_set, tmp_path):
    tiny.data.test = "train[:20]"
    five = ("a", "b", "c", "d", "e")
    other = make(tmp_path / "other", tiny, test_set.labels[:20], range(10), class_names=five)
    compared = compare(load([two[0], other, two[1]]))
    assert [row[:2] for row in compared.pairs.rows] == [["first", "second"]]
    assert [found.runs for found in compared.disagreements] == ["first and second"]
    (finding,) = compared.results.findings
    assert "first and second on tiny (tiny 1.0.0), validation 'train[80%:]', test 'test'; other on tiny" in finding
    assert "The losses are left out" in to_html(compared)
    assert [len(row) for row in compared.curves] == [1, 1]


def test_training_losses_that_do_not_compare(two):
    change(two[1] / "config.json", mixup=0.2)
    assert compare(load(two)).curve_notes == ["The training losses do not compare: the runs differ in mixup."]


@pytest.mark.usefixtures("no_network")
def test_data_that_is_gone(two, tmp_path):
    for workdir in two:
        recorded = json.loads((workdir / "config.json").read_text())
        recorded["data"]["data_dir"] = str(tmp_path / "nowhere")
        change(workdir / "config.json", data=recorded["data"])
    compared = compare(load(two))
    (found,) = compared.disagreements
    assert found.note.startswith("The pictures of the examples are left out. config.data.name='tiny'")
    assert [card.figure for way in found.ways for card in way.cards] == [None] * 17
    html = to_html(compared)
    assert "<img" not in html
    assert "44: truly <b>" in html


@pytest.mark.usefixtures("no_network")
def test_data_that_one_of_the_runs_still_has(two, tmp_path):
    recorded = json.loads((two[0] / "config.json").read_text())
    recorded["data"]["data_dir"] = str(tmp_path / "nowhere")
    change(two[0] / "config.json", data=recorded["data"])
    found = disagreements.find(load(two), 24)
    assert found.note is None
    assert found.ways[0].cards[0].figure


def test_data_that_has_changed(two, test_set):
    for workdir in two:
        alter_labels(workdir, test_set.labels)
    found = disagreements.find(load(two), 24)
    assert "The split 'test' has changed since first was tested." in found.note


def test_names(two, tmp_path):
    inner = shutil.copytree(two[0], tmp_path / "inner" / "first")
    assert [run.name for run in load(two)] == ["first", "second"]
    assert [run.name for run in load([two[0], inner])] == [str(two[0]), str(inner)]


def test_names_are_escaped(two, tmp_path):
    named = two[0].rename(tmp_path / "<b>[red]&")
    compared = compare(load([named, two[1]]))
    assert "<b>[red]&" in to_text(compared.tables)
    html = to_html(compared)
    assert "<b>[red]" not in html
    assert "&lt;b&gt;[red]&amp; and second, compared" in html
