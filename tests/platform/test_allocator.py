"""A process that becomes itself with huge pages, once."""

import platform
import subprocess
import sys

import pytest

from jaxconv.platform.allocator import ENVIRONMENT

PROGRAM = """
import os, sys
print("started", flush=True)
from jaxconv.platform.allocator import restart_with_huge_pages
restart_with_huge_pages()
print(os.environ["GLIBC_TUNABLES"], *sys.argv[1:])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
@pytest.mark.parametrize("theirs", [{}, {"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}])
def test_a_process_restarts_once_with_its_arguments(tmp_path, theirs):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    said = subprocess.run(
        [sys.executable, "-X", "utf8", program, "--a=1", "b c"],
        env={"PATH": "", "PYTHONPATH": ":".join(sys.path)} | theirs,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert said == ["started"] * (1 if theirs else 2) + [f"{(theirs or ENVIRONMENT)['GLIBC_TUNABLES']} --a=1 b c"]


def test_no_restart_where_jax_may_find_an_accelerator(tmp_path):
    """A plugin of JAX that is installed, and its platform not turned off."""
    about = tmp_path / "plugin-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Name: plugin\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[jax_plugins]\nplugin = plugin\n")
    program = (
        "import os; from jaxconv.platform import accelerators, allocator; allocator.restart_with_huge_pages(); "
        "print(accelerators.may_be_here(), 'GLIBC_TUNABLES' in os.environ)"
    )

    def run(**environment):
        path = ":".join([str(tmp_path), *sys.path])
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={"PATH": "", "PYTHONPATH": path} | environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.split()

    assert run() == ["True", "False"]
    assert run(JAX_PLATFORMS="cpu") == ["False", str(platform.libc_ver()[0] == "glibc")]


GIVES_BACK = """
import numpy as np, psutil
from jaxconv.platform.allocator import giver_back

def megabytes():
    return psutil.Process().memory_info().rss >> 20

give_back, not_yet, before = giver_back(seconds=0), giver_back(seconds=1000), megabytes()
give_back()
array = np.ones(200 << 20, np.uint8)
del array
kept = megabytes() - before
not_yet()
kept_still = megabytes() - before
give_back()
print(kept > 150, kept_still > 150, megabytes() - before < 50)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_memory_that_is_kept_can_be_given_back():
    said = subprocess.run(
        [sys.executable, "-c", GIVES_BACK],
        env={"PATH": "", "PYTHONPATH": ":".join(sys.path)} | ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said == "True True True\n"
