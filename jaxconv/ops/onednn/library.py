"""oneDNN, the kernels of TensorFlow and PyTorch on a CPU: its C library by ctypes, called from within XLA's programs.

An operation is a few of its primitives over the buffers of a call. It is made while a program is traced, and kept
under a key; XLA's call brings the key and the addresses of the buffers. Arrays are float32.

Reference: dnnl.h and dnnl_types.h of oneDNN 3 (https://uxlfoundation.github.io/oneDNN).
"""

import concurrent.futures
import contextlib
import ctypes
import functools
import importlib.metadata
import math
import threading
from collections.abc import Callable, Sequence
from ctypes import c_char_p, c_int, c_int64, c_size_t, c_void_p
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxconv.ops.onednn import ffi
from jaxconv.platform.limits import cores

_DISTRIBUTION = "onednn-cpu-gomp"
_TARGET = "jaxconv_onednn"

_PAGE = 4096
"""Arrays in scratch begin on a page of their own: threads that write to neighbouring lines hold each other up."""

_FEW_CORES = 4
"""Of a device: each of XLA's threads may then run operations, and have so many OpenMP threads of its own."""

# Constants of dnnl_types.h.
_CPU, _IN_ORDER, _USER_SCRATCHPAD, _F32, _ANY_LAYOUT = 1, 1, 1, 3, 1
_TRAINING = 64
_IMPLEMENTATION, _SCRATCHPAD_WANTED = 8, 136
SRC, DST, WEIGHTS, BIAS, WORKSPACE, _SCRATCHPAD = 1, 17, 33, 41, 64, 80
DIFF_SRC, DIFF_DST, DIFF_WEIGHTS, DIFF_BIAS = 129, 145, 161, 169
WEIGHTS_WANTED, DIFF_WEIGHTS_WANTED, WORKSPACE_WANTED = 131, 132, 135
DIRECT_CONVOLUTION, MAX_POOLING = 1, 0x1FF


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
def _load() -> _Library | str | None:
    """The library; None where it is not installed; a sentence that says why, where it does not load."""
    try:
        files = importlib.metadata.files(_DISTRIBUTION) or []
        path = next(str(file.locate()) for file in files if file.name == "libdnnl.so.3")
        long, brief = ctypes.CDLL(path), ctypes.PyDLL(path)
    except (importlib.metadata.PackageNotFoundError, StopIteration):
        return None
    except OSError as error:
        return f"it does not load: {error}"
    brief.dnnl_primitive_desc_query_md.restype = c_void_p
    brief.dnnl_memory_desc_get_size.restype = c_size_t
    engine = _new(brief.dnnl_engine_create, _CPU, c_size_t(0))
    attributes = _new(brief.dnnl_primitive_attr_create)
    _check(brief.dnnl_primitive_attr_set_scratchpad_mode(attributes, _USER_SCRATCHPAD))
    return _Library(long, brief, engine, _new(brief.dnnl_stream_create, engine, _IN_ORDER), attributes)


def is_installed() -> bool:
    """Whether oneDNN is here and loads; JAX need not have started."""
    return isinstance(_load(), _Library)


@functools.cache
def problem() -> str | None:
    """Why oneDNN is installed and not used; None where it is used, or not installed. JAX must have started."""
    library = _load()
    if not isinstance(library, _Library):
        return library
    try:
        ffi.register(_TARGET, _execute)
        # On a thread of its own, for this may be asked while a program is traced.
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            executor.submit(_probe).result()
    except Exception as error:  # whatever it is, the kernels of XLA do without
        return f"it does not work with jaxlib {importlib.metadata.version('jaxlib')}: {error}"
    return None


def is_available() -> bool:
    """Whether oneDNN is here and works with this jaxlib. JAX must have started."""
    return is_installed() and problem() is None


def version() -> str | None:
    """The version of the package that carries oneDNN; None where it is not installed."""
    return importlib.metadata.version(_DISTRIBUTION) if is_installed() else None


def _library() -> _Library:
    library = _load()
    assert isinstance(library, _Library)
    return library


class _Transpose(NamedTuple):
    """A change of layout that shows whether XLA and oneDNN understand each other."""

    rows: int
    columns: int

    def operation(self, kind: str) -> "Operation":
        operation = Operation(buffers=2)
        operation.reorder(
            Argument(SRC, in_place((self.rows, self.columns), [0, 1]), 0),
            Argument(DST, in_place((self.columns, self.rows), [1, 0]), 1),
        )
        return operation


def _probe() -> None:
    """Run a tiny program.

    Raises:
        RuntimeError: its result is wrong.
    """
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    with jax.default_device(jax.devices("cpu")[0]):
        (result,) = jax.jit(lambda x: call("transpose", _Transpose(2, 3), [(3, 2)], x))(x)
    if not np.array_equal(result, x.T):
        raise RuntimeError("a small program gave a wrong result")


def _new(create: Callable[..., int], *arguments: Any) -> c_void_p:
    made = c_void_p()
    _check(create(ctypes.byref(made), *arguments))
    return made


def _check(status: int) -> None:
    if status:
        raise RuntimeError(f"oneDNN answered with status {status}")


# ---- Descriptors of arrays and of primitives


class Layer(Protocol):
    """What operations are made for: written out in full as text."""

    def operation(self, kind: str) -> "Operation":
        """What to run over the arguments, then the results of `call`: "forward" or a kind of "backward"."""
        ...


class DescribedLayer(Layer, Protocol):
    """A layer of one primitive for each kind, hashable."""

    def descriptor(self, kind: str) -> c_void_p:
        """The primitive descriptor of "forward" or a kind of "backward"."""
        ...


def integers(values: Sequence[int]) -> Any:
    """As oneDNN takes dimensions, strides and padding."""
    return (c_int64 * 12)(*values)


def in_place(shape: Sequence[int], order: Sequence[int]) -> c_void_p:
    """The descriptor of an array as XLA has it, its axes in the order that oneDNN counts them."""
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    return _new(
        _library().brief.dnnl_memory_desc_create_with_strides,
        len(shape),
        integers([shape[axis] for axis in order]),
        _F32,
        integers([strides[axis] for axis in order]),
    )


def images(shape: Sequence[int]) -> c_void_p:
    """The descriptor of images (batch, *spatial, channels)."""
    return in_place(shape, [0, len(shape) - 1, *range(1, len(shape) - 1)])


def kernel_in_any_layout(shape: Sequence[int]) -> c_void_p:
    """The descriptor of a kernel (*kernel, in, out) that a primitive may have as it likes."""
    dims = integers([shape[-1], shape[-2], *shape[:-2]])
    return _new(_library().brief.dnnl_memory_desc_create_with_tag, len(shape), dims, _F32, _ANY_LAYOUT)


def primitive_descriptor(name: str, kind: str, algorithm: int | None, *arguments: Any, of: DescribedLayer) -> c_void_p:
    """The descriptor of the primitive that a function of oneDNN's makes of these arguments."""
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


def query(descriptor: c_void_p, what: int) -> c_void_p:
    """The descriptor of an array that a primitive wants so."""
    return c_void_p(_library().brief.dnnl_primitive_desc_query_md(descriptor, what, 0))


def size(descriptor: c_void_p) -> int:
    """Bytes of an array."""
    return _library().brief.dnnl_memory_desc_get_size(descriptor)


def all_fast(layer: DescribedLayer, *kinds: str) -> bool:
    """Whether oneDNN is there, with fast kernels for these kinds of a layer's operations on this processor."""
    if not is_available():
        return False
    _use_share_of_cores()
    return all(_is_fast(layer, kind) for kind in kinds)


@functools.cache
def _is_fast(layer: DescribedLayer, kind: str) -> bool:
    """Whether there is a kernel beside the reference one, which is for checking results."""
    name = c_char_p()
    try:
        descriptor = layer.descriptor(kind)
    except RuntimeError:  # there is none at all
        return False
    _check(_library().brief.dnnl_primitive_desc_query(descriptor, _IMPLEMENTATION, 0, ctypes.byref(name)))
    return not (name.value or b"ref").startswith(b"ref")


# ---- Operations


class Argument(NamedTuple):
    """An array of a primitive."""

    role: int
    descriptor: c_void_p
    buffer: int
    """Its number among the arguments and results of the call."""
    offset: int = 0


class Operation:
    """Primitives to run one after the other over the buffers of a call, the last of which is scratch."""

    def __init__(self, buffers: int):
        self.steps: list[tuple[c_void_p, list[Argument]]] = []
        self.scratch, self.scratch_bytes = buffers, 0
        self.idle: list[list[Any]] = []
        """Of `_prepare`, those that no call is using now: as many as there ever were calls at once."""

    def room(self, role: int, descriptor: c_void_p) -> Argument:
        """An array in scratch."""
        offset = self.scratch_bytes
        self.scratch_bytes += -(-size(descriptor) // _PAGE) * _PAGE
        return Argument(role, descriptor, self.scratch, offset)

    def add(self, descriptor: c_void_p, *arguments: Argument) -> None:
        """A primitive."""
        scratchpad = query(descriptor, _SCRATCHPAD_WANTED)
        if size(scratchpad):
            arguments = (*arguments, self.room(_SCRATCHPAD, scratchpad))
        self.steps.append((_new(_library().brief.dnnl_primitive_create, descriptor), list(arguments)))

    def reorder(self, source: Argument, target: Argument) -> None:
        """A change of layout."""
        library = _library()
        layouts = source.descriptor, library.engine, target.descriptor, library.engine
        descriptor = _new(library.brief.dnnl_reorder_primitive_desc_create, *layouts, library.attributes)
        self.add(descriptor, source._replace(role=SRC), target._replace(role=DST))


_operations: dict[str, Operation] = {}


def call(kind: str, layer: Layer, results: Sequence[tuple[int, ...] | int], *arguments: Array) -> list[Array]:
    """The results of a layer's operation, of float32 by their shapes and of bytes by their number.

    Raises:
        TypeError: an argument is of another type, which oneDNN would read as if it were not.
    """
    for argument in arguments:
        if argument.dtype not in (jnp.float32, jnp.uint8):
            raise TypeError(f"{kind} of {layer} has an argument of {argument.dtype}; oneDNN is used for float32 alone")
    key = f"{kind} {layer}"
    if key not in _operations:
        _operations[key] = layer.operation(kind)
    structs = [
        jax.ShapeDtypeStruct((result,), jnp.uint8)
        if isinstance(result, int)
        else jax.ShapeDtypeStruct(result, jnp.float32)
        for result in (*results, _operations[key].scratch_bytes + _PAGE)
    ]
    return ffi.call(_TARGET, key, structs, *arguments)[:-1]


class _ExecutionArgument(ctypes.Structure):
    _fields_ = (("role", c_int), ("memory", c_void_p))


@functools.cache
def _share_of_cores() -> int:
    """The cores of each device."""
    return max(1, cores() // jax.local_device_count())


def _use_share_of_cores() -> None:
    """Give this thread its device's share of the cores, for the primitives that it makes and those that it runs."""
    _library().brief.omp_set_num_threads(_share_of_cores())


@functools.cache
def _turn() -> contextlib.AbstractContextManager:
    """What a primitive runs in: one device runs one at a time, since each uses all cores."""
    return threading.Lock() if jax.local_device_count() == 1 else contextlib.nullcontext()


@functools.cache
def _executor() -> concurrent.futures.Executor:
    """A thread for each device."""
    return concurrent.futures.ThreadPoolExecutor(jax.local_device_count())


def _execute(key: str, buffers: list[int]) -> None:
    """Run an operation, where its OpenMP threads, which each thread that asks has for itself, stay few.

    XLA calls from as many threads as there are cores. Where there are many, one thread for each device runs all its
    operations; on 2 cores to hand over would take 5 to 15% of a step.
    """
    if _share_of_cores() <= _FEW_CORES:
        _run(key, buffers)
    else:
        _executor().submit(_run, key, buffers).result()


def _run(key: str, buffers: list[int]) -> None:
    library, operation = _library(), _operations[key]
    if len(buffers) != operation.scratch + 1:
        raise RuntimeError(f"{key} has {len(buffers)} buffers; {operation.scratch + 1} were expected")
    _use_share_of_cores()
    buffers[-1] = -(-buffers[-1] // _PAGE) * _PAGE
    try:  # not kept by thread: each call from a thread of XLA's is a new thread to Python
        prepared = operation.idle.pop()
    except IndexError:
        prepared = _prepare(operation)
    try:
        for primitive, arguments, places in prepared:
            for memory, buffer, offset in places:
                library.brief.dnnl_memory_set_data_handle(memory, c_void_p(buffers[buffer] + offset))
            with _turn():
                _check(library.long.dnnl_primitive_execute(primitive, library.stream, len(arguments), arguments))
    finally:
        operation.idle.append(prepared)


def _prepare(operation: Operation) -> list[Any]:
    """The steps of an operation with memory objects, which hold addresses, of one call at a time."""
    library, steps = _library(), []
    for primitive, arguments in operation.steps:
        memories = [_new(library.brief.dnnl_memory_create, a.descriptor, library.engine, c_void_p()) for a in arguments]
        pairs = list(zip(memories, arguments, strict=True))
        array = (_ExecutionArgument * len(arguments))(*((a.role, memory) for memory, a in pairs))
        steps.append((primitive, array, [(memory, a.buffer, a.offset) for memory, a in pairs]))
    return steps
