"""One step of training and one of evaluation: pure functions of a state and a batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxconv.config import Config
from jaxconv.training.losses import cross_entropy, mix
from jaxconv.training.state import Batch, Sums, TrainState


def sums_of(loss: Float[Array, " batch"], logits: Float[Array, "batch num_classes"], batch: Batch) -> Sums:
    """Loss, hits and count over the examples of a batch that are no padding."""
    real = batch["weight"] > 0
    hits = jnp.argmax(logits, axis=-1) == batch["label"]
    return Sums(
        loss=jnp.sum(loss, where=real),
        correct=jnp.sum(hits & real, dtype=jnp.float32),
        examples=jnp.sum(real, dtype=jnp.float32),
    )


def make_train_step(
    config: Config,
) -> Callable[[TrainState, Batch], tuple[TrainState, Sums]]:
    """The step that takes a state and a batch to the next state and the sums over its epoch so far."""

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Sums]:
        rng = jax.random.fold_in(jax.random.wrap_key_data(state.dropout_rng), state.step)
        if config.mixup:
            batch = mix(batch, config.mixup, jax.random.fold_in(rng, 1))

        def mean_loss(params: Any) -> tuple[Float[Array, ""], Sums]:
            logits = state.apply_fn({"params": params}, batch["image"], train=True, rngs={"dropout": rng})
            loss = cross_entropy(logits, batch, config.label_smoothing)
            # By weights that come with the batch: a count would have every device wait in mid-step for the others'.
            return jnp.sum(loss * batch["weight"]), sums_of(loss, logits, batch)

        grads, sums = jax.grad(mean_loss, has_aux=True)(state.params)
        epoch_sums = state.epoch_sums + sums
        return state.apply_gradients(grads=grads, epoch_sums=epoch_sums), epoch_sums

    return train_step


def eval_step(state: TrainState, batch: Batch, sums: Sums) -> Sums:
    """`sums` and those over a batch, without dropout and label smoothing."""
    logits = state.apply_fn({"params": state.params}, batch["image"], train=False)
    return sums + sums_of(cross_entropy(logits, batch), logits, batch)
