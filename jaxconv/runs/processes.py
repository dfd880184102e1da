"""What the processes of a run must have in common: the config, the data and the workdir. One process has it all."""

import contextlib
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

from jaxconv.config import Config, differences, to_json
from jaxconv.errors import ConfigError, UserError
from jaxconv.parallel.distributed import from_all, from_lead
from jaxconv.platform import cluster
from jaxconv.runs import checkpoint
from jaxconv.runs import workdir as files
from jaxconv.training.state import TrainState

_DIED_SECONDS = 10
"""How long process 0 waits for the lock of a run that is being killed, of which the system ends one process by one."""


def check_config(config: Config) -> None:
    """Check that all processes have the same resolved config. The place of the data may differ.

    Raises:
        ConfigError: this one has another one than process 0.
    """
    own = json.loads(to_json(config))
    if changed := differences(from_all(own)[0], own, but={"data.data_dir", "data.dir"}):
        raise ConfigError(
            "Process 0 (there) has another config than this one (here):\n"
            + "\n".join(changed)
            + "\nGive all processes the same command. What is auto may differ between machines: then set it."
        )


def check_data(version: str, counts: dict[str, Any]) -> None:
    """Check that all processes read the same data.

    Args:
        version: the name and the version of the data set.
        counts: the counts of its examples.

    Raises:
        UserError: this one reads other data than process 0.
    """
    own = json.loads(json.dumps([version, counts]))
    if (of_lead := from_all(own)[0]) != own:
        raise UserError(f"This process reads {own}, and process 0 {of_lead}: give all machines the same data.")


@contextlib.contextmanager
def claim(workdir: pathlib.Path, config: Config) -> Iterator[None]:
    """Claim the workdir for all processes of the run: process 0 does, and the others see that it did.

    Raises:
        UserError: it cannot be claimed, or this process does not see what process 0 writes there.
    """
    wait = _DIED_SECONDS if cluster.own_place() else 0
    with files.claim(workdir, config, wait) if cluster.is_lead() else contextlib.nullcontext():
        holder = from_lead(lambda: files.holder(workdir))
        if files.holder(workdir) != holder:
            raise UserError(
                f"--workdir={workdir} is not that of process 0, which is {holder}: name a directory that all machines "
                "share."
            )
        yield


def restore(
    find: Callable[[], tuple[TrainState, Any] | None], workdir: pathlib.Path, state: TrainState
) -> tuple[TrainState, Any] | None:
    """Restore in all processes the checkpoint that process 0 finds.

    Args:
        find: restores a checkpoint, such as `checkpoint.restore_latest`. Process 0 calls it.
        workdir: the workdir.
        state: gives the shapes.

    Returns:
        What `find` returns, or `checkpoint.restore` for the same step: the state as NumPy arrays.

    Raises:
        UserError: as `find`, or this process cannot read that checkpoint.
    """
    found = find() if cluster.is_lead() else None
    step = from_lead(lambda: int(found[0].step) if found else None)
    if step is None or found:
        return found
    try:
        return checkpoint.restore(workdir, step, state)
    except UserError:
        raise
    except Exception as error:  # of many types, after what is wrong
        raise UserError(
            f"Process 0 reads the checkpoint of step {step} in {checkpoint.directory(workdir)}, and this process "
            f"cannot ({error}): see that all machines share --workdir."
        ) from None
