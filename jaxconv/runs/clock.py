"""What is timed in a run: the run, its current epoch, and the time that the step waits for data."""

import contextlib
import time
from collections.abc import Callable, Iterator


class Clock:
    """Seconds of a run and of its current epoch, the starts before this one included.

    The validation at the end of an epoch is no part of the epoch's seconds.
    """

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._wall_seconds_before = 0.0
        self.begin_epoch()

    def resume(self, *, wall_seconds: float, epoch_seconds: float) -> None:
        """Go on from the seconds that earlier starts spent on the run and on its current epoch."""
        self._wall_seconds_before = wall_seconds
        self.begin_epoch(epoch_seconds)

    def begin_epoch(self, seconds_before: float = 0.0) -> None:
        """Start to time an epoch, of which `seconds_before` were spent in earlier starts."""
        self._epoch_began, self._epoch_seconds_before = time.monotonic(), seconds_before
        self._waited, self._ended = 0.0, 0.0

    def go_on(self) -> None:
        """Time the current epoch from now on: what came between `resume` and this is no part of it."""
        self.begin_epoch(self._epoch_seconds_before)

    def end_epoch(self) -> None:
        """Stop to time the epoch."""
        self._ended = time.monotonic()

    @contextlib.contextmanager
    def waiting(self, *, counts: Callable[[], bool]) -> Iterator[None]:
        """Time what happens inside as waiting for data, if `counts` returns True at the end of it."""
        began = time.monotonic()
        yield
        if counts():
            self._waited += time.monotonic() - began

    def forget_waiting(self) -> None:
        """Count no waiting for data so far in this epoch."""
        self._waited = 0.0

    @property
    def this_start(self) -> float:
        """Seconds since this start of the run."""
        return time.monotonic() - self._started

    @property
    def wall_seconds(self) -> float:
        """Seconds of the run over all its starts."""
        return self._wall_seconds_before + self.this_start

    @property
    def epoch_seconds(self) -> float:
        """Seconds of the epoch over all starts."""
        return self._epoch_seconds_before + (self._ended or time.monotonic()) - self._epoch_began

    @property
    def data_wait(self) -> float:
        """The share of the epoch's seconds in this start that the step waited for data, from 0 to 1."""
        return self._waited / max((self._ended or time.monotonic()) - self._epoch_began, 1e-9)
