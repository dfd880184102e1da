"""Layers with parameters, in forms that are fast on a CPU."""

from collections.abc import Sequence

import flax.linen as nn
from jaxtyping import Array, Float

from jaxconv.ops.convolution import convolve
from jaxconv.ops.dense import dense


class Conv(nn.Module):
    """A convolution with a bias for each filter: flax.linen.Conv in a form that is fast on a CPU."""

    filters: int
    kernel_size: Sequence[int]
    strides: Sequence[int]
    padding: str

    @nn.compact
    def __call__(self, x: Float[Array, "batch *spatial in"]) -> Float[Array, "batch *spatial_out filters"]:
        """The filters' outputs at each position."""
        shape = (*self.kernel_size, x.shape[-1], self.filters)
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.filters,))
        return convolve(x, kernel, bias, strides=self.strides, padding=self.padding)


class Dense(nn.Module):
    """A dense layer with a bias for each unit: flax.linen.Dense in a form that is fast on a CPU."""

    units: int

    @nn.compact
    def __call__(self, x: Float[Array, "batch in"]) -> Float[Array, "batch units"]:
        """The units' outputs."""
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), (x.shape[-1], self.units))
        bias = self.param("bias", nn.initializers.zeros, (self.units,))
        return dense(x, kernel, bias)
