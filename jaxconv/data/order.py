"""The order of the examples in each epoch, and the random words behind it.

This module imports neither TensorFlow nor JAX, so that every input pipeline can use the same order.
"""

import numpy as np
from jaxtyping import Int32, UInt64

ORDER, AUGMENTATION = 0, 1
"""Purposes of `random_words`: each number selects a stream. AUGMENTATION is the first of as many as there are draws."""


def random_words(count: int, seed: int, epoch: int, purpose: int) -> UInt64[np.ndarray, " count"]:
    """Return the first words of the random stream of (seed, epoch, purpose).

    Streams with different arguments are independent. A stream does not depend on the version of NumPy, because NumPy
    keeps the raw output of its bit generators stable. It does not keep the methods of `numpy.random.Generator` stable.

    Args:
        count: the number of words.
        seed: the seed, at least 0 and below 2**64.
        epoch: the epoch, at least 0 and below 2**64.
        purpose: `ORDER`, or `AUGMENTATION` and the numbers above it.

    Returns:
        uint64 (count,). A larger count appends words and keeps the first ones.

    Raises:
        OverflowError: the seed or the epoch is out of range.
    """
    # Philox has a key of 2 words and a counter of 4. The top word of the counter keeps the purposes apart.
    key, counter = np.array([seed, epoch], np.uint64), np.array([0, 0, 0, purpose], np.uint64)
    return np.random.Philox(key=key, counter=counter).random_raw(count)


def permutation(n: int, seed: int, epoch: int) -> Int32[np.ndarray, " n"]:
    """Return the order of n examples in an epoch, a random permutation.

    Args:
        n: the number of examples, below 2**31.
        seed: the seed, at least 0 and below 2**64.
        epoch: the epoch, at least 0 and below 2**64.

    Returns:
        int32 (n,). Each index from 0 to n - 1 occurs once.

    Raises:
        OverflowError: the seed or the epoch is out of range.
    """
    return np.argsort(random_words(n, seed, epoch, ORDER), kind="stable").astype(np.int32)
