"""Gaussian noise from a hash: a value depends on the example's random number and its own position, and nothing else."""

from typing import Any

from jaxconv.data.tensorflow import import_tensorflow


def normal(draws: Any, size: int) -> Any:
    """Return values of the standard normal distribution.

    Args:
        draws: one column of `draws`, float32 (batch,): multiples of 2**-24 in [0, 1).
        size: the number of values of each example, below 2**31.

    Returns:
        float32 (batch, size). Examples with the same draw get the same values.
    """
    tf = import_tensorflow()
    example = tf.cast(draws * 2**24, tf.uint32)[:, None] + 2**31  # larger than any position
    position = tf.cast(tf.range(size), tf.uint32)
    # Both are hashed before they are added. Otherwise two examples could get shifted copies of the same noise.
    word = _hash(_hash(position) + _hash(example))
    # An odd multiple of 2**-23 between -1 and 1, which a float32 holds exactly.
    symmetric = (2 * tf.cast(_shift(word, 9), tf.float32) + 1) * 2**-23 - 1
    return 2**0.5 * tf.math.erfinv(symmetric)


def _hash(word: Any) -> Any:
    """Mix the bits of a uint32: lowbias32 of Chris Wellons, https://github.com/skeeto/hash-prospector."""
    word = (word ^ _shift(word, 16)) * 0x7FEB352D
    word = (word ^ _shift(word, 15)) * 0x846CA68B
    return word ^ _shift(word, 16)


def _shift(word: Any, bits: int) -> Any:
    tf = import_tensorflow()
    return tf.bitwise.right_shift(word, tf.constant(bits, tf.uint32))
