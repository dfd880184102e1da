"""What a net makes of one image: the classes, the feature maps, and the pixels that mattered."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from jaxconv.errors import UserError
from jaxconv.models import attribution
from jaxconv.runs.trained import Trained


class Look(NamedTuple):
    """What a net makes of one image."""

    probabilities: Float[np.ndarray, " num_classes"]
    feature_maps: tuple[Float[np.ndarray, "rows columns channels"], ...]
    """The output of each stage. A net without stages has none."""
    saliency: Float[np.ndarray, "h w"]
    """How strongly the most probable class depends on each pixel."""
    grad_cam: Float[np.ndarray, "h w"] | None
    """Which places speak for that class; None for a net without stages."""


def compile_look(net: Trained) -> Callable[[UInt8[np.ndarray, "h w c"]], Look]:
    """Compile the function from one image, as `jaxconv.predict.reader` reads it, to what the net makes of it.

    Raises:
        UserError: the parameters of the net are not finite.
    """

    @jax.jit
    def program(variables: attribution.Variables, image: jax.Array) -> tuple[Any, ...]:
        examples = net.signature.normalize(image[None])
        logits, maps = attribution.feature_maps(net.model, variables, examples)
        arguments = net.model, variables, examples, jnp.argmax(logits, axis=-1)
        saliency, grad_cam = attribution.saliency(*arguments), attribution.grad_cam(*arguments)
        return jax.tree.map(lambda batch: batch[0], (jax.nn.softmax(logits), maps, saliency, grad_cam))

    variables = jax.device_put(net.variables)

    def look(image: UInt8[np.ndarray, "h w c"]) -> Look:
        return Look(*jax.device_get(program(variables, image)))

    if not np.isfinite(look(np.zeros(net.signature.image_shape, np.uint8)).probabilities).all():
        raise UserError(
            "The net of this run has parameters that are not finite: train it again, with a lower learning rate."
        )
    return look
