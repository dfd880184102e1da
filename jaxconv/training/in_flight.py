"""Steps that run on the device while the host prepares the next ones."""

import collections
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxconv.training.state import Sums


class NotFiniteError(Exception):
    """The loss of an epoch is not finite after `step` steps."""

    def __init__(self, step: int):
        super().__init__(f"the loss is not finite at step {step}")
        self.step = step


class StepsInFlight:
    """The steps that the host has started and not yet waited for.

    Args:
        limit: how many may run while the host goes on.
    """

    def __init__(self, limit: int):
        self._limit = limit
        self._running: collections.deque[tuple[int, Any]] = collections.deque()

    def is_idle(self) -> bool:
        """Return whether the device has nothing left to do."""
        return all(sums.loss.is_ready() for _, sums in self._running)

    def add(self, step: int, sums: Sums) -> None:
        """Note that the steps up to number `step` were started; `sums` is their result."""
        self._running.append((step, sums))

    def wait(self, *, for_all: bool) -> Iterator[tuple[int, Sums]]:
        """Wait until at most `limit` steps run, or none.

        Yields:
            The steps that are done, in order, each with its sums.
        """
        while len(self._running) > (0 if for_all else self._limit):
            step, sums = self._running.popleft()
            yield step, jax.block_until_ready(sums)


def check_finite(step: int, sums: Sums) -> None:
    """Check the loss of an epoch so far.

    Raises:
        NotFiniteError: it is infinite or not a number.
    """
    if not np.isfinite(sums.loss):
        raise NotFiniteError(step)
