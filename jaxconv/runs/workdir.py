"""The files of a run: config.json, command.txt, history.jsonl, summary.json and TensorBoard's events."""

import contextlib
import importlib.metadata
import json
import math
import os
import pathlib
import platform
from collections.abc import Callable, Iterator
from typing import IO, Any

import filelock
from tensorboardX import SummaryWriter

from jaxconv import __version__
from jaxconv.config import Config, default_config, differences, flatten, to_json
from jaxconv.errors import ConfigError, UserError
from jaxconv.models import registry
from jaxconv.runs import interrupt

FREE_TO_CHANGE = {"num_devices", "ops", "deterministic", "checkpoint_every_steps", "stop_on_nan", "report"}
FREE_TO_CHANGE |= {"data.data_dir", "data.dir", "data.strict", "data.in_memory", "data.pipeline"}
"""Fields that may differ between two starts of one run: they change results by rounding at most. signature.json notices
other data."""


def check(workdir: pathlib.Path, config: Config) -> None:
    """Check that `workdir` is empty or holds a run of `config`.

    Raises:
        ConfigError: it holds a run of another config; the message shows the difference. Or the run is to start from
            itself.
        UserError: it is a file, or its config.json is broken.
    """
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={workdir} is a file: name a directory.")
    if config.init_from is not None and pathlib.Path(config.init_from).resolve() == workdir.resolve():
        raise ConfigError(f"config.init_from={config.init_from} is the --workdir of this run: name another run.")
    if (there := read_config(workdir)) is None:
        return
    free = FREE_TO_CHANGE
    if config.optimizer.schedule == "constant":  # any other schedule is a function of num_epochs
        free = free | {"num_epochs"}
    if config.compute_dtype == "auto":  # which keeps its meaning
        free = free | {"compute_dtype"}
    changed = differences(_with_new_fields(there, config), json.loads(to_json(config)), but=free)
    if changed:
        raise ConfigError(
            f"--workdir={workdir} holds a run of another config:\n"
            + "\n".join(changed)
            + "\nName another --workdir, or repeat the command that began this run."
        )


def _with_new_fields(there: dict[str, Any], config: Config) -> dict[str, Any]:
    """Add the fields that an earlier version did not have. Their defaults are what that version did."""
    return flatten(json.loads(to_json(defaults(config.model.name)))) | flatten(there)


def defaults(model: str) -> Config:
    """Return the default config, with the fields of a model of this name."""
    config = default_config()
    config.model.name = model
    config.model = registry.resolve(config.model)
    return config


@contextlib.contextmanager
def claim(workdir: pathlib.Path, config: Config, wait: float = 0) -> Iterator[None]:
    """Create `workdir` for a run of `config`, and lock it against other runs.

    Args:
        workdir: the directory.
        config: the config.
        wait: how many seconds to wait for the lock.

    Raises:
        UserError: it cannot be made or written, or another process runs in it.
        ConfigError: another process has begun a run of another config there since `check`.
    """
    lock = filelock.FileLock(workdir / "lock", timeout=wait)  # the system releases it when the process dies
    with writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise UserError(
                f"--workdir={workdir} is in use by {holder(workdir)}: wait for it, or name another."
            ) from None
    with lock:
        check(workdir, config)
        write_atomically(workdir / "process", f"process {os.getpid()} on {platform.node()}\n")
        write_atomically(workdir / "command.txt", interrupt.command() + "\n")
        write_atomically(workdir / "config.json", to_json(config))
        yield


def holder(workdir: pathlib.Path) -> str:
    """Return the last process that claimed `workdir`, in words."""
    try:
        return (workdir / "process").read_text().strip()
    except OSError:
        return "another process"


@contextlib.contextmanager
def writing(workdir: pathlib.Path) -> Iterator[None]:
    """Turn an OSError into one sentence: `workdir` cannot be written. Use it around writes alone.

    Raises:
        UserError: a file within could not be made or written.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"--workdir={workdir} cannot be written ({error.strerror or error}): make room, or name another."
        ) from None


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[IO[bytes]]:
    """Open a file that replaces `path` by a rename at the end: a kill leaves either the old file or the new one.

    Raises:
        UserError: it cannot be written.
    """
    temporary = path.with_name(path.name + ".tmp")
    with writing(path.parent):
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)


def write_atomically(path: pathlib.Path, text: str) -> None:
    """Replace a file by a text, see `replacing`."""
    with replacing(path) as file:
        file.write(text.encode())


@contextlib.contextmanager
def open_history(
    workdir: pathlib.Path, history: list[dict[str, Any]]
) -> Iterator[Callable[[list[dict[str, Any]]], None]]:
    """Open history.jsonl, with a line for each epoch, and TensorBoard's events; write both anew from `history`.

    The function that this yields writes the history after one more epoch.
    """
    write_history(workdir, history)
    with writing(workdir):
        tensorboard = SummaryWriter(str(workdir / "tensorboard"), purge_step=0)

    def write(history: list[dict[str, Any]]) -> None:
        write_history(workdir, history)
        _write_events(tensorboard, history[-1])

    try:
        for epoch in history:
            _write_events(tensorboard, epoch)
        yield write
    finally:
        with writing(workdir):
            tensorboard.close()


def write_history(workdir: pathlib.Path, history: list[dict[str, Any]]) -> None:
    """Write history.jsonl."""
    write_atomically(workdir / "history.jsonl", "".join(dumps(epoch) + "\n" for epoch in history))


def _write_events(tensorboard: SummaryWriter, epoch: dict[str, Any]) -> None:
    """Write an epoch to TensorBoard, by step, as far as it was measured."""
    for name, value in epoch.items():
        if name not in ("epoch", "step") and value is not None:
            tensorboard.add_scalar(name, value, epoch["step"])


def read_history(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """Read history.jsonl; no epoch where there is none.

    Raises:
        UserError: it cannot be read.
    """
    path = workdir / "history.jsonl"
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except FileNotFoundError:
        return []
    except (ValueError, OSError):
        raise UserError(f"{path} cannot be read as lines of JSON: put it back, or name another --workdir.") from None


def write_summary(workdir: pathlib.Path, summary: dict[str, Any]) -> None:
    """Write summary.json, which says that the run is finished."""
    write_atomically(workdir / "summary.json", dumps(summary, indent=2) + "\n")


def dumps(value: Any, **keywords: Any) -> str:
    """Dump as JSON. Numbers that are not finite become null, since JSON has no word for them."""

    def finite(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: finite(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [finite(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(finite(value), allow_nan=False, **keywords)


def read_config(workdir: pathlib.Path) -> dict[str, Any] | None:
    """Read the resolved config of the run in `workdir`; None where there is none.

    Raises:
        UserError: it is no JSON.
    """
    return read_json(workdir / "config.json")


def read_summary(workdir: pathlib.Path) -> dict[str, Any] | None:
    """Read the summary of a finished run; None for any other, also for one that is being trained for more epochs.

    Raises:
        UserError: a file of the run is no JSON.
    """
    summary, config = (read_json(workdir / name) for name in ("summary.json", "config.json"))
    return summary if summary and config and is_finished(summary["epochs"], summary["best_epoch"], config) else None


def read_finished(workdir: pathlib.Path, config: Config) -> dict[str, Any] | None:
    """Read the summary of the run in `workdir` if `config` asks for no more training than it has; or else None.

    Raises:
        UserError: it is no JSON.
    """
    summary = read_summary(workdir)
    return summary if summary and is_finished(summary["epochs"], summary["best_epoch"], config) else None


def is_finished(epochs: int, best_epoch: int, config: Config) -> bool:
    """Return whether a run of `config` needs no more training.

    Early stopping looks at what chooses the best epoch, the validation accuracy. That of Keras looks at the validation
    loss by default.

    Args:
        epochs: the number of epochs trained.
        best_epoch: the number of the best of them.
        config: the config, or what config.json holds.
    """
    patience = config.get("early_stopping_epochs", 0)  # an earlier version had no such field
    stops_early = 0 < patience <= epochs - best_epoch
    return epochs == config["num_epochs"] or (epochs < config["num_epochs"] and stops_early)


def read_json(path: pathlib.Path) -> Any:
    """Read a JSON file of a run; None where there is none.

    Raises:
        UserError: it is no JSON.
    """
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, OSError):
        raise UserError(f"{path} cannot be read as JSON: put it back, or name another --workdir.") from None


def versions() -> dict[str, str]:
    """Return the versions of the packages that a run is computed with."""
    packages = ["jax", "jaxlib", "flax", "optax", "orbax-checkpoint"]
    found = {"jaxconv": __version__, "python": platform.python_version()}
    found |= {package: importlib.metadata.version(package) for package in packages}
    for package in ("tensorflow-datasets", "tensorflow-cpu", "tensorflow"):  # a run does without them, too
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package.removesuffix("-cpu")] = importlib.metadata.version(package)
    return found


def changed_versions(old: dict[str, str | None], new: dict[str, str | None]) -> str | None:
    """Name the versions that differ in a sentence; None if all are equal."""
    changed = [
        f"{name} {old.get(name)} (now {new.get(name)})"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    if not changed:
        return None
    return f"Begun with {', '.join(changed)}: bits may differ from those of a run that nothing interrupted."
