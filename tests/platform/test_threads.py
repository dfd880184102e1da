"""Threads that work ahead: in order, no further than they may, and gone with the iterator."""

import threading
import time

import pytest

from jaxconv.platform.threads import ahead


def test_results_come_in_order():
    def slow(number):
        time.sleep(0.002 * (number % 3))
        return number**2

    assert list(ahead(slow, range(30), threads=4, most=5)) == [number**2 for number in range(30)]
    assert list(ahead(slow, [], threads=4, most=5)) == []


def test_no_more_than_most_are_taken_ahead():
    taken = []
    results = ahead(str, (taken.append(number) or number for number in range(30)), threads=2, most=3)
    for number in range(10):
        assert next(results) == str(number)
        assert len(taken) == number + 4


def test_an_error_is_raised_at_its_place_and_ends_the_threads():
    before = threading.active_count()
    results = ahead(lambda number: 6 // (3 - number), range(30), threads=2, most=4)
    assert [next(results) for _ in range(3)] == [2, 3, 6]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert threading.active_count() == before


def test_the_threads_end_with_the_iterator():
    before, begun = threading.active_count(), []

    def slow(number):
        begun.append(number)
        time.sleep(0.01)

    results = ahead(slow, range(1000), threads=2, most=100)
    next(results)
    del results
    assert threading.active_count() == before
    assert len(begun) < 20
