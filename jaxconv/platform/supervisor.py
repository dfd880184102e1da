"""The supervisor of one process of several: it starts the worker, which trains, and knows when another one is lost.

A collective waits forever for a process that is gone, and JAX aborts a process that loses process 0. So each process of
a run is two: a worker, and a supervisor, which runs no JAX and outlives it. The supervisors of the other processes
connect to that of process 0. They send beats, and tell how their workers end. A supervisor that hears of a failure, or
hears nothing for `SILENCE` seconds, ends its worker and says which process was lost.

On the wire, each message is a line of JSON: the place of a process that connects, the address at which the workers
meet, why a process is refused, the end of a process, or nothing, which is a beat.
"""

import asyncio
import contextlib
import json
import math
import os
import platform
import re
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from jaxconv.errors import ConfigError, UserError
from jaxconv.platform import cluster
from jaxconv.platform.cluster import Place

MEETING = 300.0
"""Seconds that the processes of a run wait for each other at its start."""

BEAT = 2.0
"""Seconds between two beats."""

SILENCE = 20.0
"""Seconds without a message after which a process is lost."""

_GRACE = 5.0
"""Seconds that a worker has to end by itself where a signal stopped another one."""

_LOOK = 0.1
"""Seconds between two looks at what has changed."""

_PATIENCE = 10.0
"""Seconds of waiting for other processes before process 0 says so."""

_LONGEST_LINE = 1 << 24  # bytes

_CPP_ERROR = re.compile(rb"([EF])\d{4} \d\d:\d\d:")
"""How a line of the C++ logs of JAX begins: E for an error, F for what it aborts with."""

_STOPPED = (128 + signal.SIGTERM, 128 + signal.SIGINT)
"""Exit statuses of a worker that a signal stopped in good order."""


_WRONG_COMMAND = ConfigError.exit_status


class End(NamedTuple):
    """How a process of the run ended."""

    process_id: int
    host: str
    status: int
    """The exit status of its worker; -n if signal n killed it."""
    how: str
    """Completes the sentence "process 1 on HOST ..."."""

    @property
    def was_stopped(self) -> bool:
        """Whether a signal stopped it in good order."""
        return self.status in _STOPPED


class Stopped(UserError):
    """Another process ended, and so did this one."""

    def __init__(self, end: End):
        self.exit_status = max(end.status, 1)
        go_on = " Repeat the same commands to go on from the last checkpoint." if end.status != _WRONG_COMMAND else ""
        super().__init__(f"Stopped, because process {end.process_id} on {end.host} {end.how}.{go_on}")


def run(place: Place, command: list[str]) -> int:
    """Run a command as the worker of a process, and wait until the workers of all processes have ended.

    The worker gets the signals that this process gets. Its lines on stderr carry its number, but for those of process 0
    on a terminal, where it draws its bar.

    Returns:
        The exit status of the worker, which has said why it is not 0.

    Raises:
        UserError: the processes do not meet, another one failed, or a signal killed the worker.
    """
    return asyncio.run(_Supervisor(place).run(command))


def label(place: Place) -> str:
    """Return what the lines of a process begin with."""
    return f"process {place.process_id}: "


def let_explain() -> None:
    """Wait in a worker that fails: if the loss of another process is the cause, its supervisor ends it meanwhile."""
    time.sleep(2 * SILENCE)


class _Supervisor:
    def __init__(self, place: Place):
        self._place, self._host = place, platform.node()
        self._links: dict[int, asyncio.StreamWriter] = {}
        """By the process at the other end: all others for process 0, and process 0 for the others."""
        self._hosts: dict[int, str] = {}
        self._ends: dict[int, End] = {}
        """How other processes ended, in order."""
        self._address = self._refusal = ""
        """What process 0 answered."""
        self._worker: asyncio.subprocess.Process | None = None

    # ---- The worker

    async def run(self, command: list[str]) -> int:
        main = asyncio.current_task()
        received: list[int] = []

        def on_signal(signum: int) -> None:
            received.append(signum)
            if self._worker is None and main:
                main.cancel()
            elif self._worker and self._worker.returncode is None:
                self._worker.send_signal(signum)

        for signum in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signum, on_signal, signum)
        beat = asyncio.create_task(self._beat())
        try:
            await (self._meet_others() if self._place.process_id == 0 else self._meet_process_0())
            self._worker = await self._start(command)
            return await self._watch(self._worker)
        except asyncio.CancelledError:
            error = UserError(f"Stopped by {signal.Signals(received[0]).name}, before all processes had come.")
            error.exit_status = 128 + received[0]
            raise error from None
        finally:
            beat.cancel()
            await self._close()

    async def _start(self, command: list[str]) -> asyncio.subprocess.Process:
        draws_a_bar = self._place.process_id == 0 and sys.stderr.isatty()
        return await asyncio.create_subprocess_exec(
            *command,
            env=os.environ | cluster.child() | cluster.worker(self._place._replace(coordinator=self._address)),
            stdout=asyncio.subprocess.PIPE,
            stderr=None if draws_a_bar else asyncio.subprocess.PIPE,
            limit=_LONGEST_LINE,
            start_new_session=True,  # Ctrl-C reaches it through this process alone
        )

    async def _watch(self, worker: asyncio.subprocess.Process) -> int:
        """Wait until the worker ends, or end it where another process failed."""
        results = asyncio.create_task(_forward_results(worker.stdout))
        log = asyncio.create_task(self._forward_lines(worker.stderr))
        await self._until(lambda: worker.returncode is not None or self._failure is not None)
        if worker.returncode is None and self._failure:
            await _end(worker, self._failure)
        # Not worker.wait(), which waits for what the worker left behind, too.
        await self._until(lambda: worker.returncode is not None)
        status = _at_end(worker.returncode or 0)
        if status == -signal.SIGABRT:  # as JAX does to a worker that loses another one
            await self._until(lambda: self._failure is not None, _GRACE)
        how = describe(status)
        self._tell({"end": End(self._place.process_id, self._host, status, how)})
        if status == 0 and self._place.process_id == 0:  # the others hear of each other through this process
            await self._until(lambda: len(self._ends) == len(self._links) or self._failure is not None)
        held: list[bytes] = []
        with contextlib.suppress(TimeoutError):  # what the worker left behind may hold its stderr
            held = await asyncio.wait_for(log, _GRACE)
            await asyncio.wait_for(results, _GRACE)
        if self._failure and status <= 0:
            raise Stopped(self._failure)
        if status < 0:
            self._print(held)
            raise UserError(
                f"The process {how}. Repeat the same commands to go on from the last checkpoint; if memory ran out, "
                "make config.batch_size smaller."
            )
        return status

    async def _forward_lines(self, stream: asyncio.StreamReader | None) -> list[bytes]:
        """Print the lines of the worker. Return those of an error in C++, which another process may explain."""
        held: list[bytes] = []
        aborts = False
        while stream and (line := await stream.readline()):
            error = _CPP_ERROR.match(line)
            aborts = aborts or (error is not None and error[1] == b"F")
            if aborts or error:
                held.append(line)
            else:
                self._print([line])
        return held

    def _print(self, lines: list[bytes]) -> None:
        for line in lines:
            sys.stderr.buffer.write(label(self._place).encode() + line)
        sys.stderr.buffer.flush()

    # ---- The meeting

    async def _meet_others(self) -> None:
        """Wait for the other processes, and tell them where the workers meet."""
        _, port = cluster.host_and_port(self._place)
        try:
            server = await asyncio.start_server(self._come, None, port, limit=_LONGEST_LINE)
        except OSError as error:
            raise UserError(
                f"--coordinator={self._place.coordinator}: process 0 cannot listen at port {port} "
                f"({os.strerror(error.errno or 0)}): choose another port."
            ) from None
        others = range(1, self._place.num_processes)
        with contextlib.closing(server):
            for seconds in (_PATIENCE, MEETING - _PATIENCE):
                if await self._until(lambda: len(self._links) == len(others), seconds):
                    break
                missing = ", ".join(str(process_id) for process_id in others if process_id not in self._links)
                self._print([f"Waiting for process {missing} at {self._place.coordinator}.\n".encode()])
            else:
                raise UserError(
                    f"Process {missing} of {self._place.num_processes} did not come to --coordinator="
                    f"{self._place.coordinator} within {MEETING:.0f} s: see to its machine, and to a firewall between."
                )
        self._address = f"{self._place.coordinator.rpartition(':')[0]}:{cluster.free_port()}"
        self._tell({"address": self._address, "host": self._host})

    async def _come(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection, to the end of this process at most."""
        with contextlib.suppress(asyncio.CancelledError):  # or Python 3.11 prints it
            await self._serve(reader, writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve the connection of another process."""
        try:
            message = json.loads(await asyncio.wait_for(reader.readline(), SILENCE))
            other, host = Place(*message["place"]), message["host"]
        except (OSError, ValueError, TypeError, KeyError, RecursionError):  # none of ours
            return writer.close()
        if refusal := self._refuse(other):
            _send(writer, {"refused": refusal})
            return writer.close()
        self._links[other.process_id], self._hosts[other.process_id] = writer, host
        return await self._listen(other.process_id, reader)

    def _refuse(self, other: Place) -> str | None:
        own = self._place.num_processes
        if other.num_processes != own:
            return f"--num_processes={other.num_processes}, and process 0 has {own}: give all the same number."
        if other.process_id in self._links:
            return (
                f"there is a process {other.process_id} on {self._hosts[other.process_id]} already: give each process "
                "a --process_id of its own, and each run a port of its own."
            )
        return None

    async def _meet_process_0(self) -> None:
        """Connect to process 0, and wait for the address at which the workers meet."""
        host, port = cluster.host_and_port(self._place)
        deadline, problem = time.monotonic() + MEETING, ""
        while time.monotonic() < deadline:
            try:
                async with asyncio.timeout(SILENCE):  # wait_for of Python 3.11 may lose a signal
                    reader, writer = await asyncio.open_connection(host, port)
            except OSError as error:
                problem = f" ({error.strerror or 'no answer'})"
                await asyncio.sleep(_LOOK)
                continue
            self._links[0] = writer
            _send(writer, {"place": self._place, "host": self._host})
            self._listening = asyncio.create_task(self._listen(0, reader))  # asyncio itself keeps no task alive
            await self._until(lambda: bool(self._address or self._refusal) or 0 not in self._links)
            if self._refusal:
                raise UserError(f"Process 0 at --coordinator={self._place.coordinator} refuses: {self._refusal}")
            if self._address:
                return
        raise UserError(
            f"There is no process 0 at --coordinator={self._place.coordinator} within {MEETING:.0f} s{problem}: see to "
            "its machine, and to a firewall between."
        )

    # ---- The other processes

    @property
    def _failure(self) -> End | None:
        """The first end of another process that failed, or that a signal stopped."""
        return next((end for end in self._ends.values() if end.status != 0), None)

    async def _until(self, condition: Callable[[], bool], seconds: float = math.inf) -> bool:
        """Wait until a condition holds, for so many seconds at most. Return whether it does."""
        deadline = time.monotonic() + seconds
        while not condition() and time.monotonic() < deadline:
            await asyncio.sleep(_LOOK)
        return condition()

    async def _listen(self, other: int, reader: asyncio.StreamReader) -> None:
        """Read what another process tells, to the end of the connection."""
        how = "was lost: its connection closed"
        try:
            while line := await asyncio.wait_for(reader.readline(), SILENCE):
                self._hear(json.loads(line))
        except TimeoutError:
            how = f"was lost: nothing was heard of it for {SILENCE:.0f} s"
        except (OSError, ValueError):
            pass
        if self._address:
            self._hear_end(End(other, self._hosts.get(other, "its machine"), 1, how))
        else:  # it may come again
            self._links.pop(other, None)

    def _hear(self, message: dict[str, Any]) -> None:
        if "refused" in message:
            self._refusal = message["refused"]
        if "address" in message:
            self._address, self._hosts[0] = message["address"], message["host"]
        if "end" in message:
            self._hear_end(End(*message["end"]))

    def _hear_end(self, end: End) -> None:
        """Note the first end of another process, and tell the others if this is process 0."""
        if end.process_id not in self._ends and end.process_id != self._place.process_id:
            self._ends[end.process_id] = end
            if self._place.process_id == 0:
                self._tell({"end": end})

    def _tell(self, message: dict[str, Any]) -> None:
        for writer in self._links.values():
            _send(writer, message)

    async def _beat(self) -> None:
        while True:
            self._tell({})
            await asyncio.sleep(BEAT)

    async def _close(self) -> None:
        if self._worker:  # what it left behind may hold its pipes, and asyncio has no public way to close them
            self._worker._transport.close()  # pyright: ignore[reportAttributeAccessIssue]
        for writer in list(self._links.values()):
            with contextlib.suppress(OSError):  # TimeoutError is one
                await asyncio.wait_for(writer.drain(), 1.0)
            writer.close()


async def _forward_results(stream: asyncio.StreamReader | None) -> None:
    """Print what the worker prints to stdout, without what gloo, the collectives of a CPU, says there."""
    while stream and (line := await stream.readline()):
        if not line.startswith(b"[Gloo]"):
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()


def _send(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    if not writer.is_closing():
        writer.write(json.dumps(message).encode() + b"\n")


async def _end(worker: asyncio.subprocess.Process, failure: End) -> None:
    """End the worker after a failure elsewhere. First it has the time to end by itself, as one that is stopped does."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(worker.wait(), _GRACE if failure.was_stopped else 1.0)
        return
    if failure.was_stopped:
        worker.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(worker.wait(), _GRACE)
            return
    worker.kill()


def _at_end(status: int) -> int:
    """Return the status of a worker that a signal stopped as its handler gives it: Python has none while it ends."""
    return 128 - status if 128 - status in _STOPPED else status


def describe(status: int) -> str:
    """Say how a process ended, as in `End.how`, by its exit status; -n if signal n killed it."""
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    if status in _STOPPED:
        return f"was stopped by {signal.Signals(status - 128).name}"
    return f"ended with exit status {status}; its own lines say why" if status else "ended"
