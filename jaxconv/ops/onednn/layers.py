"""Convolution, dense layers and max-pooling of one device by oneDNN, each with the gradients that are fast there.

Arrays are float32 as XLA and flax.linen have them: images channels-last, kernels (*kernel, in, out).
"""

from ctypes import c_void_p
from typing import NamedTuple

from jaxtyping import Array, Float, UInt8

from jaxconv.ops.onednn import library as onednn
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
    Argument,
    Operation,
    images,
    in_place,
    integers,
)


class Convolution(NamedTuple):
    """A convolution by the shapes of its arrays."""

    x: tuple[int, ...]
    """(batch, *spatial, in)"""
    kernel: tuple[int, ...]
    """(*kernel, in, out)"""
    y: tuple[int, ...]
    """(batch, *spatial_out, out)"""
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]

    def is_fast(self) -> bool:
        """Whether oneDNN is there, with fast kernels for this and its gradients on this processor."""
        return onednn.all_fast(self, "forward", "backward_data", "backward_weights")

    def forward(
        self, x: Float[Array, "batch *spatial in"], kernel: Float[Array, "*kernel in out"], bias: Float[Array, " out"]
    ) -> Float[Array, "batch *spatial_out out"]:
        """The convolution, and the bias added."""
        return onednn.call("forward", self, [self.y], x, kernel, bias)[0]

    def input_gradient(
        self, g: Float[Array, "batch *spatial_out out"], kernel: Float[Array, "*kernel in out"]
    ) -> Float[Array, "batch *spatial in"]:
        """The gradient by x, `g` being that by the output."""
        return onednn.call("backward_data", self, [self.x], g, kernel)[0]

    def parameter_gradients(
        self, x: Float[Array, "batch *spatial in"], g: Float[Array, "batch *spatial_out out"]
    ) -> tuple[Float[Array, "*kernel in out"], Float[Array, " out"]]:
        """The gradients by kernel and bias, `g` being that by the output."""
        kernel, bias = onednn.call("backward_weights", self, [self.kernel, self.kernel[-1:]], x, g)
        return kernel, bias

    def descriptor(self, kind: str) -> c_void_p:
        """The primitive descriptor; the kernel is in whichever layout is fastest."""
        x, y, kernel = images(self.x), images(self.y), onednn.kernel_in_any_layout(self.kernel)
        arrays = [x, kernel, y] if kind == "backward_data" else [x, kernel, in_place(self.kernel[-1:], [0]), y]
        low, high = zip(*self.padding, strict=True)
        dilations = [0] * len(low)  # oneDNN counts the elements left out
        return onednn.primitive_descriptor(
            "convolution",
            kind,
            onednn.DIRECT_CONVOLUTION,
            *arrays,
            *map(integers, (self.strides, dilations, low, high)),
            of=self,
        )

    def operation(self, kind: str) -> Operation:
        """The primitive, and the kernel's way into or out of its layout."""
        descriptor = self.descriptor(kind)
        x, y, bias = images(self.x), images(self.y), in_place(self.kernel[-1:], [0])
        spatial = range(len(self.kernel) - 2)
        kernel = in_place(self.kernel, [len(spatial) + 1, len(spatial), *spatial])
        if kind == "backward_weights":
            operation = Operation(buffers=4)
            inner = operation.room(DIFF_WEIGHTS, onednn.query(descriptor, onednn.DIFF_WEIGHTS_WANTED))
            operation.add(
                descriptor,
                Argument(SRC, x, 0),
                Argument(DIFF_DST, y, 1),
                inner,
                Argument(DIFF_BIAS, bias, 3),
            )
            operation.reorder(inner, Argument(DIFF_WEIGHTS, kernel, 2))
            return operation
        operation = Operation(buffers=4 if kind == "forward" else 3)
        inner = operation.room(WEIGHTS, onednn.query(descriptor, onednn.WEIGHTS_WANTED))
        operation.reorder(Argument(WEIGHTS, kernel, 1), inner)
        if kind == "forward":
            operation.add(
                descriptor,
                Argument(SRC, x, 0),
                inner,
                Argument(BIAS, bias, 2),
                Argument(DST, y, 3),
            )
        else:
            operation.add(descriptor, Argument(DIFF_DST, y, 0), inner, Argument(DIFF_SRC, x, 2))
        return operation


class Dense(NamedTuple):
    """A product of rows with a kernel. Its gradient by the rows is not here: XLA's own is faster."""

    rows: int
    inputs: int
    units: int

    def is_fast(self) -> bool:
        """Whether oneDNN is there, with fast kernels for this on this processor."""
        return onednn.all_fast(self, "forward", "backward_weights")

    def forward(
        self, x: Float[Array, "rows inputs"], kernel: Float[Array, "inputs units"], bias: Float[Array, " units"]
    ) -> Float[Array, "rows units"]:
        """The product, and the bias added."""
        return onednn.call("forward", self, [(self.rows, self.units)], x, kernel, bias)[0]

    def parameter_gradients(
        self, x: Float[Array, "rows inputs"], g: Float[Array, "rows units"]
    ) -> tuple[Float[Array, "inputs units"], Float[Array, " units"]]:
        """The gradients by kernel and bias, `g` being that by the output."""
        kernel, bias = onednn.call("backward_weights", self, [(self.inputs, self.units), (self.units,)], x, g)
        return kernel, bias

    def _arrays(self) -> tuple[c_void_p, c_void_p, c_void_p, c_void_p]:
        kernel, bias = in_place((self.inputs, self.units), [1, 0]), in_place((self.units,), [0])
        return (
            in_place((self.rows, self.inputs), [0, 1]),
            kernel,
            bias,
            in_place((self.rows, self.units), [0, 1]),
        )

    def descriptor(self, kind: str) -> c_void_p:
        """The primitive descriptor."""
        return onednn.primitive_descriptor("inner_product", kind, None, *self._arrays(), of=self)

    def operation(self, kind: str) -> Operation:
        """The primitive alone."""
        operation, (x, kernel, bias, y) = Operation(buffers=4), self._arrays()
        if kind == "forward":
            arguments = (
                Argument(SRC, x, 0),
                Argument(WEIGHTS, kernel, 1),
                Argument(BIAS, bias, 2),
                Argument(DST, y, 3),
            )
        else:
            arguments = (
                Argument(SRC, x, 0),
                Argument(DIFF_DST, y, 1),
                Argument(DIFF_WEIGHTS, kernel, 2),
                Argument(DIFF_BIAS, bias, 3),
            )
        operation.add(self.descriptor(kind), *arguments)
        return operation


class MaxPooling(NamedTuple):
    """A max-pooling by windows that do not overlap; what is left over at the end is dropped."""

    x: tuple[int, ...]
    """(batch, *spatial, channels)"""
    window: tuple[int, ...]

    def is_fast(self) -> bool:
        """Whether oneDNN is there, with fast kernels for this and its gradient on this processor."""
        return onednn.all_fast(self, "forward", "backward")

    def forward(
        self, x: Float[Array, "batch *spatial c"]
    ) -> tuple[Float[Array, "batch *spatial_out c"], UInt8[Array, " bytes"]]:
        """The maxima, and where they are, for the gradient."""
        y, places = onednn.call("forward", self, [self._y(), onednn.size(self._places())], x)
        return y, places

    def input_gradient(
        self, g: Float[Array, "batch *spatial_out c"], places: UInt8[Array, " bytes"]
    ) -> Float[Array, "batch *spatial c"]:
        """The gradient by x, `g` being that by the output: all of it goes to the first maximum of a window."""
        return onednn.call("backward", self, [self.x], g, places)[0]

    def _y(self) -> tuple[int, ...]:
        spatial = (size // window for size, window in zip(self.x[1:-1], self.window, strict=True))
        return (self.x[0], *spatial, self.x[-1])

    def _places(self) -> c_void_p:
        return onednn.query(self.descriptor("forward"), onednn.WORKSPACE_WANTED)

    def descriptor(self, kind: str) -> c_void_p:
        """The primitive descriptor."""
        window, none = integers(self.window), integers([0] * len(self.window))
        arrays = images(self.x), images(self._y())
        return onednn.primitive_descriptor(
            "pooling", kind, onednn.MAX_POOLING, *arrays, window, window, none, none, none, of=self
        )

    def operation(self, kind: str) -> Operation:
        """The primitive alone."""
        operation, x, y = Operation(buffers=3), images(self.x), images(self._y())
        if kind == "forward":
            arguments = (
                Argument(SRC, x, 0),
                Argument(DST, y, 1),
                Argument(WORKSPACE, self._places(), 2),
            )
        else:
            arguments = (
                Argument(DIFF_DST, y, 0),
                Argument(WORKSPACE, self._places(), 1),
                Argument(DIFF_SRC, x, 2),
            )
        operation.add(self.descriptor(kind), *arguments)
        return operation
