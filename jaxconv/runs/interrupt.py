"""SIGTERM and SIGINT: the first signal ends a run with a checkpoint, the second one at once."""

import contextlib
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType

from jaxconv.platform import cluster

_received: list[int] = []
_since = 0.0
_deferred = False

_SAME_SECONDS = 1.0
"""Within this time a second signal is the first one again: a cluster may signal a worker, and its supervisor does."""


class Interrupted(BaseException):
    """A signal ended the run, and nothing was lost.

    It is no Exception, as KeyboardInterrupt is none, so that no library catches it.
    """

    def __init__(self, signum: int, where: str = ""):
        self.exit_status = 128 + signum
        super().__init__(f"Stopped by {signal.Signals(signum).name}{where}. Go on with:\n{command()}")


def command() -> str:
    """Return the command that started this process, as a person repeats it."""
    return shlex.join(["python", *sys.orig_argv[1:]])  # sys.argv lacks the -m of python -m jaxconv.seeds


def install() -> None:
    """Handle signals: the first one raises `Interrupted`, or is deferred inside `deferred`."""
    _received.clear()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, _handle)


def _handle(signum: int, frame: FrameType | None) -> None:
    global _since
    if _received and cluster.own_place() and time.monotonic() - _since < _SAME_SECONDS:
        return
    if _received:
        os._exit(128 + signum)
    _received.append(signum)
    _since = time.monotonic()
    if not _deferred:
        raise Interrupted(signum)


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], int | None]]:
    """Defer the first signal. Inside this context, the function that it yields returns the signal's number, or None.

    Raises:
        Interrupted: at the end of the context, if a signal came and the function was not called since.
    """
    global _deferred
    _deferred = True
    try:
        yield lambda: _received[0] if _received else None
    finally:
        _deferred = False
    if _received:
        raise Interrupted(_received[0])
