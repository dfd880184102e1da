"""What is timed in a run: the run, its current epoch, and the time that the step waits for data."""

import contextlib
import time
from collections.abc import Callable, Iterator


class Clock:
    """Seconds of a run and of its current epoch, the starts before this one included.

    The validation at the end of an epoch is no part of the epoch's seconds.

    `clock_seconds` is the time by which records are compared, as in arXiv:2404.00498: what happens within `counting`.
    That is from the first look at the data to the last prediction, without the loading of data and compilation:

    - the fit of what follows from the training examples, such as the normaliser;
    - all steps, with the batches they wait for, validation, and the checkpoints and lines written between them, up to
      the last checkpoint on disk;
    - the evaluation of the test set.

    The initial parameters, the restoring of checkpoints, and the files written after the test do not count. The steps,
    and what a split on the device needs, are compiled before. Small programs of a few milliseconds, and the pipeline of
    TensorFlow on the host, are compiled at their first use, and count.
    """

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._wall_seconds_before = 0.0
        self._clock_seconds = 0.0
        self._counting_since: float | None = None
        self.begin_epoch()

    def resume(self, *, wall_seconds: float, epoch_seconds: float, clock_seconds: float) -> None:
        """Go on from the seconds that earlier starts spent on the run and on its current epoch, and that counted."""
        self._wall_seconds_before = wall_seconds
        self._clock_seconds += clock_seconds
        self.begin_epoch(epoch_seconds)

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Count what happens inside to `clock_seconds`."""
        self._counting_since = time.monotonic()
        try:
            yield
        finally:
            self._clock_seconds, self._counting_since = self.clock_seconds, None

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
    def clock_seconds(self) -> float:
        """Seconds that count, over all starts: the docstring of the class says which."""
        since = self._counting_since
        return self._clock_seconds + (0.0 if since is None else time.monotonic() - since)

    @property
    def epoch_seconds(self) -> float:
        """Seconds of the epoch over all starts."""
        return self._epoch_seconds_before + (self._ended or time.monotonic()) - self._epoch_began

    @property
    def data_wait(self) -> float:
        """The share of the epoch's seconds in this start that the step waited for data, from 0 to 1."""
        return self._waited / max((self._ended or time.monotonic()) - self._epoch_began, 1e-9)
