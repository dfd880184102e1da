"""Supervisors as processes of their own, whose workers are programs of a line or two.

What is slow in them is quick here: see QUICK.
"""

import contextlib
import errno
import json
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest

from tests.conftest import ROOT

PROGRAM = """
import json, sys
from jaxconv.errors import UserError
from jaxconv.platform import supervisor
from jaxconv.platform.cluster import Place
place, constants, command = json.loads(sys.argv[1])
vars(supervisor).update(constants)
try:
    status = supervisor.run(Place(*place), command)
except UserError as error:
    print(f"{supervisor.label(Place(*place))}{error}", file=sys.stderr)
    status = error.exit_status
sys.exit(status)
"""

QUICK = {"MEETING": 60.0, "BEAT": 0.2, "SILENCE": 10.0, "_GRACE": 0.5, "_PATIENCE": 30.0, "_LOOK": 0.02}

WORKER = """
import os, signal, sys, time
from jaxconv.platform import cluster
cluster.end_with_parent()

def say(*words):
    print(*words, flush=True)

def complain(*words):
    print(*words, file=sys.stderr, flush=True)

def wait():
    say("waits", os.getpid())
    time.sleep(60)

def stop_in_good_order():
    def on_signal(signum, frame):
        say("got", signal.Signals(signum).name)
        os._exit(128 + signum)
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, on_signal)
"""

HOST = platform.node()

GO_ON = "Repeat the same commands to go on from the last checkpoint."

ABORT = """\
F1126 16:13:17.780241   12345 client.h:77] Terminating process because the coordinator died.
*** Check failure stack trace: ***
    @     0x7f  absl::LogMessage::Die()
"""

ABORTS = f"complain('before'); complain({ABORT[:-1]!r}); os.abort()"


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def has_ipv6():
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


WITH_IPV6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6")


def wait_until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)
    return value


class _Supervisor:
    """A supervisor with its worker. Its output goes to files, so that it never waits for a reader."""

    def __init__(self, directory, name, place, worker, terminal, constants):
        self._out, self._err = directory / f"{name}.out", directory / f"{name}.err"
        argument = json.dumps([place, QUICK | constants, [sys.executable, "-c", WORKER + worker]])
        command = [sys.executable, "-c", PROGRAM, argument]
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=terminal or err)

    @property
    def out(self):
        return self._out.read_bytes().decode()

    @property
    def err(self):
        return self._err.read_bytes().decode(errors="replace")

    def worker(self):
        """Wait until the worker waits, and return its process id."""
        return int(wait_until(lambda: re.search(r"waits (\d+)\n", self.out))[1])

    def status(self, seconds=20):
        return self.process.wait(seconds)


@pytest.fixture
def supervise(tmp_path):
    """A function that starts supervisors, one for each worker, as processes of one run."""
    started = []

    def start(*workers, host="localhost", port=None, places=None, terminal=None, **constants):
        port = port or free_port()
        places = places or [(len(workers), process_id) for process_id in range(len(workers))]
        new = [
            _Supervisor(tmp_path, len(started) + i, (f"{host}:{port}", *place), worker, terminal, constants)
            for i, (place, worker) in enumerate(zip(places, workers, strict=True))
        ]
        started.extend(new)
        return new

    yield start
    for supervisor in started:
        supervisor.process.kill()
        supervisor.process.wait()
    assert [supervisor.err for supervisor in started if "Traceback" in supervisor.err] == []


def is_running(pid):
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def statuses(supervisors):
    return [supervisor.status() for supervisor in supervisors]


@pytest.mark.parametrize("host", ["localhost", pytest.param("[::1]", marks=WITH_IPV6)])
def test_all_meet_at_one_address_and_end_with_0(supervise, host):
    port = free_port()
    worker = "say(os.environ['JAXCONV_WORKER'])"
    early = supervise(worker, worker, host=host, port=port, places=[(3, 2), (3, 1)])
    time.sleep(0.5)
    supervisors = supervise(worker, host=host, port=port, places=[(3, 0)]) + early[::-1]
    assert statuses(supervisors) == [0, 0, 0]
    assert [supervisor.err for supervisor in supervisors] == ["", "", ""]
    places = [json.loads(supervisor.out) for supervisor in supervisors]
    ((address, count),) = {(address, count) for address, count, _ in places}
    assert re.fullmatch(rf"{re.escape(host)}:\d+", address)
    assert count == 3
    assert [process_id for _, _, process_id in places] == [0, 1, 2]


@pytest.mark.parametrize("killed", [0, 2])
def test_the_others_end_when_a_worker_is_killed(supervise, killed):
    supervisors = supervise("wait()", "wait()", "wait()")
    workers = [supervisor.worker() for supervisor in supervisors]
    start = time.monotonic()
    os.kill(workers[killed], signal.SIGKILL)
    assert statuses(supervisors) == [1, 1, 1]
    assert time.monotonic() - start < 8
    for process_id, supervisor in enumerate(supervisors):
        assert supervisor.err == (
            f"process {process_id}: The process was killed by SIGKILL. {GO_ON[:-1]}; if memory ran out, make "
            "config.batch_size smaller.\n"
            if process_id == killed
            else f"process {process_id}: Stopped, because process {killed} on {HOST} was killed by SIGKILL. {GO_ON}\n"
        )
    assert [pid for pid in workers if is_running(pid)] == []


@pytest.mark.parametrize("killed", [0, 2])
def test_the_others_end_when_a_supervisor_is_killed(supervise, killed):
    supervisors = supervise("wait()", "wait()", "wait()")
    workers = [supervisor.worker() for supervisor in supervisors]
    start = time.monotonic()
    supervisors[killed].process.kill()
    others = [process_id for process_id in range(3) if process_id != killed]
    assert [supervisors[process_id].status() for process_id in others] == [1, 1]
    assert time.monotonic() - start < 8
    for process_id in others:
        assert supervisors[process_id].err == (
            f"process {process_id}: Stopped, because process {killed} on {HOST} was lost: its connection closed. "
            f"{GO_ON}\n"
        )
    if sys.platform == "linux":
        wait_until(lambda: not is_running(workers[killed]), 5)


@pytest.mark.parametrize("silent", [0, 1])
def test_a_supervisor_that_says_nothing_is_lost(supervise, silent):
    supervisors = supervise("wait()", "wait()", SILENCE=1.5)
    for supervisor in supervisors:
        supervisor.worker()
    supervisors[silent].process.send_signal(signal.SIGSTOP)
    other = supervisors[1 - silent]
    assert other.status() == 1
    assert f"because process {silent} on {HOST} was lost: nothing was heard of it for 2 s. {GO_ON}" in other.err
    supervisors[silent].process.send_signal(signal.SIGCONT)
    assert supervisors[silent].status() == 1
    assert f"because process {1 - silent} on {HOST}" in supervisors[silent].err


def test_a_run_outlasts_many_silences(supervise):
    worker = "time.sleep(2.5)"
    assert statuses(supervise(worker, worker, SILENCE=1.2)) == [0, 0]


def test_a_wrong_command_ends_all_with_2_and_is_not_to_be_repeated(supervise):
    first, second = supervise("wait()", "complain('config.batch_size=0 must be 1 or more.'); sys.exit(2)")
    assert statuses([first, second]) == [2, 2]
    assert second.err == "process 1: config.batch_size=0 must be 1 or more.\n"
    assert first.err == (
        f"process 0: Stopped, because process 1 on {HOST} ended with exit status 2; its own lines say why.\n"
    )


def test_all_end_with_the_status_of_the_first_that_fails(supervise):
    supervisors = supervise("wait()", "sys.exit(7)", "wait()")
    assert statuses(supervisors) == [7, 7, 7]
    assert f"process 1 on {HOST} ended with exit status 7; its own lines say why. {GO_ON}" in supervisors[2].err


def test_who_ended_first_hears_of_a_failure(supervise):
    """Process 0 waits for the others after its own end."""
    first, second = supervise("say('ends')", "wait()")
    second.worker()
    wait_until(lambda: "ends" in first.out)
    os.kill(second.worker(), signal.SIGKILL)
    assert statuses([first, second]) == [1, 1]
    assert f"because process 1 on {HOST} was killed by SIGKILL." in first.err


@pytest.mark.parametrize(("to", "signum"), [(0, signal.SIGINT), (1, signal.SIGTERM)])
def test_a_signal_stops_the_worker_and_then_the_others(supervise, to, signum):
    supervisors = supervise("stop_in_good_order(); wait()", "stop_in_good_order(); wait()")
    for supervisor in supervisors:
        supervisor.worker()
    supervisors[to].process.send_signal(signum)
    assert supervisors[to].status() == 128 + signum
    assert f"got {signum.name}\n" in supervisors[to].out
    assert supervisors[to].err == ""
    assert supervisors[1 - to].status() == 128 + signal.SIGTERM
    assert "got SIGTERM\n" in supervisors[1 - to].out


def test_a_worker_that_does_not_stop_is_killed(supervise):
    first, second = supervise("signal.signal(signal.SIGTERM, signal.SIG_IGN); wait()", "stop_in_good_order(); wait()")
    worker = first.worker()
    second.worker()
    second.process.terminate()
    assert statuses([first, second]) == [143, 143]
    assert f"because process 1 on {HOST} was stopped by SIGTERM. {GO_ON}" in first.err
    assert not is_running(worker)


def test_a_worker_may_stop_by_itself_in_time(supervise):
    """As one does that heard of the signal from the other worker: it is not killed."""
    first, second = supervise("time.sleep(1); say('saved'); sys.exit(143)", "os._exit(143)", _GRACE=10.0)
    assert statuses([first, second]) == [143, 143]
    assert first.out == "saved\n"
    assert first.err == ""


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_does_not_handle_a_signal_is_stopped_by_it(supervise, signum):
    """As one is that begins or ends, when Python handles none."""
    first, second = supervise("signal.signal(signal.SIGINT, signal.SIG_DFL); wait()", "stop_in_good_order(); wait()")
    second.worker()
    os.kill(first.worker(), signum)
    assert statuses([first, second]) == [128 + signum, 128 + signal.SIGTERM]
    assert (first.err, second.err) == ("", "")
    assert "got SIGTERM\n" in second.out


def listens(port):
    with contextlib.suppress(OSError), socket.create_connection(("localhost", port)):
        return True
    return False


@pytest.mark.parametrize(("process_id", "signum"), [(0, signal.SIGTERM), (1, signal.SIGINT), (1, signal.SIGTERM)])
def test_a_signal_before_all_have_come(supervise, process_id, signum):
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1] if process_id else free_port()
        (supervisor,) = supervise("wait()", port=port, places=[(2, process_id)])
        if process_id:
            server.settimeout(20)
            server.accept()[0].close()
        else:
            wait_until(lambda: listens(port))
        supervisor.process.send_signal(signum)
        assert supervisor.status() == 128 + signum
    assert supervisor.err == f"process {process_id}: Stopped by {signum.name}, before all processes had come.\n"


def test_processes_that_never_come_are_named(supervise):
    supervisors = supervise("wait()", "wait()", places=[(4, 0), (4, 2)], MEETING=2.0, _PATIENCE=1.0)
    assert statuses(supervisors) == [1, 1]
    first, second = (supervisor.err.splitlines() for supervisor in supervisors)
    assert re.fullmatch(r"process 0: Waiting for process 1, 3 at localhost:\d+\.", first[0])
    assert re.fullmatch(
        r"process 0: Process 1, 3 of 4 did not come to --coordinator=localhost:\d+ within 2 s: see to its machine, and "
        r"to a firewall between\.",
        first[-1],
    )
    assert second[-1].startswith("process 2: There is no process 0 at --coordinator=localhost:")
    assert supervisors[0].out == supervisors[1].out == ""


def test_no_process_0(supervise):
    (supervisor,) = supervise("wait()", places=[(2, 1)], MEETING=1.0)
    assert supervisor.status() == 1
    assert re.fullmatch(
        r"process 1: There is no process 0 at --coordinator=localhost:\d+ within 1 s \(.+\): see to its machine, and "
        r"to a firewall between\.\n",
        supervisor.err,
    )


def test_who_does_not_belong_is_refused_and_the_others_meet(supervise):
    port = free_port()
    lead, other_number = supervise("say('meets')", "say('meets')", port=port, places=[(3, 0), (4, 2)])
    assert other_number.status() == 1
    assert "refuses: --num_processes=4, and process 0 has 3: give all the same number.\n" in other_number.err
    pair = supervise("say('meets')", "say('meets')", port=port, places=[(3, 1), (3, 1)])
    (refused,) = wait_until(lambda: [supervisor for supervisor in pair if supervisor.process.poll() is not None])
    assert refused.status() == 1
    assert (
        f"refuses: there is a process 1 on {HOST} already: give each process a --process_id of its own, and each run a "
        "port of its own.\n"
    ) in refused.err
    met = [lead, *(supervisor for supervisor in pair if supervisor is not refused)]
    met += supervise("say('meets')", port=port, places=[(3, 2)])
    assert statuses(met) == [0, 0, 0]
    assert [supervisor.out for supervisor in met] == ["meets\n"] * 3
    assert other_number.out == refused.out == ""


def test_a_process_that_was_lost_before_the_meeting_may_come_again(supervise):
    port = free_port()
    lead, lost = supervise("say('meets')", "say('meets')", port=port, places=[(3, 0), (3, 1)])
    wait_until(lambda: connections(lost) == 1)
    time.sleep(0.2)
    lost.process.kill()
    met = [lead, *supervise("say('meets')", "say('meets')", port=port, places=[(3, 1), (3, 2)])]
    assert statuses(met) == [0, 0, 0]


def connections(supervisor):
    process = psutil.Process(supervisor.process.pid)
    return sum(connection.status == psutil.CONN_ESTABLISHED for connection in process.net_connections("tcp"))


def test_a_port_in_use(supervise):
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        (supervisor,) = supervise("wait()", port=port, places=[(2, 0)])
        assert supervisor.status() == 1
    assert supervisor.err == (
        f"process 0: --coordinator=localhost:{port}: process 0 cannot listen at port {port} "
        f"({os.strerror(errno.EADDRINUSE)}): choose another port.\n"
    )


def test_strangers_at_the_port_do_no_harm(supervise):
    port = free_port()
    (lead,) = supervise("say('meets')", port=port, places=[(2, 0)], SILENCE=2.0)
    wait_until(lambda: listens(port))
    with contextlib.ExitStack() as stack:
        for text in (
            b"",
            b"\n",
            b"GET / HTTP/1.1\r\nHost: node1\r\n\r\n",
            b"\x16\x03\x01\x00\xff\n",
            b"{}\n",
            b"[1]\n",
            b"5\n",
            b'{"place": 5, "host": "h"}\n',
            b'{"place": [], "host": "h"}\n',
            b'{"place": ["c", "2", "1"], "host": "h"}\n',
            b'{"place": ["c", 2, 1]}\n',
            b"[" * 100_000 + b"\n",
            b"x" * 1_000_000,
        ):
            stranger = stack.enter_context(socket.create_connection(("localhost", port)))
            stranger.sendall(text)
        (other,) = supervise("say('meets')", port=port, places=[(2, 1)], SILENCE=2.0)
        assert statuses([lead, other]) == [0, 0]
    assert (lead.out, other.out) == ("meets\n", "meets\n")
    assert (lead.err, other.err) == ("", "")


def test_results_pass_without_the_words_of_gloo(supervise):
    worker = "say('[Gloo] Rank 0 is connected'); say('Test accuracy: 0.5'); say('[Gloo]'); sys.stdout.write('no end')"
    supervisors = supervise(worker, worker)
    assert statuses(supervisors) == [0, 0]
    assert [supervisor.out for supervisor in supervisors] == ["Test accuracy: 0.5\nno end"] * 2


def test_lines_carry_the_number_of_their_process(supervise):
    worker = "complain('one\\ntwo'); complain(' \xe9'); sys.stderr.buffer.write(b'\\xff' + 300_000 * b'x' + b'\\n')"
    supervisors = supervise(worker, worker)
    assert statuses(supervisors) == [0, 0]
    for process_id, supervisor in enumerate(supervisors):
        *lines, long = supervisor.err.splitlines()
        assert lines == [f"process {process_id}: one", f"process {process_id}: two", f"process {process_id}:  \xe9"]
        assert long == f"process {process_id}: \ufffd" + 300_000 * "x"


def test_an_abort_that_nothing_explains_is_printed(supervise):
    first, second = supervise("wait()", ABORTS)
    assert statuses([first, second]) == [1, 1]
    lines = "".join(f"process 1: {line}\n" for line in ["before", *ABORT.splitlines()])
    assert second.err.startswith(f"{lines}process 1: The process was killed by SIGABRT. {GO_ON[:-1]}")
    assert f"because process 1 on {HOST} was killed by SIGABRT." in first.err


@pytest.mark.parametrize("aborts", [0, 1])
def test_an_abort_that_another_process_explains_is_not_printed(supervise, aborts):
    workers = ["time.sleep(0.5); os.kill(os.getpid(), signal.SIGKILL)"] * 2
    workers[aborts] = ABORTS
    supervisors = supervise(*workers, _GRACE=10.0)
    assert statuses(supervisors) == [1, 1]
    assert supervisors[aborts].err == (
        f"process {aborts}: before\n"
        f"process {aborts}: Stopped, because process {1 - aborts} on {HOST} was killed by SIGKILL. {GO_ON}\n"
    )


def test_an_error_that_did_no_harm_is_not_printed(supervise):
    worker = "complain('E0000 00:00:1732637597.780241   12345 client.h:77] a service went away'); complain('after')"
    supervisors = supervise(worker, worker)
    assert statuses(supervisors) == [0, 0]
    assert [supervisor.err for supervisor in supervisors] == ["process 0: after\n", "process 1: after\n"]


LEAVES_A_CHILD = "import subprocess; child = subprocess.Popen(['sleep', '60']); say('child', child.pid)"


@pytest.mark.parametrize("then", ["", "; wait()"])
def test_what_a_worker_leaves_behind_holds_nothing_up(supervise, then):
    """A child of the worker has its stdout and stderr still open."""
    first, second = supervise(LEAVES_A_CHILD + then, "wait()")
    child = int(wait_until(lambda: re.search(r"child (\d+)\n", first.out))[1])
    try:
        os.kill(second.worker(), signal.SIGKILL)
        assert statuses([first, second]) == [1, 1]
        assert f"because process 1 on {HOST} was killed by SIGKILL." in first.err
    finally:
        os.kill(child, signal.SIGKILL)


def test_process_0_alone_draws_its_bar_on_a_terminal(supervise):
    worker = "sys.stderr.write(f'{sys.stderr.isatty()} 50%\\r100%')"
    port = free_port()
    terminal, end = os.openpty()
    try:
        (lead,) = supervise(worker, port=port, places=[(2, 0)], terminal=end)
        (other,) = supervise(worker, port=port, places=[(2, 1)])
        assert statuses([lead, other]) == [0, 0]
        assert os.read(terminal, 1000) == b"True 50%\r100%"
    finally:
        os.close(end)
        os.close(terminal)
    assert other.err == "process 1: False 50%\r100%"
