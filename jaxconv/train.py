"""A run from top to bottom: devices, data, model, optimizer, restore, epochs, test."""

import functools
import pathlib
import signal
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import optax
from jax.sharding import Mesh

from jaxconv.config import Config
from jaxconv.data import pipeline, sources
from jaxconv.data.augment import transform as augment
from jaxconv.errors import ConfigError, UserError
from jaxconv.models.registry import create_model, num_params, resolve
from jaxconv.ops.onednn import library as onednn
from jaxconv.parallel.mesh import make_mesh, prefetch_to_devices
from jaxconv.parallel.sharding import replicated, split_by_example
from jaxconv.platform import devices as runtime
from jaxconv.runs import checkpoint, console, interrupt
from jaxconv.runs import workdir as files
from jaxconv.training import memory
from jaxconv.training.optimizers import create_optimizer, create_schedule
from jaxconv.training.state import Batch, Sums, TrainState, create_state, is_finite
from jaxconv.training.step import eval_step, make_train_step

TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Sums]]
EvalStep = Callable[[TrainState, Batch, Sums], Sums]

_MAX_DATA_WAIT = 0.05
"""The share of an epoch's time that the step may wait for data before the run says so."""


def train(config: Config, workdir: pathlib.Path) -> dict[str, Any]:
    """Train a config in `workdir`, from where an earlier start of the same run left off.

    Returns:
        The summary of the run, as in summary.json.

    Raises:
        UserError: the run cannot be done as asked.
    """
    config = resolve_config(config)
    files.check(workdir, config)
    if (summary := _finished(workdir, config)) is not None:
        return summary
    started = time.monotonic()
    parts = set_up(config)
    with files.claim(workdir, config):
        if (summary := _finished(workdir, config)) is not None:  # by another process, meanwhile
            return summary
        checkpoint.check_space(workdir, parts.state)
        restored = checkpoint.restore_latest(workdir, parts.state, replicated(parts.mesh))
        with checkpoint.open_checkpoints(workdir) as checkpoints:
            return _train(parts, checkpoints, restored, started)


def _finished(workdir: pathlib.Path, config: Config) -> dict[str, Any] | None:
    summary = files.read_summary(workdir)
    if summary is None or summary["epochs"] != config.num_epochs:
        return None
    console.say(f"The run in {workdir} is finished; name another --workdir to train again.")
    return summary


def _train(
    parts: "Setup",
    checkpoints: checkpoint.Checkpoints,
    restored: tuple[TrainState, checkpoint.Progress] | None,
    started: float,
) -> dict[str, Any]:
    config, state, mesh, steps_per_epoch = parts.config, parts.state, parts.mesh, parts.steps_per_epoch
    workdir = checkpoints.workdir
    last_step = config.num_epochs * steps_per_epoch
    console.print_model(config.model.name, parts.model, parts.image_shape)
    console.say(
        f"{config.data.name}: {len(parts.train.labels):,} examples to train on, "
        f"{len(parts.validation.labels):,} to validate; {mesh.size} x {_kind(mesh)}; {workdir}"
    )
    if mesh.devices.flat[0].platform == "cpu" and (problem := onednn.problem()):
        console.say(f"oneDNN is installed and not used, which makes the run slower: {problem}.")

    # ---- Restore
    versions = _versions(parts)
    progress: checkpoint.Progress = {"history": [], "epoch_seconds": 0.0, "wall_seconds": 0.0, "versions": versions}
    if restored is not None:
        state, progress = restored
        console.say(f"Resumed at step {int(state.step)} of {last_step}.")
        if changed := files.changed_versions(progress["versions"], versions):
            console.say(changed)
        progress["versions"] = versions
    step, history = int(state.step), progress["history"]
    if step > last_step:
        raise ConfigError(
            f"config.num_epochs={config.num_epochs}, but the run in {workdir} is at epoch {step / steps_per_epoch:g}: "
            "ask for more, or name another --workdir."
        )
    wall_seconds_before = progress["wall_seconds"]
    host_devices = mesh.devices.flat[0].platform == "cpu" and mesh.size > 1
    said_first = said_waits = False

    def save(state: TrainState) -> None:
        if config.stop_on_nan and not is_finite(state):
            raise _not_finite("A parameter, or what the optimizer keeps of one,", state, parts, checkpoints)
        progress["wall_seconds"] = wall_seconds_before + time.monotonic() - started
        checkpoint.save(checkpoints, state, progress)

    # ---- Epochs
    train_step, eval_step = compile_steps(config, parts.mesh, parts.state, parts.image_shape)
    batches = prefetch_to_devices(
        pipeline.train_batches(
            parts.train,
            parts.normalizer,
            batch_size=config.batch_size,
            seed=config.seed,
            start_step=step,
            end_step=last_step,
            augmentation=config.augment if augment.is_on(config.augment) else None,
        ),
        mesh,
    )
    # History and events follow the checkpoint: both are written anew from it.
    files.write_history(workdir, history)
    with files.open_events(workdir, history) as tensorboard, interrupt.deferred() as interrupted:
        for epoch in range(len(history) + 1, config.num_epochs + 1):
            first_step, end = (epoch - 1) * steps_per_epoch, epoch * steps_per_epoch
            if step == first_step:
                progress["epoch_seconds"] = 0.0
                state = state.replace(epoch_sums=jax.device_put(Sums.zero(), replicated(mesh)))
            seconds_before, began, waited = progress["epoch_seconds"], time.monotonic(), 0.0

            with console.epoch_bar(epoch, config.num_epochs, steps_per_epoch) as update_bar:
                running: list[tuple[int, Any]] = []
                while step < end:
                    asked = time.monotonic()
                    batch = next(batches)
                    if said_first and all(sums.loss.is_ready() for _, sums in running):  # else a step ran meanwhile
                        waited += time.monotonic() - asked
                    state, sums = train_step(state, batch)
                    step += 1
                    running.append((step, sums))
                    due = config.checkpoint_every_steps and step % config.checkpoint_every_steps == 0
                    stop = interrupted() or (checkpoints.manager.reached_preemption(step) and signal.SIGTERM)
                    # One step runs while the host prepares the next, but not before a checkpoint, which must be
                    # finite, and not on host devices: XLA:CPU can deadlock in the collectives of steps that overlap.
                    overlap = 0 if host_devices or due or stop or step == end else 1
                    while len(running) > overlap:
                        done, sums = running.pop(0)
                        jax.block_until_ready(sums)
                        if config.stop_on_nan and not np.isfinite(sums.loss):
                            raise _not_finite("The loss", state, parts, checkpoints, done)
                        update_bar(done - first_step, sums)
                        if not said_first:
                            console.say(f"First step done {time.monotonic() - started:.1f} s after the start.")
                            said_first = True
                    if step < end and (due or stop):
                        progress["epoch_seconds"] = seconds_before + time.monotonic() - began
                        save(state)
                    if step < end and stop:
                        checkpoint.wait(checkpoints, state)
                        raise interrupt.Interrupted(stop, f" after step {step} of {last_step}")
                train_loss, train_accuracy = state.epoch_sums.means()
            data_wait = waited / (time.monotonic() - began)
            seconds = seconds_before + time.monotonic() - began

            val_loss, val_accuracy = evaluate_examples(eval_step, state, parts.validation, parts)
            record = {
                "epoch": epoch,
                "step": step,
                "train_loss": train_loss,
                "train_accuracy": train_accuracy,
                "val_loss": val_loss,
                "val_accuracy": val_accuracy,
                "learning_rate": float(np.asarray(parts.schedule(step - 1))),
                "seconds": seconds,
                "images_per_s": len(parts.train.labels) / seconds,
                "data_wait": data_wait,
            }
            history.append(record)
            save(state)
            files.write_history(workdir, history)
            files.write_events(tensorboard, record)
            console.print_epoch(record, config.num_epochs, steps_per_epoch)
            if data_wait > _MAX_DATA_WAIT and not said_waits:
                console.say(
                    f"The input pipeline cannot keep up: the step waited for data {data_wait:.0%} of epoch {epoch}. "
                    "Less in config.augment, a larger net or more cores would help."
                )
                said_waits = True
            if stop := interrupted():
                checkpoint.wait(checkpoints, state)
                raise interrupt.Interrupted(stop, f" after epoch {epoch} of {config.num_epochs}")
        checkpoint.wait(checkpoints, state)

    # ---- Test, once, with the parameters of the best epoch
    params_sha256 = checkpoint.sha256(state.params)
    state, best = checkpoint.restore_best(workdir, state, replicated(mesh))
    test = parts.source.load(config.data.test)
    test_loss, test_accuracy = evaluate_examples(eval_step, state, test, parts)
    summary = {
        "config": config.to_dict(),
        "model": config.model.name,
        "num_params": num_params(state.params),
        "epochs": config.num_epochs,
        "steps": last_step,
        "best_epoch": best["epoch"],
        "val_accuracy": best["val_accuracy"],
        "test_loss": test_loss,
        "test_accuracy": test_accuracy,
        "test_examples": len(test.labels),
        "train_images_per_s": len(parts.train.labels) * len(history) / sum(r["seconds"] for r in history),
        "wall_seconds": wall_seconds_before + time.monotonic() - started,
        "devices": mesh.size,
        "processes": jax.process_count(),
        "platform": mesh.devices.flat[0].platform,
        "versions": versions,
        "params_sha256": params_sha256,
    }
    files.write_summary(workdir, summary)
    return summary


def _kind(mesh: Mesh) -> str:
    """What the devices are, for people."""
    device = mesh.devices.flat[0]
    if device.platform != "cpu":
        return device.device_kind
    return f"cpu {'with' if onednn.is_available() else 'without'} oneDNN"


def _versions(parts: "Setup") -> dict[str, str | None]:
    """What the bits of a run depend on beside its config."""
    return files.versions() | {
        "onednn": onednn.version(),
        "data": parts.source.version,
        "processor": runtime.processor(parts.mesh.devices.flat[0]),
    }


def _not_finite(
    what: str, state: TrainState, parts: "Setup", checkpoints: checkpoint.Checkpoints, step: int | None = None
) -> UserError:
    checkpoint.wait(checkpoints, state)
    written = checkpoint.steps(checkpoints.workdir)
    kept = f"the checkpoint of step {written[0]} is kept" if written else "there is no checkpoint before it"
    step = step or int(state.step)
    learning_rate = float(np.asarray(parts.schedule(step - 1)))
    return UserError(
        f"{what} is not finite at step {step} (learning rate {learning_rate:g}); {kept}. "
        "Lower config.optimizer.learning_rate or look at the data; --config.stop_on_nan=False goes on all the same."
    )


def evaluate(config: Config, workdir: pathlib.Path) -> dict[str, float]:
    """Loss and accuracy of the best epoch so far of the run in `workdir`; changes nothing there.

    Returns:
        val_loss and val_accuracy; and test_loss and test_accuracy if the run is finished, since before that the test
        set stays closed.

    Raises:
        UserError: there is no run of this config with a finished epoch.
    """
    config = resolve_config(config)
    if not (workdir / "config.json").exists():
        raise ConfigError(f"--workdir={workdir} holds no run: train one with --mode=train first.")
    files.check(workdir, config)
    parts = set_up(config)
    state, best = checkpoint.restore_best(workdir, parts.state, replicated(parts.mesh))
    _, eval_step = compile_steps(config, parts.mesh, parts.state, parts.image_shape)
    results = {}
    results["val_loss"], results["val_accuracy"] = evaluate_examples(eval_step, state, parts.validation, parts)
    if files.read_summary(workdir) is not None:
        test = parts.source.load(config.data.test)
        results["test_loss"], results["test_accuracy"] = evaluate_examples(eval_step, state, test, parts)
    else:
        console.say(
            f"The best of the epochs so far is {best['epoch']}. The test set stays closed until the run is finished."
        )
    return results


class Setup(NamedTuple):
    """What training and evaluation share."""

    config: Config
    mesh: Mesh
    source: sources.Source
    train: sources.Examples
    validation: sources.Examples
    normalizer: pipeline.Normalizer
    model: nn.Module
    schedule: optax.Schedule
    state: TrainState
    steps_per_epoch: int

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of one image: (*spatial, channels)."""
        return self.train.images.shape[1:]


def resolve_config(config: Config) -> Config:
    """A copy of the config with the fields of the model filled in."""
    resolved = config.copy_and_resolve_references()
    resolved.model = resolve(config.model)
    return resolved


def set_up(config: Config) -> Setup:
    """Devices, data, model and optimizer of a config, and the state before the first step."""
    mesh = make_mesh(config.num_devices, config.batch_size)
    source = sources.open_source(config.data)
    source.check_split(config.data.test)  # it is opened only at the end, and a slip shall not wait for that
    train = source.load(config.data.train)
    augment.check(config.augment, train.images.shape[1:])
    steps_per_epoch = pipeline.steps_per_epoch(train, config.batch_size)
    model = create_model(config.model, source.num_classes)
    schedule = create_schedule(config.optimizer, num_epochs=config.num_epochs, steps_per_epoch=steps_per_epoch)
    optimizer = create_optimizer(config.optimizer, schedule)
    create = functools.partial(create_state, model, optimizer, train.images.shape[1:], config.seed)
    memory.check_net(model, create, train.images.shape[1:], config.batch_size, mesh)
    return Setup(
        config=config,
        mesh=mesh,
        source=source,
        train=train,
        validation=sources.check(
            source.load(config.data.validation), source.num_classes, config.data.validation, like=train
        ),
        normalizer=pipeline.fit_normalizer(train),
        model=model,
        schedule=schedule,
        state=jax.device_put(create(), replicated(mesh)),
        steps_per_epoch=steps_per_epoch,
    )


def compile_steps(
    config: Config, mesh: Mesh, state: TrainState, image_shape: tuple[int, ...]
) -> tuple[TrainStep, EvalStep]:
    """The steps of training (which consumes its state) and of evaluation, compiled for the mesh."""
    whole, split = replicated(mesh), split_by_example(mesh)
    batch = {
        "image": jax.ShapeDtypeStruct((config.batch_size, *image_shape), "float32", sharding=split),
        "label": jax.ShapeDtypeStruct((config.batch_size,), "int32", sharding=split),
        "weight": jax.ShapeDtypeStruct((config.batch_size,), "float32", sharding=split),
    }
    train_step = jax.jit(make_train_step(config), donate_argnums=0, out_shardings=whole)
    with jax.set_mesh(mesh):  # for the operations that divide themselves among its devices
        return (
            train_step.lower(state, batch).compile(),
            jax.jit(eval_step, out_shardings=whole).lower(state, batch, state.epoch_sums).compile(),
        )


def evaluate_examples(
    eval_step: EvalStep, state: TrainState, examples: sources.Examples, parts: Setup
) -> tuple[float, float]:
    """Loss and accuracy over every example of a split, each counted once."""
    batches = pipeline.eval_batches(examples, parts.normalizer, batch_size=parts.config.batch_size)
    sums = jax.device_put(Sums.zero(), replicated(parts.mesh))
    for batch in prefetch_to_devices(batches, parts.mesh):
        sums = eval_step(state, batch, jax.block_until_ready(sums))
    return sums.means()
