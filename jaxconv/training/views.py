"""Test-time views: the logits of an example as the mean over it and slightly moved copies of it."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxconv.errors import ConfigError


def check(views: str, image_shape: tuple[int, ...]) -> None:
    """Check that examples of a shape, (*spatial, channels), have the views of config.evaluation.views.

    Raises:
        ConfigError: they have not.
    """
    if views != "none" and len(image_shape) == 2:
        raise ConfigError(
            f"config.evaluation.views={views!r} is for images and clips, and the examples are signals of shape "
            f"{image_shape}: set config.evaluation.views to 'none'."
        )


def mean_logits(
    net: Callable[[Float[Array, "batch *spatial channels"]], Float[Array, "batch num_classes"]],
    images: Float[Array, "batch *spatial channels"],
    views: str,
) -> Float[Array, "batch num_classes"]:
    """Apply a net to each view of images, one view after the other, and average the logits, as airbench94 does.

    The views of a clip are those of its frames.

    Args:
        net: returns the logits of images.
        images: images or clips; with views="none" also signals.
        views: config.evaluation.views (arXiv:2404.00498, section 3.5). "none": the images alone. "mirror": they and
            their mirror images, left to right. "mirror_and_shifts": this mean counts one half, and its mean over the
            images shifted by one pixel, up-left and down-right, the other half. Beyond the edges, shifted images
            reflect.
    """
    if views == "none":
        return net(images)
    width_axis = -2
    mirrored = _mean(net(images), net(jnp.flip(images, width_axis)))
    if views == "mirror":
        return mirrored
    *_, height, width, _ = images.shape
    padding = [(0, 0)] * (images.ndim - 3) + [(1, 1), (1, 1), (0, 0)]
    padded = jnp.pad(images, padding, mode="reflect")
    shifted = [padded[..., at : at + height, at : at + width, :] for at in (0, 2)]
    return _mean(mirrored, _mean(*(mean_logits(net, of, "mirror") for of in shifted)))


def _mean(first: Float[Array, "batch num_classes"], second: Float[Array, "batch num_classes"]) -> Array:
    return 0.5 * (first + second)
