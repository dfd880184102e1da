"""One step of training and one of evaluation: pure functions of a state and a batch."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax.training import train_state
from jaxtyping import Array, Bool, Float

from jaxconv.config import Config

Batch = dict[str, Any]
"""image: float32 (batch, *spatial, channels); label: int32 (batch,); weight: float32 (batch,), 1 / the number of
examples in the batch, 0 for padding.

After `mix` also second_label: int32 (batch,), and share: float32 (batch,), that of the first."""


@flax.struct.dataclass
class Sums:
    """Sums over examples, so that batches, devices and epochs of any size add up exactly."""

    loss: Float[Array, ""]
    correct: Float[Array, ""]
    examples: Float[Array, ""]

    @classmethod
    def zero(cls) -> "Sums":
        """The sums over no example."""
        return cls(*(jnp.zeros((), jnp.float32) for _ in range(3)))

    def __add__(self, other: "Sums") -> "Sums":
        return jax.tree.map(jnp.add, self, other)

    def means(self) -> tuple[float, float]:
        """The loss (nats) and the accuracy, per example."""
        examples = max(float(self.examples), 1.0)
        return float(self.loss) / examples, float(self.correct) / examples


class TrainState(train_state.TrainState):
    """Everything that a step of training changes."""

    epoch_sums: Sums
    """Over the epoch so far; in the state, so that a run resumed in mid-epoch reports the whole epoch."""
    dropout_rng: jax.Array
    """Key data (uint32) of the run; a step folds its number in."""


def create_state(
    model: Any, optimizer: optax.GradientTransformation, image_shape: tuple[int, ...], seed: int
) -> TrainState:
    """A state before its first step, for images of shape (*spatial, channels)."""

    @jax.jit  # else each small operation would be compiled by itself, which takes seconds
    def create() -> TrainState:
        params_rng, dropout_rng = jax.random.split(jax.random.key(seed))
        variables = model.init(params_rng, jnp.zeros((1, *image_shape)), train=False)
        return TrainState.create(
            apply_fn=model.apply,
            params=variables["params"],
            tx=optimizer,
            epoch_sums=Sums.zero(),
            dropout_rng=jax.random.key_data(dropout_rng),
        ).replace(step=jnp.zeros((), jnp.int32))

    return create()


def cross_entropy(
    logits: Float[Array, "batch num_classes"], batch: Batch, label_smoothing: float = 0.0
) -> Float[Array, " batch"]:
    """The cross entropy (nats) of each example, of both its labels in their shares after `mix`.

    With label smoothing (arXiv:1512.00567), the target is 1 - label_smoothing on the label, and the rest is
    spread evenly over all classes.
    """
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    if "share" in batch:
        second = optax.softmax_cross_entropy_with_integer_labels(logits, batch["second_label"])
        loss = batch["share"] * loss + (1 - batch["share"]) * second
    if label_smoothing:
        to_all_classes = -jnp.mean(jax.nn.log_softmax(logits), axis=-1)
        loss = (1 - label_smoothing) * loss + label_smoothing * to_all_classes
    return loss


def sums_of(loss: Float[Array, " batch"], logits: Float[Array, "batch num_classes"], batch: Batch) -> Sums:
    """Loss, hits and count over the examples of a batch that are no padding."""
    real = batch["weight"] > 0
    hits = jnp.argmax(logits, axis=-1) == batch["label"]
    return Sums(
        loss=jnp.sum(loss, where=real),
        correct=jnp.sum(hits & real, dtype=jnp.float32),
        examples=jnp.sum(real, dtype=jnp.float32),
    )


def mix(batch: Batch, alpha: float, rng: jax.Array) -> Batch:
    """The batch with each image mixed with the one before it: mixup (arXiv:1710.09412).

    One share for the batch, from Beta(alpha, alpha) and at least half, so that `label` stays that of the larger
    part, whose accuracy is counted. Nothing is mixed with padding.
    """
    drawn = jax.random.beta(rng, alpha, alpha)
    second = {key: jnp.roll(value, 1, axis=0) for key, value in batch.items()}
    share = jnp.where(second["weight"] > 0, jnp.maximum(drawn, 1 - drawn), 1.0)
    by_image = share.reshape(-1, *[1] * (batch["image"].ndim - 1))
    image = by_image * batch["image"] + (1 - by_image) * second["image"]
    return batch | {"image": image, "second_label": second["label"], "share": share}


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


@jax.jit
def is_finite(state: TrainState) -> Bool[Array, ""]:
    """Whether every parameter and every number of the optimizer is finite."""
    floats = [
        leaf for leaf in jax.tree.leaves((state.params, state.opt_state)) if jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in floats]))
