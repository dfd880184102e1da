"""SIGTERM and SIGINT: the first one ends a run in good order, the second one at once."""

import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

_received: list[int] = []
_deferred = False


class Interrupted(BaseException):
    """A signal ended the run, and nothing was lost. As KeyboardInterrupt, nothing that expects errors catches it."""

    def __init__(self, signum: int, where: str = ""):
        self.exit_status = 128 + signum
        command = shlex.join(["python", *sys.argv])
        super().__init__(f"Stopped by {signal.Signals(signum).name}{where}. Go on with:\n{command}")


def install() -> None:
    """Let the first signal stop the run where `deferred` looks for it, or here and now outside of that."""
    _received.clear()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, _handle)


def _handle(signum: int, frame: FrameType | None) -> None:
    if _received:
        os._exit(128 + signum)
    _received.append(signum)
    if not _deferred:
        raise Interrupted(signum)


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], int | None]]:
    """While in this context a signal only makes the function that it yields return its number.

    Raises:
        Interrupted: at the end of the context, if a signal came and nobody looked.
    """
    global _deferred
    _deferred = True
    try:
        yield lambda: _received[0] if _received else None
    finally:
        _deferred = False
    if _received:
        raise Interrupted(_received[0])
