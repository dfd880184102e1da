"""The family of the lecture's nets: stages of convolutions and pooling, then dense layers."""

import functools
from collections.abc import Sequence

import flax.linen as nn
from jaxtyping import Array, Float

from jaxconv.config import choose
from jaxconv.errors import ConfigError
from jaxconv.models.layers import BatchNorm, Conv, Dense
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
PADDINGS = {"same": "SAME", "valid": "VALID"}


class ConvNet(nn.Module):
    """Stages of [convolution, activation, ..., pooling, dropout], then dense layers (LeCun et al., 1998).

    The input has 1 spatial dimension for audio and text, 2 for images, or 3 for video. Parameters start as in Keras:
    Glorot-uniform kernels and zero biases.
    """

    num_classes: int
    filters: Sequence[Sequence[int]] = ()
    """Filters of each convolution, by stage."""
    kernel_size: int = 3
    strides: int = 1
    padding: str = "same"
    """Padding of the convolutions. Pooling is always "valid"."""
    batch_norm: bool = False
    """Whether to normalise the output of each convolution over the batch."""
    pooling: str = "max"
    pool_size: int = 2
    """Size and stride of the pooling windows."""
    dropout: float = 0.0
    """Share of units dropped after each pooling."""
    dense: Sequence[int] = ()
    """Units of each hidden dense layer."""
    dense_dropout: float = 0.0
    """Share of units dropped after each hidden dense layer."""
    activation: str = "relu"
    kernels: dispatch.Kernels = dispatch.STOCK
    """The forms of the operations."""

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
            ConfigError: a stage leaves no pixels.
        """
        activation = choose("model.activation", self.activation, ACTIVATIONS)
        choose("model.pooling", self.pooling, dict.fromkeys(POOLINGS))
        spatial = x.ndim - 2
        convolution = functools.partial(
            Conv,
            kernel_size=(self.kernel_size,) * spatial,
            strides=(self.strides,) * spatial,
            padding=choose("model.padding", self.padding, PADDINGS),
            kernels=self.kernels,
        )
        pools_first = self.pooling == "max" and self.activation in MONOTONE

        def convolve(x: Array, filters: int) -> Array:
            x = convolution(filters)(x)
            return BatchNorm()(x, weight, train=train) if self.batch_norm else x

        def pool(x: Array) -> Array:
            window = (self.pool_size,) * spatial
            return self.kernels.max_pool(x, window) if self.pooling == "max" else nn.avg_pool(x, window, window)

        def drop(x: Array, rate: float) -> Array:
            return self.kernels.dropout(x, rate, self.make_rng("dropout")) if train and rate else x

        for number, stage in enumerate(self.filters, start=1):
            before = x.shape[1:-1]
            for filters in stage[:-1]:
                x = activation(convolve(x, filters))
            x = convolve(x, stage[-1])
            x = x if pools_first else activation(x)
            if min(x.shape[1:-1]) < self.pool_size:
                raise _leaves_nothing(number, before)
            x = pool(x)
            x = activation(x) if pools_first else x
            x = drop(x, self.dropout)

        x = x.reshape(x.shape[0], -1)
        for units in self.dense:
            x = activation(Dense(units, self.kernels)(x))
            x = drop(x, self.dense_dropout)
        return Dense(self.num_classes, self.kernels, name="logits")(x)


def _leaves_nothing(stage: int, size: Sequence[int]) -> ConfigError:
    return ConfigError(
        f"Stage {stage} of config.model leaves nothing of its {' x '.join(map(str, size))} input: "
        "use fewer stages in config.model.filters, smaller config.model.strides or pool_size, "
        "or config.model.padding='same'."
    )
