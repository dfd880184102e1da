"""What the tests of operations share."""

import pytest

from jaxconv.ops import onednn


@pytest.fixture(params=["onednn", "xla"])
def kernels(request, monkeypatch):
    """Both ways to be fast on a CPU; the second is what machines without oneDNN have."""
    if request.param == "xla":
        monkeypatch.setattr(onednn, "is_available", lambda: False)
    elif not onednn.is_available():
        pytest.skip("oneDNN is not installed here")
    return request.param
