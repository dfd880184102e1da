"""One step of training and one of evaluation: pure functions of a state and a batch."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxconv.config import Config
from jaxconv.models.registry import frozen_layers
from jaxconv.parallel.sharding import micro_batches
from jaxconv.training.losses import cross_entropy, mix
from jaxconv.training.optimizers import group_of
from jaxconv.training.phases import WHOLE, Phase, resized
from jaxconv.training.state import Batch, Sums, TrainState
from jaxconv.training.views import mean_logits


def sums_of(loss: Float[Array, " batch"], logits: Float[Array, "batch num_classes"], batch: Batch) -> Sums:
    """Sum loss, correct predictions and count over the examples of a batch; padding does not count."""
    real = batch["weight"] > 0
    correct = jnp.argmax(logits, axis=-1) == batch["label"]
    return Sums(
        loss=jnp.sum(loss, where=real),
        correct=jnp.sum(correct & real, dtype=jnp.float32),
        examples=jnp.sum(real, dtype=jnp.float32),
    )


def make_train_step(
    config: Config, class_weights: Float[np.ndarray, " num_classes"] | None = None, phase: Phase = WHOLE
) -> Callable[[TrainState, Batch], tuple[TrainState, Sums]]:
    """Make the step that takes a state and a batch to the next state and the sums over its epoch so far.

    Args:
        config: the config.
        class_weights: the weight of each class in the loss, also in that of the sums, as in Keras. None: all are 1.
        phase: the phase of the run.
    """
    frozen = frozen_layers(config)

    def without_gradient(keys: Any, param: Any) -> Any:
        is_still = group_of(keys, config.optimizer.groups) in phase.still
        return jax.lax.stop_gradient(param) if is_still else param

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Sums]:
        rng = jax.random.fold_in(jax.random.wrap_key_data(state.dropout_rng), state.step)
        if phase.share < 1:
            image = batch["image"]
            shape = (len(image), *resized(image.shape[1:], phase.share))
            batch = batch | {"image": jax.image.resize(image, shape, "linear")}
        if config.mixup:
            batch = mix(batch, config.mixup, jax.random.fold_in(rng, 1))
        weights = None if class_weights is None else jnp.asarray(class_weights)

        def loss_of(params: Any, collections: Any, batch: Batch, rng: jax.Array) -> tuple[Any, tuple[Sums, Any]]:
            if phase.still:
                params = jax.tree.map_with_path(without_gradient, params)
            logits, collections = state.apply_fn(
                {"params": params, **collections},
                batch["image"],
                train=True,
                weight=batch["weight"],
                rngs={"dropout": rng},
                mutable=list(collections),
            )
            loss = cross_entropy(logits, batch, config.label_smoothing, weights)
            if config.loss_reduction == "sum":
                total = jnp.sum(loss, where=batch["weight"] > 0)
            else:  # the weights come with the batch: with a count, every device would wait in mid-step for the others
                total = jnp.sum(loss * batch["weight"])
            return total, (sums_of(loss, logits, batch), collections)

        gradient = jax.grad(loss_of, has_aux=True)
        if config.accumulate_steps > 1:
            gradient = _accumulated(gradient, config.accumulate_steps)
        grads, (sums, collections) = gradient(state.params, state.collections, batch, rng)
        epoch_sums = state.epoch_sums + sums
        after = state.apply_gradients(grads=grads, collections=dict(collections), epoch_sums=epoch_sums)
        # Weight decay changes parameters without a gradient, too.
        kept = {layer: state.params[layer] for layer in frozen if layer in state.params}
        after = after.replace(params={**after.params, **kept})
        if config.lookahead_steps:
            after = _looked_ahead(after, config.lookahead_steps, config.lookahead_alpha)
        if config.ema_decay:
            after = after.replace(ema=_averaged(state, after.variables, config.ema_decay))
        return after, epoch_sums

    return train_step


def _looked_ahead(state: TrainState, steps: int, alpha: float) -> TrainState:
    """After every so many steps, move the slow variables towards the variables, which go on from there."""
    is_due = state.step % steps == 0

    def moved(slow: jax.Array, fast: jax.Array) -> jax.Array:
        return jnp.where(is_due, slow + alpha * (fast - slow), slow)

    slow = jax.tree.map(moved, state.slow, state.variables)
    variables = jax.tree.map(lambda slow, fast: jnp.where(is_due, slow, fast), slow, state.variables)
    params = variables.pop("params")
    return state.replace(slow=slow, params=params, collections=variables)


def _averaged(state: TrainState, variables: dict[str, Any], ema_decay: float) -> dict[str, Any]:
    """Move the average of a state towards new variables; faster in the first steps, as in TensorFlow."""
    decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
    return jax.tree.map(lambda average, new: average + (1 - decay) * (new - average), state.ema, variables)


def _accumulated(gradient: Callable[..., Any], count: int) -> Callable[..., Any]:
    """Turn a function that computes gradients, sums and collections of a batch into one that takes `count` parts of it.

    Gradients and sums add up, and the collections, such as the statistics of batch norm, go from one part to the next.
    """

    def accumulated(params: Any, collections: Any, batch: Batch, rng: jax.Array) -> Any:
        def add(before: Any, part: tuple[jax.Array, Batch]) -> tuple[Any, None]:
            grads, (sums, collections) = before
            number, micro_batch = part
            more_grads, (more_sums, collections) = gradient(
                params,
                collections,
                micro_batch,
                jax.random.fold_in(rng, 2 + number),  # 1 is mixup's
            )
            after = jax.tree.map(jnp.add, grads, more_grads), (sums + more_sums, dict(collections))
            # Batch norm makes NaN of a part that is all padding.
            return jax.tree.map(lambda new, old: jnp.where(more_sums.examples > 0, new, old), after, before), None

        start = jax.tree.map(jnp.zeros_like, params), (Sums.zero(), dict(collections))
        return jax.lax.scan(add, start, (jnp.arange(count), micro_batches(batch, count)))[0]

    return accumulated


def eval_step(
    state: TrainState, batch: Batch, sums: Sums, views: str = "none"
) -> tuple[Sums, Float[Array, "batch num_classes"]]:
    """Evaluate a batch, by the average where there is one, with running statistics, without dropout and smoothing.

    `views` is config.evaluation.views.

    Returns:
        `sums` plus the sums over the batch, and the probabilities of the classes.
    """
    net = functools.partial(state.apply_fn, state.eval_variables, train=False)
    logits = mean_logits(net, batch["image"], views)
    return sums + sums_of(cross_entropy(logits, batch), logits, batch), jax.nn.softmax(logits)
