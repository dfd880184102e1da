"""Clips of moving digits, made of `mnist_sample`: a digit moves in one of eight directions, which is its class.

A frame alone does not show the direction. The canvas is a torus (what leaves on one side enters on the other), and the
digit starts anywhere on it with equal probability, so the direction is independent of every single frame.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32, UInt8

from jaxconv.data import sample
from jaxconv.data.examples import Examples, Source, from_arrays
from jaxconv.data.order import random_words

DIRECTIONS = {
    "right": (0, 1),
    "down and right": (1, 1),
    "down": (1, 0),
    "down and left": (1, -1),
    "left": (0, -1),
    "up and left": (-1, -1),
    "up": (-1, 0),
    "up and right": (-1, 1),
}
"""(down, right) of each class."""
FRAMES, SIDE = 8, 20
"""Frames of a clip, and pixels of a side of its canvas."""

_SEED, _MAX_SPEED = 0, 2
_DIRECTION, _SPEED, _ROW, _COLUMN = range(4)  # purposes of `random_words`
_SIZES = {"train": 4000, "test": 1000}


def moving_digits() -> Source:
    """Open the clips, uint8 (FRAMES, SIDE, SIDE, 1).

    The digits of "train" are the first 4,000 of the sample, those of "test" the last 1,000, one clip for each.
    """
    return _open("moving_digits", (FRAMES, SIDE, SIDE, 1), slice(None))


def moving_digits_frame() -> Source:
    """Open the middle frame of each clip, uint8 (SIDE, SIDE, 1). A net cannot do better on it than chance."""
    return _open("moving_digits_frame", (SIDE, SIDE, 1), FRAMES // 2)


def _open(name: str, image_shape: tuple[int, ...], frames: slice | int) -> Source:
    def make(split: str) -> Examples:
        first = 0 if split == "train" else _SIZES["train"]
        numbers = np.arange(first, first + _SIZES[split])
        images, labels = clips(sample.digits().images[:], numbers, _SEED)
        return Examples(images[:, frames], labels)

    return from_arrays(
        name,
        version=f"of {sample.version()}",
        class_names=tuple(DIRECTIONS),
        image_shape=image_shape,
        sizes=_SIZES,
        make=make,
    )


def clips(
    digits: UInt8[np.ndarray, "digits 28 28 1"], numbers: Sequence[int] | np.ndarray, seed: int
) -> tuple[UInt8[np.ndarray, "clips frames side side 1"], Int32[np.ndarray, " clips"]]:
    """Make the clips of some digits. A clip is a function of its digit, its number and the seed.

    The digit has half of its size, 14 x 14 pixels, and moves by 1 or 2 pixels from frame to frame.

    Args:
        digits: images of all digits.
        numbers: which digits get a clip.
        seed: the seed of direction, speed and start.

    Returns:
        The clips, and the index of each one's direction in `DIRECTIONS`.
    """
    numbers = np.asarray(numbers)

    def draw(purpose: int, choices: int) -> np.ndarray:
        words = random_words(len(digits), seed, 0, purpose)[numbers]
        return (words % np.uint64(choices)).astype(np.int64)

    labels = draw(_DIRECTION, len(DIRECTIONS))
    velocity = np.array(list(DIRECTIONS.values()))[labels] * (1 + draw(_SPEED, _MAX_SPEED))[:, None]
    start = np.stack([draw(_ROW, SIDE), draw(_COLUMN, SIDE)], axis=1)

    small = digits[numbers, ..., 0].reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).round().astype(np.uint8)
    canvas = np.pad(small, ((0, 0), (0, SIDE - 14), (0, SIDE - 14)))
    # Frame t shows at (row, column) what the canvas has at (row, column) minus the place of the digit.
    place = start[:, None] + velocity[:, None] * np.arange(FRAMES)[:, None]
    rows = (np.arange(SIDE) - place[..., :1]) % SIDE
    columns = (np.arange(SIDE) - place[..., 1:]) % SIDE
    clip = np.arange(len(numbers))[:, None, None, None]
    return canvas[clip, rows[..., :, None], columns[..., None, :]][..., None], labels.astype(np.int32)
