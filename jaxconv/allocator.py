"""Memory in huge pages: XLA:CPU allocates its temporaries anew at every step, and each small page would fault in."""

import contextlib
import os
import platform
import sys

ENVIRONMENT = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""What glibc reads as a process starts; other C libraries, and glibc before 2.35, take no notice."""


def restart_with_huge_pages() -> None:
    """Become the same process anew with `ENVIRONMENT`, unless the user has set it otherwise; to be called first."""
    if ENVIRONMENT.keys() & os.environ.keys() or platform.libc_ver()[0] != "glibc":
        return
    with contextlib.suppress(OSError):  # then slower, and no less right
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | ENVIRONMENT)
