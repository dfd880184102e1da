"""Steps that overlap with the host: waited for in order, and never more than allowed."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxconv.training.in_flight import NotFiniteError, StepsInFlight, check_finite
from jaxconv.training.state import Sums


def sums(loss):
    return Sums.zero().replace(loss=jnp.float32(loss))


def steps(waited):
    return [step for step, _ in waited]


def test_at_most_the_limit_stay():
    in_flight = StepsInFlight(limit=1)
    in_flight.add(1, sums(0.1))
    assert steps(in_flight.wait(for_all=False)) == []
    in_flight.add(2, sums(0.2))
    in_flight.add(3, sums(0.3))
    assert [(step, float(s.loss)) for step, s in in_flight.wait(for_all=False)] == [
        (1, pytest.approx(0.1)),
        (2, pytest.approx(0.2)),
    ]
    assert steps(in_flight.wait(for_all=True)) == [3]
    assert steps(in_flight.wait(for_all=True)) == []


def test_none_stays_where_none_may():
    in_flight = StepsInFlight(limit=0)
    in_flight.add(1, sums(0))
    assert steps(in_flight.wait(for_all=False)) == [1]


class Result:
    """An array that is being computed until `ready` is set."""

    ready = False

    def is_ready(self):
        """As that of a jax.Array."""
        return self.ready


def test_idle_while_nothing_runs():
    result, in_flight = Result(), StepsInFlight(limit=1)
    assert in_flight.is_idle()
    in_flight.add(1, Sums.zero().replace(loss=result))
    assert not in_flight.is_idle()
    result.ready = True
    assert in_flight.is_idle()


@pytest.mark.parametrize("loss", [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_not_finite_has_its_step(loss):
    check_finite(6, sums(3e38))
    with pytest.raises(NotFiniteError, match="step 7") as error:
        check_finite(7, sums(loss))
    assert error.value.step == 7
