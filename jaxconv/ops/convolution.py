"""Convolution with a weight gradient that is fast on a CPU.

XLA:CPU runs a convolution and the gradient by its input near the peak of a core, but the gradient by its kernel at
a quarter of that. As a product of the output's gradient with patches of the input it is about twice as fast, so long
as the patches stay in the cache: a loop makes and uses them, one or a few images at a time.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

_PATCH_BYTES = 1 << 20
"""About the share of a core's cache that a loop's patches may fill."""

_NARROW = 32
"""Columns below which a product is too small for its overhead."""


def conv_general_dilated(
    lhs: Float[Array, "batch *spatial in"],
    rhs: Float[Array, "*kernel in out"],
    window_strides: Any,
    padding: Any,
    lhs_dilation: Any = None,
    rhs_dilation: Any = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
) -> Float[Array, "batch *spatial_out out"]:
    """`jax.lax.conv_general_dilated` for flax.linen.Conv; on a CPU with the fast weight gradient where it applies.

    It applies to 2 spatial dimensions without dilation and groups, in the layout of flax.linen (NHWC, HWIO).
    Elsewhere, and on every other backend, this is the stock operation.
    """
    dilated = any(d != 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))
    stock = jax.default_backend() != "cpu" or lhs.ndim != 4 or dilated or feature_group_count != 1 or precision
    if stock:
        return lax.conv_general_dilated(
            lhs,
            rhs,
            window_strides,
            padding,
            lhs_dilation=lhs_dilation,
            rhs_dilation=rhs_dilation,
            dimension_numbers=dimension_numbers,
            feature_group_count=feature_group_count,
            precision=precision,
        )
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:-1], rhs.shape[:-2], window_strides, padding)
    return _conv(tuple(window_strides), tuple(map(tuple, padding)), lhs, rhs)


def _stock(strides: Any, padding: Any, x: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _conv(strides: Any, padding: Any, x: Array, kernel: Array) -> Array:
    """The stock convolution, with zeros beside channels of numbers that XLA:CPU is slow at."""
    channels, filters = kernel.shape[2:]
    more_channels = 4 - channels if channels in (2, 3) else 0
    more_filters = -filters % 64
    if more_filters > filters // 3:
        more_filters = 0
    x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, more_channels)))
    kernel = jnp.pad(kernel, ((0, 0), (0, 0), (0, more_channels), (0, more_filters)))
    return _stock(strides, padding, x, kernel)[..., :filters]


def _forward(strides: Any, padding: Any, x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _conv(strides, padding, x, kernel), (x, kernel)


def _backward(strides: Any, padding: Any, residuals: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    (x_gradient,) = jax.linear_transpose(lambda x: _stock(strides, padding, x, kernel), x)(g)
    return x_gradient, _kernel_gradient(strides, padding, x, g, kernel.shape)


_conv.defvjp(_forward, _backward)


def _kernel_gradient(strides: Any, padding: Any, x: Array, g: Array, shape: Any) -> Array:
    """The gradient on each device of its own examples, and their sum."""
    local = functools.partial(kernel_gradient, strides=strides, padding=padding, shape=shape)
    mesh = jax.sharding.get_abstract_mesh()
    if "data" not in mesh.axis_names:
        return local(x, g)
    split = PartitionSpec("data")
    return jax.shard_map(
        lambda x, g: lax.psum(local(x, g), "data"), in_specs=(split, split), out_specs=PartitionSpec(), check_vma=False
    )(x, g)


def kernel_gradient(
    x: Float[Array, "batch h w in"],
    g: Float[Array, "batch h_out w_out out"],
    *,
    strides: tuple[int, int],
    padding: tuple[tuple[int, int], tuple[int, int]],
    shape: tuple[int, int, int, int],
) -> Float[Array, "kh kw in out"]:
    """The gradient of a 2-D convolution by its kernel of `shape`, `g` being the gradient by its output."""
    kh, kw, channels, filters = shape
    batch, out_h, out_w, _ = g.shape
    # A product for each row of the kernel, or a single one where rows are narrow.
    narrow = kw * channels < _NARROW
    patches_per_image = out_h * out_w * kw * channels * (kh if narrow else 1)
    # Enough images at a time for a product of some size, few enough for the cache.
    images = max(1, _PATCH_BYTES // (patches_per_image * 4))
    images = math.gcd(batch, 1 << (images.bit_length() - 1))

    x = x.reshape(batch // images, images, *x.shape[1:])
    g = g.reshape(batch // images, images * out_h * out_w, filters)

    def taps(x: Array, axis: int, taps: int, size: int, stride: int) -> list[Array]:
        return [lax.slice_in_dim(x, i, i + (size - 1) * stride + 1, stride, axis) for i in range(taps)]

    def add(totals: list[Array], chunk: tuple[Array, Array]) -> tuple[list[Array], None]:
        x, g = chunk
        x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
        x = jnp.concatenate(taps(x, 2, kw, out_w, strides[1]), axis=-1)
        rows = taps(x, 1, kh, out_h, strides[0])
        rows = [jnp.concatenate(rows, axis=-1)] if narrow else rows
        # g first: with the long axis leading in both, XLA:CPU packs the smaller factor.
        return [
            total + lax.dot_general(g, row.reshape(g.shape[0], -1), (((0,), (0,)), ((), ())))
            for total, row in zip(totals, rows, strict=True)
        ], None

    columns = [kh * kw * channels] if narrow else [kw * channels] * kh
    totals, _ = lax.scan(add, [jnp.zeros((filters, count), g.dtype) for count in columns], (x, g))
    return jnp.concatenate(totals, axis=1).T.reshape(shape)
