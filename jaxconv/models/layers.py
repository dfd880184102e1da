"""The layers of the nets. Each takes the form of its operation from `Kernels`.

Layers compute in the dtype of their input. Their parameters are float32.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxconv.ops.dispatch import Kernels


class Conv(nn.Module):
    """A convolution with a bias for each filter, as flax.linen.Conv."""

    filters: int
    kernel_size: Sequence[int]
    strides: Sequence[int]
    padding: str
    kernels: Kernels

    @nn.compact
    def __call__(self, x: Float[Array, "batch *spatial in"]) -> Float[Array, "batch *spatial_out filters"]:
        """Apply the filters at each position."""
        shape = (*self.kernel_size, x.shape[-1], self.filters)
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.filters,))
        return self.kernels.convolve(x, kernel, bias, strides=self.strides, padding=self.padding)


class Pool(nn.Module):
    """Pooling over windows, as keras.layers.MaxPooling and AveragePooling: padding never counts."""

    kind: str
    """"max" or "average"."""
    window: Sequence[int]
    strides: Sequence[int]
    padding: str
    kernels: Kernels

    def __call__(self, x: Float[Array, "batch *spatial c"]) -> Float[Array, "batch *spatial_out c"]:
        """Pool each channel."""
        pool = {"max": self.kernels.max_pool, "average": self.kernels.average_pool}[self.kind]
        return pool(x, tuple(self.window), tuple(self.strides), self.padding)


class GlobalPool(nn.Module):
    """Pooling over all positions, as keras.layers.GlobalMaxPooling and GlobalAveragePooling."""

    kind: str
    """"max" or "average"."""

    def __call__(self, x: Float[Array, "batch *spatial c"]) -> Float[Array, "batch c"]:
        """Pool each channel."""
        pool = {"max": jnp.max, "average": jnp.mean}[self.kind]
        return pool(x, axis=tuple(range(1, x.ndim - 1)))


class Flatten(nn.Module):
    """All values of an example in a row, channels last, as keras.layers.Flatten."""

    def __call__(self, x: Float[Array, "batch *rest"]) -> Float[Array, "batch values"]:
        """Flatten each example."""
        return x.reshape(x.shape[0], -1)


class Dense(nn.Module):
    """A dense layer with a bias for each unit, as flax.linen.Dense."""

    units: int
    kernels: Kernels

    @nn.compact
    def __call__(self, x: Float[Array, "batch in"]) -> Float[Array, "batch units"]:
        """Apply the layer to each row."""
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), (x.shape[-1], self.units))
        bias = self.param("bias", nn.initializers.zeros, (self.units,))
        return self.kernels.dense(x, kernel, bias)


class BatchNorm(nn.Module):
    """Batch normalisation (arXiv:1502.03167) whose statistics ignore padding; constants as in Keras."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch *rest c"], weight: Float[Array, " batch"] | None, *, train: bool
    ) -> Float[Array, "batch *rest c"]:
        """Normalise each channel over the batch in training, by the running statistics otherwise.

        Args:
            x: the input.
            weight: weight of each example. Those of weight 0 are padding. None: there is none.
            train: whether to use the batch's own statistics, and to update the running ones in batch_stats.
        """
        mask = None if weight is None else (weight > 0).reshape(-1, *[1] * (x.ndim - 1))
        # Flax computes the statistics in float32, whatever the dtype.
        return nn.BatchNorm(use_running_average=not train, momentum=0.99, epsilon=1e-3, dtype=x.dtype)(x, mask=mask)
