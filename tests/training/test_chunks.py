"""How the steps of a run are cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxconv.training.chunks import ChunkSize, chunks


@given(
    start=st.integers(0, 50),
    length=st.integers(0, 60),
    size=st.integers(1, 20),
    every=st.lists(st.integers(0, 13), max_size=3),
)
def test_chunks_cover_each_step_once_and_cross_no_cut(start, length, size, every):
    end = start + length
    steps = list(chunks(start, end, lambda: size, every=tuple(every)))
    assert sum((list(range(first, last)) for first, last in steps), []) == list(range(start, end))
    for first, last in steps:
        assert 0 < last - first <= size
        assert not any(cut % period == 0 for period in every if period for cut in range(first + 1, last))


@pytest.mark.parametrize(
    ("arguments", "every", "expected"),
    [
        ((0, 6, 1), (3, 0), [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6)]),
        ((2, 12, 100), (5, 4), [(2, 4), (4, 5), (5, 8), (8, 10), (10, 12)]),
        ((3, 10, 4), (5,), [(3, 5), (5, 9), (9, 10)]),
        ((7, 7, 4), (5,), []),
    ],
)
def test_examples(arguments, every, expected):
    start, end, size = arguments
    assert list(chunks(start, end, lambda: size, every=every)) == expected


def test_a_chunk_grows_to_the_time_it_may_take_and_shrinks_again(monkeypatch):
    now, step, sizes = 0.0, 0, []
    monkeypatch.setattr("time.monotonic", lambda: now)
    size = ChunkSize(0.5)
    for seconds_per_step in [1 / 128] * 9 + [0.25, 9.0, 9.0]:
        sizes.append(size())
        now += seconds_per_step * size()
        step += size()
        size.done(step)
    assert sizes == [1, 2, 4, 8, 16, 32, 64, 64, 64, 64, 2, 1]
    now += 100  # a checkpoint is written
    size.restart(step)
    now += 1 / 128
    size.done(step + 1)
    assert size() == 2
