"""The loss of a batch, class weights, and mixup."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Float32, Int

from jaxconv.training.state import Batch


def cross_entropy(
    logits: Float[Array, "batch num_classes"],
    batch: Batch,
    label_smoothing: float = 0.0,
    class_weights: Float[Array, " num_classes"] | None = None,
) -> Float[Array, " batch"]:
    """Compute the cross entropy (nats) of each example; after `mix`, that of both labels by their shares.

    With label smoothing (arXiv:1512.00567), the target has 1 - label_smoothing on the label, and spreads the rest
    evenly over all classes. With class weights, the loss of a label is multiplied by the weight of its class.
    """

    def weight(label: Array) -> Any:
        return 1.0 if class_weights is None else class_weights[label]

    def by_share(of_label: Callable[[Array], Any]) -> Any:
        if "share" not in batch:
            return of_label(batch["label"])
        return batch["share"] * of_label(batch["label"]) + (1 - batch["share"]) * of_label(batch["second_label"])

    loss = by_share(lambda label: weight(label) * optax.softmax_cross_entropy_with_integer_labels(logits, label))
    if label_smoothing:
        to_all_classes = -jnp.mean(jax.nn.log_softmax(logits), axis=-1)
        loss = (1 - label_smoothing) * loss + label_smoothing * by_share(weight) * to_all_classes
    return loss


def balanced(labels: Int[np.ndarray, " examples"], num_classes: int) -> Float32[np.ndarray, " num_classes"]:
    """Compute class weights by which every class has the same part in the loss, as scikit-learn's "balanced".

    The mean weight of the examples is 1. A class without examples has weight 0.
    """
    counts = np.bincount(labels, minlength=num_classes)
    weights = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return np.where(counts > 0, weights, 0.0).astype(np.float32)


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
