"""Try a run of several processes on this machine, before a cluster has it.

python -m jaxconv.local --num_processes=2 -- launch.py --config=configs/quickstart.py
"""

import os
import sys

from absl import app, flags

from jaxconv.errors import ConfigError
from jaxconv.platform import children, cluster

NUM_PROCESSES = flags.DEFINE_integer("num_processes", 2, "How many processes to start.", lower_bound=1)


def run(program: list[str], num_processes: int) -> int:
    """Run a program as several processes, each with its share of the cores, and pass signals on to them.

    Args:
        program: a Python program and its flags, such as ["launch.py", "--config=configs/lenet.py"]. Each process gets
            --coordinator, --num_processes and --process_id, too.
        num_processes: how many.

    Returns:
        The exit status of the first process that fails; 0 if none does. 128 + n where signal n kills it.
    """
    place = [f"--coordinator=localhost:{cluster.free_port()}", f"--num_processes={num_processes}"]
    command = [sys.executable, *program, *place]
    processes = [children.Child([*command, f"--process_id={process_id}"]) for process_id in range(num_processes)]
    failed = children.run(processes, places=[{}] * num_processes).failed
    return children.exit_status(failed[0][1]) if failed else 0


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
