"""Children of this process: some at a time, each on its share of the cores, with the signals that this process gets."""

import collections
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import IO, NamedTuple

from jaxconv.platform import cluster
from jaxconv.platform.limits import cores

_LOOK_SECONDS = 0.1

_LAST_LINES_SECONDS = 5.0
"""How long the lines of a child that has ended are waited for: what it left behind may hold its stderr."""


class Child(NamedTuple):
    """A process to start."""

    command: Sequence[str]
    environment: Mapping[str, str] = {}
    """What its environment holds beside that of this process."""
    label: str = ""
    """What its lines on stderr begin with."""


class Outcome(NamedTuple):
    """How children ended."""

    failed: list[tuple[int, int]]
    """The number and the exit status of each child that failed, in the order in which they ended. -n: signal n killed
    it."""
    signum: int | None
    """The first signal that this process got meanwhile. No child was started after it."""


def run(children: Sequence[Child], places: Sequence[Mapping[str, str]], stdout: int | None = None) -> Outcome:
    """Run children to their ends, in their order, and pass SIGTERM and SIGINT on to those that run.

    Args:
        children: what to start. On Linux, a child that calls `cluster.end_with_parent` does not outlive this process.
        places: one for each child that may run at the same time: what the environment of a child there holds, too. The
            places share the cores; with more places than cores they share those, too.
        stdout: the stdout of the children, as of subprocess.Popen.
    """
    pending: list[int] = []
    signum: int | None = None
    failed: list[tuple[int, int]] = []
    waiting, free = collections.deque(enumerate(children)), list(range(len(places)))
    running: list[_Running] = []

    def note(signum: int, frame: FrameType | None) -> None:
        pending.append(signum)

    before = {handled: signal.signal(handled, note) for handled in (signal.SIGTERM, signal.SIGINT)}
    try:
        while running or (waiting and signum is None):
            while waiting and free and not pending and signum is None:
                number, child = waiting.popleft()
                place = free.pop(0)
                with share_of_cores(place, len(places)):
                    running.append(_start(number, child, place, places[place], stdout))
            while pending:
                received = pending.pop(0)
                signum = signum or received
                for started in running:
                    started.process.send_signal(received)
            time.sleep(_LOOK_SECONDS)
            for ended in [started for started in running if started.process.poll() is not None]:
                running.remove(ended)
                free.append(ended.place)
                if ended.copier:
                    ended.copier.join(_LAST_LINES_SECONDS)
                if ended.process.returncode:
                    failed.append((ended.number, ended.process.returncode))
    finally:
        for handled, handler in before.items():
            signal.signal(handled, handler)
    return Outcome(failed, signum)


def exit_status(status: int) -> int:
    """Return the status of a child as a shell gives it: 128 + n where signal n killed it."""
    return status if status >= 0 else 128 - status


class _Running(NamedTuple):
    number: int
    process: subprocess.Popen[bytes]
    place: int
    copier: threading.Thread | None
    """It copies the lines of a child with a label."""


def _start(number: int, child: Child, place: int, environment: Mapping[str, str], stdout: int | None) -> _Running:
    process = subprocess.Popen(
        child.command,
        env={**os.environ, **cluster.child(), **environment, **child.environment},
        stdout=stdout,
        stderr=subprocess.PIPE if child.label else None,
        start_new_session=True,  # Ctrl-C reaches it through this process alone
    )
    copier = None
    if process.stderr:
        copier = threading.Thread(target=_copy, args=(process.stderr, child.label.encode()), daemon=True)
        copier.start()
    return _Running(number, process, place, copier)


def _copy(lines: IO[bytes], label: bytes) -> None:
    with lines:
        for line in lines:
            sys.stderr.buffer.write(label + line)
            sys.stderr.buffer.flush()


@contextlib.contextmanager
def share_of_cores(place: int, places: int) -> Iterator[None]:
    """Keep this process, and what it starts, on the share of the cores of a place (Linux)."""
    if places == 1 or not hasattr(os, "sched_setaffinity"):
        yield
        return
    own = sorted(os.sched_getaffinity(0))
    first = place * max(1, len(own) // places) % len(own)
    os.sched_setaffinity(0, own[first : first + max(1, cores() // places)])
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)
