"""What a step of training takes and changes."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax.training import train_state
from jaxtyping import Array, Bool, Float

Batch = dict[str, Any]
"""A batch of examples, a dict of arrays:

- image: float32 (batch, *spatial, channels).
- label: int32 (batch,).
- weight: float32 (batch,), 1 / the number of examples in the batch; 0 for padding.

`jaxconv.training.losses.mix` adds second_label, int32 (batch,), and share, float32 (batch,): that of the first image.
"""


@flax.struct.dataclass
class Sums:
    """Sums over examples. They add up exactly over batches, devices and epochs of any size."""

    loss: Float[Array, ""]
    correct: Float[Array, ""]
    examples: Float[Array, ""]

    @classmethod
    def zero(cls) -> "Sums":
        """Return the sums over no example."""
        return cls(*(jnp.zeros((), jnp.float32) for _ in range(3)))

    def __add__(self, other: "Sums") -> "Sums":
        return jax.tree.map(jnp.add, self, other)

    def means(self) -> tuple[float, float]:
        """Return the loss (nats) and the accuracy per example."""
        examples = max(float(self.examples), 1.0)
        return float(self.loss) / examples, float(self.correct) / examples


class TrainState(train_state.TrainState):
    """Everything that a step of training changes."""

    collections: dict[str, Any]
    """The variables of the net that are not trained, such as batch_stats, the running statistics of batch norm."""
    epoch_sums: Sums
    """Sums over the epoch so far. They are in the state so that a run resumed in mid-epoch reports the whole epoch."""
    dropout_rng: jax.Array
    """Key data (uint32) of the run. Each step folds its number in."""
    ema: dict[str, Any] | None = None
    """The exponential moving average of `variables`. None: the run keeps none."""
    slow: dict[str, Any] | None = None
    """The slow weights of Lookahead (arXiv:1907.08610), for all `variables`. None: the run does not look ahead."""

    @property
    def variables(self) -> dict[str, Any]:
        """What a step of training applies the net to."""
        return {"params": self.params, **self.collections}

    @property
    def eval_variables(self) -> dict[str, Any]:
        """What all others apply the net to: the average, where there is one."""
        return self.variables if self.ema is None else self.ema


def create_state(
    model: Any,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, ...],
    seed: int,
    *,
    keeps_ema: bool = False,
    looks_ahead: bool = False,
) -> TrainState:
    """Create the state before the first step.

    Args:
        model: a Flax module that takes images and `train`.
        optimizer: the optimizer.
        image_shape: (*spatial, channels).
        seed: seed of the initial parameters and of dropout.
        keeps_ema: whether the state has an exponential moving average of the variables.
        looks_ahead: whether it has slow variables.
    """

    @jax.jit  # without jit, each small operation compiles by itself, which takes seconds
    def create() -> TrainState:
        params_rng, dropout_rng = jax.random.split(jax.random.key(seed))
        variables = dict(model.init(params_rng, jnp.zeros((1, *image_shape)), train=False))
        whole, params = dict(variables), variables.pop("params")
        return TrainState.create(
            apply_fn=model.apply,
            params=params,
            tx=optimizer,
            collections=variables,
            epoch_sums=Sums.zero(),
            dropout_rng=jax.random.key_data(dropout_rng),
            ema=whole if keeps_ema else None,
            slow=whole if looks_ahead else None,
        ).replace(step=jnp.zeros((), jnp.int32))

    return create()


def take_layers(state: TrainState, variables: dict[str, Any]) -> tuple[TrainState, list[str]]:
    """Replace the layers of a net by those of another one that have the same names and shapes.

    Args:
        state: the state.
        variables: the variables of the other net.

    Returns:
        The state, whose average and slow variables start from them, too, and the names of the layers that are still
        its own.
    """
    own = [layer for layer in state.params if _shapes(state.variables, layer) != _shapes(variables, layer)]
    merged = {
        collection: {**tree, **{layer: variables[collection][layer] for layer in tree if layer not in own}}
        for collection, tree in state.variables.items()
    }
    # A step consumes its state: no array is twice.
    ema, slow = (None if tree is None else jax.tree.map(jnp.copy, merged) for tree in (state.ema, state.slow))
    params = merged.pop("params")
    return state.replace(params=params, collections=merged, ema=ema, slow=slow), own


def _shapes(variables: dict[str, Any], layer: str) -> dict[str, Any]:
    """Return the shapes of the arrays of a layer, by their paths."""
    return {name: jax.tree.map(jnp.shape, tree[layer]) for name, tree in variables.items() if layer in tree}


@jax.jit
def is_finite(state: TrainState) -> Bool[Array, ""]:
    """Return whether all numbers of the variables, their average, the slow ones and the optimizer are finite."""
    leaves = jax.tree.leaves((state.params, state.collections, state.opt_state, state.ema, state.slow))
    floats = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in floats]))
