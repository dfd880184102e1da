"""Checkpoints of a run, by Orbax: the two latest and the best, written while training goes on.

Orbax commits a checkpoint by a rename. A checkpoint contains digests of all its data, so that damage is detected.
Reading changes nothing, so it may happen beside the training that writes.
"""

import contextlib
import copy
import dataclasses
import hashlib
import json
import pathlib
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from jaxconv.errors import UserError
from jaxconv.platform import cluster, supervisor
from jaxconv.runs.clock import Clock
from jaxconv.training.state import TrainState

SCHEMA = 3
"""Version of the format. It grows by one when this code would misread older checkpoints."""

Progress = dict[str, Any]
"""The rest of a checkpoint, as JSON: history (a list of epochs), seconds spent, and versions used."""

_READ_ATTEMPTS = 20
"""How often a reader starts again when a training changes the checkpoints meanwhile."""


def directory(workdir: pathlib.Path) -> pathlib.Path:
    """Return the directory of a run's checkpoints. Each is a directory in it, named by its step."""
    return workdir.absolute() / "checkpoints"


def steps(workdir: pathlib.Path) -> list[int]:
    """Return the steps of the existing checkpoints, newest first."""
    there = directory(workdir)
    return sorted((int(path.name) for path in there.glob("*") if path.name.isdigit()), reverse=True)


@dataclasses.dataclass
class _LatestAndBest(ocp.checkpoint_managers.PreservationPolicy):
    """Keep the two latest checkpoints and the best."""

    best_step: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        latest = [checkpoint.step for checkpoint in checkpoints[-2:]]
        return [checkpoint.step in (*latest, self.best_step) for checkpoint in checkpoints]


@dataclasses.dataclass
class Checkpoints:
    """The checkpoints of a run that is being trained."""

    workdir: pathlib.Path
    manager: ocp.CheckpointManager
    kept: _LatestAndBest


@contextlib.contextmanager
def open_checkpoints(workdir: pathlib.Path) -> Iterator[Checkpoints]:
    """Open the checkpoints for the process that trains. What a killed process left unfinished is deleted."""
    kept = _LatestAndBest()
    manager = ocp.CheckpointManager(
        epath.Path(directory(workdir)),
        options=ocp.CheckpointManagerOptions(
            preservation_policy=kept,
            lightweight_initialize=True,  # read nothing of checkpoints that may be broken
            cleanup_tmp_directories=True,
        ),
    )
    with manager:
        yield Checkpoints(workdir, manager, kept)


def best_epoch(history: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the epoch with the best validation accuracy (ties: earliest epoch), or the last one of a run without."""
    if history[-1]["val_accuracy"] is None:
        return history[-1]
    return max(history, key=lambda epoch: (epoch["val_accuracy"], -epoch["epoch"]))


def progress(history: list[dict[str, Any]], clock: Clock, versions: dict[str, str | None]) -> Progress:
    """Collect what a checkpoint holds beside the state."""
    return {
        "history": history,
        "epoch_seconds": clock.epoch_seconds,
        "wall_seconds": clock.wall_seconds,
        "clock_seconds": clock.clock_seconds,
        "versions": versions,
    }


def save(checkpoints: Checkpoints, state: TrainState, progress: Progress) -> None:
    """Start to write a checkpoint of `state`.

    Both are copied first: `state` may be donated to the next step, and `progress` may change.

    Raises:
        UserError: this checkpoint, or the one before it, cannot be written.
    """
    if history := progress["history"]:
        checkpoints.kept.best_step = best_epoch(history)["step"]
    arrays = _arrays(state)
    progress = copy.deepcopy(progress) | {
        "schema": SCHEMA,
        "arrays_sha256": sha256(arrays),
        "variables_sha256": sha256({key: arrays[key] for key in _readable(arrays)}),
    }
    try:
        checkpoints.manager.save(
            int(state.step),
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(arrays),
                progress=ocp.args.JsonSave(progress | {"sha256": _json_sha256(progress)}),
            ),
        )
    except jax.errors.JaxRuntimeError:  # another process is lost
        raise
    except _WRITE_ERRORS as error:
        raise _cannot_write(checkpoints, state, error) from None


def _readable(arrays: Collection[str]) -> tuple[str, ...]:
    """Return which of the arrays of a checkpoint make up the net: the average of the variables, or the variables."""
    return ("ema",) if "ema" in arrays else ("params", "collections")


def wait(checkpoints: Checkpoints, state: TrainState) -> None:
    """Wait until the last checkpoint, that of `state`, is on disk.

    Raises:
        UserError: it cannot be written.
    """
    try:
        checkpoints.manager.wait_until_finished()
    except jax.errors.JaxRuntimeError:  # another process is lost
        raise
    except _WRITE_ERRORS as error:
        raise _cannot_write(checkpoints, state, error) from None


# Orbax and TensorStore report a full disk as any of these.
_WRITE_ERRORS = (OSError, ValueError, RuntimeError)


def _cannot_write(checkpoints: Checkpoints, state: TrainState, error: Exception) -> UserError:
    if cluster.own_place():
        supervisor.let_explain()  # the loss of another process is a ValueError, too, where gloo reports it
    there, written = directory(checkpoints.workdir), steps(checkpoints.workdir)
    reason = " ".join(str(error).split())[:200]
    whole = f"the checkpoint of step {written[0]} is whole" if written else "there is none yet"
    return UserError(
        f"A checkpoint at or before step {int(state.step)} could not be written to {there}: it needs "
        f"{megabytes(size(state))}, {megabytes(shutil.disk_usage(there).free)} are free; {whole}. "
        f"Make room and repeat the command. ({reason})"
    )


def megabytes(count: int) -> str:
    """Format a number of bytes in megabytes."""
    return f"{count / 1e6:,.1f} MB"


def size(state: TrainState) -> int:
    """Return the bytes of a checkpoint before compression."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(_arrays(state)))


def sha256(tree: Any) -> str:
    """Return the SHA-256 over path, dtype, shape and bytes of all leaves, sorted by path."""
    leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    digest = hashlib.sha256()
    for path in sorted(leaves):
        array = np.asarray(leaves[path])
        digest.update(f"{path} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _json_sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def restore_latest(
    workdir: pathlib.Path, state: TrainState, say: Callable[[str], object]
) -> tuple[TrainState, Progress] | None:
    """Restore the newest intact checkpoint. Newer, broken ones are moved to `workdir`/broken.

    Returns:
        State, as NumPy arrays, and progress; None when there is no checkpoint at all.

    Raises:
        UserError: there are checkpoints and none of them is whole, or one is of another schema or cannot be read.
    """
    broken = []
    for step in steps(workdir):
        if (restored := _unless_broken(workdir, step, lambda step: restore(workdir, step, state))) is None:
            broken.append(step)
            continue
        for bad in broken:
            aside = workdir / "broken" / str(bad)
            aside.parent.mkdir(exist_ok=True)
            shutil.rmtree(aside, ignore_errors=True)
            (directory(workdir) / str(bad)).rename(aside)
            say(f"The checkpoint of step {bad} is broken and kept in {aside}: going back to step {step}.")
        return restored
    if broken:
        raise _none_is_whole(workdir, broken)
    return None


def restore_best(workdir: pathlib.Path, state: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """Restore the state at the end of the best epoch so far, by the history in the newest intact checkpoint.

    Returns:
        The state, as NumPy arrays, and the epoch, as in history.jsonl.

    Raises:
        UserError: no epoch is finished, or a checkpoint is broken, of another schema or cannot be read.
    """
    return _best(workdir, lambda step: restore(workdir, step, state))


def restore_best_variables(workdir: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Restore the variables of the net at the end of the best epoch so far, without net and optimizer.

    Returns:
        The variables as NumPy arrays, {"params": ..., the other collections}, and the epoch, as in history.jsonl.

    Raises:
        UserError: as `restore_best`.
    """
    return _best(workdir, lambda step: restore_variables(workdir, step))


def _best(workdir: pathlib.Path, read: Callable[[int], tuple[Any, Progress]]) -> tuple[Any, dict[str, Any]]:
    """Read the checkpoint of the best epoch so far. `read` reads that of a step.

    A training may delete a checkpoint while it is read. Then the search starts again.
    """
    there, newest, best = [], None, None
    for _ in range(_READ_ATTEMPTS):
        there = steps(workdir)
        whole = ((step, _unless_broken(workdir, step, read)) for step in there)
        step, newest = next((pair for pair in whole if pair[1] is not None), (None, None))
        best = best_epoch(newest[1]["history"]) if newest and newest[1]["history"] else None
        if newest and best:
            at_best = newest if best["step"] == step else _unless_broken(workdir, best["step"], read)
            if at_best is not None:
                return at_best[0], best
        if steps(workdir) == there:
            break
    if there and newest is None:
        raise _none_is_whole(workdir, there)
    if best is None:
        raise UserError(f"The run in {workdir} has not finished an epoch: train on with --mode=train.")
    raise UserError(
        f"The checkpoint of the best epoch, {best['epoch']} at step {best['step']}, in {directory(workdir)} is "
        "broken: put it back, or train again in another --workdir."
    )


def _none_is_whole(workdir: pathlib.Path, broken: list[int]) -> UserError:
    return UserError(
        f"None of the checkpoints in {directory(workdir)} is whole (steps {', '.join(map(str, broken))}): "
        "put a whole one back, or name another --workdir to begin anew; nothing was overwritten."
    )


def check_space(workdir: pathlib.Path, state: TrainState) -> None:
    """Check that the disk has room for four checkpoints: three that are kept, and one being written.

    Raises:
        UserError: there is not.
    """
    there = directory(workdir)
    present = sum(path.stat().st_size for path in there.rglob("*") if path.is_file())
    needed, free = 4 * size(state) - present, shutil.disk_usage(workdir).free
    if free < needed:
        raise UserError(
            f"The checkpoints of this run need {megabytes(needed)}, and {there} has {megabytes(free)} free: "
            "make room, or name another --workdir."
        )


def _unless_broken(
    workdir: pathlib.Path, step: int, read: Callable[[int], tuple[Any, Progress]]
) -> tuple[Any, Progress] | None:
    """Read a checkpoint; return None if it is broken, or was deleted meanwhile.

    Raises:
        UserError: it is of another schema, or the system cannot read it, so that it may be intact.
    """
    for _ in range(2):  # a read error may be transient
        try:
            return read(step)
        except UserError:
            raise
        except Exception:  # of many types, after what is broken
            _see_that_it_can_be_read(directory(workdir) / str(step))
    return None


def _see_that_it_can_be_read(path: pathlib.Path) -> None:
    try:
        for file in path.rglob("*"):
            if file.is_file():
                file.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(
            f"{error.filename or path} cannot be read ({error.strerror}): see to the disk or its permissions, and "
            "repeat the command; nothing was changed."
        ) from None


def restore(workdir: pathlib.Path, step: int, state: TrainState) -> tuple[TrainState, Progress]:
    """Restore the state, as NumPy arrays, and the progress of a step. `state` gives the shapes.

    Raises:
        UserError: the checkpoint is of another schema.
        Exception: it is broken, of a type that depends on how.
    """
    there = epath.Path(directory(workdir) / str(step))
    progress, digests = _read_progress(there)

    as_numpy = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), _arrays(state))
    with _reader() as reader:
        args = ocp.args.Composite(state=ocp.args.StandardRestore(as_numpy))
        arrays = reader.restore(there, args=args)["state"]
    if sha256(arrays) != digests["arrays_sha256"]:
        raise ValueError("the arrays differ from their digest")
    return state.replace(**arrays), progress


def restore_variables(workdir: pathlib.Path, step: int) -> tuple[dict[str, Any], Progress]:
    """Restore the variables of the net, or their average, and the progress of a step, without net and optimizer.

    Returns:
        The variables as NumPy arrays, {"params": ..., the other collections}, and the progress.

    Raises:
        UserError: the checkpoint is of another schema.
        Exception: it is broken, of a type that depends on how.
    """
    there = epath.Path(directory(workdir) / str(step))
    progress, digests = _read_progress(there)
    alone = _alone()
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    with ocp.Checkpointer(handler, multiprocessing_options=alone) as reader:
        tree = reader.metadata(there / "state").item_metadata.tree
        wanted = {key: tree[key] for key in _readable(tree)}
        as_numpy = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        args = ocp.args.PyTreeRestore(item=wanted, restore_args=as_numpy, partial_restore=True)
        arrays = reader.restore(there / "state", args=args)
    # Checkpoints of schema 3 were written without this digest at first.
    if "variables_sha256" in digests and sha256(arrays) != digests["variables_sha256"]:
        raise ValueError("the variables differ from their digest")
    return arrays["ema"] if "ema" in arrays else {"params": arrays["params"], **arrays["collections"]}, progress


def _read_progress(there: epath.Path) -> tuple[Progress, dict[str, str]]:
    """Read the progress of a checkpoint, and the digests of its arrays.

    Raises:
        UserError: the checkpoint is of another schema.
        Exception: it is broken, of a type that depends on how.
    """
    with _reader() as reader:
        progress = reader.restore(there, args=ocp.args.Composite(progress=ocp.args.JsonRestore()))["progress"]
    digest = progress.pop("sha256", None)
    if digest != _json_sha256(progress) and not (digest is None and progress.get("schema") == 1):
        raise ValueError("the progress differs from its digest")
    schema = progress.pop("schema")
    if schema != SCHEMA:
        raise UserError(
            f"The checkpoint of step {there.name} in {there.parent} is of schema {schema}, and this jaxconv reads "
            f"schema {SCHEMA}: go on with the jaxconv that wrote it, or name another --workdir."
        )
    digests = {key: progress.pop(key) for key in ("arrays_sha256", "variables_sha256") if key in progress}
    return progress, digests


def _alone() -> ocp.options.MultiprocessingOptions:
    """Return the options of a reader that does not wait for the other processes."""
    me = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process_{me}"
    )


def _reader() -> ocp.Checkpointer:
    alone = _alone()
    options = ocp.CompositeOptions(multiprocessing_options=alone)
    return ocp.Checkpointer(ocp.CompositeCheckpointHandler(composite_options=options), multiprocessing_options=alone)


def _arrays(state: TrainState) -> dict[str, Any]:
    return {
        "step": state.step,
        "params": state.params,
        "collections": state.collections,
        "opt_state": state.opt_state,
        "epoch_sums": state.epoch_sums,
        "dropout_rng": state.dropout_rng,
        **({} if state.ema is None else {"ema": state.ema}),
        **({} if state.slow is None else {"slow": state.slow}),
    }
