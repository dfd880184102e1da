"""The family of the lecture's nets: stages of convolutions and pooling, then dense layers."""

import functools
from collections.abc import Sequence

import flax.linen as nn
from jaxtyping import Array, Float

from jaxconv.config import choose
from jaxconv.errors import ConfigError
from jaxconv.models.layers import Conv, Dense
from jaxconv.ops.dropout import dropout
from jaxconv.ops.pooling import max_pool

ACTIVATIONS = {
    "relu": nn.relu,
    "gelu": nn.gelu,
    "silu": nn.silu,
    "elu": nn.elu,
    "tanh": nn.tanh,
    "sigmoid": nn.sigmoid,
}
MONOTONE = {"relu", "elu", "tanh", "sigmoid"}
"""These commute with the maximum: pooling first is the same function, and leaves them fewer elements."""
POOLINGS = {"max": max_pool, "average": lambda x, window: nn.avg_pool(x, window, strides=window)}
PADDINGS = {"same": "SAME", "valid": "VALID"}


class ConvNet(nn.Module):
    """Stages of [convolution, activation, ..., pooling, dropout], then dense layers: LeCun et al., 1998.

    The number of spatial dimensions is that of the input: 1 for audio and text, 2 for images, 3 for video.
    Parameters start as in Keras: Glorot-uniform kernels and zero biases.
    """

    num_classes: int
    filters: Sequence[Sequence[int]] = ()
    """Filters of each convolution, by stage."""
    kernel_size: int = 3
    strides: int = 1
    padding: str = "same"
    """Of the convolutions; pooling is always "valid"."""
    pooling: str = "max"
    pool_size: int = 2
    """Width and stride of the pooling."""
    dropout: float = 0.0
    """Share of units dropped after each pooling."""
    dense: Sequence[int] = ()
    """Units of each hidden dense layer."""
    dense_dropout: float = 0.0
    """Share of units dropped after each hidden dense layer."""
    activation: str = "relu"

    @nn.compact
    def __call__(self, x: Float[Array, "batch *spatial channels"], *, train: bool) -> Float[Array, "batch num_classes"]:
        """Logits; with `train`, dropout is on and draws from the rng called "dropout".

        Raises:
            ConfigError: a stage leaves no pixels.
        """
        activation = choose("model.activation", self.activation, ACTIVATIONS)
        pool = choose("model.pooling", self.pooling, POOLINGS)
        spatial = x.ndim - 2
        convolution = functools.partial(
            Conv,
            kernel_size=(self.kernel_size,) * spatial,
            strides=(self.strides,) * spatial,
            padding=choose("model.padding", self.padding, PADDINGS),
        )
        pools_first = self.pooling == "max" and self.activation in MONOTONE

        def drop(x: Array, rate: float) -> Array:
            return dropout(x, rate, self.make_rng("dropout")) if train and rate else x

        for number, stage in enumerate(self.filters, start=1):
            before = x.shape[1:-1]
            for filters in stage[:-1]:
                x = activation(convolution(filters)(x))
            x = convolution(stage[-1])(x)
            x = x if pools_first else activation(x)
            if min(x.shape[1:-1]) < self.pool_size:
                raise ConfigError(
                    f"Stage {number} of config.model leaves nothing of its {' x '.join(map(str, before))} input: "
                    "use fewer stages in config.model.filters, smaller config.model.strides or pool_size, "
                    "or config.model.padding='same'."
                )
            x = pool(x, (self.pool_size,) * spatial)
            x = activation(x) if pools_first else x
            x = drop(x, self.dropout)

        x = x.reshape(x.shape[0], -1)
        for units in self.dense:
            x = activation(Dense(units)(x))
            x = drop(x, self.dense_dropout)
        return Dense(self.num_classes, name="logits")(x)
