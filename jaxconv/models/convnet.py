"""The family of the lecture's nets: stages of convolutions and pooling, then dense layers."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxconv.config import choose
from jaxconv.errors import ConfigError
from jaxconv.models.layers import (
    KERNEL_INITS,
    BatchNorm,
    Conv,
    Dense,
    Flatten,
    GlobalPool,
    Pool,
    ScaledHead,
    Whitening,
    expose,
)
from jaxconv.ops import dispatch

ACTIVATIONS = {
    "relu": nn.relu,
    "gelu": nn.gelu,
    "silu": nn.silu,
    "elu": nn.elu,
    "tanh": nn.tanh,
    "sigmoid": nn.sigmoid,
}
MONOTONE = {"relu", "elu", "tanh", "sigmoid"}
"""Activations that commute with the maximum: pooling first is the same function, on fewer elements."""
POOLINGS = ("max", "average")
GLOBAL_POOLINGS = ("none", *POOLINGS)
POOL_PLACES = ("last", "first")
PADDINGS = {"same": "SAME", "valid": "VALID"}


class ConvNet(nn.Module):
    """Stages of [convolution, activation, ..., pooling, dropout], then dense layers (LeCun et al., 1998).

    The input has 1 spatial dimension for audio and text, 2 for images, or 3 for video. Sizes and strides are one number
    for all spatial dimensions, or a tuple of one number for each. Parameters start as in Keras: Glorot-uniform kernels
    and zero biases.

    With whitening, partial identities, pooling after the first convolution of a stage, batch norm without scale and a
    scaled head it is the net of airbench94 (arXiv:2404.00498).
    """

    num_classes: int
    filters: Sequence[Sequence[int]] = ()
    """Filters of each convolution, by stage."""
    kernel_size: int | Sequence[int] = 3
    strides: int | Sequence[int] = 1
    padding: str = "same"
    """Padding of the convolutions."""
    kernel_init: str = "glorot"
    """How the kernels of the convolutions start, a key of `KERNEL_INITS`."""
    use_bias: bool = True
    """Whether the convolutions have a bias for each filter."""
    whitening: int = 0
    """Side of the windows of a first convolution that whitens them, with an activation. 0: there is none."""
    batch_norm: bool = False
    """Whether to normalise the output of each convolution over the batch."""
    batch_norm_scale: bool = True
    """Whether batch norm has a scale for each channel beside the bias."""
    batch_norm_momentum: float = 0.99
    """Share of the running statistics that a step keeps."""
    batch_norm_epsilon: float = 1e-3
    pooling: str = "max"
    pool_size: int | Sequence[int] = 2
    pool_strides: int | Sequence[int] | None = None
    """Strides of the pooling windows. None: the size of the windows."""
    pool_padding: str = "valid"
    pool_place: str = "last"
    """Where a stage is pooled: after its "last" convolution, or after its "first", before batch norm and activation."""
    global_pooling: str = "none"
    """Pooling over all positions before the dense layers. "none": flatten instead."""
    dropout: float = 0.0
    """Share of units dropped after each pooling."""
    dense: Sequence[int] = ()
    """Units of each hidden dense layer."""
    dense_dropout: float = 0.0
    """Share of units dropped after each hidden dense layer."""
    scaled_head: bool = False
    """Whether the logits are those of a `ScaledHead`."""
    activation: str = "relu"
    dtype: str = "float32"
    """Dtype of the activations. Parameters, batch statistics and logits are float32."""
    kernels: dispatch.Kernels = dispatch.STOCK
    """The forms of the operations."""
    frozen_stages: int = 0
    """Stages, from the first, that are not trained: no gradient flows into them, and their batch norm uses and keeps
    its running statistics."""
    remat: bool = False
    """Whether training keeps the input of each stage alone, and computes the stage again for its gradient."""

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch *spatial channels"],
        *,
        train: bool,
        weight: Float[Array, " batch"] | None = None,
    ) -> Float[Array, "batch num_classes"]:
        """Compute the logits.

        Args:
            x: images.
            train: whether dropout is on, with the rng "dropout", and batch norm uses the batch's statistics.
            weight: weight of each example in training; 0 for padding. None: no example is padding.

        Raises:
            ConfigError: a field does not fit the input, or a layer leaves nothing of it.
        """
        activation = choose("model.activation", self.activation, ACTIVATIONS)
        convolution, pooling = self._layers(spatial=x.ndim - 2)
        pools_first = self.pooling == "max" and self.activation in MONOTONE and self.pool_place == "last"

        def convolve(x: Array, filters: int, place: str, pooled: bool) -> Array:
            layer = convolution(filters, parent=None)
            _check_fits(place, x, layer.padding, layer.kernel_size, "kernel_size", "padding")
            padding = _less_padding(x, layer, pooling(parent=None)) if pooled else layer.padding
            return convolution(filters, padding=padding)(x)

        def normalise(x: Array, stage: int) -> Array:
            if not self.batch_norm:
                return x
            layer = BatchNorm(self.batch_norm_scale, self.batch_norm_momentum, self.batch_norm_epsilon)
            return layer(x, weight, train=train and stage > self.frozen_stages)

        def activate(x: Array) -> Array:
            return activation(x.astype(jnp.float32)).astype(self.dtype)  # in one pass, without rounding in between

        def pool(x: Array, place: str) -> Array:
            layer = pooling()
            _check_fits(place, x, layer.padding, layer.window, "pool_size", "pool_padding")
            return layer(x.astype(self.dtype))

        x = x.astype(self.dtype)

        def drop(x: Array, rate: float) -> Array:
            return self.kernels.dropout(x, rate, self.make_rng("dropout")) if train and rate else x

        def compute(_: nn.Module, x: Array, stage: int) -> Array:
            all_filters = self.filters[stage - 1]
            where = f"The pooling of stage {stage}"
            for number, filters in enumerate(all_filters, start=1):
                pooled_next = number == 1 and self.pool_place == "first"
                x = convolve(x, filters, f"Convolution {number} of stage {stage}", pooled_next)
                if pooled_next:
                    x = pool(x, where)
                x = normalise(x, stage)
                if number < len(all_filters) or not pools_first:
                    x = activate(x)
            if self.pool_place == "first":
                return x
            x = pool(x, where)
            return activate(x) if pools_first else x

        if self.whitening:
            x = Whitening(self.whitening, self.kernels)(x)
            x = activate(x)
        compute = nn.remat(compute, static_argnums=(2,)) if self.remat and train else compute
        for stage in range(1, 1 + len(self.filters)):
            x = expose(self, f"stage_{stage}", compute(self, x, stage))
            if stage == self.frozen_stages:
                x = jax.lax.stop_gradient(x)  # so that no gradient is computed for this stage and those before
            x = drop(x, self.dropout)

        x = Flatten()(x) if self.global_pooling == "none" else GlobalPool(self.global_pooling)(x)
        for units in self.dense:
            x = activation(Dense(units, self.kernels)(x))
            x = drop(x, self.dense_dropout)
        head = ScaledHead if self.scaled_head else Dense
        return head(self.num_classes, self.kernels, name="logits")(x).astype(jnp.float32)

    @staticmethod
    def layers_up_to(stage: int, filters: Sequence[Sequence[int]]) -> list[str]:
        """Return the names of the layers up to a stage that a net with these filters may have."""
        convolutions = range(sum(map(len, filters[:stage])))
        return ["Whitening_0"] * bool(stage) + [f"{kind}_{i}" for i in convolutions for kind in ("Conv", "BatchNorm")]

    def _layers(self, spatial: int) -> tuple[Callable[..., Conv], Callable[..., Pool]]:
        """Return what makes a convolution of so many filters, and a pooling, in `spatial` dimensions.

        Raises:
            ConfigError: a field is wrong.
        """
        choose("model.pooling", self.pooling, dict.fromkeys(POOLINGS))
        choose("model.global_pooling", self.global_pooling, dict.fromkeys(GLOBAL_POOLINGS))
        choose("model.pool_place", self.pool_place, dict.fromkeys(POOL_PLACES))
        window = _for_each_dimension("pool_size", self.pool_size, spatial, "pooling")
        convolution = functools.partial(
            Conv,
            kernel_size=_for_each_dimension("kernel_size", self.kernel_size, spatial, "convolution"),
            strides=_for_each_dimension("strides", self.strides, spatial, "convolution"),
            padding=choose("model.padding", self.padding, PADDINGS),
            kernels=self.kernels,
            kernel_init=choose("model.kernel_init", self.kernel_init, KERNEL_INITS),
            use_bias=self.use_bias,
        )
        pooling = functools.partial(
            Pool,
            self.pooling,
            window,
            strides=_for_each_dimension("pool_strides", self.pool_strides or window, spatial, "pooling"),
            padding=choose("model.pool_padding", self.pool_padding, PADDINGS),
            kernels=self.kernels,
        )
        return convolution, pooling


def _for_each_dimension(field: str, value: int | Sequence[int], spatial: int, layer: str) -> tuple[int, ...]:
    sizes = (value,) * spatial if isinstance(value, int) else tuple(value)
    if len(sizes) != spatial:
        raise ConfigError(
            f"config.model.{field}={sizes} has {len(sizes)} number{'s' * (len(sizes) > 1)}, and the input of each "
            f"{layer} has {spatial} dimension{'s' * (spatial > 1)}: give one number for each, or one for all."
        )
    return sizes


def _check_fits(place: str, x: Array, padding: Any, window: Sequence[int], size_field: str, padding_field: str) -> None:
    """Check that a window fits into the input of a layer at least once."""
    sizes = x.shape[1:-1]
    if padding == "VALID" and any(size < side for size, side in zip(sizes, window, strict=True)):
        raise ConfigError(
            f"{place} of config.model leaves nothing of its {_product(sizes)} input, because its windows are "
            f"{_product(window)}: use fewer stages in config.model.filters, smaller strides, a smaller config.model."
            f"{size_field}, or config.model.{padding_field}='same'."
        )


def _less_padding(x: Array, convolution: Conv, pooling: Pool) -> str | Sequence[tuple[int, int]]:
    """Return the padding of a convolution without zeros for outputs that no window of the pooling covers."""
    window, strides = convolution.kernel_size, convolution.strides
    assert isinstance(convolution.padding, str)
    pads = jax.lax.padtype_to_pads(x.shape[1:-1], window, strides, convolution.padding)
    less = []
    for (low, high), size, taps, stride, side, step in zip(
        pads, x.shape[1:-1], window, strides, pooling.window, pooling.strides, strict=True
    ):
        outputs = (size + low + high - taps) // stride + 1
        dropped = (outputs - side) % step if pooling.padding == "VALID" and outputs >= side else 0
        less.append((low, max(high - dropped * stride, 0)))
    return convolution.padding if less == pads else less


def _product(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes))
