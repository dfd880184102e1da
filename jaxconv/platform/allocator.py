"""Keep memory, in huge pages: XLA:CPU allocates its temporaries at every step, and each page would fault in again."""

import contextlib
import ctypes
import os
import platform
import sys
import time
from collections.abc import Callable

import psutil

from jaxconv.platform import accelerators, switches

_TUNABLES = {
    "hugetlb": 1,  # by madvise
    "arena_max": 1,  # otherwise each thread keeps memory of its own
    "mmap_threshold": 1 << 32,  # bytes; blocks up to this size are not mapped and unmapped each time
    "trim_threshold": 1 << 33,  # bytes; free memory up to this size stays with the process
}
ENVIRONMENT = {"GLIBC_TUNABLES": ":".join(f"glibc.malloc.{name}={value}" for name, value in _TUNABLES.items())}
"""What glibc reads when a process starts. Other C libraries, and glibc before 2.35, ignore it."""

_GROWN = 1.1
"""Growth of the resident memory from which on free memory goes back to the system."""


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


def giver_back(seconds: float = 2.0) -> Callable[[], object]:
    """Return a function that gives the free memory of this process back to the system, where the process has grown.

    `ENVIRONMENT` keeps freed memory in the process, in pieces. A step that fits into none of them takes more memory
    from the system, and the process grows. What is given back faults in again, so the function looks at most every so
    many seconds, and acts if the process has grown by a tenth. Without `ENVIRONMENT` it does nothing.
    """
    keeps = ENVIRONMENT.items() <= os.environ.items()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if keeps else None
    resident = psutil.Process().memory_info
    last, usual = time.monotonic(), 0

    def give_back() -> None:
        nonlocal last, usual
        if trim is None or time.monotonic() - last < seconds:
            return
        if usual == 0:
            usual = resident().rss  # with what the steps since took again
        elif resident().rss > _GROWN * usual:
            trim(ctypes.c_size_t(0))
            usual = 0
        last = time.monotonic()

    return give_back
