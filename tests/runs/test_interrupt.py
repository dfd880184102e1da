"""Signals to a process that is in the middle of something."""

import signal
import subprocess
import sys

PROGRAM = """
import time
from jaxconv.runs import interrupt
interrupt.install()
with interrupt.deferred() as interrupted:
    print("working", flush=True)
    while not interrupted():
        time.sleep(0.01)
    print("finishing", flush=True)
    time.sleep(100)
"""


def test_the_second_signal_ends_the_process_at_once():
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "working\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "finishing\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGINT
    assert said == ""
