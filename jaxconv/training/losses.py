"""The loss of a batch, and mixup."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxconv.training.state import Batch


def cross_entropy(
    logits: Float[Array, "batch num_classes"], batch: Batch, label_smoothing: float = 0.0
) -> Float[Array, " batch"]:
    """Compute the cross entropy (nats) of each example; after `mix`, that of both labels by their shares.

    With label smoothing (arXiv:1512.00567), the target has 1 - label_smoothing on the label, and spreads the rest
    evenly over all classes.
    """
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    if "share" in batch:
        second = optax.softmax_cross_entropy_with_integer_labels(logits, batch["second_label"])
        loss = batch["share"] * loss + (1 - batch["share"]) * second
    if label_smoothing:
        to_all_classes = -jnp.mean(jax.nn.log_softmax(logits), axis=-1)
        loss = (1 - label_smoothing) * loss + label_smoothing * to_all_classes
    return loss


def mix(batch: Batch, alpha: float, rng: jax.Array) -> Batch:
    """Mix each image with the one before it in the batch: mixup (arXiv:1710.09412).

    The whole batch has one share, drawn from Beta(alpha, alpha), and at least one half. So `label` is the label of the
    larger part, and accuracy counts that one. No image is mixed with padding.
    """
    drawn = jax.random.beta(rng, alpha, alpha)
    second = {key: jnp.roll(value, 1, axis=0) for key, value in batch.items()}
    share = jnp.where(second["weight"] > 0, jnp.maximum(drawn, 1 - drawn), 1.0)
    by_image = share.reshape(-1, *[1] * (batch["image"].ndim - 1))
    image = by_image * batch["image"] + (1 - by_image) * second["image"]
    return batch | {"image": image, "second_label": second["label"], "share": share}
