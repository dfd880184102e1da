"""Residual nets of basic blocks, in the form for small images (He et al., arXiv:1512.03385)."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxconv.config import choose
from jaxconv.models.convnet import ACTIVATIONS
from jaxconv.models.layers import KERNEL_INITS, BatchNorm, Conv, Dense, GlobalPool, Shortcut, expose
from jaxconv.ops import dispatch


class ResNet(nn.Module):
    """A 3 x 3 convolution, stages of residual blocks, average pooling over all positions, and a dense layer.

    A block is [convolution, batch norm, activation, convolution, batch norm], plus its input, and an activation. Each
    stage but the first halves the image in its first block, whose input then goes through a strided 1 x 1 convolution
    and batch norm. Constants and padding are PyTorch's. The input has 1 to 3 spatial dimensions.
    """

    num_classes: int
    filters: Sequence[Sequence[int]] = ((64, 64),)
    """Filters of each block, by stage."""
    kernel_init: str = "he"
    """How the kernels of the convolutions start, a key of `KERNEL_INITS`."""
    batch_norm_momentum: float = 0.9
    """Share of the running statistics that a step keeps."""
    batch_norm_epsilon: float = 1e-5
    activation: str = "relu"
    dtype: str = "float32"
    """Dtype of the activations. Parameters, batch statistics and logits are float32."""
    kernels: dispatch.Kernels = dispatch.STOCK
    """The forms of the operations."""
    frozen_stages: int = 0
    """Stages, from the first, that are not trained, with the convolution before them."""
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
            train: whether batch norm uses the batch's statistics.
            weight: weight of each example in training; 0 for padding. None: no example is padding.

        Raises:
            ConfigError: the activation or the initialisation is not known.
        """
        activation = choose("model.activation", self.activation, ACTIVATIONS)
        kernel_init = choose("model.kernel_init", self.kernel_init, KERNEL_INITS)
        spatial = x.ndim - 2

        def convolve(x: Array, filters: int, stage: int, stride: int = 1, *, shortcut: bool = False) -> Array:
            kind, side = (Shortcut, 1) if shortcut else (Conv, 3)
            layer = kind(
                filters,
                kernel_size=(side,) * spatial,
                strides=(stride,) * spatial,
                padding=((side // 2, side // 2),) * spatial,  # "SAME" has one zero less before a strided kernel
                kernels=self.kernels,
                kernel_init=kernel_init,
                use_bias=False,
            )
            normalise = BatchNorm(True, self.batch_norm_momentum, self.batch_norm_epsilon)
            return normalise(layer(x), weight, train=train and stage > self.frozen_stages)

        def activate(x: Array) -> Array:
            return activation(x).astype(self.dtype)

        def compute(_: nn.Module, x: Array, stage: int) -> Array:
            for number, filters in enumerate(self.filters[stage - 1]):
                stride = 2 if number == 0 and stage > 1 else 1
                y = activate(convolve(x, filters, stage, stride))
                y = convolve(y, filters, stage)
                if stride > 1 or x.shape[-1] != filters:
                    x = convolve(x, filters, stage, stride, shortcut=True)
                x = activate(y + x)
            return x

        x = activate(convolve(x.astype(self.dtype), self.filters[0][0], stage=1))
        compute = nn.remat(compute, static_argnums=(2,)) if self.remat and train else compute
        for stage in range(1, 1 + len(self.filters)):
            x = expose(self, f"stage_{stage}", compute(self, x, stage))
            if stage == self.frozen_stages:
                x = jax.lax.stop_gradient(x)  # so that no gradient is computed for this stage and those before
        x = GlobalPool("average")(x)
        return Dense(self.num_classes, self.kernels, name="logits")(x).astype(jnp.float32)

    @staticmethod
    def layers_up_to(stage: int, filters: Sequence[Sequence[int]]) -> list[str]:
        """Return the names of the layers up to a stage of a net with these filters, as flax.linen counts them."""
        if not stage:
            return []
        blocks = [number for of_stage in filters[:stage] for number in of_stage]
        before = [filters[0][0], *blocks[:-1]]
        firsts = [i for of_stage in filters[:stage] for i in range(len(of_stage))]
        shortcuts = sum(
            (i == 0 and place > 0) or inputs != outputs
            for place, (i, inputs, outputs) in enumerate(zip(firsts, before, blocks, strict=True))
        )
        convolutions = 1 + 2 * len(blocks)
        return [
            *(f"Conv_{i}" for i in range(convolutions)),
            *(f"Shortcut_{i}" for i in range(shortcuts)),
            *(f"BatchNorm_{i}" for i in range(convolutions + shortcuts)),
        ]
