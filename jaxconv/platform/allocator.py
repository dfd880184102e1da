"""Keep memory, in huge pages: XLA:CPU allocates its temporaries at every step, and each page would fault in again."""

import contextlib
import ctypes
import os
import platform
import sys
import time
from collections.abc import Callable

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


def giver_back(seconds: float = 2.0) -> Callable[[], object]:
    """Return a function that gives the free memory of this process back to the system, at most every so many seconds.

    `ENVIRONMENT` keeps freed memory in the process, in pieces. A step that fits into none of them takes more memory
    from the system, and the process grows. Without `ENVIRONMENT` the function does nothing.
    """
    keeps = ENVIRONMENT.items() <= os.environ.items()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if keeps else None
    last = time.monotonic()

    def give_back() -> None:
        nonlocal last
        if trim and time.monotonic() - last >= seconds:
            trim(ctypes.c_size_t(0))
            last = time.monotonic()

    return give_back
