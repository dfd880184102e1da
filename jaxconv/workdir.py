"""The files of a run: config.json, history.jsonl, summary.json and TensorBoard's events."""

import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
from typing import Any

import jax
import numpy as np
from tensorboardX import SummaryWriter

from jaxconv import __version__
from jaxconv.config import Config, differences, to_json
from jaxconv.errors import ConfigError, UserError

# These may differ between two starts of one run: they change neither the parameters nor what is recorded.
_FREE_TO_CHANGE = ("config.num_devices:", "config.checkpoint_every_steps:", "config.data.data_dir:")


def claim(workdir: pathlib.Path, config: Config) -> None:
    """Make `workdir` the directory of a run of `config`, or see that it is one.

    Raises:
        ConfigError: it belongs to a run of another config; the message shows the difference.
        UserError: it cannot be made or written.
    """
    path = workdir / "config.json"
    if path.is_file():
        check_same_config(workdir, config)
        return
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={workdir} is a file: name a directory.")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        write_atomically(path, to_json(config))
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be written ({error.strerror}): name another directory.") from None


def check_same_config(workdir: pathlib.Path, config: Config) -> None:
    """See that `workdir` holds a run of `config`.

    Raises:
        ConfigError: it holds a run of another config, or none.
    """
    try:
        there = json.loads((workdir / "config.json").read_text())
    except FileNotFoundError:
        raise ConfigError(f"--workdir={workdir} holds no run: train one with --mode=train first.") from None
    except ValueError:
        raise UserError(f"{workdir}/config.json is not JSON: restore it, or name another --workdir.") from None
    here = json.loads(to_json(config))
    changed = [line for line in differences(there, here) if not line.strip().startswith(_FREE_TO_CHANGE)]
    if changed:
        raise ConfigError(
            f"--workdir={workdir} holds a run of another config:\n"
            + "\n".join(changed)
            + "\nName another --workdir, or repeat the command that began this run."
        )


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
    write_atomically(workdir / "history.jsonl", "".join(json.dumps(epoch) + "\n" for epoch in history))


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


def read_summary(workdir: pathlib.Path) -> dict[str, Any] | None:
    """The summary of a finished run, None for any other."""
    path = workdir / "summary.json"
    return json.loads(path.read_text()) if path.is_file() else None


def params_sha256(params: Any) -> str:
    """The SHA-256 over path, dtype, shape and bytes of every leaf, in the order of their paths."""
    leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    digest = hashlib.sha256()
    for path in sorted(leaves):
        array = np.asarray(leaves[path])
        digest.update(f"{path} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """The versions that a figure depends on."""
    packages = ["jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets"]
    return {"jaxconv": __version__, "python": platform.python_version()} | {
        package: importlib.metadata.version(package) for package in packages
    }
