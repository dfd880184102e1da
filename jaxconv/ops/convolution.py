"""Convolution: JAX's own, a form that XLA compiles to fast code for a CPU, and oneDNN's.

All take and give the layout of flax.linen: channels last, kernels (*kernel, in, out).
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxconv.ops import onednn
from jaxconv.parallel.sharding import SPLIT, WHOLE, on_each_device

_PATCH_BYTES = 1 << 20
"""About the share of a core's cache that the patches of a loop may fill."""

_NARROW = 32
"""Columns below which a product is too small for its overhead."""

Padding = str | Sequence[tuple[int, int]]


def stock(
    x: Float[Array, "batch *spatial in"],
    kernel: Float[Array, "*kernel in out"],
    bias: Float[Array, " out"],
    *,
    strides: Sequence[int],
    padding: Padding,
) -> Float[Array, "batch *spatial_out out"]:
    """Convolve with `jax.lax.conv_general_dilated` in the dtype of x, and add the bias.

    Args:
        x: input with 1 to 3 spatial dimensions.
        kernel: kernel with as many.
        bias: bias of each filter.
        strides: stride in each spatial dimension.
        padding: "SAME", "VALID", or the zeros before and after each spatial dimension.
    """
    y = _convolve(tuple(strides), _pads(x, kernel, strides, padding), x, kernel.astype(x.dtype))
    return (y + bias).astype(x.dtype)  # in float32, so that the gradient of the bias is summed up in float32


def by_xla(
    x: Float[Array, "batch *spatial in"],
    kernel: Float[Array, "*kernel in out"],
    bias: Float[Array, " out"],
    *,
    strides: Sequence[int],
    padding: Padding,
) -> Float[Array, "batch *spatial_out out"]:
    """Convolve as `stock`, with a faster gradient with respect to a 2-D kernel.

    XLA:CPU runs a convolution and its gradient with respect to the input near the peak of a core, but the gradient
    with respect to the kernel at a quarter of that. As a product of the output's gradient with patches of the input it
    is about twice as fast, as long as the patches stay in the cache: a loop makes and uses them for a few images at a
    time.
    """
    form: Any = _fast_for_xla if x.ndim == 4 else _convolve
    y = form(tuple(strides), _pads(x, kernel, strides, padding), x, kernel.astype(x.dtype))
    return (y + bias).astype(x.dtype)


def by_onednn(
    x: Float[Array, "batch *spatial in"],
    kernel: Float[Array, "*kernel in out"],
    bias: Float[Array, " out"],
    *,
    strides: Sequence[int],
    padding: Padding,
) -> Float[Array, "batch *spatial_out out"]:
    """Convolve as `stock`, by oneDNN where it has fast kernels for this processor and the dtype of x; else `by_xla`.

    oneDNN takes a kernel and a bias of float32, and x of float32 or bfloat16.
    """
    strides, pads = tuple(strides), _pads(x, kernel, strides, padding)
    if onednn.takes(x, kernel, bias) and _describe(strides, pads, x, kernel).is_fast():
        return _onednn(strides, pads, x, kernel, bias)
    return by_xla(x, kernel, bias, strides=strides, padding=pads)


def _pads(x: Array, kernel: Array, strides: Sequence[int], padding: Padding) -> tuple[tuple[int, int], ...]:
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:-1], kernel.shape[:-2], strides, padding)
    return tuple((int(low), int(high)) for low, high in padding)


def _convolve(strides: Any, padding: Any, x: Array, kernel: Array) -> Array:
    spatial = "DHW"[5 - x.ndim :]
    layout = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=layout)


# ---- By oneDNN


def _describe(strides: Any, padding: Any, x: Array, kernel: Array) -> onednn.Convolution:
    y = jax.eval_shape(functools.partial(_convolve, strides, padding), x, kernel.astype(x.dtype))
    return onednn.Convolution(x.shape, kernel.shape, y.shape, strides, padding, x.dtype.name)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _onednn(strides: Any, padding: Any, x: Array, kernel: Array, bias: Array) -> Array:
    def local(x: Array, kernel: Array, bias: Array) -> Array:
        return _describe(strides, padding, x, kernel).forward(x, kernel, bias)

    return on_each_device(local, (SPLIT, WHOLE, WHOLE), SPLIT)(x, kernel, bias)


def _onednn_forward(strides: Any, padding: Any, x: Array, kernel: Array, bias: Array) -> tuple[Array, Any]:
    return _onednn(strides, padding, x, kernel, bias), (x, kernel)


def _onednn_backward(strides: Any, padding: Any, residuals: tuple[Array, Array], g: Array) -> tuple[Array, ...]:
    x, kernel = residuals

    def by_input(x: Array, kernel: Array, g: Array) -> Array:
        return _describe(strides, padding, x, kernel).input_gradient(g, kernel)

    def by_parameters(x: Array, kernel: Array, g: Array) -> tuple[Array, Array]:
        return _describe(strides, padding, x, kernel).parameter_gradients(x, g)

    where = SPLIT, WHOLE, SPLIT
    x_gradient = on_each_device(by_input, where, SPLIT)(x, kernel, g)
    return x_gradient, *on_each_device(by_parameters, where, WHOLE)(x, kernel, g)


_onednn.defvjp(_onednn_forward, _onednn_backward)


# ---- By XLA


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _fast_for_xla(strides: Any, padding: Any, x: Array, kernel: Array) -> Array:
    """Convolve with zeros beside numbers of channels and filters that XLA:CPU is slow at."""
    channels, filters = kernel.shape[2:]
    more_channels = 4 - channels if channels in (2, 3) else 0
    more_filters = -filters % 64
    if more_filters > filters // 3:
        more_filters = 0
    x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, more_channels)))
    kernel = jnp.pad(kernel, ((0, 0), (0, 0), (0, more_channels), (0, more_filters)))
    return _convolve(strides, padding, x, kernel)[..., :filters]


def _xla_forward(strides: Any, padding: Any, x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _fast_for_xla(strides, padding, x, kernel), (x, kernel)


def _xla_backward(strides: Any, padding: Any, residuals: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    (x_gradient,) = jax.linear_transpose(lambda x: _convolve(strides, padding, x, kernel), x)(g)
    local = functools.partial(kernel_gradient, strides=strides, padding=padding, shape=kernel.shape)
    return x_gradient, on_each_device(local, (SPLIT, SPLIT), WHOLE)(x, g)


_fast_for_xla.defvjp(_xla_forward, _xla_backward)


def kernel_gradient(
    x: Float[Array, "batch h w in"],
    g: Float[Array, "batch h_out w_out out"],
    *,
    strides: tuple[int, int],
    padding: tuple[tuple[int, int], tuple[int, int]],
    shape: tuple[int, ...],
) -> Float[Array, "kh kw in out"]:
    """Compute the gradient of a 2-D convolution with respect to its kernel of `shape`; `g` is that of its output."""
    kh, kw, channels, filters = shape
    batch, out_h, out_w, _ = g.shape
    # A product for each row of the kernel, or a single one where rows are narrow.
    narrow = kw * channels < _NARROW
    patches_per_image = out_h * out_w * kw * channels * (kh if narrow else 1)
    # Enough images at a time for a product of some size, few enough for the cache.
    images = max(1, _PATCH_BYTES // (patches_per_image * 4))
    images = math.gcd(batch, 1 << (images.bit_length() - 1))

    sums = jnp.promote_types(g.dtype, jnp.float32)
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
            total + lax.dot_general(g, row.reshape(len(g), -1), (((0,), (0,)), ((), ())), preferred_element_type=sums)
            for total, row in zip(totals, rows, strict=True)
        ], None

    columns = [kh * kw * channels] if narrow else [kw * channels] * kh
    totals, _ = lax.scan(add, [jnp.zeros((filters, count), sums) for count in columns], (x, g))
    return jnp.concatenate(totals, axis=1).T.reshape(shape).astype(x.dtype)
