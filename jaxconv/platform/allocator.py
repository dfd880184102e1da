"""Keep memory, in huge pages: XLA:CPU allocates its temporaries at every step, and each page would fault in again."""

import contextlib
import os
import platform
import sys

from jaxconv.platform import accelerators, switches

_TUNABLES = {
    "hugetlb": 1,  # by madvise
    "arena_max": 1,  # otherwise each thread keeps memory of its own
    "mmap_threshold": 1 << 32,  # bytes; blocks up to this size are not mapped and unmapped each time
    "trim_threshold": 1 << 33,  # bytes; free memory up to this size stays with the process
}
ENVIRONMENT = {"GLIBC_TUNABLES": ":".join(f"glibc.malloc.{name}={value}" for name, value in _TUNABLES.items())}
"""What glibc reads when a process starts. Other C libraries, and glibc before 2.35, ignore it."""


def restart_with_huge_pages() -> None:
    """Start this process once more with `ENVIRONMENT`, unless the user has set it. Call it first of all.

    Where JAX may find an accelerator, nothing happens: its memory is not glibc's.
    """
    if not switches.is_on("restart") or ENVIRONMENT.keys() & os.environ.keys() or platform.libc_ver()[0] != "glibc":
        return
    if accelerators.may_be_here():
        return
    with contextlib.suppress(OSError):  # without it the run is slower, and no less right
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | ENVIRONMENT)
