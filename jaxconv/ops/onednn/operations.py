"""Operations: what a call from XLA runs. An operation is a few primitives of oneDNN over the buffers of the call.

`call` makes an operation while JAX traces a program, and stores it under a key. When the program runs, XLA calls
`_execute` with the key and the addresses of the buffers.
"""

import concurrent.futures
import contextlib
import ctypes
import functools
import threading
from collections.abc import Mapping, Sequence
from ctypes import c_int, c_void_p
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxconv.ops.onednn import ffi
from jaxconv.ops.onednn.library import (
    DST,
    QUERY_SCRATCHPAD,
    SCRATCHPAD,
    SRC,
    MemoryDescriptor,
    PrimitiveDescriptor,
    Propagation,
    check,
    create,
    loaded_library,
    num_bytes,
    query_memory_descriptor,
)
from jaxconv.platform.limits import cores

_TARGET = "jaxconv_onednn"
"""The name of `_execute` in XLA."""

_PAGE = 4096
"""Bytes. Arrays in scratch start on pages of their own, because threads that write to one cache line are slow."""

_MAX_CORES_ON_XLA_THREADS = 4
"""Operations run on the threads that XLA calls from, where a device has at most this number of cores."""


# ---- Making an operation


class _Array(NamedTuple):
    """An array of an operation: its description, and where it is in each call."""

    descriptor: MemoryDescriptor
    buffer: int
    """Index of its buffer in the call."""
    offset: int
    """Bytes from the start of that buffer."""


class Operation:
    """Primitives that run one after the other over the buffers of a call.

    Its arrays have names. A name is resolved to a buffer once, when a primitive that uses it is added.

    Args:
        arguments: description of each argument by name, in the order of the call.
        results: description of each result by name, in the order of the call. XLA allocates scratch as one more result.
    """

    def __init__(self, arguments: Mapping[str, MemoryDescriptor], results: Mapping[str, MemoryDescriptor]):
        self._arrays = {
            name: _Array(descriptor, buffer, offset=0)
            for buffer, (name, descriptor) in enumerate([*arguments.items(), *results.items()])
        }
        self._scratch_buffer = len(arguments) + len(results)
        self.num_buffers = self._scratch_buffer + 1
        self.scratch_bytes = 0
        self.primitives: list[tuple[c_void_p, dict[int, _Array]]] = []
        """Each primitive with its arrays by argument: SRC and so on."""
        self.free_list: list[list[Any]] = []
        """What `_prepare` returned and no call is using now. At most as many as there were calls at the same time."""

    def check(self, key: str, arrays: Sequence[jax.ShapeDtypeStruct | Array]) -> None:
        """Check the arrays of a call, arguments and then results.

        Raises:
            TypeError: oneDNN would misread one.
        """
        for (name, expected), array in zip(self._arrays.items(), arrays, strict=False):
            known = array.dtype in (jnp.float32, jnp.bfloat16, jnp.uint8)
            if not known or array.size * array.dtype.itemsize != num_bytes(expected.descriptor):
                raise TypeError(f"{key}: {name} is {array.dtype} {array.shape}, which oneDNN would misread")

    def in_layout(self, name: str, descriptor: MemoryDescriptor) -> str:
        """Return the name of an array like `name` in the layout and the dtype of a description.

        It is `name` itself if it has them, or else an array in scratch, for `add_reorder`.
        """
        if loaded_library().holds_gil.dnnl_memory_desc_equal(self._arrays[name].descriptor, descriptor):
            return name
        self._arrays[f"reordered_{name}"] = self._allocate(descriptor)
        return f"reordered_{name}"

    def add_primitive(self, descriptor: PrimitiveDescriptor, names: Mapping[int, str]) -> None:
        """Add a primitive.

        Args:
            descriptor: the primitive.
            names: name of the array for each of its arguments: SRC and so on.
        """
        arrays = {argument: self._arrays[name] for argument, name in names.items()}
        scratchpad = query_memory_descriptor(descriptor, QUERY_SCRATCHPAD)
        if num_bytes(scratchpad):
            arrays[SCRATCHPAD] = self._allocate(scratchpad)
        self.primitives.append((create(loaded_library().holds_gil.dnnl_primitive_create, descriptor), arrays))

    def add_reorder(self, source: str, target: str) -> None:
        """Add a primitive that copies an array into the layout and the dtype of another one, if they are two."""
        if source == target:
            return
        library = loaded_library()
        descriptor = create(
            library.holds_gil.dnnl_reorder_primitive_desc_create,
            self._arrays[source].descriptor,
            library.engine,
            self._arrays[target].descriptor,
            library.engine,
            library.attributes,
        )
        self.add_primitive(descriptor, {SRC: source, DST: target})

    def _allocate(self, descriptor: MemoryDescriptor) -> _Array:
        offset = self.scratch_bytes
        self.scratch_bytes += -(-num_bytes(descriptor) // _PAGE) * _PAGE
        return _Array(descriptor, self._scratch_buffer, offset)


# ---- Calling it in a program


class Spec(Protocol):
    """A description of operations by the shapes of their arrays. Its repr contains all of it."""

    def operation(self, propagation: Propagation) -> Operation:
        """Make the operation for one propagation."""
        ...


_operations: dict[str, Operation] = {}
"""Operations by the key of their calls."""


def register() -> None:
    """Register operations with XLA. Call it once, before the first `call`. Starts JAX if it has not started.

    Raises:
        RuntimeError: XLA refuses them.
    """
    ffi.register(_TARGET, _execute)


def call(
    propagation: Propagation, spec: Spec, results: Sequence[jax.ShapeDtypeStruct], *arguments: Array
) -> list[Array]:
    """Call an operation within a program that JAX traces.

    Args:
        propagation: which operation of the spec.
        spec: describes the operation.
        results: shapes and dtypes of its results, without scratch.
        *arguments: its arguments.

    Returns:
        Its results.

    Raises:
        TypeError: an array has another size in bytes than the spec says, or is of another dtype than float32, bfloat16
            and uint8. oneDNN would misread its bytes.
    """
    key = f"{propagation} {spec}"
    if key not in _operations:
        _operations[key] = spec.operation(propagation)
    _operations[key].check(key, [*arguments, *results])
    # XLA aligns scratch to less than a page. One page more leaves room to round its address up.
    scratch = jax.ShapeDtypeStruct((_operations[key].scratch_bytes + _PAGE,), jnp.uint8)
    return ffi.call(_TARGET, key, [*results, scratch], *arguments)[:-1]


# ---- Running it when XLA calls


class _ExecutionArgument(ctypes.Structure):
    """dnnl_exec_arg_t."""

    _fields_ = (("argument", c_int), ("memory", c_void_p))


@functools.cache
def _cores_per_device() -> int:
    return max(1, cores() // jax.local_device_count())


def set_openmp_threads() -> None:
    """Let oneDNN use the cores of one device, for primitives that this Python thread makes or runs from now on."""
    loaded_library().holds_gil.omp_set_num_threads(_cores_per_device())


@functools.cache
def _execution_lock() -> contextlib.AbstractContextManager:
    """Return the lock that a primitive runs under: where there is one device, each primitive uses all cores."""
    return threading.Lock() if jax.local_device_count() == 1 else contextlib.nullcontext()


@functools.cache
def _executor() -> concurrent.futures.Executor:
    """Return an executor with as many threads as there are devices."""
    return concurrent.futures.ThreadPoolExecutor(jax.local_device_count())


def _execute(key: str, buffers: list[int]) -> None:
    """Run an operation, and keep the number of OpenMP threads small.

    XLA calls from as many threads as there are cores. Each thread that runs primitives gets OpenMP threads of its own,
    as many as a device has cores. Where a device has many cores, the executor therefore runs all operations. With few
    cores this would be slower: on 2 cores, a training step took 5 to 15% longer.

    Args:
        key: the key of the call.
        buffers: the addresses of its arguments, its results and scratch.
    """
    if _cores_per_device() <= _MAX_CORES_ON_XLA_THREADS:
        _run(key, buffers)
    else:
        _executor().submit(_run, key, buffers).result()


def _run(key: str, buffers: list[int]) -> None:
    library, operation = loaded_library(), _operations[key]
    if len(buffers) != operation.num_buffers:
        raise RuntimeError(f"{key} has {len(buffers)} buffers; {operation.num_buffers} were expected")
    set_openmp_threads()
    buffers[-1] = -(-buffers[-1] // _PAGE) * _PAGE
    try:  # no thread-local storage: to Python, each call from a thread of XLA is a new thread
        prepared = operation.free_list.pop()
    except IndexError:
        prepared = _prepare(operation)
    try:
        for primitive, arguments, memories in prepared:
            for memory, buffer, offset in memories:
                library.holds_gil.dnnl_memory_set_data_handle(memory, c_void_p(buffers[buffer] + offset))
            with _execution_lock():
                check(library.releases_gil.dnnl_primitive_execute(primitive, library.stream, len(arguments), arguments))
    finally:
        operation.free_list.append(prepared)


def _prepare(operation: Operation) -> list[Any]:
    """Make the memory objects of an operation. They hold addresses, so one call at a time can use them.

    Returns:
        For each primitive: its handle, its arguments for oneDNN, and the memory object, buffer and offset of each.
    """
    library, prepared = loaded_library(), []
    for primitive, arrays in operation.primitives:
        memories = [
            create(library.holds_gil.dnnl_memory_create, array.descriptor, library.engine, c_void_p())
            for array in arrays.values()
        ]
        arguments = (_ExecutionArgument * len(arrays))(*zip(arrays, memories, strict=True))
        places = [(memory, array.buffer, array.offset) for memory, array in zip(memories, arrays.values(), strict=True)]
        prepared.append((primitive, arguments, places))
    return prepared
