"""--mode=train: a run from top to bottom. Set up, restore, one loop over the steps, test."""

import contextlib
import functools
import pathlib
from typing import Any

import jax

from jaxconv import experiment
from jaxconv.config import Config
from jaxconv.data.encoded import Encoded
from jaxconv.errors import ConfigError, UserError
from jaxconv.experiment import EvalStep, Experiment
from jaxconv.feed import open_feed
from jaxconv.models.registry import num_params
from jaxconv.ops import onednn
from jaxconv.parallel.distributed import Largest, from_lead
from jaxconv.parallel.sharding import replicated
from jaxconv.platform import allocator, cluster, devices
from jaxconv.runs import checkpoint, console, interrupt, predictions, processes, signature
from jaxconv.runs import workdir as files
from jaxconv.runs.clock import Clock
from jaxconv.runs.predictions import Predictions
from jaxconv.training.chunks import ChunkSize, chunks
from jaxconv.training.in_flight import NotFiniteError, StepsInFlight, check_finite
from jaxconv.training.state import Sums, TrainState, is_finite, take_layers

_MAX_DATA_WAIT = 0.05
"""The share of an epoch's time that the step may wait for data before the run says so."""

_CHUNK_SECONDS = 2.0
"""About how long the steps on the device may take between two looks of the host, for signals and the bar."""


def train(config: Config, workdir: pathlib.Path) -> dict[str, Any]:
    """Train a config in `workdir`, from where an earlier start of the same run left off.

    Of several processes each calls this; process 0 decides and writes.

    Returns:
        The summary of the run, as in summary.json.

    Raises:
        UserError: the run cannot be done as asked.
    """
    clock = Clock()
    config = experiment.resolve(config, files.read_config(workdir))
    files.check(workdir, config)
    processes.check_config(config)
    if (summary := from_lead(lambda: _finished(workdir, config))) is not None:
        return summary
    setup = experiment.set_up(config, clock)
    config = setup.config  # with what "auto" means for this data
    setup.source.examine()  # it may refuse the data, before the workdir is touched
    processes.check_data(setup.source.version, setup.source.examine().counts)
    if config.init_from is not None and _is_new(workdir):  # a run that goes on has its own parameters
        setup = _init_from(pathlib.Path(config.init_from), setup)
    with processes.claim(workdir, config):
        if (summary := from_lead(lambda: _finished(workdir, config))) is not None:  # by another process, meanwhile
            return summary
        if cluster.is_lead():
            signature.keep(workdir, setup.signature)
        _introduce(setup, workdir)
        state, history = _restore(setup, workdir, clock)
        eval_step = experiment.compile_eval_step(config, setup.mesh, setup.state, setup.image_shape)
        with checkpoint.open_checkpoints(workdir) as checkpoints:
            if config.init_from is not None and _is_new(workdir):  # no later start needs the other run
                _save(setup, checkpoints, state, checkpoint.progress(history, clock, _versions(setup)))
            state = _fit(setup, eval_step, state, history, checkpoints, clock)
        _say_if_stopped_early(history, config)
        summary = _test(setup, eval_step, state, history, workdir, clock)
    return summary


def _finished(workdir: pathlib.Path, config: Config) -> dict[str, Any] | None:
    if (summary := files.read_finished(workdir, config)) is None:
        return None
    stopped_early = summary["epochs"] < config.num_epochs
    how = f": it stopped early after epoch {summary['epochs']} of {config.num_epochs}" if stopped_early else ""
    console.say(f"The run in {workdir} is finished{how}; name another --workdir to train again.")
    return summary


def _is_new(workdir: pathlib.Path) -> bool:
    return from_lead(lambda: not checkpoint.steps(workdir))


def _init_from(run: pathlib.Path, setup: Experiment) -> Experiment:
    """Let the net start from the best epoch so far of another run, as far as its layers have the same shapes.

    Raises:
        UserError: there is no such run, it has no whole checkpoint of a finished epoch, or no layer agrees.
    """
    if files.read_config(run) is None:
        raise ConfigError(f"config.init_from={run} holds no run: name the --workdir of one.")
    try:
        variables, best = checkpoint.restore_best_variables(run)
    except UserError as error:
        raise UserError(f"config.init_from={run}: {error}") from None
    state, new = take_layers(setup.state, variables)
    layers = len(state.params)
    if len(new) == layers:
        raise ConfigError(
            f"config.init_from={run} has no layer with the name and the shapes of one of this net: use its "
            "config.model, or leave config.init_from out."
        )
    what = f"{layers - len(new)} of {layers} layers; new: {', '.join(new)}" if new else f"all {layers} layers"
    console.say(f"Starts from {run}, epoch {best['epoch']}: {what}.")
    return setup._replace(state=jax.device_put(state, replicated(setup.mesh)))


def _introduce(setup: Experiment, workdir: pathlib.Path) -> None:
    """Print what will be trained, on what."""
    config, mesh = setup.config, setup.mesh
    console.print_model(config.model.name, setup.model, setup.image_shape)
    if setup.platform == "cpu":
        kind = f"cpu {'with' if config.ops == 'onednn' else 'without'} oneDNN"
    else:
        kind = mesh.devices.flat[0].device_kind
    dtype = f" in {config.compute_dtype}" * (config.compute_dtype != "float32")
    to_validate = "none" if setup.validation is None else f"{len(setup.validation.labels):,}"
    console.say(
        f"{config.data.name}: {len(setup.train.labels):,} examples to train on, "
        f"{to_validate} to validate; {mesh.size} x {kind}{dtype}"
        f"{f' in {jax.process_count()} processes' * (jax.process_count() > 1)}; {workdir}"
    )
    if setup.platform == "cpu" and config.ops == "xla" and (problem := onednn.problem()):
        console.say(f"oneDNN is installed and not used, which makes the run slower: {problem}.")
    if config.compute_dtype == "bfloat16" and setup.platform == "cpu":
        if not devices.cpu_has_bfloat16():
            console.say("This processor has no instructions for bfloat16, which is slower than float32 here.")
        elif config.ops != "onednn":
            console.say("Without oneDNN, bfloat16 is slower than float32 on a CPU.")
    for note in setup.source.examine().notes:
        console.say(note)


# ---- Restore


def _restore(setup: Experiment, workdir: pathlib.Path, clock: Clock) -> tuple[TrainState, list[dict[str, Any]]]:
    """The state and the history to go on from. Process 0 decides which checkpoint is whole."""
    checkpoint.check_space(workdir, setup.state)
    find = functools.partial(checkpoint.restore_latest, workdir, setup.state, console.say)
    if (restored := processes.restore(find, workdir, setup.state)) is None:
        return setup.state, []
    state, progress = restored
    step = int(state.step)
    if step > setup.last_step:
        raise ConfigError(
            f"config.num_epochs={setup.config.num_epochs}, but the run in {workdir} is at epoch "
            f"{step / setup.steps_per_epoch:g}: ask for more, or name another --workdir."
        )
    console.say(f"Resumed at step {step} of {setup.last_step}.")
    if changed := files.changed_versions(progress["versions"], _versions(setup)):
        console.say(changed)
    wall_seconds = progress["wall_seconds"]
    clock.resume(
        wall_seconds=wall_seconds,
        epoch_seconds=progress["epoch_seconds"],
        clock_seconds=progress.get("clock_seconds", wall_seconds),  # an earlier version did not count it: at most this
    )
    return jax.device_put(state, replicated(setup.mesh)), progress["history"]


def _versions(setup: Experiment) -> dict[str, str | None]:
    """What the bits of a run depend on beside its config."""
    return files.versions() | {
        "onednn": onednn.version() if setup.config.ops == "onednn" else None,
        "data": setup.source.version,
        "processor": devices.processor(setup.mesh.devices.flat[0]),
    }


# ---- Fit


def _fit(
    setup: Experiment,
    eval_step: EvalStep,
    state: TrainState,
    history: list[dict[str, Any]],
    checkpoints: checkpoint.Checkpoints,
    clock: Clock,
) -> TrainState:
    """Train to the end. Checkpoints, history and events are written on the way; `history` grows by each epoch."""
    config, workdir, per_epoch = setup.config, checkpoints.workdir, setup.steps_per_epoch
    start, every = int(state.step), config.checkpoint_every_steps
    end = start if _is_over(history, config) else setup.last_step
    feed = open_feed(setup, start, end)
    overlap = experiment.steps_that_overlap(setup.mesh)
    in_flight, signal_of_any = StepsInFlight(overlap), Largest(setup.mesh, lag=overlap)
    versions, first, size = _versions(setup), True, ChunkSize(_CHUNK_SECONDS)
    give_back = allocator.giver_back()
    _warm_up(setup, state)
    with (
        files.open_history(workdir, history) if cluster.is_lead() else contextlib.nullcontext() as write_history,
        console.Bar(config.num_epochs, per_epoch) as bar,
        interrupt.deferred() as interrupted,
        clock.counting(),
    ):
        clock.go_on()
        size.restart(start)
        for begin, step in chunks(start, end, lambda: from_lead(size) if feed.many else 1, every=(per_epoch, every)):
            if begin % per_epoch == 0:
                clock.begin_epoch()
                state = state.replace(epoch_sums=jax.device_put(Sums.zero(), replicated(setup.mesh)))
            with clock.waiting(counts=in_flight.is_idle):  # a step that runs meanwhile does not wait
                inputs = feed.inputs(begin)
            if first:
                clock.forget_waiting()  # the pipeline starts
            state, sums = feed.run(state, inputs, begin, step)
            in_flight.add(step, sums)

            ends_epoch, due = step % per_epoch == 0, bool(every) and step % every == 0
            stop = signal_of_any(interrupted() or 0, after=sums)
            for done, sums in in_flight.wait(for_all=ends_epoch or due or bool(stop)):
                _check_loss(done, sums, state, setup, checkpoints)
                size.done(done)
                give_back()
                bar.update(done, sums)
                if first:
                    console.say(f"First step done {clock.this_start:.1f} s after the start.")
                    first = False
            if ends_epoch:
                clock.end_epoch()
                history.append(_end_of_epoch(setup, eval_step, state, step, clock))
            if ends_epoch or due or stop:
                _save(setup, checkpoints, state, checkpoint.progress(history, clock, versions))
                size.restart(step)
            if ends_epoch:
                if write_history:
                    write_history(history)
                _say_of_epoch(history, setup)
            if stop:
                checkpoint.wait(checkpoints, state)
                raise interrupt.Interrupted(stop, f" after {_place(step, setup)}")
            if ends_epoch and _is_over(history, config):
                break
        checkpoint.wait(checkpoints, state)
    return state


def _warm_up(setup: Experiment, state: TrainState) -> None:
    """Compile, before the clock counts, what would be compiled at its first use."""
    Sums.zero()
    if setup.validation is not None:
        experiment.ready(setup, setup.validation)
    if setup.config.stop_on_nan:
        jax.block_until_ready(is_finite(state))


def _is_over(history: list[dict[str, Any]], config: Config) -> bool:
    """Return whether nothing is left to train. It follows from the history alone, also after a kill."""
    return bool(history) and files.is_finished(len(history), checkpoint.best_epoch(history)["epoch"], config)


def _place(step: int, setup: Experiment) -> str:
    epoch, within = divmod(step, setup.steps_per_epoch)
    return f"step {step} of {setup.last_step}" if within else f"epoch {epoch} of {setup.config.num_epochs}"


def _end_of_epoch(setup: Experiment, eval_step: EvalStep, state: TrainState, step: int, clock: Clock) -> dict[str, Any]:
    """Validate, and describe the epoch as a line of history.jsonl: null stands for what no split measures."""
    train_loss, train_accuracy = state.epoch_sums.means()
    val_loss = val_accuracy = None
    if setup.validation is not None:
        val_loss, val_accuracy, _ = experiment.evaluate(setup, eval_step, state, setup.validation)
    return {
        "epoch": step // setup.steps_per_epoch,
        "step": step,
        "train_loss": train_loss,
        "train_accuracy": train_accuracy,
        "val_loss": val_loss,
        "val_accuracy": val_accuracy,
        "learning_rate": experiment.learning_rate(setup, step),
        "seconds": clock.epoch_seconds,
        "images_per_s": len(setup.train.labels) / clock.epoch_seconds,
        "data_wait": clock.data_wait,
    }


def _check_loss(
    step: int, sums: Sums, state: TrainState, setup: Experiment, checkpoints: checkpoint.Checkpoints
) -> None:
    if setup.config.stop_on_nan:
        try:
            check_finite(step, sums)
        except NotFiniteError:
            step = min(step, int(state.step))  # a chunk ends at the first such loss
            raise _not_finite("The loss", step, state, setup, checkpoints) from None


def _save(
    setup: Experiment, checkpoints: checkpoint.Checkpoints, state: TrainState, progress: checkpoint.Progress
) -> None:
    """Start to write a checkpoint, whose numbers are finite unless the user goes on all the same."""
    if setup.config.stop_on_nan and not is_finite(state):
        what = "A parameter, or what the optimizer keeps of one,"
        raise _not_finite(what, int(state.step), state, setup, checkpoints)
    checkpoint.save(checkpoints, state, progress)


def _not_finite(
    what: str, step: int, state: TrainState, setup: Experiment, checkpoints: checkpoint.Checkpoints
) -> UserError:
    checkpoint.wait(checkpoints, state)
    written = checkpoint.steps(checkpoints.workdir)
    kept = f"the checkpoint of step {written[0]} is kept" if written else "there is no checkpoint before it"
    return UserError(
        f"{what} is not finite at step {step} (learning rate {experiment.learning_rate(setup, step):g}); {kept}. "
        "Lower config.optimizer.learning_rate or look at the data; --config.stop_on_nan=False goes on all the same."
    )


def _say_of_epoch(history: list[dict[str, Any]], setup: Experiment) -> None:
    """Print the line of the last epoch, and once in a run that the step waits for data."""
    *before, last = history
    console.print_epoch(last, setup.config.num_epochs, setup.steps_per_epoch)
    if last["data_wait"] > _MAX_DATA_WAIT and all(epoch["data_wait"] <= _MAX_DATA_WAIT for epoch in before):
        in_memory = " config.data.in_memory='yes'," if isinstance(setup.train.images, Encoded) else ""
        console.say(
            f"The input pipeline cannot keep up: the step waited for data {last['data_wait']:.0%} of epoch "
            f"{last['epoch']}. Less in config.augment,{in_memory} a larger net or more cores would help."
        )


def _say_if_stopped_early(history: list[dict[str, Any]], config: Config) -> None:
    if len(history) < config.num_epochs:
        best = checkpoint.best_epoch(history)
        console.say(
            f"Stopped early after epoch {len(history)} of {config.num_epochs}: {config.early_stopping_epochs} "
            f"epoch{'s' * (config.early_stopping_epochs > 1)} brought no better validation accuracy than "
            f"{best['val_accuracy']:.4f} of epoch {best['epoch']}."
        )


# ---- Test


def _test(
    setup: Experiment,
    eval_step: EvalStep,
    state: TrainState,
    history: list[dict[str, Any]],
    workdir: pathlib.Path,
    clock: Clock,
) -> dict[str, Any]:
    """Test once, with the parameters of the best epoch.

    Write predictions.npz, and then summary.json, which says that the run is finished.
    """
    params_sha256, best = checkpoint.sha256(state.params), checkpoint.best_epoch(history)
    restored = processes.restore(functools.partial(checkpoint.restore_best, workdir, state), workdir, state)
    assert restored
    state = jax.device_put(restored[0], replicated(setup.mesh))
    test = experiment.ready(setup, setup.source.load(setup.config.data.test))
    with clock.counting():
        tested = experiment.evaluate(setup, eval_step, state, test)
    console.say(
        f"{clock.clock_seconds:.1f} s from the first look at the data to the last prediction, without loading and "
        "compilation."
    )
    summary = {
        "config": setup.config.to_dict(),
        "model": setup.config.model.name,
        "num_params": num_params(state.params),
        "epochs": len(history),
        "steps": history[-1]["step"],
        "best_epoch": best["epoch"],
        "val_accuracy": best["val_accuracy"],
        "test_loss": tested.loss,
        "test_accuracy": tested.accuracy,
        "test_examples": len(test.labels),
        "data": setup.source.examine().counts,
        "train_images_per_s": len(setup.train.labels) * len(history) / sum(epoch["seconds"] for epoch in history),
        "wall_seconds": clock.wall_seconds,
        "clock_seconds": clock.clock_seconds,
        "devices": setup.mesh.size,
        "processes": jax.process_count(),
        "platform": setup.platform,
        "versions": _versions(setup),
        "params_sha256": params_sha256,
    }

    def write() -> None:
        predictions.write(workdir, Predictions(setup.config.data.test, test.labels, tested.probabilities))
        files.write_summary(workdir, summary)

    from_lead(write)  # the others do not end before it is written
    return summary
