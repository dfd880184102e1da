"""The layers of the nets. Each takes the form of its operation from `Kernels`.

Layers compute in the dtype of their input. Their parameters are float32.
"""

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxconv.ops.dispatch import Kernels


def partial_identity(
    key: jax.Array, shape: Sequence[int], dtype: jnp.dtype = jnp.float32
) -> Float[Array, "*kernel in out"]:
    """Make a kernel whose first filters pass on a channel each, as far as there are both (arXiv:2404.00498).

    The other filters are uniform up to 1 / sqrt(inputs of a filter) either way, as in PyTorch.
    """
    *window, channels, filters = shape
    bound = 1 / math.sqrt(math.prod(window) * channels)
    kernel = jax.random.uniform(key, shape, dtype, -bound, bound)
    passed_on = min(channels, filters)
    middle = tuple(side // 2 for side in window)
    return kernel.at[..., :passed_on].set(0.0).at[middle].add(jnp.eye(channels, filters, dtype=dtype))


def expose(module: nn.Module, name: str, x: Array) -> Array:
    """Let jaxconv.models.attribution read the output of a stage, and its gradient. No other program changes."""
    if not module.is_initializing():
        x = module.perturb(name, x)
        module.sow("stages", name, x)
    return x


KERNEL_INITS: dict[str, Callable[..., Array]] = {
    "glorot": nn.initializers.glorot_uniform(),
    "identity": partial_identity,
    "he": nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
}
"""Glorot's uniform (Keras), `partial_identity`, and He's normal by the outputs (PyTorch's ResNet, arXiv:1502.01852)."""


class Conv(nn.Module):
    """A convolution with a bias for each filter, as flax.linen.Conv."""

    filters: int
    kernel_size: Sequence[int]
    strides: Sequence[int]
    padding: str | Sequence[tuple[int, int]]
    """"SAME", "VALID", or the zeros before and after each spatial dimension."""
    kernels: Kernels
    kernel_init: Callable[..., Array] = KERNEL_INITS["glorot"]
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "batch *spatial in"]) -> Float[Array, "batch *spatial_out filters"]:
        """Apply the filters at each position."""
        shape = (*self.kernel_size, x.shape[-1], self.filters)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.filters,)) if self.use_bias else jnp.zeros(self.filters)
        return self.kernels.convolve(x, kernel, bias, strides=self.strides, padding=self.padding)


class Shortcut(Conv):
    """A convolution of the input of a residual block, beside its other layers (arXiv:1512.03385)."""


class Whitening(nn.Module):
    """A convolution whose kernel is fitted to the training split and not trained; its bias is (arXiv:2404.00498).

    Its outputs are uncorrelated and of variance 1, and come twice, with either sign. `jaxconv.models.whitening.fit`
    gives the kernel, which is the variable "kernel" of the collection "whitening".
    """

    window: int
    """Side of the windows."""
    kernels: Kernels
    padding = "VALID"

    @nn.compact
    def __call__(self, x: Float[Array, "batch *spatial in"]) -> Float[Array, "batch *spatial_out out"]:
        """Whiten each window. The output is float32."""
        window = (self.window,) * (x.ndim - 2)
        filters = 2 * math.prod(window) * x.shape[-1]
        kernel = self.variable("whitening", "kernel", jnp.zeros, (*window, x.shape[-1], filters))
        bias = self.param("bias", nn.initializers.zeros, (filters,))
        # The bias is added apart: the gradient of the convolution with respect to the kernel is then not computed.
        no_bias = jnp.zeros(filters)
        return self.kernels.convolve(x, kernel.value, no_bias, strides=(1,) * len(window), padding=self.padding) + bias


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


class ScaledHead(nn.Module):
    """A dense layer without bias, divided by the number of its inputs; its kernel starts with variance 1.

    So logits start small and grow slowly, under any width (arXiv:2404.00498).
    """

    units: int
    kernels: Kernels

    @nn.compact
    def __call__(self, x: Float[Array, "batch in"]) -> Float[Array, "batch units"]:
        """Apply the layer to each row."""
        inputs = x.shape[-1]
        start = nn.initializers.variance_scaling(inputs, "fan_in", "uniform")  # of variance 1
        kernel = self.param("kernel", start, (inputs, self.units))
        return self.kernels.dense(x, kernel, jnp.zeros(self.units)) / inputs


class BatchNorm(nn.Module):
    """Batch normalisation (arXiv:1502.03167) whose statistics ignore padding. Its output is float32."""

    use_scale: bool
    momentum: float
    """Share of the running statistics that a step keeps."""
    epsilon: float

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
        layer = nn.BatchNorm(
            use_running_average=not train,
            use_scale=self.use_scale,
            momentum=self.momentum,
            epsilon=self.epsilon,
            dtype=jnp.float32,
        )
        return layer(x, mask=mask)
