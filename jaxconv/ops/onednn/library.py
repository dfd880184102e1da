"""oneDNN's C library: how it is loaded, and descriptors of its arrays and primitives.

A handle is a pointer to an object of oneDNN. Handles that are made here live as long as the process.

Reference: dnnl.h and dnnl_types.h of oneDNN 3 (https://uxlfoundation.github.io/oneDNN).
"""

import ctypes
import functools
import importlib.metadata
import math
from collections.abc import Callable, Sequence
from ctypes import c_char_p, c_int64, c_size_t, c_void_p
from typing import Any, Literal, NamedTuple

_DISTRIBUTION = "onednn-cpu-gomp"

# Constants of dnnl_types.h.
SRC, DST, WEIGHTS, BIAS, WORKSPACE, SCRATCHPAD = 1, 17, 33, 41, 64, 80  # arguments of primitives
DIFF_SRC, DIFF_DST, DIFF_WEIGHTS, DIFF_BIAS = 129, 145, 161, 169  # gradients of the loss with respect to these
QUERY_WEIGHTS, QUERY_DIFF_WEIGHTS, QUERY_WORKSPACE, QUERY_SCRATCHPAD = 131, 132, 135, 136
DIRECT_CONVOLUTION, MAX_POOLING, AVERAGE_POOLING = 1, 0x1FF, 0x3FF  # algorithms; the average leaves padding out
_QUERY_IMPLEMENTATION = 8
_CPU_ENGINE, _IN_ORDER_STREAM, _USER_SCRATCHPAD, _FORWARD_TRAINING = 1, 1, 1, 64
_ANY_LAYOUT, _MAX_DIMS = 1, 12
_DTYPES = {"bfloat16": 2, "float32": 3}

MemoryDescriptor = c_void_p
"""Handle of the description of an array: its shape, dtype and layout in memory."""

PrimitiveDescriptor = c_void_p
"""Handle of the description of a primitive, which is one computation of oneDNN."""

Propagation = Literal["forward", "backward", "backward_data", "backward_weights"]
"""What oneDNN computes: the output, all gradients, or those with respect to the input or to the parameters."""


class Library(NamedTuple):
    """The library, and the handles that all calls share."""

    releases_gil: Any
    """The C functions, called without Python's global interpreter lock (GIL)."""
    holds_gil: Any
    """The same functions, called with the GIL. Faster for short calls."""
    engine: c_void_p
    stream: c_void_p
    attributes: c_void_p


@functools.cache
def _load() -> Library | str | None:
    """Return the library, why it does not load, or None where it is not installed."""
    try:
        files = importlib.metadata.files(_DISTRIBUTION) or []
        path = next(str(file.locate()) for file in files if file.name == "libdnnl.so.3")
        releases_gil, holds_gil = ctypes.CDLL(path), ctypes.PyDLL(path)
    except (importlib.metadata.PackageNotFoundError, StopIteration):
        return None
    except OSError as error:
        return f"it does not load: {error}"
    holds_gil.dnnl_primitive_desc_query_md.restype = c_void_p
    holds_gil.dnnl_memory_desc_get_size.restype = c_size_t
    engine = create(holds_gil.dnnl_engine_create, _CPU_ENGINE, c_size_t(0))
    stream = create(holds_gil.dnnl_stream_create, engine, _IN_ORDER_STREAM)
    attributes = create(holds_gil.dnnl_primitive_attr_create)
    check(holds_gil.dnnl_primitive_attr_set_scratchpad_mode(attributes, _USER_SCRATCHPAD))
    return Library(releases_gil, holds_gil, engine, stream, attributes)


def is_installed() -> bool:
    """Return whether oneDNN is installed and loads. Does not start JAX."""
    return isinstance(_load(), Library)


def loading_problem() -> str | None:
    """Return why oneDNN is installed and does not load, or None."""
    library = _load()
    return library if isinstance(library, str) else None


def version() -> str | None:
    """Return the version of the package that contains oneDNN, or None where it is not installed."""
    return importlib.metadata.version(_DISTRIBUTION) if is_installed() else None


def loaded_library() -> Library:
    """Return the library, which must be installed."""
    library = _load()
    assert isinstance(library, Library)
    return library


def create(function: Callable[..., int], *arguments: Any) -> c_void_p:
    """Return the handle that one of oneDNN's create functions makes of these arguments.

    Raises:
        RuntimeError: oneDNN cannot make it.
    """
    handle = c_void_p()
    check(function(ctypes.byref(handle), *arguments))
    return handle


def check(status: int) -> None:
    """Check the status that a function of oneDNN returned.

    Raises:
        RuntimeError: it is not success.
    """
    if status:
        raise RuntimeError(f"oneDNN answered with status {status}")


def integers(values: Sequence[int]) -> Any:
    """Return a dnnl_dims_t, the type of dimensions, strides and padding."""
    return (c_int64 * _MAX_DIMS)(*values)


def memory_descriptor(shape: Sequence[int], axes: Sequence[int], dtype: str = "float32") -> MemoryDescriptor:
    """Describe an array of XLA, which is contiguous in row-major order.

    Args:
        shape: shape of the array.
        axes: the axes of the array in the order of oneDNN, which puts channels before spatial dimensions.
        dtype: "float32" or "bfloat16".
    """
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    return create(
        loaded_library().holds_gil.dnnl_memory_desc_create_with_strides,
        len(shape),
        integers([shape[axis] for axis in axes]),
        _DTYPES[dtype],
        integers([strides[axis] for axis in axes]),
    )


def memory_descriptor_of_any_layout(
    shape: Sequence[int], axes: Sequence[int], dtype: str = "float32"
) -> MemoryDescriptor:
    """Describe an array whose layout a primitive may choose. See `memory_descriptor`."""
    dims = integers([shape[axis] for axis in axes])
    create_with_tag = loaded_library().holds_gil.dnnl_memory_desc_create_with_tag
    return create(create_with_tag, len(shape), dims, _DTYPES[dtype], _ANY_LAYOUT)


def num_bytes(descriptor: MemoryDescriptor) -> int:
    """Return the size of an array in bytes."""
    return loaded_library().holds_gil.dnnl_memory_desc_get_size(descriptor)


def primitive_descriptor(
    name: str, propagation: Propagation, algorithm: int | None, *arguments: Any, forward: PrimitiveDescriptor | None
) -> PrimitiveDescriptor:
    """Describe a primitive with dnnl_<name>_<propagation>_primitive_desc_create.

    Args:
        name: "convolution", "inner_product" or "pooling".
        propagation: what to compute.
        algorithm: which algorithm, for primitives that have several.
        *arguments: the arguments of that function between the algorithm and the attributes.
        forward: the descriptor of the forward primitive, for a backward one.

    Raises:
        RuntimeError: oneDNN has no such primitive.
    """
    library = loaded_library()
    return create(
        getattr(library.holds_gil, f"dnnl_{name}_{propagation}_primitive_desc_create"),
        library.engine,
        *([_FORWARD_TRAINING] if forward is None else []),
        *([algorithm] if algorithm else []),
        *arguments,
        *([] if forward is None else [forward]),
        library.attributes,
    )


def query_memory_descriptor(descriptor: PrimitiveDescriptor, query: int) -> MemoryDescriptor:
    """Return the description of an array as a primitive needs it.

    Args:
        descriptor: the primitive.
        query: which array: one of the QUERY constants.
    """
    return MemoryDescriptor(loaded_library().holds_gil.dnnl_primitive_desc_query_md(descriptor, query, 0))


def implementation(descriptor: PrimitiveDescriptor) -> str:
    """Return the name of the kernel that oneDNN chose for a primitive, such as "jit:avx512_core"."""
    name = c_char_p()
    query = loaded_library().holds_gil.dnnl_primitive_desc_query
    check(query(descriptor, _QUERY_IMPLEMENTATION, 0, ctypes.byref(name)))
    return (name.value or b"ref").decode()
