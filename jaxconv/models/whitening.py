"""The kernel of the layer `Whitening`, from the images of the training split."""

import math
from typing import Any

import numpy as np
from jaxtyping import Float32

_IMAGES, _CHUNK = 5000, 250
"""How many images are looked at, and how many at a time."""

_EPSILON = 5e-4
"""What is added to the variance of each component: whitening does not blow up the noise of the smallest."""


def fit(
    images: Any, mean: Float32[np.ndarray, " channels"], std: Float32[np.ndarray, " channels"], window: int
) -> Float32[np.ndarray, "*kernel channels filters"]:
    """Compute the filters that whiten the windows of images: PCA of the windows, each component over its deviation.

    As in airbench94 (arXiv:2404.00498, section 3.2), of at most 5,000 images, which are spread evenly over the split.

    Args:
        images: the images of the training split, (examples, *spatial, channels), an array or `Encoded`.
        mean: the mean of each channel, which is subtracted.
        std: the standard deviation of each channel, which divides the rest.
        window: the side of the windows.

    Returns:
        A kernel with as many filters as a window has values, and the same filters with the other sign.
    """
    spatial, channels = len(images.shape) - 2, images.shape[-1]
    kernel_size = (window,) * spatial
    positions = tuple(range(1, 1 + spatial))
    chosen = np.unique(np.linspace(0, len(images) - 1, min(_IMAGES, len(images))).astype(int))
    total, count = 0.0, 0
    for some in np.array_split(chosen, -(-len(chosen) // _CHUNK)):
        normalised = (np.asarray(images[some], np.float32) - mean) / std
        windows = np.lib.stride_tricks.sliding_window_view(normalised, kernel_size, axis=positions)
        windows = np.moveaxis(windows, 1 + spatial, -1)  # (examples, *positions, *kernel, channels)
        windows = windows.reshape(-1, math.prod(kernel_size) * channels)
        total += (windows.T @ windows).astype(np.float64)
        count += len(windows)
    variances, components = np.linalg.eigh(total / count)
    filters = components / np.sqrt(np.maximum(variances, 0.0) + _EPSILON)
    kernel = np.concatenate([filters, -filters], axis=1).astype(np.float32)
    return kernel.reshape(*kernel_size, channels, -1)
