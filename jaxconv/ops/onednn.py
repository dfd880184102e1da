"""Convolution, max-pooling and dense layers by oneDNN, the kernels of TensorFlow and PyTorch on a CPU, within XLA.

Arrays are float32 as XLA and flax.linen have them: images channels-last, kernels (*kernel, in, out). What an operation
needs is made while a program is traced, and kept under the operation's text; XLA's call brings that and the addresses.

Reference: dnnl.h and dnnl_types.h of oneDNN 3 (https://uxlfoundation.github.io/oneDNN).
"""

import contextlib
import ctypes
import functools
import importlib.metadata
import math
import os
import threading
from collections.abc import Callable, Sequence
from ctypes import c_char_p, c_int, c_int64, c_size_t, c_void_p
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from jaxconv.ops import ffi

_DISTRIBUTION = "onednn-cpu-gomp"
_TARGET = "jaxconv_onednn"

_PAGE = 4096
"""Arrays in scratch begin on a page of their own: threads that write to neighbouring lines hold each other up."""

# Constants of dnnl_types.h.
_CPU, _IN_ORDER, _USER_SCRATCHPAD, _F32, _ANY_LAYOUT = 1, 1, 1, 3, 1
_TRAINING, _DIRECT, _MAX = 64, 1, 0x1FF
_IMPLEMENTATION, _WEIGHTS_WANTED, _DIFF_WEIGHTS_WANTED, _WORKSPACE_WANTED, _SCRATCHPAD_WANTED = 8, 131, 132, 135, 136
_SRC, _DST, _WEIGHTS, _BIAS, _WORKSPACE, _SCRATCHPAD = 1, 17, 33, 41, 64, 80
_DIFF_SRC, _DIFF_DST, _DIFF_WEIGHTS, _DIFF_BIAS = 129, 145, 161, 169


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
        return _all_fast(self, "forward", "backward_data", "backward_weights")

    def forward(
        self, x: Float[Array, "batch *spatial in"], kernel: Float[Array, "*kernel in out"], bias: Float[Array, " out"]
    ) -> Float[Array, "batch *spatial_out out"]:
        """The convolution, and the bias added."""
        return _call("forward", self, [self.y], x, kernel, bias)[0]

    def input_gradient(
        self, g: Float[Array, "batch *spatial_out out"], kernel: Float[Array, "*kernel in out"]
    ) -> Float[Array, "batch *spatial in"]:
        """The gradient by x, `g` being that by the output."""
        return _call("backward_data", self, [self.x], g, kernel)[0]

    def parameter_gradients(
        self, x: Float[Array, "batch *spatial in"], g: Float[Array, "batch *spatial_out out"]
    ) -> tuple[Float[Array, "*kernel in out"], Float[Array, " out"]]:
        """The gradients by kernel and bias, `g` being that by the output."""
        kernel, bias = _call("backward_weights", self, [self.kernel, self.kernel[-1:]], x, g)
        return kernel, bias

    def descriptor(self, kind: str) -> c_void_p:
        """The primitive descriptor; the kernel is in whichever layout is fastest."""
        x, y, kernel = _images(self.x), _images(self.y), _wanted_kernel(self.kernel)
        arrays = [x, kernel, y] if kind == "backward_data" else [x, kernel, _in_place(self.kernel[-1:], [0]), y]
        low, high = zip(*self.padding, strict=True)
        dilations = [0] * len(low)  # oneDNN counts the elements left out
        return _primitive_descriptor(
            "convolution", kind, _DIRECT, *arrays, *map(_integers, (self.strides, dilations, low, high)), of=self
        )

    def operation(self, kind: str) -> "_Operation":
        """The primitive, and the kernel's way into or out of its layout."""
        descriptor = self.descriptor(kind)
        x, y, bias = _images(self.x), _images(self.y), _in_place(self.kernel[-1:], [0])
        spatial = range(len(self.kernel) - 2)
        kernel = _in_place(self.kernel, [len(spatial) + 1, len(spatial), *spatial])
        if kind == "backward_weights":
            operation = _Operation(buffers=4)
            inner = operation.room(_DIFF_WEIGHTS, _query(descriptor, _DIFF_WEIGHTS_WANTED))
            operation.add(descriptor, (_SRC, x, 0), (_DIFF_DST, y, 1), inner, (_DIFF_BIAS, bias, 3))
            operation.reorder(inner, (_DIFF_WEIGHTS, kernel, 2))
            return operation
        operation = _Operation(buffers=4 if kind == "forward" else 3)
        inner = operation.room(_WEIGHTS, _query(descriptor, _WEIGHTS_WANTED))
        operation.reorder((_WEIGHTS, kernel, 1), inner)
        if kind == "forward":
            operation.add(descriptor, (_SRC, x, 0), inner, (_BIAS, bias, 2), (_DST, y, 3))
        else:
            operation.add(descriptor, (_DIFF_DST, y, 0), inner, (_DIFF_SRC, x, 2))
        return operation


class Dense(NamedTuple):
    """A product of rows with a kernel. Its gradient by the rows is not here: XLA's own is faster."""

    rows: int
    inputs: int
    units: int

    def is_fast(self) -> bool:
        """Whether oneDNN is there, with fast kernels for this on this processor."""
        return _all_fast(self, "forward", "backward_weights")

    def forward(
        self, x: Float[Array, "rows inputs"], kernel: Float[Array, "inputs units"], bias: Float[Array, " units"]
    ) -> Float[Array, "rows units"]:
        """The product, and the bias added."""
        return _call("forward", self, [(self.rows, self.units)], x, kernel, bias)[0]

    def parameter_gradients(
        self, x: Float[Array, "rows inputs"], g: Float[Array, "rows units"]
    ) -> tuple[Float[Array, "inputs units"], Float[Array, " units"]]:
        """The gradients by kernel and bias, `g` being that by the output."""
        kernel, bias = _call("backward_weights", self, [(self.inputs, self.units), (self.units,)], x, g)
        return kernel, bias

    def _arrays(self) -> tuple[c_void_p, c_void_p, c_void_p, c_void_p]:
        kernel, bias = _in_place((self.inputs, self.units), [1, 0]), _in_place((self.units,), [0])
        return _in_place((self.rows, self.inputs), [0, 1]), kernel, bias, _in_place((self.rows, self.units), [0, 1])

    def descriptor(self, kind: str) -> c_void_p:
        """The primitive descriptor."""
        return _primitive_descriptor("inner_product", kind, None, *self._arrays(), of=self)

    def operation(self, kind: str) -> "_Operation":
        """The primitive alone."""
        operation, (x, kernel, bias, y) = _Operation(buffers=4), self._arrays()
        if kind == "forward":
            arguments = (_SRC, x, 0), (_WEIGHTS, kernel, 1), (_BIAS, bias, 2), (_DST, y, 3)
        else:
            arguments = (_SRC, x, 0), (_DIFF_DST, y, 1), (_DIFF_WEIGHTS, kernel, 2), (_DIFF_BIAS, bias, 3)
        operation.add(self.descriptor(kind), *arguments)
        return operation


class MaxPooling(NamedTuple):
    """A max-pooling by windows that do not overlap; what is left over at the end is dropped."""

    x: tuple[int, ...]
    """(batch, *spatial, channels)"""
    window: tuple[int, ...]

    def is_fast(self) -> bool:
        """Whether oneDNN is there, with fast kernels for this and its gradient on this processor."""
        return _all_fast(self, "forward", "backward")

    def forward(
        self, x: Float[Array, "batch *spatial c"]
    ) -> tuple[Float[Array, "batch *spatial_out c"], UInt8[Array, " bytes"]]:
        """The maxima, and where they are, for the gradient."""
        y, places = _call("forward", self, [self._y(), _size(self._places())], x)
        return y, places

    def input_gradient(
        self, g: Float[Array, "batch *spatial_out c"], places: UInt8[Array, " bytes"]
    ) -> Float[Array, "batch *spatial c"]:
        """The gradient by x, `g` being that by the output: all of it goes to the first maximum of a window."""
        return _call("backward", self, [self.x], g, places)[0]

    def _y(self) -> tuple[int, ...]:
        spatial = (size // window for size, window in zip(self.x[1:-1], self.window, strict=True))
        return (self.x[0], *spatial, self.x[-1])

    def _places(self) -> c_void_p:
        return _query(self.descriptor("forward"), _WORKSPACE_WANTED)

    def descriptor(self, kind: str) -> c_void_p:
        """The primitive descriptor."""
        window, none = _integers(self.window), _integers([0] * len(self.window))
        arrays = _images(self.x), _images(self._y())
        return _primitive_descriptor("pooling", kind, _MAX, *arrays, window, window, none, none, none, of=self)

    def operation(self, kind: str) -> "_Operation":
        """The primitive alone."""
        operation, x, y = _Operation(buffers=3), _images(self.x), _images(self._y())
        if kind == "forward":
            arguments = (_SRC, x, 0), (_DST, y, 1), (_WORKSPACE, self._places(), 2)
        else:
            arguments = (_DIFF_DST, y, 0), (_WORKSPACE, self._places(), 1), (_DIFF_SRC, x, 2)
        operation.add(self.descriptor(kind), *arguments)
        return operation


_What = Convolution | Dense | MaxPooling


# ---- The library


class _Library(NamedTuple):
    long: Any
    """Its calls free Python's lock."""
    brief: Any
    """The same, for calls that are too short for that."""
    engine: c_void_p
    stream: c_void_p
    attributes: c_void_p


@functools.cache
def _load() -> _Library | None:
    """The library, ready for use; None where it is not installed or does not load."""
    try:
        files = importlib.metadata.files(_DISTRIBUTION) or []
        path = next(str(file.locate()) for file in files if file.name == "libdnnl.so.3")
        long, brief = ctypes.CDLL(path), ctypes.PyDLL(path)
    except (importlib.metadata.PackageNotFoundError, StopIteration, OSError):
        return None
    brief.dnnl_primitive_desc_query_md.restype = c_void_p
    brief.dnnl_memory_desc_get_size.restype = c_size_t
    engine = _new(brief.dnnl_engine_create, _CPU, c_size_t(0))
    attributes = _new(brief.dnnl_primitive_attr_create)
    _check(brief.dnnl_primitive_attr_set_scratchpad_mode(attributes, _USER_SCRATCHPAD))
    ffi.register(_TARGET, _execute)
    return _Library(long, brief, engine, _new(brief.dnnl_stream_create, engine, _IN_ORDER), attributes)


def is_available() -> bool:
    """Whether oneDNN is there."""
    return _load() is not None


def _library() -> _Library:
    library = _load()
    assert library
    return library


def _new(create: Callable[..., int], *arguments: Any) -> c_void_p:
    made = c_void_p()
    _check(create(ctypes.byref(made), *arguments))
    return made


def _check(status: int) -> None:
    if status:
        raise RuntimeError(f"oneDNN answered with status {status}")


# ---- Descriptors of arrays and of primitives


def _integers(values: Sequence[int]) -> Any:
    return (c_int64 * 12)(*values)


def _in_place(shape: Sequence[int], order: Sequence[int]) -> c_void_p:
    """The descriptor of an array as XLA has it, its axes in the order that oneDNN counts them."""
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    return _new(
        _library().brief.dnnl_memory_desc_create_with_strides,
        len(shape),
        _integers([shape[axis] for axis in order]),
        _F32,
        _integers([strides[axis] for axis in order]),
    )


def _images(shape: Sequence[int]) -> c_void_p:
    return _in_place(shape, [0, len(shape) - 1, *range(1, len(shape) - 1)])


def _wanted_kernel(shape: Sequence[int]) -> c_void_p:
    dims = _integers([shape[-1], shape[-2], *shape[:-2]])
    return _new(_library().brief.dnnl_memory_desc_create_with_tag, len(shape), dims, _F32, _ANY_LAYOUT)


def _primitive_descriptor(name: str, kind: str, algorithm: int | None, *arguments: Any, of: _What) -> c_void_p:
    library, forward = _library(), kind == "forward"
    return _new(
        getattr(library.brief, f"dnnl_{name}_{kind}_primitive_desc_create"),
        library.engine,
        *([_TRAINING] if forward else []),
        *([algorithm] if algorithm else []),
        *arguments,
        *([] if forward else [of.descriptor("forward")]),
        library.attributes,
    )


def _query(descriptor: c_void_p, what: int) -> c_void_p:
    return c_void_p(_library().brief.dnnl_primitive_desc_query_md(descriptor, what, 0))


def _size(descriptor: c_void_p) -> int:
    return _library().brief.dnnl_memory_desc_get_size(descriptor)


@functools.cache
def _all_fast(what: _What, *kinds: str) -> bool:
    """Whether there are kernels beside the reference ones, which are for checking results."""
    return is_available() and all(not _implementation(what.descriptor(kind)).startswith("ref") for kind in kinds)


def _implementation(descriptor: c_void_p) -> str:
    name = c_char_p()
    _check(_library().brief.dnnl_primitive_desc_query(descriptor, _IMPLEMENTATION, 0, ctypes.byref(name)))
    return (name.value or b"ref").decode()


# ---- Operations


_Argument = tuple[int, c_void_p, int, int] | tuple[int, c_void_p, int]
"""Its role, its descriptor, the number of its buffer, and where in that it begins if not at 0."""


class _Operation:
    """Primitives to run one after the other over the buffers of a call, the last of which is scratch."""

    def __init__(self, buffers: int):
        self.steps: list[tuple[c_void_p, list[_Argument]]] = []
        self.scratch, self.scratch_bytes = buffers, 0

    def room(self, role: int, descriptor: c_void_p) -> _Argument:
        """An array in scratch."""
        offset = self.scratch_bytes
        self.scratch_bytes += -(-_size(descriptor) // _PAGE) * _PAGE
        return role, descriptor, self.scratch, offset

    def add(self, descriptor: c_void_p, *arguments: _Argument) -> None:
        """A primitive."""
        scratchpad = _query(descriptor, _SCRATCHPAD_WANTED)
        if _size(scratchpad):
            arguments = (*arguments, self.room(_SCRATCHPAD, scratchpad))
        self.steps.append((_new(_library().brief.dnnl_primitive_create, descriptor), list(arguments)))

    def reorder(self, source: _Argument, target: _Argument) -> None:
        """A change of layout."""
        library = _library()
        layouts = source[1], library.engine, target[1], library.engine
        descriptor = _new(library.brief.dnnl_reorder_primitive_desc_create, *layouts, library.attributes)
        self.add(descriptor, (_SRC, *source[1:]), (_DST, *target[1:]))


_operations: dict[str, _Operation] = {}


def _call(kind: str, what: _What, results: Sequence[tuple[int, ...] | int], *arguments: Array) -> list[Array]:
    """Results, of float32 by their shapes and of bytes by their number."""
    key = f"{kind} {what}"
    if key not in _operations:
        _operations[key] = what.operation(kind)
    structs = [
        jax.ShapeDtypeStruct((result,), jnp.uint8)
        if isinstance(result, int)
        else jax.ShapeDtypeStruct(result, jnp.float32)
        for result in (*results, _operations[key].scratch_bytes + _PAGE)
    ]
    return ffi.call(_TARGET, key, structs, *arguments)[:-1]


class _ExecutionArgument(ctypes.Structure):
    _fields_ = (("role", c_int), ("memory", c_void_p))


_thread = threading.local()
"""steps: of each operation that a thread has run, as (primitive, arguments, [(memory, buffer, offset)])."""


@functools.cache
def _turn() -> contextlib.AbstractContextManager:
    """What a primitive runs in: one device runs one at a time, since each uses all cores."""
    return threading.Lock() if jax.local_device_count() == 1 else contextlib.nullcontext()


def _execute(key: str, buffers: list[int]) -> None:
    library = _library()
    if not hasattr(_thread, "steps"):
        _thread.steps = {}
        library.brief.omp_set_num_threads(max(1, cores() // jax.local_device_count()))
    if key not in _thread.steps:
        _thread.steps[key] = _prepare(_operations[key])
    buffers[-1] = -(-buffers[-1] // _PAGE) * _PAGE
    for primitive, arguments, places in _thread.steps[key]:
        for memory, buffer, offset in places:
            library.brief.dnnl_memory_set_data_handle(memory, c_void_p(buffers[buffer] + offset))
        with _turn():
            _check(library.long.dnnl_primitive_execute(primitive, library.stream, len(arguments), arguments))


def _prepare(operation: _Operation) -> list[Any]:
    """The steps of an operation with memory objects, which hold addresses, of this thread's own."""
    library, steps = _library(), []
    for primitive, arguments in operation.steps:
        memories = [_new(library.brief.dnnl_memory_create, a[1], library.engine, c_void_p()) for a in arguments]
        pairs = list(zip(memories, arguments, strict=True))
        array = (_ExecutionArgument * len(arguments))(*((argument[0], memory) for memory, argument in pairs))
        steps.append((primitive, array, [(memory, a[2], a[3] if len(a) > 3 else 0) for memory, a in pairs]))
    return steps


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
