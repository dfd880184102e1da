"""The layers of a net from shapes alone: what each sees, and what it costs. Nothing is computed or allocated."""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxconv.models.layers import BatchNorm, Conv, Dense, Flatten, GlobalPool, Pool, ScaledHead, Shortcut, Whitening
from jaxconv.models.registry import num_params


class Call(NamedTuple):
    """The application of a layer to one example. Shapes are without the batch."""

    name: str
    """The name of the layer in the parameters, such as "Conv_0"."""
    module: nn.Module
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    variables: dict[str, Any]
    """The shapes of its "params", of batch norm also its "batch_stats", and of whitening its "whitening"."""

    @property
    def num_params(self) -> int:
        """The number of its parameters."""
        return num_params(self.variables.get("params", {}))


class Trace(NamedTuple):
    """A net applied to the shape of one example, in evaluation."""

    image_shape: tuple[int, ...]
    variables: Any
    """The shapes of the net's variables."""
    calls: list[Call]


class Layer(NamedTuple):
    """A layer applied to one example. Shapes are without the batch; sizes are one number for each spatial dimension."""

    name: str
    kind: str
    output_shape: tuple[int, ...]
    receptive_field: tuple[int, ...]
    """How many input values one output value sees along each dimension, where no border cuts its windows."""
    positions: int
    """At how many positions the layer is applied."""
    params: int
    multiplications: int
    """Those with the zeros of the padding included. See `layers`."""
    output_bytes: int
    param_bytes: int
    """Bytes of the parameters, and of the running statistics of batch norm and the kernel of whitening, which are no
    parameters."""
    kernel_size: tuple[int, ...] | None
    """Size of the windows. None: the layer has none."""
    strides: tuple[int, ...] | None
    padding: str | None


def trace(model: nn.Module, image_shape: tuple[int, ...]) -> Trace:
    """Apply a net to the shape of one example, (*spatial, channels).

    Raises:
        ConfigError: the net does not fit the shape.
    """
    applied = []

    def record(call: Any, args: Any, keywords: Any, context: Any) -> Any:
        output = call(*args, **keywords)
        if len(context.module.path) == 1 and context.method_name == "__call__":  # not the net, nor parts of layers
            applied.append((context.module, args[0].shape[1:], output.shape[1:]))
        return output

    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    with nn.intercept_methods(record):
        variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), image)
    calls = []
    for module, input_shape, output_shape in applied:
        own = {collection: tree[module.name] for collection, tree in variables.items() if module.name in tree}
        calls.append(Call(module.name, module, input_shape, output_shape, own))
    return Trace(image_shape, variables, calls)


def layers(traced: Trace) -> list[Layer]:
    """List what each layer of a net sees, and what it costs for one example in evaluation.

    Receptive field: a window of w inputs, whose neighbours are j values of the image apart, adds (w - 1) x j to the
    receptive field of one input. j is the product of the strides before. Flattening and global pooling have one window,
    of all positions. A receptive field is at most as large as the image. That of a sum is the one of the deeper branch.

    Multiplications: a convolution takes positions x kernel x input channels x filters, zeros of the padding included,
    and a dense layer inputs x units. Average pooling takes one for each output, by 1 / the size of the window. Batch
    norm takes one for each output, by the factor of its channel, scale / sqrt(variance + epsilon), which is taken as
    given. The other layers take none.

    Raises:
        TypeError: a layer is none of jaxconv.models.layers.
    """
    sizes = traced.image_shape[:-1]
    field, apart = (1,) * len(sizes), (1,) * len(sizes)
    listed = []
    for call in traced.calls:
        window, strides = _window(call, len(sizes))
        if isinstance(call.module, Shortcut):
            # It sees what the block sees. The block goes on from its other branch.
            before = next(layer for layer in reversed(listed) if layer.output_shape == call.input_shape)
            listed.append(_layer(call, window, strides, before.receptive_field))
            continue
        field = tuple(min(f + (w - 1) * j, n) for f, w, j, n in zip(field, window, apart, sizes, strict=True))
        apart = tuple(j * stride for j, stride in zip(apart, strides, strict=True))
        listed.append(_layer(call, window, strides, field))
    return listed


def _layer(call: Call, window: tuple[int, ...], strides: tuple[int, ...], receptive_field: tuple[int, ...]) -> Layer:
    module = call.module
    slides = isinstance(module, Conv | Pool | Whitening)
    return Layer(
        name=call.name,
        kind=_kind(module),
        output_shape=call.output_shape,
        receptive_field=receptive_field,
        positions=math.prod(call.output_shape[:-1]),
        params=call.num_params,
        multiplications=_multiplications(call),
        output_bytes=math.prod(call.output_shape) * jnp.dtype(jnp.float32).itemsize,
        param_bytes=sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(call.variables)),
        kernel_size=window if slides else None,
        strides=strides if slides else None,
        padding=_padding(module.padding) if slides else None,
    )


def _padding(padding: str | Sequence[tuple[int, int]]) -> str:
    if isinstance(padding, str):
        return padding.lower()
    return "x".join(str(low) if low == high else f"{low}+{high}" for low, high in padding)


def _window(call: Call, spatial: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the size of the windows of a layer and their strides, in each of the image's spatial dimensions."""
    ones = (1,) * spatial
    match call.module:
        case Conv(kernel_size=window, strides=strides) | Pool(window=window, strides=strides):
            return tuple(window), tuple(strides)
        case Whitening(window=window):
            return (window,) * spatial, ones
        case Flatten() | GlobalPool():
            return call.input_shape[:-1], ones
        case _:
            return ones, ones


def _kind(module: nn.Module) -> str:
    match module:
        case Shortcut():
            return "shortcut"
        case Conv():
            return "convolution"
        case Pool(kind=kind):
            return f"{kind} pooling"
        case GlobalPool(kind=kind):
            return f"global {kind} pooling"
        case Flatten():
            return "flatten"
        case Whitening():
            return "whitening"
        case Dense() | ScaledHead():
            return "dense"
        case BatchNorm():
            return "batch norm"
    raise TypeError(f"jaxconv/models/summary.py does not know what {type(module).__name__} sees and costs.")


def _multiplications(call: Call) -> int:
    match call.module:
        case Conv() | Dense() | ScaledHead():
            return math.prod(call.output_shape[:-1]) * math.prod(call.variables["params"]["kernel"].shape)
        case Whitening():
            return math.prod(call.output_shape[:-1]) * math.prod(call.variables["whitening"]["kernel"].shape)
        case Pool(kind="average") | GlobalPool(kind="average") | BatchNorm():
            return math.prod(call.output_shape)
        case _:
            return 0
