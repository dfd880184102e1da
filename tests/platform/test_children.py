"""Children of this process, programs of a few lines. tests/test_local.py starts more, as a user does."""

import os
import signal
import sys
import threading
import time

import pytest

from jaxconv.platform import children
from jaxconv.platform.children import Child


def child(code, label="", **environment):
    return Child([sys.executable, "-c", f"import os, signal, time\n{code}"], environment, label)


def test_the_others_go_on_after_one_that_fails():
    kill = "os.kill(os.getpid(), signal.SIGKILL)"
    outcome = children.run([child("os._exit(3)"), child(kill), child(""), child("os._exit(4)")], places=[{}])
    assert outcome == ([(0, 3), (1, -signal.SIGKILL), (3, 4)], None)
    assert [children.exit_status(status) for _, status in outcome.failed] == [3, 128 + signal.SIGKILL, 4]


def test_a_child_takes_the_place_of_one_that_has_ended(tmp_path):
    cores = "sorted(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else 0"
    said = f"print(os.environ['PLACE'], os.environ['OWN'], {cores}, file=open({str(tmp_path)!r} + '/said', 'a'))"
    wait = f"while len(open({str(tmp_path)!r} + '/said').readlines()) < 3: time.sleep(0.01)"
    started = [child(f"{said}\n{wait}", OWN="a"), child(said, OWN="b"), child(said, OWN="c")]
    assert children.run(started, [{"PLACE": "first"}, {"PLACE": "second"}]) == ([], None)
    lines = [line.split(maxsplit=2) for line in (tmp_path / "said").read_text().splitlines()]
    assert sorted(line[:2] for line in lines) == [["first", "a"], ["second", "b"], ["second", "c"]]
    by_child = {own: cores for _, own, cores in lines}
    assert by_child["b"] == by_child["c"]
    if hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) > 1:
        assert by_child["a"] != by_child["b"]


def test_lines_carry_the_label_of_their_child(capfd):
    two = [child("os.write(2, b'one\\ntwo')", label="a: "), child("os.write(2, b'three')")]
    assert children.run(two, [{}]).failed == []
    assert capfd.readouterr().err == "a: one\na: twothree"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_goes_to_the_running_and_the_others_do_not_start(tmp_path, signum):
    ready, late = tmp_path / "ready", tmp_path / "late"
    handle = f"signal.signal({int(signum)}, lambda *_: os._exit(7))\nopen({str(ready)!r}, 'w')\ntime.sleep(60)"
    before = signal.getsignal(signum)

    def send():
        while not ready.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signum)

    threading.Thread(target=send).start()
    outcome = children.run([child(handle), child(f"open({str(late)!r}, 'w')")], [{}])
    assert outcome == ([(0, 7)], signum)
    assert not late.exists()
    assert signal.getsignal(signum) is before
