"""How the steps of a run are cut into chunks."""

import time
from collections.abc import Callable, Iterator


def chunks(start: int, end: int, size: Callable[[], int], *, every: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Cut the steps from `start` to `end` into chunks that something happens between.

    Args:
        start: the number of steps done so far.
        end: the number of steps done at the end.
        size: returns the largest number of steps in the next chunk, at least 1.
        every: chunks end at every multiple of these numbers of steps; a 0 is ignored.

    Yields:
        (first, last): the number of steps done before and after the chunk.

    Example:
        >>> list(chunks(3, 10, lambda: 4, every=(5,)))
        [(3, 5), (5, 9), (9, 10)]
    """
    while start < end:
        cuts = [(start // period + 1) * period for period in every if period]
        last = min(start + size(), end, *cuts)
        yield start, last
        start = last


class ChunkSize:
    """How many steps a chunk may have, so that it takes about `seconds`, by the time that the last chunk took."""

    def __init__(self, seconds: float):
        self._seconds, self._size = seconds, 1
        self.restart(0)

    def __call__(self) -> int:
        """Return the largest number of steps in the next chunk, at least 1."""
        return self._size

    def restart(self, step: int) -> None:
        """Time from now on, when `step` steps are done and none runs."""
        self._step, self._since = step, time.monotonic()

    def done(self, step: int) -> None:
        """Note that the chunk that ends at `step` is done."""
        per_step = (time.monotonic() - self._since) / (step - self._step)
        # At most twice as many as before: a chunk that was done before the host looked seems fast.
        self._size = max(1, min(2 * self._size, int(self._seconds / max(per_step, 1e-9))))
        self.restart(step)
