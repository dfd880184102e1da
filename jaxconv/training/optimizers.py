"""From config.optimizer to an optax optimizer and its learning rate schedule."""

import fnmatch
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import jax
import optax
from ml_collections import config_dict

from jaxconv.config import Config, choose
from jaxconv.errors import ConfigError
from jaxconv.training import muon

OPTIMIZERS = {
    "adam": lambda config, dtype: optax.scale_by_adam(eps=1e-7),
    "rmsprop": lambda config, dtype: optax.scale_by_rms(decay=0.9, eps=1e-7),
    "sgd": lambda config, dtype: optax.trace(config.momentum, nesterov=True),
    "muon": lambda config, dtype: muon.scale_by_muon(config.momentum, dtype),
}
"""The update before weight decay and learning rate. Constants are those of Keras, or of Muon's authors."""

SCHEDULES = {
    "constant": lambda rate, steps: optax.constant_schedule(rate),
    "linear": lambda rate, steps: optax.linear_schedule(rate, 0.0, steps),
    "cosine": lambda rate, steps: optax.cosine_decay_schedule(rate, steps),
}

_REST = "rest"
"""The label of parameters of no group."""


def create_schedule(config: Config, *, num_epochs: float, steps_per_epoch: int) -> optax.Schedule:
    """Create the learning rate as a function of the step: linear warm-up, then config.schedule to the last step.

    A warm-up longer than the run ends with it, below config.learning_rate.

    Raises:
        ConfigError: the schedule is not known.
    """
    warmup_steps = _steps(config.warmup_epochs, steps_per_epoch)
    decay_steps = max(_steps(num_epochs, steps_per_epoch) - warmup_steps, 1)
    decay = choose("optimizer.schedule", config.schedule, SCHEDULES)(config.learning_rate, decay_steps)
    if not warmup_steps:
        return decay
    warmup = optax.linear_schedule(0.0, config.learning_rate, warmup_steps)
    return optax.join_schedules([warmup, decay], [warmup_steps])


def _steps(epochs: float, steps_per_epoch: int) -> int:
    return min(round(epochs * steps_per_epoch), 2**31 - 1)  # as large as steps can be


def create_optimizer(
    config: Config, *, num_epochs: int, steps_per_epoch: int, clip_norm: float = 0.0, dtype: str = "float32"
) -> optax.GradientTransformation:
    """Create the optimizer, with decoupled weight decay (arXiv:1711.05101) on kernels and not on biases.

    Args:
        config: config.optimizer. Each of its groups of parameters has an optimizer and a schedule of its own.
        num_epochs: number of epochs of the run.
        steps_per_epoch: steps in an epoch.
        clip_norm: the largest global norm of the gradients (arXiv:1211.5063), of all groups together. 0: any.
        dtype: the dtype in which Muon orthogonalises.

    Raises:
        ConfigError: an optimizer or the schedule is not known. `init` raises it when a group has no parameter.
    """

    def parts(key: str, settings: Mapping[str, Any]) -> list[optax.GradientTransformation]:
        own: Config = config_dict.ConfigDict({**config, **settings})
        update = choose(f"{key}.name", own.name, OPTIMIZERS)(own, dtype)
        mask = None if "weight_decay" in settings else _kernels
        decay = optax.add_decayed_weights(own.weight_decay, mask) if own.weight_decay else optax.identity()
        epochs = settings.get("epochs")
        length = num_epochs if epochs is None else epochs
        schedule = create_schedule(own, num_epochs=length, steps_per_epoch=steps_per_epoch)
        if epochs is not None:  # from then on, also a constant rate is 0
            stop = optax.constant_schedule(0.0)
            schedule = optax.join_schedules([schedule, stop], [_steps(epochs, steps_per_epoch)])
        reset = [muon.reset_norms()] if own.name == "muon" else []
        return [update, decay, optax.scale_by_learning_rate(schedule), *reset]

    clip = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []  # else the state has no place for it
    rest = parts("optimizer", {})
    if not config.groups:
        return optax.chain(*clip, *rest)
    chains: dict[Hashable, optax.GradientTransformation] = {_REST: optax.chain(*rest)}
    for number, (pattern, settings) in enumerate(config.groups):
        chains[f"group_{number}"] = optax.chain(*parts(f"optimizer.groups[{pattern!r}]", settings))
    return optax.chain(*clip, optax.partition(chains, lambda params: _labels(params, config.groups)))


def group_of(keys: Any, groups: Sequence[tuple[str, Any]]) -> int | None:
    """Return the number of the first of config.optimizer.groups whose pattern matches a parameter; None: no group.

    Args:
        keys: the keys of the parameter in the tree, as of jax.tree.map_with_path.
        groups: config.optimizer.groups.
    """
    path = _path(keys)
    return next((n for n, (pattern, _) in enumerate(groups) if fnmatch.fnmatchcase(path, pattern)), None)


def _labels(params: Any, groups: Sequence[tuple[str, Any]]) -> Any:
    """Label each parameter by its group, `_REST` for none.

    Raises:
        ConfigError: a group has no parameter.
    """
    found = {_path(keys): group_of(keys, groups) for keys, _ in jax.tree.leaves_with_path(params)}
    for number, (pattern, _) in enumerate(groups):
        if number not in found.values():
            raise ConfigError(
                f"config.optimizer.groups: {pattern!r} matches no parameter that the groups before it leave; "
                f"the net has {', '.join(found)}."
            )

    def label(keys: Any, _: Any) -> str:
        number = found[_path(keys)]
        return _REST if number is None else f"group_{number}"

    return jax.tree.map_with_path(label, params)


def _path(keys: Any) -> str:
    """Write the path of a parameter, such as "Conv_0/kernel", from its keys in the tree."""
    return jax.tree_util.keystr(keys, simple=True, separator="/")


def _kernels(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
