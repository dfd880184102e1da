"""How the steps of a run are cut into chunks."""

from collections.abc import Iterator


def chunks(start: int, end: int, size: int, *, every: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Cut the steps from `start` to `end` into chunks that something happens between.

    Args:
        start: the number of steps done so far.
        end: the number of steps done at the end.
        size: the largest number of steps in a chunk, at least 1.
        every: chunks end at every multiple of these numbers of steps; a 0 is ignored.

    Yields:
        (first, last): the number of steps done before and after the chunk.

    Example:
        >>> list(chunks(3, 10, 4, every=(5,)))
        [(3, 5), (5, 9), (9, 10)]
    """
    while start < end:
        cuts = [(start // period + 1) * period for period in every if period]
        last = min(start + size, end, *cuts)
        yield start, last
        start = last
