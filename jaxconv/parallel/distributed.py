"""Several processes as one run: process 0 decides, the others follow, and all stop together.

In the only process of a run, each of these functions does nothing, or returns what it was given.
"""

import contextlib
import itertools
import json
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import distributed  # as Orbax does: JAX has no public way to its key-value store
from jax.sharding import Mesh

from jaxconv.parallel.sharding import replicated, split_by_example
from jaxconv.platform import cluster
from jaxconv.platform.cluster import Place

T = TypeVar("T")

_LOOK_SECONDS, _LEAVE_SECONDS = 1, 3

_numbers = itertools.count()
"""All processes call the functions below in the same order, so that the n-th call of each is the same one."""


def join(place: Place) -> None:
    """Let this process, a worker, meet the others. Call it before JAX starts."""
    jax.config.update("jax_enable_preemption_service", False)  # its handler of SIGTERM would replace ours
    jax.config.update("jax_check_proxy_envs", False)  # its warning is not needed: see `cluster.worker`
    jax.distributed.initialize(
        *place,
        cluster_detection_method="deactivate",
    )


def leave() -> None:
    """Leave together with the other processes: process 0 takes JAX's service with it, and JAX aborts who is left.

    If one of them does not come within some seconds, nothing happens.
    """
    if cluster.own_place():
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # JAX's own barrier would abort all
            _store().wait_at_barrier("jaxconv/leave", 1000 * _LEAVE_SECONDS)
            jax.distributed.shutdown()


def from_lead(function: Callable[[], T]) -> T:
    """Call a function in process 0, and return its result, a value of JSON, in all processes.

    Where the function raises an exception, process 0 ends, and the supervisors end the others.
    """
    place = cluster.own_place()
    if place is None:
        return function()
    key = f"jaxconv/{next(_numbers)}"
    if place.process_id == 0:
        value = function()
        _store().key_value_set(key, json.dumps(value))
        return value
    return json.loads(_get(key))


def from_all(value: T) -> list[T]:
    """Return the values of JSON that all processes give, by process."""
    place = cluster.own_place()
    if place is None:
        return [value]
    key = f"jaxconv/{next(_numbers)}"
    _store().key_value_set(f"{key}/{place.process_id}", json.dumps(value))
    return [json.loads(_get(f"{key}/{process_id}")) for process_id in range(place.num_processes)]


def _store() -> Any:
    return distributed.global_state.client


def _get(key: str) -> str:
    """Wait for a value. The wait is in pieces, so that Python sees signals between them."""
    while True:
        try:
            return _store().blocking_key_value_get(key, 1000 * _LOOK_SECONDS)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise


class Largest:
    """The largest of the numbers that the processes give, the same in all of them.

    Args:
        mesh: the devices of all processes.
        lag: how many calls later the result is returned, so that the host need not wait for the devices. 0 is for
            devices on which two programs may not overlap: then each call waits for the step first.
    """

    def __init__(self, mesh: Mesh, lag: int):
        self._lag, self._pending = lag, []
        self._own_devices = len(mesh.local_devices)
        self._split = split_by_example(mesh)
        self._max = jax.jit(jnp.max, out_shardings=replicated(mesh))

    def __call__(self, number: int, after: Any) -> int:
        """Give a number of this process, 0 or more, in the step whose result is `after`.

        Returns:
            The largest number of the call `lag` calls ago; 0 before.
        """
        if jax.process_count() == 1:
            return number
        if self._lag == 0:
            jax.block_until_ready(after)
        own = np.full(self._own_devices, number, np.int32)
        self._pending.append(self._max(jax.make_array_from_process_local_data(self._split, own)))
        return int(self._pending.pop(0)) if len(self._pending) > self._lag else 0
