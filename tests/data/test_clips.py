"""Clips of moving digits: they move as their class says, and a frame alone does not tell it."""

import numpy as np
import pytest
import scipy.stats

from jaxconv.data import sample
from jaxconv.data.clips import DIRECTIONS, FRAMES, SIDE, clips, moving_digits, moving_digits_frame

CLIPS = {split: moving_digits().load(split) for split in ("train", "test")}


def halved(digits):
    return digits[..., 0].reshape(-1, 14, 2, 14, 2).mean((2, 4)).round()


@pytest.mark.parametrize("split", CLIPS)
def test_a_digit_moves_in_the_direction_of_its_class(split):
    images, labels = CLIPS[split]
    assert images.shape[1:] == (FRAMES, SIDE, SIDE, 1)
    for clip, label in zip(images, labels, strict=True):
        speeds = [
            speed
            for speed in (1, 2)
            if all(
                (
                    np.roll(clip[0], speed * frame * np.array(list(DIRECTIONS.values())[label]), axis=(0, 1))
                    == clip[frame]
                ).all()
                for frame in range(FRAMES)
            )
        ]
        assert len(speeds) == 1


def test_train_and_test_have_digits_of_their_own():
    digits = halved(sample.digits().images)
    for split, own in (("train", digits[:4000]), ("test", digits[4000:])):
        frames = CLIPS[split].images[:, 3].reshape(-1, SIDE**2)
        expected = np.pad(own.reshape(-1, 14**2), ((0, 0), (0, SIDE**2 - 14**2)))
        np.testing.assert_array_equal(np.sort(frames, axis=1), np.sort(expected, axis=1))


def test_a_clip_is_a_function_of_seed_and_number():
    digits = sample.digits().images
    images, labels = clips(digits, [7, 4321, 8], seed=0)
    np.testing.assert_array_equal(images[[0, 2]], CLIPS["train"].images[[7, 8]])
    np.testing.assert_array_equal(images[1], CLIPS["test"].images[321])
    assert labels.tolist() == [*CLIPS["train"].labels[[7]], CLIPS["test"].labels[321], *CLIPS["train"].labels[[8]]]
    assert np.mean(clips(digits, range(500), seed=1)[1] == CLIPS["train"].labels[:500]) < 0.25


def test_a_frame_does_not_tell_the_direction():
    images, labels = moving_digits_frame().load("train")
    np.testing.assert_array_equal(images, CLIPS["train"].images[:, FRAMES // 2])
    assert scipy.stats.chisquare(np.bincount(labels, minlength=8)).pvalue > 0.001
    # Where the digit is in the frame: the middle of its mass on the torus, for each of its two axes.
    angle = np.exp(2j * np.pi * np.arange(SIDE) / SIDE)
    frames = images[..., 0].astype(float)
    for axis in (1, 2):
        place = (np.angle(frames.sum(axis) @ angle) * SIDE / (2 * np.pi)).round().astype(int) % SIDE
        table = np.zeros((8, SIDE), int)
        np.add.at(table, (labels, place), 1)
        assert scipy.stats.chi2_contingency(table).pvalue > 0.001
