"""The files of a run: config.json, history.jsonl, summary.json and TensorBoard's events."""

import contextlib
import errno
import importlib.metadata
import json
import math
import os
import pathlib
import platform
from collections.abc import Iterator
from typing import Any

import filelock
from tensorboardX import SummaryWriter

from jaxconv import __version__
from jaxconv.config import Config, differences, to_json
from jaxconv.errors import ConfigError, UserError

_CANNOT_WRITE = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.ENAMETOOLONG,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}

# These may differ between two starts of one run: they change neither the parameters nor what is recorded.
_FREE_TO_CHANGE = {"num_devices", "checkpoint_every_steps", "stop_on_nan", "data.data_dir"}


def check(workdir: pathlib.Path, config: Config) -> None:
    """See that `workdir` is free for a run of `config`, or holds one.

    Raises:
        ConfigError: it holds a run of another config; the message shows the difference.
        UserError: it is a file, or its config.json is broken.
    """
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={workdir} is a file: name a directory.")
    path = workdir / "config.json"
    if not path.exists():
        return
    try:
        there = json.loads(path.read_text())
    except (ValueError, OSError):
        raise UserError(f"{path} cannot be read as JSON: put it back, or name another --workdir.") from None
    free = _FREE_TO_CHANGE
    if config.optimizer.schedule == "constant":  # any other schedule is a function of num_epochs
        free = free | {"num_epochs"}
    changed = differences(there, json.loads(to_json(config)), but=free)
    if changed:
        raise ConfigError(
            f"--workdir={workdir} holds a run of another config:\n"
            + "\n".join(changed)
            + "\nName another --workdir, or repeat the command that began this run."
        )


@contextlib.contextmanager
def claim(workdir: pathlib.Path, config: Config) -> Iterator[None]:
    """Make `workdir` that of a run of `config`, and hold it against other processes.

    Raises:
        UserError: it cannot be made or written, now or later, or another process runs in it.
    """
    try:
        with writing(workdir):
            workdir.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(workdir / "lock", timeout=0):  # the system frees it when the process dies
                write_atomically(workdir / "process", f"process {os.getpid()} on {platform.node()}\n")
                write_atomically(workdir / "config.json", to_json(config))
                yield
    except filelock.Timeout:
        holder = (workdir / "process").read_text().strip() if (workdir / "process").exists() else "another process"
        raise UserError(f"--workdir={workdir} is in use by {holder}: wait for it, or name another.") from None


@contextlib.contextmanager
def writing(workdir: pathlib.Path) -> Iterator[None]:
    """Say in one sentence that `workdir` cannot be written.

    Raises:
        UserError: a file within could not be made or written.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _CANNOT_WRITE:
            raise
        raise UserError(
            f"--workdir={workdir} cannot be written ({error.strerror}): make room, or name another."
        ) from None


def write_atomically(path: pathlib.Path, text: str) -> None:
    """Replace the file at once, so that a kill leaves either the old or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_history(workdir: pathlib.Path, history: list[dict[str, Any]]) -> None:
    """Write history.jsonl, one line an epoch."""
    write_atomically(workdir / "history.jsonl", "".join(_dump(epoch) + "\n" for epoch in history))


def read_history(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """The finished epochs of the run in `workdir`."""
    path = workdir / "history.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def write_events(tensorboard: SummaryWriter, record: dict[str, Any]) -> None:
    """Give TensorBoard the series of history.jsonl, by step."""
    for name, value in record.items():
        if name not in ("epoch", "step"):
            tensorboard.add_scalar(name, value, record["step"])


def write_summary(workdir: pathlib.Path, summary: dict[str, Any]) -> None:
    """Write summary.json, which says that the run is finished."""
    write_atomically(workdir / "summary.json", json.dumps(summary, indent=2) + "\n")


def _dump(record: dict[str, Any]) -> str:
    """A line of JSON, which has no word for numbers that are not finite."""
    return json.dumps({key: value if math.isfinite(value) else None for key, value in record.items()})


def read_summary(workdir: pathlib.Path) -> dict[str, Any] | None:
    """The summary of a finished run, None for any other."""
    path = workdir / "summary.json"
    return json.loads(path.read_text()) if path.is_file() else None


def versions() -> dict[str, str]:
    """The versions that a figure depends on."""
    packages = ["jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets"]
    return {"jaxconv": __version__, "python": platform.python_version()} | {
        package: importlib.metadata.version(package) for package in packages
    }
