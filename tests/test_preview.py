"""The picture that --mode=preview draws: what the epochs of a run will show."""

import numpy as np
import pytest
from matplotlib.image import imread

from jaxconv.data import augment, pipeline, sources
from jaxconv.errors import ConfigError, UserError
from jaxconv.preview import EPOCHS, EXAMPLES, preview, rows
from tests.conftest import launch


def test_the_images_are_those_of_training(tiny):
    tiny.augment.rotation, tiny.augment.horizontal_flip, tiny.augment.channel_shift = 30.0, True, 40.0
    train = sources.open_source(tiny.data).load(tiny.data.train)
    images = rows(train, tiny)
    assert images.shape == (EXAMPLES, 1 + EPOCHS, *train.images.shape[1:])
    np.testing.assert_array_equal(images[:, 0], train.images[:EXAMPLES])
    numbered = sources.Examples(train.images, np.arange(len(train.labels), dtype=np.int32))
    identity = pipeline.Normalizer(np.zeros(3, np.float32), np.ones(3, np.float32))
    steps = pipeline.steps_per_epoch(train, 16)
    batches = pipeline.train_batches(
        numbered, identity, batch_size=16, seed=0, start_step=0, end_step=2 * steps, augmentation=tiny.augment
    )
    for step, batch in enumerate(batches):
        for image, label, weight in zip(batch["image"], batch["label"], batch["weight"], strict=True):
            if weight and label < EXAMPLES:
                np.testing.assert_allclose(images[label, 1 + step // steps], image, atol=0.51)


def test_without_augmentation_every_epoch_is_the_same(tiny):
    assert not augment.is_on(tiny.augment)
    images = rows(sources.open_source(tiny.data).load("train"), tiny)
    np.testing.assert_array_equal(images[:, 1:], np.repeat(images[:, :1], EPOCHS, axis=1))


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


def test_images_that_cannot_be_drawn(tiny, tmp_path, monkeypatch):
    train = sources.Examples(np.zeros((3, 8, 1), np.uint8), np.zeros(3, np.int32))
    monkeypatch.setattr(
        sources, "open_source", lambda data: sources.Source(2, "mine", lambda split: train, lambda split: None)
    )
    with pytest.raises(ConfigError, match=r"two dimensions with 1 or 3 channels.*\(8, 1\)"):
        preview(tiny, tmp_path / "run")
    assert not (tmp_path / "run").exists()
