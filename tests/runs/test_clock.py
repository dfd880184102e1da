"""What is timed: with a clock that the test moves."""

import time

import pytest

from jaxconv.runs.clock import Clock


@pytest.fixture
def wait(monkeypatch):
    """A function that lets seconds pass."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def wait(seconds):
        now[0] += seconds

    return wait


def test_an_epoch_without_its_validation(wait):
    clock = Clock()
    wait(3)
    clock.begin_epoch()
    wait(4)
    with clock.waiting(counts=lambda: True):
        wait(2)
    clock.forget_waiting()
    with clock.waiting(counts=lambda: True):
        wait(1)
    with clock.waiting(counts=lambda: False):
        wait(3)
    clock.end_epoch()
    wait(7)
    assert (clock.epoch_seconds, clock.data_wait) == (10, 0.1)
    assert (clock.this_start, clock.wall_seconds) == (20, 20)
    clock.begin_epoch()
    wait(2)
    assert (clock.epoch_seconds, clock.data_wait) == (2, 0)


def test_what_counts_for_records(wait):
    clock = Clock()
    wait(5)  # to load
    with clock.counting():
        wait(1)
        assert clock.clock_seconds == 1
    wait(7)  # to compile
    clock.resume(wall_seconds=50, epoch_seconds=6, clock_seconds=40)
    with clock.counting():
        wait(2)
        assert clock.clock_seconds == 43
    wait(9)
    assert (clock.clock_seconds, clock.wall_seconds) == (43, 74)


def test_earlier_starts_count(wait):
    clock = Clock()
    wait(1)
    clock.resume(wall_seconds=50, epoch_seconds=6, clock_seconds=0)
    wait(30)  # to compile
    clock.go_on()
    with clock.waiting(counts=lambda: True):
        wait(2)
    assert (clock.epoch_seconds, clock.data_wait, clock.this_start, clock.wall_seconds) == (8, 1, 33, 83)
