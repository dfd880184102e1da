"""The lecture's nets by name: from config.model to a Flax module."""

from typing import Any

import flax.linen as nn
import jax

from jaxconv.config import Config, choose
from jaxconv.errors import ConfigError
from jaxconv.models.convnet import ConvNet
from jaxconv.ops import dispatch

# The lecture's nets, and that of airbench94 (arXiv:2404.00498).
# A field that a member does not name has the default of ConvNet.
MEMBERS: dict[str, dict[str, Any]] = {
    "mlp": {"filters": (), "dense": (128, 128)},
    "lenet": {"filters": ((20,), (50,)), "kernel_size": 5, "dense": (500,)},
    "cifar_simple": {"filters": ((32,),), "dropout": 0.25, "dense": (512,), "dense_dropout": 0.5},
    "cifar_deep": {"filters": ((32, 32), (64, 64)), "dropout": 0.25, "dense": (512,), "dense_dropout": 0.5},
    "airbench": {
        "filters": ((64, 64), (256, 256), (256, 256)),
        "whitening": 2,
        "kernel_init": "identity",
        "use_bias": False,
        "batch_norm": True,
        "batch_norm_scale": False,
        "batch_norm_momentum": 0.6,
        "batch_norm_epsilon": 1e-12,
        "pool_place": "first",
        "global_pooling": "max",
        "scaled_head": True,
        "activation": "gelu",
    },
}


def resolve(model: Config) -> Config:
    """Copy config.model, with the named member's own value in place of each None.

    Raises:
        ConfigError: no member has that name.
    """
    member = choose("model.name", model.name, MEMBERS)
    resolved = model.copy_and_resolve_references()
    for key, value in model.items():
        if value is None:
            resolved[key] = member.get(key, getattr(ConvNet, key))
    return resolved


def create_model(
    model: Config,
    num_classes: int,
    kernels: dispatch.Kernels = dispatch.STOCK,
    *,
    frozen_stages: int = 0,
    dtype: str = "float32",
    remat: bool = False,
) -> nn.Module:
    """Create the Flax module that config.model describes.

    Args:
        model: config.model.
        num_classes: number of logits.
        kernels: the forms of its operations.
        frozen_stages: stages, from the first, that are not trained.
        dtype: config.compute_dtype.
        remat: whether training computes each stage again for its gradient.

    Raises:
        ConfigError: there are fewer stages, or no member has the name of the model.
    """
    fields = {key: value for key, value in resolve(model).items() if key != "name"}
    if frozen_stages > (stages := len(fields["filters"])):
        raise ConfigError(
            f"config.freeze_stages={frozen_stages}, but the net has {stages} stage{'s' * (stages != 1)}, by "
            "config.model.filters: freeze at most so many."
        )
    return ConvNet(
        num_classes=num_classes, kernels=kernels, frozen_stages=frozen_stages, dtype=dtype, remat=remat, **fields
    )


def frozen_layers(config: Config) -> list[str]:
    """Return the names of the layers of the frozen stages, with batch norm, whether or not the net has it."""
    convolutions = sum(map(len, resolve(config.model).filters[: config.freeze_stages]))
    return [f"{layer}_{number}" for number in range(convolutions) for layer in ("Conv", "BatchNorm")]


def num_params(params: Any) -> int:
    """Count the scalars in a tree of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
