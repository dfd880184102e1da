"""MNIST-1D (arXiv:2011.14439): ten classes of signals, made by the package mnist1d without a download."""

import contextlib
import importlib.metadata
import random
from collections.abc import Iterator

import numpy as np

from jaxconv.data.examples import Examples, Source, from_arrays
from jaxconv.platform import cache

_SIZES, _LENGTH = {"train": 4000, "test": 1000}, 40


def mnist1d() -> Source:
    """Open MNIST-1D as its authors made it: the arguments and the seed of the paper, float32 (40, 1)."""
    version = f"mnist1d {importlib.metadata.version('mnist1d')}"

    def make(split: str) -> Examples:
        import mnist1d as package

        arrays = cache.arrays(version, [package.__file__], _make)
        images, labels = arrays[:2] if split == "train" else arrays[2:]
        return Examples(images, labels)

    return from_arrays(
        "mnist1d", version=version, class_names="0123456789", image_shape=(_LENGTH, 1), sizes=_SIZES, make=make
    )


def _make() -> tuple[np.ndarray, ...]:
    """Return images and labels of the training split, and those of the test split."""
    from mnist1d.data import make_dataset

    with _global_generators_restored():
        arrays = make_dataset()
    return tuple(
        array
        for suffix in ("", "_test")
        for array in (arrays[f"x{suffix}"].astype(np.float32)[..., None], arrays[f"y{suffix}"].astype(np.int32))
    )


@contextlib.contextmanager
def _global_generators_restored() -> Iterator[None]:
    """Restore the random generators of Python and NumPy, which make_dataset seeds."""
    state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 make_dataset uses it
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)  # noqa: NPY002
