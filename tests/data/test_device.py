"""The pipeline on the device makes the batches of the host's pipeline."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxconv.config import default_config
from jaxconv.data import device
from jaxconv.data.augment import FILLS
from jaxconv.data.examples import Examples
from jaxconv.data.pipeline import eval_batches, fit_normalizer, steps_per_epoch, train_batches
from jaxconv.errors import ConfigError
from jaxconv.parallel.mesh import make_mesh
from jaxconv.platform import limits
from tests.data.augment.common import SHAPES, config_of, photo
from tests.data.augment.test_transform import ALL, FOR_SIGNALS

MESH = make_mesh(1, 1)


def examples_of(n, shape, dtype="uint8"):
    return Examples(photo(n, shape).astype(dtype), np.arange(n, dtype=np.int32))


def by_device(examples, batch_size, seed, epochs, augmentation=None):
    """The batches of some epochs."""
    n, steps = len(examples.labels), steps_per_epoch(examples, batch_size)
    normalizer, there = fit_normalizer(examples), device.put(examples, MESH)

    @jax.jit
    def batch(examples, numbers, step):
        order, draws = jax.tree.map(lambda array: array[step], numbers)
        return device.take(examples, normalizer, order, draws, step, augmentation, MESH)

    all_numbers = device.numbers(
        n, batch_size=batch_size, seed=seed, epochs=range(epochs), augmentation=augmentation, mesh=MESH
    )
    for numbers in all_numbers:
        for step in range(steps):
            yield batch(there, numbers, step)


def by_host(examples, batch_size, seed, epochs, augmentation=None):
    return train_batches(
        examples,
        fit_normalizer(examples),
        batch_size=batch_size,
        seed=seed,
        start_step=0,
        end_step=epochs * steps_per_epoch(examples, batch_size),
        augmentation=augmentation,
    )


def assert_equal(ours, theirs, atol):
    count = 0
    for our, their in itertools.zip_longest(ours, theirs):
        assert our.keys() == their.keys()
        np.testing.assert_array_equal(our["label"], their["label"])
        np.testing.assert_array_equal(our["weight"], their["weight"])
        assert our["image"].dtype == np.float32
        np.testing.assert_allclose(our["image"], their["image"], atol=atol)
        count += 1
    assert count


@pytest.mark.parametrize(
    ("kind", "fields"), [("image", {field}) for field in ALL] + [("signal", FOR_SIGNALS), ("image", ALL), ("clip", ALL)]
)
def test_each_transformation_is_that_of_the_host(kind, fields):
    augmentation = config_of(**{field: ALL[field] for field in fields})
    examples = examples_of(21, SHAPES[kind])
    arguments = (examples, 8, 3, 2, augmentation)
    assert_equal(by_device(*arguments), by_host(*arguments), atol=1e-3)


@pytest.mark.parametrize("kind", SHAPES)
def test_an_alternating_flip_mirrors_each_example_every_other_epoch(kind):
    examples, epochs = examples_of(60, SHAPES[kind]), 3
    arguments = (examples, 16, 3, epochs, config_of(alternating_flip=True))
    assert_equal(by_device(*arguments), by_host(*arguments), atol=1e-3)
    images = np.empty((epochs, *examples.images.shape), np.float32)
    steps = steps_per_epoch(examples, 16)
    for step, batch in enumerate(by_device(*arguments)):
        real = batch["weight"] > 0
        images[step // steps, batch["label"][real]] = batch["image"][real]
    width = -2
    np.testing.assert_array_equal(images[1], np.flip(images[0], width))
    np.testing.assert_array_equal(images[2], images[0])
    mean, std = fit_normalizer(examples)
    originals = (examples.images - mean) / std
    changed = np.abs(images[0] - originals).max(axis=tuple(range(1, originals.ndim))) > 1e-3
    assert 15 < changed.sum() < 45
    np.testing.assert_allclose(np.flip(images[0][changed], width), originals[changed], atol=1e-5)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("kind", SHAPES)
def test_floats_and_what_lies_beyond_the_edges(kind, fill):
    fields = {"width_shift": 0.6, "zoom": 0.5, "fill": fill} | ({} if kind == "signal" else {"rotation": 90.0})
    examples = examples_of(21, SHAPES[kind], "float32")
    arguments = (examples, 8, 3, 2, config_of(**fields))
    assert_equal(by_device(*arguments), by_host(*arguments), atol=1e-3)


@settings(max_examples=10, deadline=None)
@given(n=st.integers(1, 40), batch_size=st.integers(1, 50), seed=st.integers(0, 2**31 - 1))
def test_batches_without_augmentation_are_those_of_the_host(n, batch_size, seed):
    examples = examples_of(n, (4, 5, 3))
    arguments = (examples, batch_size, seed, 2)
    assert_equal(by_device(*arguments), by_host(*arguments), atol=1e-6)
    normalizer = fit_normalizer(examples)
    ours = device.eval_batches(examples, normalizer, batch_size=batch_size, mesh=MESH)
    assert_equal(ours, eval_batches(examples, normalizer, batch_size=batch_size), atol=1e-6)


def test_batches_for_evaluation_are_compiled_once(caplog):
    examples = device.put(examples_of(21, (4, 5, 3)), MESH)
    normalizer = fit_normalizer(examples_of(21, (4, 5, 3)))

    def evaluate():
        with jax.log_compiles():
            for batch in device.eval_batches(examples, normalizer, batch_size=9, mesh=MESH):
                jax.block_until_ready(batch)

    evaluate()
    assert "Compiling" in caplog.text
    caplog.clear()
    evaluate()
    assert "Compiling" not in caplog.text


def test_a_split_that_does_not_fit_is_one_sentence(monkeypatch):
    examples = examples_of(10, (4, 5, 3))  # 640 bytes
    monkeypatch.setattr(limits, "free_memory", lambda: 4 * 640)
    assert device.fits([examples], MESH)
    assert not device.fits([examples, examples], MESH)
    there = device.put(examples, MESH)
    assert isinstance(there.images, jax.Array)
    assert device.put(there, MESH) is there
    monkeypatch.setattr(limits, "free_memory", lambda: 639)
    with pytest.raises(
        ConfigError, match=r"A split of 10 examples takes 6.4e-07 GB of memory on the device, and .* set "
    ):
        device.put(examples, MESH)


def test_the_host_is_the_default():
    assert default_config().data.pipeline == "host"
