"""Sets of TensorFlow Datasets by name: images, audio, video, arrays; and one sentence for those that cannot be used."""

import shutil

import numpy as np
import pytest

from jaxconv.config import default_config
from jaxconv.data.pipeline import eval_batches, fit_normalizer
from jaxconv.data.sources import open_source
from jaxconv.data.tensorflow import import_tfds
from jaxconv.errors import ConfigError, UserError
from tests.conftest import TINY_SHAPE, TINY_TEST, TINY_TRAIN, prepare


def data_config(name, data_dir=None):
    config = default_config()
    config.data.name, config.data.data_dir = name, data_dir and str(data_dir)
    return config.data


def test_a_set_of_images(tfds_dir):
    source = open_source(data_config("tiny", tfds_dir))
    assert (source.num_classes, source.image_shape) == (4, TINY_SHAPE)
    train, validation, test = (source.load(split) for split in ("train[:80%]", "train[80%:]", "test"))
    assert (len(train.labels), len(validation.labels), len(test.labels)) == (168, TINY_TRAIN - 168, TINY_TEST)
    assert (train.images.shape, train.images.dtype) == ((168, *TINY_SHAPE), np.uint8)
    whole = source.load("train")
    np.testing.assert_array_equal(np.concatenate([train.images, validation.images]), whole.images)
    assert set(whole.labels.tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize("split", ["nope", "trane[:50%]", "train[:"])
def test_an_unknown_split(tfds_dir, split):
    source = open_source(data_config("tiny", tfds_dir))
    with pytest.raises(ConfigError, match="is not a split of"):
        source.load(split)


def test_an_empty_split(tfds_dir):
    with pytest.raises(ConfigError, match="holds no example"):
        open_source(data_config("tiny", tfds_dir)).load("train[:0]")


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


def mine(directory, feature, values, **more):
    """Open a set of one example for each value, with classes 0, 1, 0, 1, ..."""
    inputs = {"input": feature} | more
    examples = [dict.fromkeys(inputs, value) | {"class": i % 2} for i, value in enumerate(values)]
    prepare("mine", directory, inputs | {"class": features.ClassLabel(num_classes=2)}, {"train": examples})
    return open_source(data_config("mine", directory))


def values_of(feature, count):
    rng = np.random.default_rng(0)
    dtype = feature.np_dtype
    if np.issubdtype(dtype, np.floating):
        return list(rng.normal(3, 5, (count, *feature.shape)).astype(dtype))
    top = min(np.iinfo(dtype).max, 2**15) if dtype != np.bool_ else 2
    return list(rng.integers(0, top, (count, *feature.shape)).astype(dtype))


features = import_tfds().features
KINDS = {
    "audio": (features.Audio(shape=(50,)), (50, 1), np.float32),
    "audio of two channels": (features.Audio(shape=(50, 2)), (50, 2), np.float32),
    "video": (features.Video(shape=(3, 8, 9, 1)), (3, 8, 9, 1), np.uint8),
    "vectors": (features.Tensor(shape=(20,), dtype=np.float32), (20, 1), np.float32),
    "signals": (features.Tensor(shape=(20, 4), dtype=np.float64), (20, 4), np.float32),
    "images of floats": (features.Tensor(shape=(7, 6, 2), dtype=np.float32), (7, 6, 2), np.float32),
    "images of 16 bits": (features.Image(shape=(7, 6, 1), dtype=np.uint16), (7, 6, 1), np.float32),
    "clips of bytes": (features.Tensor(shape=(3, 7, 6, 2), dtype=np.uint8), (3, 7, 6, 2), np.uint8),
}


@pytest.mark.parametrize("kind", KINDS)
def test_features_of_a_fixed_shape(kind, tmp_path):
    feature, image_shape, dtype = KINDS[kind]
    values = values_of(feature, 10)
    source = mine(tmp_path, feature, values)
    assert (source.num_classes, source.image_shape) == (2, image_shape)
    for _ in range(2):  # the second time from the cache
        train = source.load("train")
        assert (train.images.shape, train.images.dtype) == ((10, *image_shape), dtype)
        # TFDS writes the examples in an order of its own.
        ours = sorted(image.tobytes() for image in train.images)
        assert ours == sorted(np.asarray(value).astype(dtype).tobytes() for value in values)
    normalizer = fit_normalizer(train)
    (batch,) = eval_batches(train, normalizer, batch_size=10)
    expected = (train.images.astype(np.float64) - normalizer.mean) / normalizer.std
    np.testing.assert_allclose(batch["image"], expected, rtol=1e-4, atol=1e-4)
    axes = tuple(range(batch["image"].ndim - 1))
    np.testing.assert_allclose(batch["image"].mean(axes), 0, atol=1e-4)
    np.testing.assert_allclose(batch["image"].std(axes), 1, atol=1e-4)


def test_images_count_where_a_set_has_arrays_too(tmp_path):
    feature, more = features.Image(shape=(7, 6, 1)), features.Tensor(shape=(7, 6, 1), dtype=np.uint8)
    values = values_of(feature, 3)
    assert mine(tmp_path, more, values, image=feature).image_shape == (7, 6, 1)


def test_a_value_that_is_not_finite_names_its_example(tmp_path):
    values = np.zeros((6, 5), np.float32)
    values[3, 2] = np.nan
    source = mine(tmp_path, features.Tensor(shape=(5,), dtype=np.float32), list(values))
    with pytest.raises(
        ConfigError, match=r"'train' holds NaN or infinity in 1 of its 6 examples, first in example \d "
    ):
        source.load("train")


@pytest.mark.parametrize(
    ("feature", "value", "sentence"),
    [
        (features.Audio(), np.zeros(9, np.int64), r"examples of shape \(None,\) \(None: any size\)"),
        (features.Video(shape=(None, 8, 8, 1)), np.zeros((3, 8, 8, 1), np.uint8), r"shape \(None, 8, 8, 1\)"),
        (features.Image(), np.zeros((5, 5, 3), np.uint8), r"shape \(None, None, 3\)"),
        (features.Tensor(shape=(1, 2, 3, 4, 5), dtype=np.uint8), np.zeros((1, 2, 3, 4, 5), np.uint8), "1 to 3 sizes"),
        (features.Text(), "words", "is not a set of images, audio, video or arrays"),
        (features.Scalar(np.float32), np.float32(1), "is not a set of images, audio, video or arrays"),
    ],
    ids=["audio", "video", "images", "five sizes", "text", "numbers"],
)
def test_examples_that_are_not_arrays_of_one_shape(tmp_path, feature, value, sentence):
    with pytest.raises(ConfigError, match=sentence) as refusal:
        mine(tmp_path, feature, [value])
    assert str(refusal.value).startswith("config.data.name='mine' ")
