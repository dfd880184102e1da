"""Each thing that the process does to itself can be turned off."""

import os
import subprocess
import sys

import pytest

from jaxconv.platform import cache, switches
from tests.conftest import ROOT

PROGRAM = """
import os, sys, warnings
from absl import logging
from jaxconv.platform import allocator, compatibility, devices
allocator.restart_with_huge_pages()
devices.share_cores_with_xla()
compatibility.quiet()
with compatibility.without_keras():
    hidden = "keras.src.optimizers" in sys.modules
compatibility.give_downloads_up_sooner()
retries = sys.modules.get("tensorflow_datasets.core.download.downloader")
print({
    "restart": "GLIBC_TUNABLES" in os.environ,
    "threads": "PJRT_NPROC" in os.environ,
    "quiet": logging.get_verbosity() == logging.FATAL,
    "hidden_imports": hidden,
    "retries": retries is not None and retries.MAX_RETRIES == 2,
})
"""


@pytest.mark.parametrize("off", ["", "restart,threads,quiet,hidden_imports,retries", "threads"])
def test_on_until_turned_off(off):
    environment = {key: value for key, value in os.environ.items() if key not in ("GLIBC_TUNABLES", "PJRT_NPROC")}
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env=environment | {"JAXCONV_OFF": off},
        capture_output=True,
        text=True,
        check=True,
    )
    states = eval(process.stdout)
    if sys.platform != "linux":
        del states["restart"]
    assert states == {name: name not in off.split(",") for name in states}


def test_the_cache_can_be_turned_off(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("JAXCONV_OFF", "quiet,cache")
    assert cache.directory("arrays") is None
    assert not list(tmp_path.iterdir())


def test_the_page_names_them_all():
    page = (ROOT / "docs" / "process.md").read_text()
    assert [name for name in switches.NAMES if f"\n| `{name}` |" not in page] == []
