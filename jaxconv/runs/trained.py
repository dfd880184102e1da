"""A trained net alone, without its data set and its optimizer."""

import pathlib
from typing import Any, NamedTuple

import flax.linen as nn

from jaxconv.config import Config, default_config, flatten, validate
from jaxconv.errors import ConfigError, UserError
from jaxconv.models import registry
from jaxconv.runs import checkpoint, signature
from jaxconv.runs import workdir as files
from jaxconv.runs.signature import Signature


class Trained(NamedTuple):
    """The net of a run at the end of its best epoch so far."""

    model: nn.Module
    """The net, with the stock forms of its operations."""
    variables: dict[str, Any]
    """What it is applied to, as NumPy arrays: params, and batch_stats where it has batch norm."""
    signature: Signature
    config: Config
    """The resolved config of the run. A field that an earlier version did not have has its default."""
    best: dict[str, Any]
    """The best epoch, as in history.jsonl."""


def load(workdir: pathlib.Path) -> Trained:
    """Load the best net so far of the run in `workdir`. It changes nothing there, and may run beside a training.

    Raises:
        UserError: there is no run with a finished epoch, an earlier version began it, or a file of it is broken.
    """
    recorded = files.read_config(workdir)
    if recorded is None:
        raise ConfigError(f"--workdir={workdir} holds no run: train one with --mode=train first.")
    try:
        config = to_config(recorded)
        taken = signature.read(workdir)
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"config.json or signature.json in --workdir={workdir} is not what a run writes ({error}): put it back, or "
            "name another --workdir."
        ) from None
    variables, best = checkpoint.restore_best_variables(workdir)
    model = registry.create_model(config.model, len(taken.class_names))
    return Trained(model, variables, taken, config, best)


def to_config(recorded: dict[str, Any]) -> Config:
    """Make a config of what config.json holds. A field that an earlier version did not have has its default.

    Raises:
        UserError: a value is wrong.
        Exception: it has other fields than a config, an AttributeError, KeyError or TypeError.
    """
    config = default_config()
    config.update_from_flattened_dict({key: _with_tuples(value) for key, value in flatten(recorded).items()})
    config.model = registry.resolve(config.model)
    validate(config)
    return config


def _with_tuples(value: Any) -> Any:
    """JSON turns tuples into lists."""
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value
