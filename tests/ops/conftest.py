"""What the tests of operations share."""

import ctypes
import platform
import sys

import pytest

from jaxconv.ops import dispatch


def expects_onednn() -> bool:
    """Return whether the dependencies include oneDNN on this system, and the system has the OpenMP library it needs."""
    try:
        ctypes.CDLL("libgomp.so.1")
    except OSError:
        return False
    return sys.platform == "linux" and platform.machine() == "x86_64"


FORMS = ["onednn", "xla"] if expects_onednn() else ["xla"]
"""The forms that differ from JAX's own."""


@pytest.fixture(params=FORMS)
def kernels(request) -> dispatch.Kernels:
    """Each of these forms."""
    return dispatch.KERNELS[request.param]
