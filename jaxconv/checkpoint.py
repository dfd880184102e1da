"""Checkpoints of a run, by Orbax: the two latest and the best, written while training goes on."""

import copy
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from jaxconv.step import TrainState

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
    """
    checkpoints.save(
        int(state.step),
        args=ocp.args.Composite(
            state=ocp.args.StandardSave(_arrays(state)),
            progress=ocp.args.JsonSave(copy.deepcopy(progress)),
        ),
        metrics=progress["history"][-1] if end_of_epoch else None,
    )


def restore(
    checkpoints: ocp.CheckpointManager, step: int, state: TrainState, sharding: jax.sharding.Sharding
) -> tuple[TrainState, Progress]:
    """The state and the progress saved at `step`; `state` gives the shapes, `sharding` the devices."""

    def abstract(leaf: Any) -> Any:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    restored = checkpoints.restore(
        step,
        args=ocp.args.Composite(
            state=ocp.args.StandardRestore(jax.tree.map(abstract, _arrays(state))),
            progress=ocp.args.JsonRestore(),
        ),
    )
    return state.replace(**restored["state"]), restored["progress"]


def _arrays(state: TrainState) -> dict[str, Any]:
    return {
        "step": state.step,
        "params": state.params,
        "opt_state": state.opt_state,
        "epoch_sums": state.epoch_sums,
        "dropout_rng": state.dropout_rng,
    }
