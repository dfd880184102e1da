"""A photograph of a handwritten digit, made to look like the images of MNIST.

MNIST's digits are light on dark. Each fits into 20 x 20 pixels, with its centre of mass at pixel (14, 14) of 28 x 28
(LeCun et al., 1998).
"""

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

SIDE, BOX = 28, 20
NAMES = ("mnist", "mnist_sample")
"""The data sets of such digits."""


def like_mnist(image: UInt8[np.ndarray, "height width 1"]) -> UInt8[np.ndarray, "28 28 1"]:
    """Bring a grey image of one digit to the form of MNIST.

    Args:
        image: a digit, dark on light or light on dark. An image of 28 x 28 that is dark at its border is returned as it
            is.

    Returns:
        The image. It is black if the digit cannot be told from its background.
    """
    grey = image[..., 0]
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    background = np.median(border)
    if grey.shape == (SIDE, SIDE) and background < 128:
        return image
    ink = np.abs(grey - background) if background < 128 else np.maximum(background - grey, 0)
    threshold = _otsu(ink)
    rows, columns = (np.flatnonzero((ink > threshold).any(axis)) for axis in (1, 0))
    if not len(rows):
        return np.zeros((SIDE, SIDE, 1), np.uint8)
    # Values below half of the threshold are shadows and grain of the paper.
    ink = np.clip((ink - threshold / 2) / max(np.percentile(ink[ink > threshold], 90) - threshold / 2, 1), 0, 1)
    digit = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return _centred(_shrunk(digit))


def _shrunk(digit: Float[np.ndarray, "height width"]) -> Float[np.ndarray, "h w"]:
    """Scale a digit so that its longer side has `BOX` pixels."""
    height, width = digit.shape
    scale = BOX / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.clip(np.asarray(Image.fromarray(digit.astype(np.float32)).resize(size, Image.Resampling.BOX)), 0, 1)


def _centred(digit: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "28 28 1"]:
    """Put a digit on black, with its centre of mass at pixel (14, 14) as far as there is room."""

    def first(mass: np.ndarray) -> int:
        middle = (mass * np.arange(len(mass))).sum() / mass.sum()
        return int(np.clip(round(SIDE / 2 - middle), 0, SIDE - len(mass)))

    top, left = first(digit.sum(1)), first(digit.sum(0))
    canvas = np.zeros((SIDE, SIDE))
    canvas[top : top + digit.shape[0], left : left + digit.shape[1]] = digit
    return np.round(255 * canvas).astype(np.uint8)[..., None]


def _otsu(values: np.ndarray) -> float:
    """Return the threshold that parts values in two classes of least variance (Otsu, 1979)."""
    counts, edges = np.histogram(values, 256)
    middles = (edges[:-1] + edges[1:]) / 2
    below, sums = np.cumsum(counts), np.cumsum(counts * middles)
    above, total = below[-1] - below, sums[-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (total - sums) / above) ** 2
    return float(edges[1:][np.nanargmax(between)]) if values.max() > values.min() else float("inf")
