"""The table and the figure of test accuracy against time say what is stored."""

import json

from matplotlib.image import imread

from tools.results import time_table
from tools.time_to_accuracy import KERAS, LADDER, OURS, TORCH, machines, plot


def store(directory, name, group, data, accuracies, clock_seconds, **fields):
    """Write the result of a contestant."""
    result = {
        "group": group,
        "data": data,
        "title": name,
        "dtype": "bfloat16" if group == LADDER else "float32",
        "n": len(accuracies),
        "accuracies": accuracies,
        "clock_seconds": clock_seconds,
        "wall_seconds": sum(clock_seconds) + 9.6,
        "scaled": False,
        "processor": "EPYC",
        "machine": {"cores": 2},
    }
    directory.mkdir(exist_ok=True)
    (directory / f"{name}.json").write_text(json.dumps(result | fields))


def fill(directory):
    """Results of both data sets."""
    part = {"scaled": True, "epochs": 2, "recipe_epochs": 50, "published": 0.783}
    store(directory, "cifar94", LADDER, "CIFAR-10", [0.94, 0.941, 0.942], [100.0, 110.0, 120.0])
    store(directory, "keras-cifar_deep_augment", KERAS, "CIFAR-10", [0.5], [2200.0], **part)
    store(directory, "airbench94_muon", TORCH, "CIFAR-10", [0.9401], [1100.0])
    store(directory, "keras-lenet", KERAS, "MNIST", [0.99], [80.0])
    store(directory, "lenet", OURS, "MNIST", [0.993], [90.0], remark="beside other load.")
    ours = part | {"recipe_epochs": 40, "published": 0.82}
    store(directory, "cifar_deep", OURS, "CIFAR-10", [0.5, 0.6], [1540.0, 1540.0], **ours)
    store(directory, "mnist_fast", LADDER, "MNIST", [0.995, 0.995], [2.0, 2.0])


def test_times_as_shares_of_the_recipe_of_the_same_data(tmp_path):
    fill(tmp_path)
    head, _, *lines = time_table(tmp_path).splitlines()
    assert head.startswith("| contestant | data | dtype | test accuracy | seconds by the clock | share of Keras | wall")
    assert lines == [
        "| mnist_fast | MNIST | bfloat16 | 99.50 ± 0.00% (n = 2) | 2.0 | 2.5% | 14 s |",
        "| keras-lenet | MNIST | float32 | 99.00% (n = 1) | 80.0 | 100% | 90 s |",
        "| lenet | MNIST | float32 | 99.30% (n = 1) | 90.0 | 112% | 100 s |",
        "| cifar94 | CIFAR-10 | bfloat16 | 94.10 ± 0.10% (n = 3) | 110 | 5.0% | 340 s |",
        "| airbench94_muon | CIFAR-10 | float32 | 94.01% (n = 1) | 1,100 | 50% | 1,110 s |",
        "| cifar_deep | CIFAR-10 | float32 | 82.00% (results/) | 1,540 † | 70% | 3,090 s |",
        "| keras-cifar_deep_augment | CIFAR-10 | float32 | 78.30% (lecture) | 2,200 † | 100% | 2,210 s |",
        "",
        "Machine: EPYC, 2 cores.",
        "",
        "lenet: beside other load.",
        "",
        "† fewer epochs than the recipe's were run (cifar_deep 2 of 40; keras-cifar_deep_augment 2 of 50): the "
        "seconds by the clock are scaled to all of them, and the accuracy is that of the lecture, or of the whole run "
        "in results/.",
    ]


def test_no_share_without_the_recipe(tmp_path):
    store(tmp_path, "lenet", OURS, "MNIST", [0.993], [90.0])
    assert time_table(tmp_path).splitlines()[2] == "| lenet | MNIST | float32 | 99.30% (n = 1) | 90.0 |  | 100 s |"


def test_the_machine_with_most_results_comes_first(tmp_path):
    assert machines(tmp_path) == {}
    store(tmp_path / "a", "lenet", OURS, "MNIST", [0.993], [90.0], processor="Xeon")
    fill(tmp_path / "b")
    assert list(machines(tmp_path).items()) == [("EPYC, 2 cores", tmp_path / "b"), ("Xeon, 2 cores", tmp_path / "a")]


def test_a_figure(tmp_path):
    fill(tmp_path)
    plot(tmp_path, tmp_path / "time.png")
    assert imread(tmp_path / "time.png").std() > 0.05
