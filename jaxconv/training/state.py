"""What a step of training takes and changes."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax.training import train_state
from jaxtyping import Array, Bool, Float

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


@jax.jit
def is_finite(state: TrainState) -> Bool[Array, ""]:
    """Whether every parameter and every number of the optimizer is finite."""
    floats = [
        leaf for leaf in jax.tree.leaves((state.params, state.opt_state)) if jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in floats]))
