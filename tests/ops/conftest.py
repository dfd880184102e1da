"""What the tests of operations share."""

import ctypes
import platform
import sys

import pytest

from jaxconv.ops.onednn import library as onednn


def has_to_be_there() -> bool:
    """Whether oneDNN is among what is installed here, and the system has the library that it needs."""
    try:
        ctypes.CDLL("libgomp.so.1")
    except OSError:
        return False
    return sys.platform == "linux" and platform.machine() == "x86_64"


@pytest.fixture(params=["onednn", "xla"] if has_to_be_there() else ["xla"])
def kernels(request, monkeypatch):
    """Both ways to be fast on a CPU; the second is what machines without oneDNN have."""
    if request.param == "xla":
        monkeypatch.setattr(onednn, "is_available", lambda: False)
    return request.param
