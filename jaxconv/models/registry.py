"""The nets by name: from config.model to a Flax module."""

from typing import Any

import flax.linen as nn
import jax

from jaxconv.config import Config, choose
from jaxconv.errors import ConfigError
from jaxconv.models.convnet import ConvNet
from jaxconv.models.resnet import ResNet
from jaxconv.ops import dispatch

# The lecture's nets, that of airbench94 (arXiv:2404.00498), and the standard baseline (arXiv:1512.03385).
# A field that a member does not name has the default of the net.
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
    "resnet18": {"filters": ((64, 64), (128, 128), (256, 256), (512, 512))},
}


def _net(name: str) -> type[ConvNet | ResNet]:
    return ResNet if name == "resnet18" else ConvNet


def resolve(model: Config) -> Config:
    """Copy config.model, with the named member's own value in place of each None.

    A field that the net does not have stays None.

    Raises:
        ConfigError: no member has that name, or the net does not have a field that is not None.
    """
    member = choose("model.name", model.name, MEMBERS)
    resolved = model.copy_and_resolve_references()
    for key, value in model.items():
        if key == "name":
            continue
        if not hasattr(_net(model.name), key):
            if value is not None:
                raise ConfigError(f"config.model.{key} is not for the net {model.name}: leave it None.")
        elif value is None:
            resolved[key] = member.get(key, getattr(_net(model.name), key))
    return resolved


def fields(model: Config) -> dict[str, Any]:
    """Return the fields of the net that config.model describes."""
    return {key: value for key, value in resolve(model).items() if key != "name" and value is not None}


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
    own = fields(model)
    if frozen_stages > (stages := len(own["filters"])):
        raise ConfigError(
            f"config.freeze_stages={frozen_stages}, but the net has {stages} stage{'s' * (stages != 1)}, by "
            "config.model.filters: freeze at most so many."
        )
    return _net(model.name)(
        num_classes=num_classes, kernels=kernels, frozen_stages=frozen_stages, dtype=dtype, remat=remat, **own
    )


def frozen_layers(config: Config) -> list[str]:
    """Return the names of the layers up to the last frozen stage that the net may have."""
    return _net(config.model.name).layers_up_to(config.freeze_stages, resolve(config.model).filters)


def num_params(params: Any) -> int:
    """Count the scalars in a tree of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
