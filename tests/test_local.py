"""Several processes on one machine, started as a user starts them, with a program of a few lines for launch.py."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.conftest import start

PROGRAM = """
import json, os, signal, sys, time
from jaxconv.platform import cluster
cluster.end_with_parent()
*own, coordinator, num_processes, process_id = sys.argv[1:]
process_id = int(process_id.removeprefix("--process_id="))

def say(**what):
    what["pid"] = os.getpid()
    os.write(1, (json.dumps(what) + "\\n").encode())  # one write: others write there, too

def stop_in_good_order():
    def on_signal(signum, frame):
        say(got=signum)
        os._exit(128 + signum)
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, on_signal)

def wait():
    say(waits=process_id)
    time.sleep(60)
"""

NEEDS_AFFINITY = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores cannot be chosen here")


@pytest.fixture
def local(tmp_path):
    """A function that starts jaxconv.local with a program, given by its last lines."""
    started = []

    def run(lines, *flags, own=()):
        program = tmp_path / "program.py"
        program.write_text(PROGRAM + lines)
        environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
        started.append(start("jaxconv.local", *flags, "--", program, *own, program="-m", env=environment))
        return started[-1]

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def end(process):
    """What its processes say, in any order, with nothing on stderr."""
    out, err = process.communicate(timeout=60)
    assert err == ""
    return [json.loads(line) for line in out.splitlines()]


def waiting(process, count):
    """The ids of its processes when all of them wait."""
    return [json.loads(process.stdout.readline())["pid"] for _ in range(count)]


def is_running(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(("flags", "count"), [((), 2), (("--num_processes=1",), 1), (("--num_processes=3",), 3)])
def test_each_process_gets_its_place_after_its_own_flags(local, flags, count):
    process = local("say(own=own, place=[coordinator, num_processes, process_id])", *flags, own=["--config=a b", "-v"])
    said = sorted(end(process), key=lambda line: line["place"])
    assert process.returncode == 0
    ((coordinator, number),) = {tuple(line["place"][:2]) for line in said}
    assert re.fullmatch(r"--coordinator=localhost:\d+", coordinator)
    assert number == f"--num_processes={count}"
    assert [line["place"][2] for line in said] == list(range(count))
    assert [line["own"] for line in said] == [["--config=a b", "-v"]] * count


@NEEDS_AFFINITY
@pytest.mark.parametrize("count", [2, 3])
def test_processes_share_the_cores(local, count):
    cores = os.sched_getaffinity(0)
    process = local("say(cores=list(os.sched_getaffinity(0)))", f"--num_processes={count}")
    shares = [set(line["cores"]) for line in end(process)]
    assert len(shares) == count
    assert {len(share) for share in shares} == {max(1, len(cores) // count)}
    assert set.union(*shares) <= cores
    assert len(set.union(*shares)) == min(len(cores), sum(map(len, shares)))


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ("sys.exit(0 if process_id else 3)", 3),
        ("sys.exit(4 if process_id else 0)", 4),
        ("time.sleep(1 - process_id); sys.exit(5 + process_id)", 6),
        ("process_id and os.kill(os.getpid(), signal.SIGKILL)", 128 + 9),
        ("os.kill(os.getpid(), signal.SIGTERM)", 128 + 15),
    ],
)
def test_its_status_is_that_of_the_first_process_that_fails(local, lines, status):
    process = local(lines)
    end(process)
    assert process.returncode == status


def test_it_waits_for_all(local):
    process = local("process_id and time.sleep(1); say(ends=process_id)")
    assert [line["ends"] for line in end(process)] == [0, 1]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_goes_to_all(local, signum):
    process = local("stop_in_good_order(); wait()", "--num_processes=3")
    pids = waiting(process, 3)
    process.send_signal(signum)
    said = end(process)
    assert process.returncode == 128 + signum
    assert sorted(line["pid"] for line in said) == sorted(pids)
    assert [line["got"] for line in said] == [signum] * 3


def test_ctrl_c_at_a_terminal_reaches_the_processes_through_it_alone(local):
    process = local("wait()")
    assert os.getpgid(process.pid) not in map(os.getpgid, waiting(process, 2))


@pytest.mark.skipif(sys.platform != "linux", reason="another system")
def test_its_processes_die_with_it(local):
    process = local("signal.signal(signal.SIGTERM, signal.SIG_IGN); wait()")
    pids = waiting(process, 2)
    process.kill()
    deadline = time.monotonic() + 10
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        ([], "there is no program"),
        (["--num_processes=2", "--"], "there is no program"),
        (["--num_processes=0", "--", "launch.py"], "--num_processes=0: 0 is not a positive integer"),
        (["--num_processes=two", "--", "launch.py"], "invalid literal for int() with base 10: 'two'"),
        (["launch.py", "--config=a.py"], "Unknown command line flag 'config'"),
    ],
)
def test_a_wrong_command_ends_in_a_sentence(arguments, wrong):
    process = start("jaxconv.local", *arguments, program="-m")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert out == ""
    assert re.fullmatch(
        rf"local\.py: .*{re.escape(wrong)} \(write --num_processes=N -- launch\.py --config=FILE\)\.\n", err
    )


def test_a_program_that_is_not_there(tmp_path):
    process = start("jaxconv.local", "--", tmp_path / "none.py", program="-m", stdout=subprocess.DEVNULL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert len(err.splitlines()) == 2
