"""Checkpoints of a run, by Orbax: the two latest and the best, written while training goes on.

A checkpoint is committed whole or not at all, and carries the digest of its arrays, so that a broken one is known.
"""

import copy
import hashlib
import pathlib
import shutil
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from jaxconv import console
from jaxconv.errors import UserError
from jaxconv.step import TrainState

SCHEMA = 1
"""The form of what is saved; it grows by one whenever an older checkpoint would be misread."""

Progress = dict[str, Any]
"""What a run knows beside its state, as JSON: history (a list of epochs) and the seconds spent."""


def open_checkpoints(workdir: pathlib.Path) -> ocp.CheckpointManager:
    """The checkpoints in `workdir`/checkpoints, where writes interrupted by a kill are cleared away."""
    policies = ocp.checkpoint_managers
    return ocp.CheckpointManager(
        epath.Path(workdir.absolute() / "checkpoints"),
        options=ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(
                [
                    policies.LatestN(2),
                    policies.BestN(get_metric_fn=_quality, n=1, keep_checkpoints_without_metrics=False),
                ]
            ),
            best_fn=_quality,  # the policies rule; without this, a manager opened anew would not read the metrics
            cleanup_tmp_directories=True,
        ),
    )


def _quality(metrics: dict[str, Any]) -> Any:
    return metrics["val_accuracy"], -metrics["epoch"]  # of equals the first


def best_epoch(history: list[dict[str, Any]]) -> dict[str, Any]:
    """The epoch of the best validation accuracy; of equals the first."""
    return max(history, key=_quality)


def save(checkpoints: ocp.CheckpointManager, state: TrainState, progress: Progress, *, end_of_epoch: bool) -> None:
    """Start to write a checkpoint of `state`; the end of an epoch makes it a candidate for the best.

    It holds what `state` and `progress` are now, whatever becomes of them while it is written.

    Raises:
        UserError: this checkpoint, or the one before it, cannot be written.
    """
    arrays = _arrays(state)
    header = {"schema": SCHEMA, "arrays_sha256": sha256(arrays)}
    try:
        checkpoints.save(
            int(state.step),
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(arrays),
                progress=ocp.args.JsonSave(copy.deepcopy(progress) | header),
            ),
            metrics=progress["history"][-1] if end_of_epoch else None,
        )
    except _WRITE_ERRORS as error:
        raise _cannot_write(checkpoints, state, error) from None


def wait(checkpoints: ocp.CheckpointManager, state: TrainState) -> None:
    """Wait until the last checkpoint, that of `state`, is on disk.

    Raises:
        UserError: it cannot be written.
    """
    try:
        checkpoints.wait_until_finished()
    except _WRITE_ERRORS as error:
        raise _cannot_write(checkpoints, state, error) from None


# Orbax and TensorStore report a full disk as any of these.
_WRITE_ERRORS = (OSError, ValueError, RuntimeError)


def _cannot_write(checkpoints: ocp.CheckpointManager, state: TrainState, error: Exception) -> UserError:
    directory = pathlib.Path(checkpoints.directory)
    reason = " ".join(str(error).split())[:200]
    steps = [int(path.name) for path in directory.iterdir() if path.name.isdigit()]
    whole = f"the checkpoint of step {max(steps)} is whole" if steps else "there is none yet"
    return UserError(
        f"A checkpoint at or before step {int(state.step)} could not be written to {directory}: it needs "
        f"{megabytes(size(state))}, {megabytes(shutil.disk_usage(directory).free)} are free; {whole}. "
        f"Make room and repeat the command. ({reason})"
    )


def megabytes(count: int) -> str:
    """A number of bytes for people."""
    return f"{count / 1e6:,.1f} MB"


def size(state: TrainState) -> int:
    """Bytes of a checkpoint, before compression."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(_arrays(state)))


def sha256(tree: Any) -> str:
    """The SHA-256 over path, dtype, shape and bytes of every leaf, in the order of their paths."""
    leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    digest = hashlib.sha256()
    for path in sorted(leaves):
        array = np.asarray(leaves[path])
        digest.update(f"{path} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def restore_latest(
    checkpoints: ocp.CheckpointManager, state: TrainState, sharding: jax.sharding.Sharding
) -> tuple[TrainState, Progress] | None:
    """The newest checkpoint that is whole; broken ones that are newer go to checkpoints/../broken.

    Returns:
        State and progress; None when there is no checkpoint at all.

    Raises:
        UserError: there are checkpoints and none of them is whole, or one is of another schema.
    """
    directory = pathlib.Path(checkpoints.directory)
    steps = sorted((int(path.name) for path in directory.iterdir() if path.name.isdigit()), reverse=True)
    broken = []
    for step in steps:
        try:
            restored = restore(checkpoints, step, state, sharding)
        except UserError:
            raise
        except Exception:  # of many types, after what is broken
            broken.append(step)
            continue
        for bad in broken:
            aside = directory.parent / "broken" / str(bad)
            aside.parent.mkdir(exist_ok=True)
            shutil.rmtree(aside, ignore_errors=True)
            (directory / str(bad)).rename(aside)
            console.say(f"The checkpoint of step {bad} is broken and kept in {aside}: going back to step {step}.")
        if broken:
            checkpoints.reload()
        return restored
    if broken:
        raise UserError(
            f"None of the checkpoints in {directory} is whole (steps {', '.join(map(str, broken))}): "
            "put a whole one back, or name another --workdir to begin anew; nothing was overwritten."
        )
    return None


def restore_best(
    checkpoints: ocp.CheckpointManager, best: dict[str, Any], state: TrainState, sharding: jax.sharding.Sharding
) -> TrainState:
    """The state at the end of the epoch `best`.

    Raises:
        UserError: its checkpoint is broken or of another schema.
    """
    try:
        return restore(checkpoints, best["step"], state, sharding)[0]
    except UserError:
        raise
    except Exception:
        raise UserError(
            f"The checkpoint of the best epoch, {best['epoch']} at step {best['step']}, in {checkpoints.directory} is "
            "broken: put it back, or train again in another --workdir."
        ) from None


def check_space(checkpoints: ocp.CheckpointManager, state: TrainState) -> None:
    """See that there is room for the checkpoints of a run: three that stay and one being written.

    Raises:
        UserError: there is not.
    """
    directory = pathlib.Path(checkpoints.directory)
    there = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    needed, free = 4 * size(state) - there, shutil.disk_usage(directory).free
    if free < needed:
        raise UserError(
            f"The checkpoints of this run need {megabytes(needed)}, and {directory} has {megabytes(free)} free: "
            "make room, or name another --workdir."
        )


def restore(
    checkpoints: ocp.CheckpointManager, step: int, state: TrainState, sharding: jax.sharding.Sharding
) -> tuple[TrainState, Progress]:
    """The state and the progress saved at `step`; `state` gives the shapes, `sharding` the devices.

    Raises:
        UserError: the checkpoint is of another schema.
        Exception: it is broken, of a type that depends on how.
    """
    progress = checkpoints.restore(step, args=ocp.args.Composite(progress=ocp.args.JsonRestore()))["progress"]
    schema = progress.pop("schema")
    if schema != SCHEMA:
        raise UserError(
            f"The checkpoint of step {step} in {checkpoints.directory} is of schema {schema}, and this jaxconv reads "
            f"schema {SCHEMA}: go on with the jaxconv that wrote it, or name another --workdir."
        )

    def abstract(leaf: Any) -> Any:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    args = ocp.args.StandardRestore(jax.tree.map(abstract, _arrays(state)))
    arrays = checkpoints.restore(step, args=ocp.args.Composite(state=args))["state"]
    if sha256(arrays) != progress.pop("arrays_sha256"):
        raise ValueError("the arrays differ from their digest")
    return state.replace(**arrays), progress


def _arrays(state: TrainState) -> dict[str, Any]:
    return {
        "step": state.step,
        "params": state.params,
        "opt_state": state.opt_state,
        "epoch_sums": state.epoch_sums,
        "dropout_rng": state.dropout_rng,
    }
