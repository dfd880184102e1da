"""What the tests of operations share."""

import ctypes
import platform
import sys

import pytest

from jaxconv.ops import dispatch, onednn


def expects_onednn() -> bool:
    """Return whether the dependencies include oneDNN on this system, and the system has the OpenMP library it needs."""
    try:
        ctypes.CDLL("libgomp.so.1")
    except OSError:
        return False
    return sys.platform == "linux" and platform.machine() == "x86_64"


def has_bfloat16() -> bool:
    """Return whether oneDNN has fast kernels of bfloat16 for this processor."""
    return onednn.Convolution(
        (8, 8, 8, 16), (3, 3, 16, 16), (8, 8, 8, 16), (1, 1), ((1, 1), (1, 1)), "bfloat16"
    ).is_fast()


FORMS = ["onednn", "xla"] if expects_onednn() else ["xla"]
"""The forms that differ from JAX's own."""


@pytest.fixture(params=FORMS)
def kernels(request) -> dispatch.Kernels:
    """Each of these forms."""
    return dispatch.KERNELS[request.param]
