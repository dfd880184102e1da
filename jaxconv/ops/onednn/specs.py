"""Convolution, dense layer and pooling on one device, described by shapes.

Arrays have the layout of XLA and flax.linen: images channels-last, kernels (*kernel, in, out). `dtype` is that of x, y
and their gradients, "float32" or "bfloat16". Parameters and their gradients are float32: an operation converts them. In
the names of buffers, "y_gradient" is the gradient of the loss with respect to y, and so on.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from jaxconv.ops.onednn import library
from jaxconv.ops.onednn.availability import PrimitiveSpec, has_fast_primitives
from jaxconv.ops.onednn.library import (
    BIAS,
    DIFF_BIAS,
    DIFF_DST,
    DIFF_SRC,
    DIFF_WEIGHTS,
    DST,
    SRC,
    WEIGHTS,
    WORKSPACE,
    MemoryDescriptor,
    PrimitiveDescriptor,
    Propagation,
    integers,
    memory_descriptor,
    query_memory_descriptor,
)
from jaxconv.ops.onednn.operations import Operation, call


def takes(x: Array, *parameters: Array) -> bool:
    """Return whether the operations below are for arrays of these dtypes."""
    return x.dtype in (jnp.float32, jnp.bfloat16) and all(array.dtype == jnp.float32 for array in parameters)


class Convolution(NamedTuple):
    """A convolution with bias, and its gradients."""

    x: tuple[int, ...]
    """(batch, *spatial, in)"""
    kernel: tuple[int, ...]
    """(*kernel, in, out)"""
    y: tuple[int, ...]
    """(batch, *spatial_out, out)"""
    strides: tuple[int, ...]
    """Stride in each spatial dimension."""
    padding: tuple[tuple[int, int], ...]
    """Zeros before and after each spatial dimension."""
    dtype: str = "float32"

    def is_fast(self) -> bool:
        """Return whether oneDNN can be used and is fast for the convolution and its gradients on this processor."""
        return has_fast_primitives(self, "forward", "backward_data", "backward_weights")

    def forward(
        self, x: Float[Array, "batch *spatial in"], kernel: Float[Array, "*kernel in out"], bias: Float[Array, " out"]
    ) -> Float[Array, "batch *spatial_out out"]:
        """Compute the convolution, and add the bias."""
        return call("forward", self, [_array(self.y, self.dtype)], x, kernel, bias)[0]

    def input_gradient(
        self, y_gradient: Float[Array, "batch *spatial_out out"], kernel: Float[Array, "*kernel in out"]
    ) -> Float[Array, "batch *spatial in"]:
        """Compute the gradient with respect to x from the one with respect to y."""
        return call("backward_data", self, [_array(self.x, self.dtype)], y_gradient, kernel)[0]

    def parameter_gradients(
        self, x: Float[Array, "batch *spatial in"], y_gradient: Float[Array, "batch *spatial_out out"]
    ) -> tuple[Float[Array, "*kernel in out"], Float[Array, " out"]]:
        """Compute the gradients with respect to kernel and bias from the one with respect to y."""
        results = [_array(self.kernel), _array(self.kernel[-1:])]
        kernel_gradient, bias_gradient = call("backward_weights", self, results, x, y_gradient)
        return kernel_gradient, bias_gradient

    def primitive_descriptor(self, propagation: Propagation) -> PrimitiveDescriptor:
        """Describe the primitive. It chooses the layout of the kernel, or of its gradient, that is fastest."""
        x, y, bias = self._arrays()
        dtype = "float32" if propagation == "backward_weights" else self.dtype
        kernel = library.memory_descriptor_of_any_layout(self.kernel, _kernel_axes(self.kernel), dtype)
        arrays = [x, kernel, y] if propagation == "backward_data" else [x, kernel, bias, y]
        low, high = zip(*self.padding, strict=True)
        dilations = [0] * len(low)  # oneDNN counts the elements left out between two taps
        return library.primitive_descriptor(
            "convolution",
            propagation,
            library.DIRECT_CONVOLUTION,
            *arrays,
            *map(integers, (self.strides, dilations, low, high)),
            forward=_forward_descriptor(self, propagation),
        )

    def operation(self, propagation: Propagation) -> Operation:
        """Make the operation: the primitive, and a reorder of the kernel from or to XLA's layout and float32."""
        primitive = self.primitive_descriptor(propagation)
        x, y, bias = self._arrays()
        kernel = memory_descriptor(self.kernel, _kernel_axes(self.kernel))
        if propagation == "forward":
            operation = Operation(arguments={"x": x, "kernel": kernel, "bias": bias}, results={"y": y})
            inner = operation.in_layout("kernel", query_memory_descriptor(primitive, library.QUERY_WEIGHTS))
            operation.add_reorder("kernel", inner)
            operation.add_primitive(primitive, {SRC: "x", WEIGHTS: inner, BIAS: "bias", DST: "y"})
        elif propagation == "backward_data":
            operation = Operation(arguments={"y_gradient": y, "kernel": kernel}, results={"x_gradient": x})
            inner = operation.in_layout("kernel", query_memory_descriptor(primitive, library.QUERY_WEIGHTS))
            operation.add_reorder("kernel", inner)
            operation.add_primitive(primitive, {DIFF_DST: "y_gradient", WEIGHTS: inner, DIFF_SRC: "x_gradient"})
        else:
            operation = Operation(
                arguments={"x": x, "y_gradient": y}, results={"kernel_gradient": kernel, "bias_gradient": bias}
            )
            layout = query_memory_descriptor(primitive, library.QUERY_DIFF_WEIGHTS)
            inner = operation.in_layout("kernel_gradient", layout)
            names = {SRC: "x", DIFF_DST: "y_gradient", DIFF_WEIGHTS: inner, DIFF_BIAS: "bias_gradient"}
            operation.add_primitive(primitive, names)
            operation.add_reorder(inner, "kernel_gradient")
        return operation

    def _arrays(self) -> tuple[MemoryDescriptor, MemoryDescriptor, MemoryDescriptor]:
        return _images(self.x, self.dtype), _images(self.y, self.dtype), memory_descriptor(self.kernel[-1:], [0])


class Dense(NamedTuple):
    """A dense layer, and its gradients."""

    rows: int
    inputs: int
    units: int
    dtype: str = "float32"

    def is_fast(self) -> bool:
        """Return whether oneDNN can be used and is fast for the layer and its gradients on this processor."""
        return has_fast_primitives(self, "forward", "backward_data", "backward_weights")

    def forward(
        self, x: Float[Array, "rows inputs"], kernel: Float[Array, "inputs units"], bias: Float[Array, " units"]
    ) -> Float[Array, "rows units"]:
        """Compute the product of x and kernel, and add the bias."""
        return call("forward", self, [_array((self.rows, self.units), self.dtype)], x, kernel, bias)[0]

    def input_gradient(
        self, y_gradient: Float[Array, "rows units"], kernel: Float[Array, "inputs units"]
    ) -> Float[Array, "rows inputs"]:
        """Compute the gradient with respect to x from the one with respect to y. In float32, XLA is faster."""
        return call("backward_data", self, [_array((self.rows, self.inputs), self.dtype)], y_gradient, kernel)[0]

    def parameter_gradients(
        self, x: Float[Array, "rows inputs"], y_gradient: Float[Array, "rows units"]
    ) -> tuple[Float[Array, "inputs units"], Float[Array, " units"]]:
        """Compute the gradients with respect to kernel and bias from the one with respect to y."""
        results = [_array((self.inputs, self.units)), _array((self.units,))]
        kernel_gradient, bias_gradient = call("backward_weights", self, results, x, y_gradient)
        return kernel_gradient, bias_gradient

    def _arrays(self) -> tuple[MemoryDescriptor, MemoryDescriptor, MemoryDescriptor, MemoryDescriptor]:
        x = memory_descriptor((self.rows, self.inputs), [0, 1], self.dtype)
        kernel = memory_descriptor((self.inputs, self.units), [1, 0])
        bias = memory_descriptor((self.units,), [0])
        y = memory_descriptor((self.rows, self.units), [0, 1], self.dtype)
        return x, kernel, bias, y

    def primitive_descriptor(self, propagation: Propagation) -> PrimitiveDescriptor:
        """Describe the primitive. In bfloat16, it chooses the layout of the kernel that is fastest."""
        x, kernel, bias, y = self._arrays()
        if self.dtype == "bfloat16":
            dtype = "float32" if propagation == "backward_weights" else self.dtype
            kernel = library.memory_descriptor_of_any_layout((self.inputs, self.units), [1, 0], dtype)
        return library.primitive_descriptor(
            "inner_product",
            propagation,
            None,
            *([x, kernel, y] if propagation == "backward_data" else [x, kernel, bias, y]),
            forward=_forward_descriptor(self, propagation),
        )

    def operation(self, propagation: Propagation) -> Operation:
        """Make the operation: the primitive, and in bfloat16 a reorder of the kernel from or to float32."""
        primitive = self.primitive_descriptor(propagation)
        x, kernel, bias, y = self._arrays()
        if propagation == "forward":
            operation = Operation(arguments={"x": x, "kernel": kernel, "bias": bias}, results={"y": y})
            inner = operation.in_layout("kernel", query_memory_descriptor(primitive, library.QUERY_WEIGHTS))
            operation.add_reorder("kernel", inner)
            operation.add_primitive(primitive, {SRC: "x", WEIGHTS: inner, BIAS: "bias", DST: "y"})
        elif propagation == "backward_data":
            operation = Operation(arguments={"y_gradient": y, "kernel": kernel}, results={"x_gradient": x})
            inner = operation.in_layout("kernel", query_memory_descriptor(primitive, library.QUERY_WEIGHTS))
            operation.add_reorder("kernel", inner)
            operation.add_primitive(primitive, {DIFF_DST: "y_gradient", WEIGHTS: inner, DIFF_SRC: "x_gradient"})
        else:
            operation = Operation(
                arguments={"x": x, "y_gradient": y}, results={"kernel_gradient": kernel, "bias_gradient": bias}
            )
            layout = query_memory_descriptor(primitive, library.QUERY_DIFF_WEIGHTS)
            inner = operation.in_layout("kernel_gradient", layout)
            names = {SRC: "x", DIFF_DST: "y_gradient", DIFF_WEIGHTS: inner, DIFF_BIAS: "bias_gradient"}
            operation.add_primitive(primitive, names)
            operation.add_reorder(inner, "kernel_gradient")
        return operation


class Pooling(NamedTuple):
    """Max-pooling or average-pooling, and its gradient. Both leave padding out."""

    kind: Literal["max", "average"]
    x: tuple[int, ...]
    """(batch, *spatial, channels)"""
    window: tuple[int, ...]
    """Size of a window in each spatial dimension."""
    strides: tuple[int, ...]
    """Stride in each spatial dimension."""
    padding: tuple[tuple[int, int], ...]
    """Padding before and after each spatial dimension."""
    dtype: str = "float32"

    def is_fast(self) -> bool:
        """Return whether oneDNN can be used and is fast for the pooling and its gradient on this processor."""
        return has_fast_primitives(self, "forward", "backward")

    def forward(
        self, x: Float[Array, "batch *spatial c"]
    ) -> tuple[Float[Array, "batch *spatial_out c"], UInt8[Array, " bytes"] | None]:
        """Compute the maxima or averages.

        Returns:
            The maxima, and oneDNN's workspace: where they are in their windows, for `input_gradient`. Or the averages,
            and None.
        """
        if self.kind == "average":
            return call("forward", self, [_array(self._y(), self.dtype)], x)[0], None
        workspace = jax.ShapeDtypeStruct((library.num_bytes(self._workspace()),), jnp.uint8)
        y, workspace = call("forward", self, [_array(self._y(), self.dtype), workspace], x)
        return y, workspace

    def input_gradient(
        self, y_gradient: Float[Array, "batch *spatial_out c"], workspace: UInt8[Array, " bytes"] | None
    ) -> Float[Array, "batch *spatial c"]:
        """Compute the gradient with respect to x, which is the sum over the windows that an element is in.

        The first maximum of a window gets the gradient of the window. The elements of an average get equal shares.
        """
        arguments = [y_gradient] if workspace is None else [y_gradient, workspace]
        return call("backward", self, [_array(self.x, self.dtype)], *arguments)[0]

    def _y(self) -> tuple[int, ...]:
        sizes = zip(self.x[1:-1], self.window, self.strides, self.padding, strict=True)
        spatial = ((low + size + high - window) // stride + 1 for size, window, stride, (low, high) in sizes)
        return (self.x[0], *spatial, self.x[-1])

    def _workspace(self) -> MemoryDescriptor:
        return query_memory_descriptor(self.primitive_descriptor("forward"), library.QUERY_WORKSPACE)

    def primitive_descriptor(self, propagation: Propagation) -> PrimitiveDescriptor:
        """Describe the primitive."""
        low, high = zip(*self.padding, strict=True)
        dilations = [0] * len(low)  # oneDNN counts the elements left out between two of a window
        return library.primitive_descriptor(
            "pooling",
            propagation,
            library.MAX_POOLING if self.kind == "max" else library.AVERAGE_POOLING,
            _images(self.x, self.dtype),
            _images(self._y(), self.dtype),
            *map(integers, (self.strides, self.window, dilations, low, high)),
            forward=_forward_descriptor(self, propagation),
        )

    def operation(self, propagation: Propagation) -> Operation:
        """Make the operation, which is the primitive alone."""
        primitive = self.primitive_descriptor(propagation)
        x, y = _images(self.x, self.dtype), _images(self._y(), self.dtype)
        workspace = {"workspace": self._workspace()} if self.kind == "max" else {}
        if propagation == "forward":
            operation = Operation(arguments={"x": x}, results={"y": y, **workspace})
            names = {SRC: "x", DST: "y"}
        else:
            operation = Operation(arguments={"y_gradient": y, **workspace}, results={"x_gradient": x})
            names = {DIFF_DST: "y_gradient", DIFF_SRC: "x_gradient"}
        if workspace:
            names[WORKSPACE] = "workspace"
        operation.add_primitive(primitive, names)
        return operation


def _array(shape: tuple[int, ...], dtype: str = "float32") -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))


def _images(shape: Sequence[int], dtype: str) -> MemoryDescriptor:
    """Describe images of shape (batch, *spatial, channels)."""
    return memory_descriptor(shape, [0, len(shape) - 1, *range(1, len(shape) - 1)], dtype)


def _kernel_axes(shape: Sequence[int]) -> list[int]:
    """Return the axes of a kernel (*kernel, in, out) in the order of oneDNN: (out, in, *kernel)."""
    spatial = len(shape) - 2
    return [spatial + 1, spatial, *range(spatial)]


def _forward_descriptor(spec: PrimitiveSpec, propagation: Propagation) -> PrimitiveDescriptor | None:
    """Return the forward primitive, which oneDNN needs to describe a backward one."""
    return None if propagation == "forward" else spec.primitive_descriptor("forward")
