"""Memory in huge pages, and kept: XLA:CPU allocates its temporaries anew at every step, and pages would fault in."""

import contextlib
import os
import platform
import sys

_TUNABLES = {
    "hugetlb": 1,  # by madvise
    "arena_max": 1,  # else each thread keeps its own
    "mmap_threshold": 1 << 32,  # bytes up to which memory is not mapped and unmapped each time
    "trim_threshold": 1 << 33,  # bytes that stay with the process though free
}
ENVIRONMENT = {"GLIBC_TUNABLES": ":".join(f"glibc.malloc.{name}={value}" for name, value in _TUNABLES.items())}
"""What glibc reads as a process starts; other C libraries, and glibc before 2.35, take no notice."""


def restart_with_huge_pages() -> None:
    """Become the same process anew with `ENVIRONMENT`, unless the user has set it otherwise; to be called first."""
    if ENVIRONMENT.keys() & os.environ.keys() or platform.libc_ver()[0] != "glibc":
        return
    with contextlib.suppress(OSError):  # then slower, and no less right
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | ENVIRONMENT)
