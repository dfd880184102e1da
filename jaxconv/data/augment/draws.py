"""The random numbers of the augmentation.

This module imports neither TensorFlow nor JAX, so that every input pipeline can use the same numbers.
"""

import numpy as np
from jaxtyping import Float32

from jaxconv.data.order import AUGMENTATION, random_words

# Each name has a random stream of its own, by its place. Append new names at the end: the others keep their numbers.
DRAWS: tuple[str, ...] = (
    "rotation",
    "shear",
    "rescaling",
    "zoom_x",
    "zoom_y",
    "shift_x",
    "shift_y",
    "crop_x",
    "crop_y",
    "flip_x",
    "flip_y",
    "channel_shift",
    "brightness",
    "contrast",
    "cutout_x",
    "cutout_y",
    "noise",
)
"""The names of the columns of `draws`."""


def draws(n: int, seed: int, epoch: int, *, alternating_flip: bool = False) -> Float32[np.ndarray, "n draws"]:
    """Return the random numbers of the first n examples in an epoch.

    A number of an example depends on the seed, the epoch, the example's index and the name only, and not on n.

    Args:
        n: the number of examples.
        seed: the seed, at least 0 and below 2**64.
        epoch: the epoch, at least 0 and below 2**64.
        alternating_flip: whether flip_x is that of epoch 0 in even epochs, and lies in the other half of [0, 1) in odd
            ones, so that each example is mirrored every other epoch (arXiv:2404.00498, section 3.6).

    Returns:
        float32 (n, len(DRAWS)), uniform on [0, 1).

    Raises:
        OverflowError: the seed or the epoch is out of range.
    """
    numbers = np.empty((n, len(DRAWS)), np.float32)
    for column, name in enumerate(DRAWS):
        alternates = alternating_flip and name == "flip_x"
        # A float32 holds 24 bits exactly. More bits could round up to 1.
        bits = random_words(n, seed, 0 if alternates else epoch, AUGMENTATION + column) >> np.uint64(40)
        numbers[:, column] = 2**24 - 1 - bits if alternates and epoch % 2 else bits
    numbers *= np.float32(2**-24)
    return numbers
