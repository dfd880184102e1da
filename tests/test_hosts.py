"""Several processes, on two hosts and on one: links that go down, and kills at random moments.

python -m pytest -m survive -n 0 -s tests/test_hosts.py

The hosts are two network namespaces of this machine, which a pair of virtual Ethernet devices joins.
"""

import collections
import contextlib
import os
import pathlib
import platform
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

import psutil
import pytest

from jaxconv.platform import cluster
from tests.conftest import NO_NETWORK, ROOT, read, wait_for_step
from tests.test_survive import MOMENTS, Run, arguments, wait_for

pytestmark = pytest.mark.survive

PROMISE = 60
"""Seconds within which all processes end after one is lost."""


# ---- Hosts


class Host(NamedTuple):
    """A network namespace with a host name and an address of its own."""

    name: str
    address: str

    def within(self):
        """What a command begins with to run there."""
        named = 'echo "$0" > /proc/sys/kernel/hostname; exec "$@"'
        return ["ip", "netns", "exec", self.name, "unshare", "--uts", "sh", "-c", named, self.name]

    def ip(self, command):
        """Configure its network, with its device eth0."""
        run_ip(f"-n {self.name} {command}")


def run_ip(command):
    subprocess.run(["ip", *command.split()], check=True, capture_output=True, text=True)


@pytest.fixture
def hosts():
    """Two hosts that a link joins."""
    if os.geteuid() or not all(map(shutil.which, ("ip", "unshare"))):
        pytest.skip("network namespaces need root, ip and unshare")
    names = [f"jaxconv-{os.getpid()}-{end}" for end in "ab"]
    hosts = [Host(name, f"10.0.0.{number}") for number, name in enumerate(names, start=1)]
    etc = pathlib.Path("/etc/netns")  # `ip netns exec` binds what is there over /etc
    etc.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: any(etc.iterdir()) or etc.rmdir())
        for host in hosts:
            try:
                run_ip(f"netns add {host.name}")
            except subprocess.CalledProcessError as error:
                pytest.skip(f"no network namespaces: {error.stderr}")
            stack.callback(run_ip, f"netns del {host.name}")  # the link goes with it
            stack.callback(shutil.rmtree, etc / host.name, ignore_errors=True)
            (etc / host.name).mkdir()
            (etc / host.name / "hosts").write_text(f"127.0.0.1 localhost\n{host.address} {host.name}\n")
        run_ip(f"link add eth0 netns {names[0]} type veth peer name eth0 netns {names[1]}")
        for host in hosts:
            host.ip("link set lo up")
            host.ip(f"addr add {host.address}/24 dev eth0")
            host.ip("link set eth0 up")
        yield hosts


@contextlib.contextmanager
def link_down(hosts):
    """Take the link down, as a cable that is pulled out."""
    hosts[1].ip("link set eth0 down")
    yield
    hosts[1].ip("link set eth0 up")


def silence(*senders):
    """Let what these hosts send vanish on the way, and no system know of it."""

    @contextlib.contextmanager
    def cut(hosts):
        for sender in senders:
            hosts[sender].ip(f"neigh replace {hosts[1 - sender].address} lladdr 2:0:0:0:0:99 dev eth0 nud permanent")
        yield
        for sender in senders:
            hosts[sender].ip(f"neigh del {hosts[1 - sender].address} dev eth0")

    return cut


# ---- Two processes


_started = []


class Process(Run):
    """A process of two, on a host or on this machine."""

    def __init__(self, flags, workdir, log, host=None):
        self.workdir, self.log = workdir, log
        self.there = self.files()
        environment = os.environ | NO_NETWORK
        environment.pop("XLA_FLAGS", None)
        command = [*(host.within() if host else []), sys.executable, "launch.py", *flags]
        with open(log, "w") as stderr:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=stderr
            )
        _started.append(self.process)

    def workers(self):
        """The ids of the processes that the supervisor started."""
        pid = self.process.pid
        return [int(worker) for worker in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Pair:
    """The commands of two processes, and what they started."""

    def __init__(self, tiny_config, workdir, hosts=(None, None)):
        self.workdir, self.hosts = workdir, hosts
        coordinator = f"{hosts[0].address if hosts[0] else 'localhost'}:{cluster.free_port()}"
        self.flags = [*arguments(tiny_config, workdir, devices=2), f"--coordinator={coordinator}", "--num_processes=2"]
        self.processes = []

    def start(self):
        """Start both processes."""
        self.processes = [None, None]
        for process_id in range(2):
            self.start_one(process_id)

    def start_one(self, process_id):
        """Start one process."""
        log = self.workdir.with_name(f"{self.workdir.name}.log{process_id}")
        flags = [*self.flags, f"--process_id={process_id}"]
        self.processes[process_id] = Process(flags, self.workdir, log, self.hosts[process_id])

    def logs(self):
        """What both printed."""
        return "\n".join(run.log.read_text() for run in self.processes)

    def wait(self, seconds):
        """Wait until nothing of the run is alive. Return how long it took."""
        begin = time.monotonic()
        while any([run.process.poll() is None for run in self.processes]) or alive(self.workdir):
            assert time.monotonic() - begin < seconds, f"{alive(self.workdir)} after {seconds} s\n{self.logs()}"
            time.sleep(0.05)
        return time.monotonic() - begin

    def finish(self):
        """Wait for the end of the run, which must be a good one."""
        self.wait(seconds=240)
        assert [run.process.returncode for run in self.processes] == [0, 0], self.logs()

    def stopped(self, survivor, how):
        """Check that a process stopped because of the other one."""
        run, lost, host = self.processes[survivor], 1 - survivor, self.hosts[1 - survivor]
        assert run.process.returncode == 1, self.logs()
        sentence = rf"Stopped, because process {lost} on {re.escape(host.name if host else platform.node())} ({how})\. "
        assert run.said(rf"process {survivor}: launch.py: {sentence}Repeat the same commands"), self.logs()
        assert not run.said("Traceback"), self.logs()


def alive(workdir):
    """The processes of a run."""
    return [
        process
        for process in psutil.process_iter(["cmdline", "status"])
        if process.info["status"] != psutil.STATUS_ZOMBIE and f"--workdir={workdir}" in (process.info["cmdline"] or [])
    ]


@pytest.fixture(autouse=True)
def _nothing_left():
    """After a failure, end what still runs. A worker ends with its supervisor."""
    yield
    while _started:
        process = _started.pop()
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def pair_finished(tiny_config, tmp_path_factory):
    """The workdir of a run of two processes that nothing interrupted."""
    pair = Pair(tiny_config, tmp_path_factory.mktemp("pairs") / "finished")
    pair.start()
    pair.finish()
    return pair.workdir


# ---- Two hosts


def test_two_hosts_train_as_one_does(tiny_config, pair_finished, hosts, tmp_path):
    pair = Pair(tiny_config, tmp_path / "run", hosts)
    pair.start()
    pair.finish()
    assert read(pair.workdir) == read(pair_finished)


CUTS = {"down": link_down, "silent": silence(0, 1), "silent to 1": silence(0), "silent to 0": silence(1)}


@pytest.mark.parametrize("cut", CUTS)
def test_the_link_goes_down_and_comes_up(tiny_config, pair_finished, hosts, tmp_path, cut):
    pair = Pair(tiny_config, tmp_path / "run", hosts)
    pair.start()
    wait_for_step(pair.workdir, 4, pair.processes[0].process)
    with CUTS[cut](hosts):
        seconds = pair.wait(PROMISE)
        for survivor in range(2):
            pair.stopped(survivor, r"was lost: .+")
    print(f"\nlink {cut}: all ended after {seconds:.1f} s")
    pair.start()
    pair.finish()
    assert pair.processes[0].said("Resumed at step")
    assert read(pair.workdir) == read(pair_finished)


# ---- Kills


def is_meeting(lead):
    """Whether it still waits for the other one."""
    return not lead.workers()


# As in test_survive, by what process 0 did.
MOMENTS_OF_TWO = {
    "meeting": (is_meeting, 1.0),
    **MOMENTS,
    "starting": (lambda lead: not is_meeting(lead) and not lead.said("."), 4.0),
}


class Kill(NamedTuple):
    """A kill of a process."""

    moment: str
    process_id: int
    role: str
    """Supervisor or worker."""


def kill_at(moment, pair, rng):
    """Kill a process of the run at the moment, one of those that are there. None if the run came to its end first."""
    holds, within = MOMENTS_OF_TWO[moment]
    lead = pair.processes[0]
    while wait_for(lambda: lead.process.poll() is None and holds(lead), lead.process):
        time.sleep(rng.random() * within)
        pids = {}
        for process_id, process in enumerate(pair.processes):
            pids[Kill(moment, process_id, "supervisor")] = process.process.pid
            pids |= {Kill(moment, process_id, "worker"): pid for pid in process.workers()}
        all_there = stop(pids.values())  # so that what is seen is what is killed
        kill = rng.choice(list(pids)) if all_there and holds(lead) else None
        for victim, pid in pids.items():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if victim == kill else signal.SIGCONT)
        if kill:
            return kill
    pair.finish()
    return None


def stop(pids):
    """Stop processes. Return whether all were there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    gone = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    while not all(state(pid) in (psutil.STATUS_STOPPED, *gone) for pid in pids):
        time.sleep(0.001)
    return not any(state(pid) in gone for pid in pids)


def state(pid):
    try:
        return psutil.Process(pid).status()
    except psutil.NoSuchProcess:
        return psutil.STATUS_DEAD


def check_end(pair, kill):
    """Check how a run ends after a kill. Return the seconds until nothing of it was alive."""
    seconds = pair.wait(PROMISE)
    pair.stopped(1 - kill.process_id, r"was lost: .+|was killed by SIGKILL")
    other = pair.processes[kill.process_id]
    if kill.role == "supervisor":
        assert other.process.returncode == -signal.SIGKILL
    else:
        assert other.process.returncode == 1, pair.logs()
        assert other.said(r"launch.py: The process was killed by SIGKILL\. Repeat the same commands"), pair.logs()
    return seconds


def survive_kills_of_two(kills, tiny_config, pair_finished, tmp_path, seed):
    """Kill until there were so many kills; each run must end as if none had been. Return the kills and the seconds."""
    rng, moments = random.Random(seed), list(MOMENTS_OF_TWO)
    runs, record, seconds = 0, [], []
    while len(record) < kills:
        pair = Pair(tiny_config, tmp_path / str(runs))
        pair.start()
        for _ in range(rng.randint(1, 4)):
            kill = kill_at(moments[len(record) % len(moments)], pair, rng) if len(record) < kills else None
            if kill is None:
                break
            record.append(kill)
            if kill.moment == "meeting":  # the other one waits
                pair.processes[kill.process_id].process.wait()
                pair.start_one(kill.process_id)
            else:
                seconds.append(check_end(pair, kill))
                pair.start()
        pair.finish()
        assert read(pair.workdir) == read(pair_finished), (runs, record)
        runs += 1
    return record, seconds


def test_killed_30_times_at_random_moments(tiny_config, pair_finished, tmp_path):
    record, seconds = survive_kills_of_two(30, tiny_config, pair_finished, tmp_path, seed=2)
    by_moment = collections.Counter(kill.moment for kill in record)
    by_victim = collections.Counter(f"{kill.role} of process {kill.process_id}" for kill in record)
    print(*(f"{what}: {count} kills" for what, count in (by_moment | by_victim).items()), sep="\n")
    print(f"all ended within {max(seconds):.1f} s of a kill, half of them within {statistics.median(seconds):.1f} s")
    assert min(by_moment[moment] for moment in MOMENTS_OF_TWO) >= 4


# ---- Another number of processes


def test_a_run_goes_on_with_another_number_of_processes(tiny_config, pair_finished, tmp_path):
    """Two processes, then one with two devices, then two again: sums over all examples differ by rounding."""
    pair = Pair(tiny_config, tmp_path / "run")
    pair.start()
    wait_for_step(pair.workdir, 15, pair.processes[0].process)
    pair.processes[1].process.kill()
    pair.wait(PROMISE)
    alone = Process(arguments(tiny_config, pair.workdir, devices=2), pair.workdir, tmp_path / "log")
    wait_for_step(pair.workdir, 30, alone.process)
    alone.process.kill()
    alone.process.wait()
    pair.start()
    pair.finish()
    assert all(run.said(r"Resumed at step \d+ of 55\.") for run in (alone, pair.processes[0]))
    (history, summary), (whole, whole_summary) = read(pair.workdir), read(pair_finished)
    assert (summary["processes"], summary["devices"]) == (2, 2)
    for record, expected in zip(history, whole, strict=True):
        assert record["step"] == expected["step"]
        for key in ("train_loss", "val_loss"):
            assert record[key] == pytest.approx(expected[key], rel=1e-3)
    assert summary["test_loss"] == pytest.approx(whole_summary["test_loss"], rel=1e-3)
