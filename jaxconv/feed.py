"""How the steps of a run get their examples: batch by batch from the host, or on the device, many steps a program."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32

from jaxconv import experiment
from jaxconv.data import augment, device, pipeline
from jaxconv.data.examples import Examples
from jaxconv.experiment import Experiment
from jaxconv.parallel.mesh import own_rows, prefetch_to_devices
from jaxconv.parallel.sharding import replicated
from jaxconv.training.phases import WHOLE, Phase, phase_of, phases
from jaxconv.training.state import Sums, TrainState
from jaxconv.training.step import make_train_step


class Feed(NamedTuple):
    """The steps of training with their examples."""

    inputs: Callable[[int], Any]
    """Given the number of steps done, returns what `run` needs for the next ones. It may wait for the host."""
    run: Callable[[TrainState, Any, int, int], tuple[TrainState, Sums]]
    """Given the state, its inputs, and the numbers of steps done before and after, does these steps of one epoch. It
    consumes the state, and returns the next one and the sums over the epoch so far."""
    many: bool
    """Whether `run` can do more than one step."""


def open_feed(setup: Experiment, start: int, end: int) -> Feed:
    """Compile the steps of training, and feed those from `start` to `end`, as config.data.pipeline asks."""
    return (_on_device if setup.config.data.pipeline == "device" else _from_host)(setup, start, end)


def _from_host(setup: Experiment, start: int, end: int) -> Feed:
    config, per_epoch = setup.config, setup.steps_per_epoch
    compiled = {
        phase: experiment.compile_train_step(
            config, setup.mesh, setup.state, setup.image_shape, setup.class_weights, phase
        )
        for phase in phases(config, start // per_epoch, -(-end // per_epoch))
    }
    batches = prefetch_to_devices(
        pipeline.train_batches(
            setup.train,
            setup.normalizer,
            batch_size=config.batch_size,
            seed=config.seed,
            start_step=start,
            end_step=end,
            augmentation=_augmentation(setup),
            rows=own_rows(setup.mesh, config.batch_size),
        ),
        setup.mesh,
    )

    def run(state: TrainState, batch: Any, begin: int, end: int) -> tuple[TrainState, Sums]:
        return compiled[phase_of(config, begin // per_epoch)](state, batch)

    return Feed(lambda begin: next(batches), run, many=False)


def _on_device(setup: Experiment, start: int, end: int) -> Feed:
    per_epoch = setup.steps_per_epoch
    epochs = range(start // per_epoch, -(-end // per_epoch))
    compiled = {phase: compile_run(setup, phase) for phase in phases(setup.config, epochs.start, epochs.stop)}
    examples = device.put(setup.train, setup.mesh)
    numbers = device.numbers(
        len(examples.labels),
        batch_size=setup.config.batch_size,
        seed=setup.config.seed,
        epochs=epochs,
        augmentation=_augmentation(setup),
        mesh=setup.mesh,
    )
    of_epoch: dict[int, device.Numbers] = {}

    def inputs(begin: int) -> device.Numbers:
        if (epoch := begin // per_epoch) not in of_epoch:
            of_epoch.clear()
            of_epoch[epoch] = next(numbers)
        return of_epoch[epoch]

    def run_chunk(state: TrainState, inputs: device.Numbers, begin: int, end: int) -> tuple[TrainState, Sums]:
        first, run = begin % per_epoch, compiled[phase_of(setup.config, begin // per_epoch)]
        return run(state, examples, inputs, np.int32(first), np.int32(first + end - begin))

    return Feed(inputs, run_chunk, many=True)


def compile_run(setup: Experiment, phase: Phase) -> Callable[..., tuple[TrainState, Sums]]:
    """Compile the program that does the steps of an epoch, in a phase, from the step `first` to the one before `last`.

    It takes (state, examples, numbers, first, last), and consumes the state. With config.stop_on_nan it ends early, at
    the first step whose loss is not finite.
    """
    return trace_run(setup, phase).lower().compile(experiment.compiler_options(setup.config, setup.mesh))


def trace_run(setup: Experiment, phase: Phase = WHOLE) -> jax.stages.Traced:
    """Trace the program of `compile_run`."""
    config, mesh, augmentation = setup.config, setup.mesh, _augmentation(setup)
    train_step = make_train_step(config, setup.class_weights, phase)

    def run(
        state: TrainState,
        examples: Examples,
        numbers: device.Numbers,
        first: Int32[Array, ""],
        last: Int32[Array, ""],
    ) -> tuple[TrainState, Sums]:
        def goes_on(carry: tuple[Int32[Array, ""], TrainState]) -> Any:
            step, state = carry
            is_finite = jnp.isfinite(state.epoch_sums.loss) if config.stop_on_nan else True
            return (step < last) & is_finite

        def one_step(carry: tuple[Int32[Array, ""], TrainState]) -> tuple[Int32[Array, ""], TrainState]:
            step, state = carry
            order, draws = jax.tree.map(functools.partial(_row, step), numbers)
            batch = device.take(examples, setup.normalizer, order, draws, step, augmentation, mesh)
            return step + 1, train_step(state, batch)[0]

        _, state = jax.lax.while_loop(goes_on, one_step, (first, state))
        return state, state.epoch_sums

    numbers = device.numbers_shapes(setup.steps_per_epoch, config.batch_size, augmentation, mesh)
    step = jax.ShapeDtypeStruct((), "int32")
    with jax.set_mesh(mesh):
        jitted = jax.jit(run, donate_argnums=0, out_shardings=replicated(mesh))
        return jitted.trace(setup.state, device.put(setup.train, mesh), numbers, step, step)


def _row(step: Int32[Array, ""], array: jax.Array) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(array, step, keepdims=False)


def _augmentation(setup: Experiment) -> Any:
    return setup.config.augment if augment.is_on(setup.config.augment) else None
