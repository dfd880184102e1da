"""From config.optimizer to an optax optimizer and its learning rate schedule."""

from typing import Any

import jax
import optax

from jaxconv.config import Config, choose

OPTIMIZERS = {
    "adam": lambda config: optax.scale_by_adam(eps=1e-7),
    "rmsprop": lambda config: optax.scale_by_rms(decay=0.9, eps=1e-7),
    "sgd": lambda config: optax.trace(config.momentum, nesterov=True),
}
"""The update before weight decay and learning rate. Constants are those of Keras."""

SCHEDULES = {
    "constant": lambda rate, steps: optax.constant_schedule(rate),
    "linear": lambda rate, steps: optax.linear_schedule(rate, 0.0, steps),
    "cosine": lambda rate, steps: optax.cosine_decay_schedule(rate, steps),
}


def create_schedule(config: Config, *, num_epochs: int, steps_per_epoch: int) -> optax.Schedule:
    """Create the learning rate as a function of the step: linear warm-up, then config.schedule to the last step.

    A warm-up longer than the run ends with it, below config.learning_rate.

    Raises:
        ConfigError: the schedule is not known.
    """
    warmup_steps = min(round(config.warmup_epochs * steps_per_epoch), 2**31 - 1)  # as large as steps can be
    decay_steps = max(num_epochs * steps_per_epoch - warmup_steps, 1)
    decay = choose("optimizer.schedule", config.schedule, SCHEDULES)(config.learning_rate, decay_steps)
    if not warmup_steps:
        return decay
    warmup = optax.linear_schedule(0.0, config.learning_rate, warmup_steps)
    return optax.join_schedules([warmup, decay], [warmup_steps])


def create_optimizer(
    config: Config, schedule: optax.Schedule, *, clip_norm: float = 0.0
) -> optax.GradientTransformation:
    """Create the optimizer, with decoupled weight decay (arXiv:1711.05101) on kernels and not on biases.

    Args:
        config: config.optimizer.
        schedule: the learning rate as a function of the step.
        clip_norm: the largest global norm of the gradients (arXiv:1211.5063). 0: any.

    Raises:
        ConfigError: the optimizer is not known.
    """
    update = choose("optimizer.name", config.name, OPTIMIZERS)(config)
    decay = optax.add_decayed_weights(config.weight_decay, mask=_kernels) if config.weight_decay else optax.identity()
    clip = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []  # else the state has no place for it
    return optax.chain(*clip, update, decay, optax.scale_by_learning_rate(schedule))


def _kernels(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
