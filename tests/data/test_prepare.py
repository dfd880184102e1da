"""A set of TensorFlow Datasets as a file, with and without TensorFlow."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

from jaxconv.data import prepared, tfds
from jaxconv.data.prepare import prepare
from jaxconv.data.sources import open_source
from jaxconv.data.tensorflow import import_tfds
from jaxconv.errors import ConfigError, UserError
from tests.conftest import ROOT
from tests.conftest import prepare as write_set
from tests.data.test_tfds import data_config

SPLITS = ("train[:80%]", "train[80%:]", "test", "all", "train[0shard]")


def agree(ours, theirs, splits=SPLITS):
    """Compare two sources, in all that a run sees of them."""
    assert (ours.version, ours.class_names, ours.image_shape) == (
        theirs.version,
        theirs.class_names,
        theirs.image_shape,
    )
    for split in splits:
        for our, their in zip(ours.load(split), theirs.load(split), strict=True):
            assert our.dtype == their.dtype
            np.testing.assert_array_equal(our, their)


@pytest.fixture
def without_tensorflow(monkeypatch):
    for module in (tfds, sys.modules["jaxconv.data.prepare"]):
        monkeypatch.setattr(module, "is_installed", lambda: False)
    monkeypatch.setattr(tfds, "import_tfds", None)


def test_the_file_is_the_set(tfds_dir, tmp_path, monkeypatch, request):
    copy = shutil.copytree(tfds_dir, tmp_path / "data")
    data = data_config("tiny", copy)
    expected = open_source(data)
    process = subprocess.run(
        [sys.executable, "-m", "jaxconv.data.prepare", "--name=tiny", f"--data_dir={copy}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout == f"{copy}/jaxconv/tiny.npz\n"
    agree(prepared.open_file(prepared.path_of(data), "tiny"), expected)
    (tmp_path / "other").mkdir()
    shutil.move(copy / "jaxconv", tmp_path / "other")
    agree(open_source(data_config("tiny", tmp_path / "other")), expected)  # TFDS knows of no such set there
    request.getfixturevalue("without_tensorflow")
    agree(open_source(data_config("tiny", tmp_path / "other")), expected)
    with pytest.raises(ConfigError, match="'nope' is not a split of 'tiny': its splits are t"):
        open_source(data_config("tiny", tmp_path / "other")).load("nope")


@pytest.mark.parametrize("files", [3, 25])
def test_the_examples_of_several_files_are_in_the_order_of_tfds(files, tmp_path, monkeypatch):
    features = import_tfds().features
    described = {"x": features.Tensor(shape=(3,), dtype=np.float32), "class": features.ClassLabel(names=["b", "a"])}
    config = import_tfds().download.DownloadConfig(num_shards=files)
    builder = import_tfds().core.DatasetBuilder
    original = builder.download_and_prepare
    monkeypatch.setattr(builder, "download_and_prepare", lambda self: original(self, download_config=config))
    splits = {
        split: [{"x": np.full(3, i, np.float32), "class": i % 2} for i in range(size)]
        for split, size in {"train": 30 * files, "test": 16 * files}.items()
    }
    write_set("many", tmp_path, described, splits)
    data = data_config("many", tmp_path)
    expected = open_source(data)
    assert expected.class_names == ("b", "a")
    prepare(data)
    agree(prepared.open_file(prepared.path_of(data), "many"), expected, (*SPLITS, "test[-7:]+train[1shard:]"))


@pytest.mark.usefixtures("without_tensorflow")
def test_without_tensorflow_and_without_the_file(tmp_path):
    with pytest.raises(UserError, match="or the file .*mnist.npz: .* by python -m jaxconv.data.prepare --name=mnist"):
        open_source(data_config("mnist", tmp_path))
    with pytest.raises(ConfigError, match="prepare needs TensorFlow and TensorFlow Datasets: pip install"):
        prepare(data_config("mnist", tmp_path))


def test_a_wrong_file_is_one_sentence(tfds_dir, tmp_path):
    copy = shutil.copytree(tfds_dir, tmp_path / "data")
    data = data_config("tiny", copy)
    prepare(data)
    path = prepared.path_of(data)
    whole = path.read_bytes()
    middle = len(whole) // 2
    wrong = {
        "cut": whole[:middle],
        "no zip": b"words",
        "empty": b"",
        "flipped": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
    }
    for content in wrong.values():
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"tiny.npz is not a file of python -m jaxconv.data.prepare, or it is dama"):
            prepared.open_file(path, "tiny").load("train+test")
    np.savez(path, x=np.zeros(3))
    with pytest.raises(UserError, match=r"is not a file of"):
        prepared.open_file(path, "tiny")


def test_a_set_that_is_not_there_and_a_place_that_cannot_be_written(tfds_dir, tmp_path):
    with pytest.raises(ConfigError, match="'tinyy' is neither a set"):
        prepare(data_config("tinyy", tfds_dir))
    copy = shutil.copytree(tfds_dir, tmp_path / "data")
    (copy / "jaxconv").write_text("a file")
    with pytest.raises(UserError, match="cannot be written"):
        prepare(data_config("tiny", copy))
