"""Try a run of several processes on this machine, before a cluster has it.

python -m jaxconv.local --num_processes=2 -- launch.py --config=configs/quickstart.py
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from types import FrameType

from absl import app, flags

from jaxconv.errors import ConfigError
from jaxconv.platform import cluster

NUM_PROCESSES = flags.DEFINE_integer("num_processes", 2, "How many processes to start.", lower_bound=1)

_LOOK_SECONDS = 0.1


def run(program: list[str], num_processes: int) -> int:
    """Run a program as several processes, each with its share of the cores, and pass signals on to them.

    Args:
        program: a Python program and its flags, such as ["launch.py", "--config=configs/lenet.py"]. Each process gets
            --coordinator, --num_processes and --process_id, too.
        num_processes: how many.

    Returns:
        The exit status of the first process that fails; 0 if none does. 128 + n where signal n kills it.
    """
    coordinator = f"--coordinator=localhost:{cluster.free_port()}"
    processes: list[subprocess.Popen[bytes]] = []

    def pass_on(signum: int, frame: FrameType | None) -> None:
        for process in processes:
            process.send_signal(signum)

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, pass_on)
    for process_id in range(num_processes):
        place = [coordinator, f"--num_processes={num_processes}", f"--process_id={process_id}"]
        with share_of_cores(process_id, num_processes):
            processes.append(
                subprocess.Popen(
                    [sys.executable, *program, *place],
                    env=os.environ | cluster.child(),
                    start_new_session=True,  # Ctrl-C reaches it through this process alone
                )
            )
    failed: list[int] = []
    running = list(processes)
    while running:
        time.sleep(_LOOK_SECONDS)
        ended = [process for process in running if process.poll() is not None]
        failed += [process.returncode for process in ended if process.returncode]
        running = [process for process in running if process not in ended]
    return _status(failed[0]) if failed else 0


@contextlib.contextmanager
def share_of_cores(process_id: int, num_processes: int) -> Iterator[None]:
    """Keep this process, and what it starts, on its share of the cores (Linux); with fewer cores they share them."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    own = sorted(os.sched_getaffinity(0))
    count = max(1, len(own) // num_processes)
    first = process_id * count % len(own)
    os.sched_setaffinity(0, own[first : first + count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


def _status(returncode: int) -> int:
    return returncode if returncode > 0 else 128 - returncode


def _parse(argv: list[str]) -> list[str]:
    """Parse the flags, and return the program that follows them, with its own. What is wrong ends in a sentence."""
    try:
        if program := flags.FLAGS(argv)[1:]:
            return program
        raise flags.Error("there is no program")
    except flags.Error as error:
        say = f"{os.path.basename(argv[0])}: {error} (write --num_processes=N -- launch.py --config=FILE)."
        print(say, file=sys.stderr)
        sys.exit(ConfigError.exit_status)


def main(program: list[str]) -> None:
    """Run the program that follows the flags."""
    sys.exit(run(program, NUM_PROCESSES.value))


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)
