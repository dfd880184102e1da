"""What a net sees in an example: the feature maps of its stages, and the values that a class depends on.

The functions take a net with the stock forms of its operations, its variables, and normalised examples.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Variables = dict[str, Any]
FeatureMaps = tuple[Float[Array, "batch *spatial channels"], ...]
"""The output of each stage, the first one first. A net without stages has none."""


def feature_maps(
    model: nn.Module, variables: Variables, examples: Float[Array, "batch *spatial channels"]
) -> tuple[Float[Array, "batch num_classes"], FeatureMaps]:
    """Return the logits, and the output of each stage after its pooling and activation."""
    applied: Any = model.apply(variables, examples, train=False, mutable=["stages"])
    logits, collections = applied
    stages = collections.get("stages", {})
    return logits, tuple(stages[_name(stage)][0] for stage in range(1, 1 + len(stages)))


def saliency(
    model: nn.Module,
    variables: Variables,
    examples: Float[Array, "batch *spatial channels"],
    classes: Int[Array, " batch"],
) -> Float[Array, "batch *spatial"]:
    """Compute how strongly the logit of a class depends on each value of an example.

    It is the absolute gradient of the logit (arXiv:1312.6034), summed over the channels as in PAIR's package saliency.

    Args:
        model: the net.
        variables: its variables.
        examples: normalised examples.
        classes: the class of each example whose logit it is.
    """

    def total(x: Array) -> Array:
        return _sum_of_logits(model.apply(variables, x, train=False), classes)

    return jnp.sum(jnp.abs(jax.grad(total)(examples)), axis=-1)


def grad_cam(
    model: nn.Module,
    variables: Variables,
    examples: Float[Array, "batch *spatial channels"],
    classes: Int[Array, " batch"],
) -> Float[Array, "batch *spatial"] | None:
    """Compute which places speak for a class, by the feature maps of the last stage: Grad-CAM (arXiv:1610.02391).

    Each feature map has the mean over all positions of the gradient of the logit as its weight. What is positive in
    their weighted sum is interpolated to the size of the example.

    Args:
        model: the net.
        variables: its variables.
        examples: normalised examples.
        classes: the class of each example whose logit it is.

    Returns:
        The places, or None for a net without stages.
    """
    shapes = jax.eval_shape(lambda: feature_maps(model, variables, examples)[1])
    if not shapes:
        return None
    zeros = [jnp.zeros(stage.shape, stage.dtype) for stage in shapes]

    def total(change: Array) -> tuple[Array, Array]:
        perturbations = {_name(stage): change for stage, change in enumerate([*zeros[:-1], change], start=1)}
        logits, maps = feature_maps(model, {**variables, "perturbations": perturbations}, examples)
        return _sum_of_logits(logits, classes), maps[-1]

    gradient, maps = jax.grad(total, has_aux=True)(zeros[-1])
    weights = jnp.mean(gradient, axis=tuple(range(1, gradient.ndim - 1)), keepdims=True)
    places = nn.relu(jnp.sum(weights * maps, axis=-1))
    return jax.image.resize(places, examples.shape[:-1], "linear")


def _name(stage: int) -> str:
    """Return the name under which jaxconv.models.convnet exposes a stage, from 1."""
    return f"stage_{stage}"


def _sum_of_logits(logits: Any, classes: Int[Array, " batch"]) -> Float[Array, ""]:
    """No example sees another one, so the gradient of the sum is the gradient of each."""
    return jnp.sum(jnp.take_along_axis(logits, classes[:, None], axis=1))
