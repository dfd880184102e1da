"""Gaussian noise from a hash: a value depends on the example's random number and its own position, and nothing else."""

from typing import Any

import numpy as np

from jaxconv.data.augment.arrays import Operations


def normal(xp: Operations, draws: Any, size: int) -> Any:
    """Return values of the standard normal distribution.

    Args:
        xp: the array operations.
        draws: one column of `draws`, float32 (batch,): multiples of 2**-24 in [0, 1).
        size: the number of values of each example, below 2**31.

    Returns:
        float32 (batch, size). Examples with the same draw get the same values.
    """
    example = xp.astype(draws * 2**24, "uint32")[:, None] + np.uint32(2**31)  # larger than any position
    position = xp.astype(xp.arange(size), "uint32")
    # Both are hashed before they are added. Otherwise two examples could get shifted copies of the same noise.
    word = _hash(xp, _hash(xp, position) + _hash(xp, example))
    # An odd multiple of 2**-23 between -1 and 1, which a float32 holds exactly.
    symmetric = (2 * xp.astype(xp.right_shift(word, 9), "float32") + 1) * 2**-23 - 1
    return 2**0.5 * xp.erfinv(symmetric)


def _hash(xp: Operations, word: Any) -> Any:
    """Mix the bits of a uint32: lowbias32 of Chris Wellons, https://github.com/skeeto/hash-prospector."""
    word = (word ^ xp.right_shift(word, 16)) * np.uint32(0x7FEB352D)
    word = (word ^ xp.right_shift(word, 15)) * np.uint32(0x846CA68B)
    return word ^ xp.right_shift(word, 16)
