"""The picture that --mode=preview draws: what the epochs of a run will show."""

import numpy as np
import pytest
from matplotlib.image import imread

from jaxconv.data import augment, pipeline, sources
from jaxconv.data.examples import Examples, Source
from jaxconv.errors import ConfigError, UserError
from jaxconv.preview import EPOCHS, EXAMPLES, preview, rows
from tests.conftest import launch


@pytest.mark.parametrize("flip", ["horizontal_flip", "alternating_flip"])
def test_the_images_are_those_of_training(flip, tiny):
    tiny.augment.rotation, tiny.augment[flip], tiny.augment.channel_shift = 30.0, True, 40.0
    train = sources.open_source(tiny.data).load(tiny.data.train)
    images = rows(train, tiny)
    assert images.shape == (EXAMPLES[2], 1 + EPOCHS[2], *train.images.shape[1:])
    np.testing.assert_array_equal(images[:, 0], train.images[: EXAMPLES[2]])
    numbered = Examples(train.images, np.arange(len(train.labels), dtype=np.int32))
    identity = pipeline.Normalizer(np.zeros(3, np.float32), np.ones(3, np.float32))
    steps = pipeline.steps_per_epoch(train, 16)
    batches = pipeline.train_batches(
        numbered, identity, batch_size=16, seed=0, start_step=0, end_step=2 * steps, augmentation=tiny.augment
    )
    for step, batch in enumerate(batches):
        for image, label, weight in zip(batch["image"], batch["label"], batch["weight"], strict=True):
            if weight and label < EXAMPLES[2]:
                np.testing.assert_allclose(images[label, 1 + step // steps], image, atol=0.51)


def test_without_augmentation_every_epoch_is_the_same(tiny):
    assert not augment.is_on(tiny.augment)
    images = rows(sources.open_source(tiny.data).load("train"), tiny)
    np.testing.assert_array_equal(images[:, 1:], np.repeat(images[:, :1], EPOCHS[2], axis=1))


def test_a_picture_in_the_workdir(tiny_config, tmp_path):
    process = launch(f"--config={tiny_config}", f"--workdir={tmp_path}/run", "--mode=preview")
    path = tmp_path / "run" / "figures" / "preview.png"
    assert process.stdout == f"{path}\n"
    assert imread(path).std() > 0.1
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["figures"]  # training may still begin there


def test_a_workdir_that_cannot_be_written(tiny, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="cannot be written"):
        preview(tiny, tmp_path / "file")


def source_of(images, monkeypatch):
    """Let every config name these images, as their training split."""
    train = Examples(images, np.zeros(len(images), np.int32))
    source = Source(("a", "b"), images.shape[1:], "mine", lambda split: train, lambda split: None)
    monkeypatch.setattr(sources, "open_source", lambda data: source)
    return train


def test_images_that_cannot_be_drawn(tiny, tmp_path, monkeypatch):
    source_of(np.zeros((3, 8, 8, 2), np.uint8), monkeypatch)
    with pytest.raises(ConfigError, match=r"images and clips with 1 or 3 channels.*\(8, 8, 2\)"):
        preview(tiny, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("shape", [(40, 1), (40, 2), (30, 27), (9, 8, 1), (4, 9, 8, 1), (4, 9, 8, 3)], ids=str)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_signals_images_and_clips_of_bytes_or_floats(tiny, tmp_path, monkeypatch, shape, dtype):
    images = np.random.default_rng(0).integers(0, 256, (20, *shape)).astype(dtype)
    train = source_of(images, monkeypatch)
    tiny.augment.width_shift, tiny.augment.noise = 0.1, 0.05
    drawn, spatial = rows(train, tiny), len(shape) - 1
    assert drawn.shape == (EXAMPLES[spatial], 1 + EPOCHS[spatial], *shape)
    assert drawn.dtype == dtype
    np.testing.assert_array_equal(drawn[:, 0], images[: EXAMPLES[spatial]])
    assert imread(preview(tiny, tmp_path / "run")).std() > 0.05


def test_fewer_examples_than_the_picture_has_room_for(tiny, tmp_path, monkeypatch):
    source_of(np.ones((1, 40, 1), np.float32), monkeypatch)
    assert preview(tiny, tmp_path / "run").exists()
