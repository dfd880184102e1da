"""Python functions that XLA:CPU calls while it runs a program.

XLA calls custom operations through its foreign function interface (FFI). It expects a C function, and ctypes makes one
from a Python function. A call costs about 10 microseconds.

The structures below are those of xla/ffi/api/c_api.h in jaxlib. XLA refuses a handler that reports another version of
the interface, and each call is checked against the layout expected here. A different layout therefore raises an error
instead of giving wrong numbers.
"""

import ctypes
from collections.abc import Callable, Sequence
from ctypes import POINTER, Structure, c_char_p, c_int, c_int64, c_size_t, c_uint32, c_void_p
from typing import Any

import jax
from jaxtyping import Array

VERSION = 0, 3
"""The version of c_api.h that this file was written for: the one of jaxlib 0.10.2 and 0.12.0.1."""

# Constants of c_api.h.
_METADATA_EXTENSION, _EXECUTE_STAGE, _BUFFER, _STRING, _INTERNAL_ERROR = 1, 3, 1, 4, 13


class _Extension(Structure):
    """XLA_FFI_Extension_Base."""

    _fields_ = (("struct_size", c_size_t), ("type", c_int), ("next", c_void_p))


class _Version(Structure):
    """XLA_FFI_Api_Version."""

    _fields_ = (("struct_size", c_size_t), ("extension", c_void_p), ("major", c_int), ("minor", c_int))


class _Metadata(Structure):
    """XLA_FFI_Metadata."""

    _fields_ = (("struct_size", c_size_t), ("version", _Version), ("traits", c_uint32))


class _MetadataExtension(Structure):
    """XLA_FFI_Metadata_Extension."""

    _fields_ = (("base", _Extension), ("metadata", POINTER(_Metadata)))


class _ErrorArguments(Structure):
    """XLA_FFI_Error_Create_Args."""

    _fields_ = (("struct_size", c_size_t), ("extension", c_void_p), ("message", c_char_p), ("code", c_int))


_CreateError = ctypes.CFUNCTYPE(c_void_p, POINTER(_ErrorArguments))


class _Api(Structure):
    """The first fields of XLA_FFI_Api."""

    _fields_ = (
        ("struct_size", c_size_t),
        ("extension", c_void_p),
        ("version", _Version),
        ("internal_api", c_void_p),
        ("create_error", _CreateError),
    )


class _Buffer(Structure):
    """XLA_FFI_Buffer."""

    _fields_ = (
        ("struct_size", c_size_t),
        ("extension", c_void_p),
        ("dtype", c_int),
        ("data", c_void_p),
        ("rank", c_int64),
        ("dims", POINTER(c_int64)),
    )


class _Buffers(Structure):
    """XLA_FFI_Args and XLA_FFI_Rets, which have the same fields."""

    _fields_ = (
        ("struct_size", c_size_t),
        ("extension", c_void_p),
        ("size", c_int64),
        ("types", POINTER(c_int)),
        ("values", POINTER(POINTER(_Buffer))),
    )


class _ByteSpan(Structure):
    """XLA_FFI_ByteSpan."""

    _fields_ = (("address", c_void_p), ("length", c_size_t))


class _Attributes(Structure):
    """XLA_FFI_Attrs, with strings as values."""

    _fields_ = (
        ("struct_size", c_size_t),
        ("extension", c_void_p),
        ("size", c_int64),
        ("types", POINTER(c_int)),
        ("names", c_void_p),
        ("values", POINTER(POINTER(_ByteSpan))),
    )


class _CallFrame(Structure):
    """XLA_FFI_CallFrame."""

    _fields_ = (
        ("struct_size", c_size_t),
        ("extension", POINTER(_MetadataExtension)),
        ("api", POINTER(_Api)),
        ("context", c_void_p),
        ("stage", c_int),
        ("arguments", _Buffers),
        ("results", _Buffers),
        ("attributes", _Attributes),
    )


_Handler = ctypes.CFUNCTYPE(c_void_p, POINTER(_CallFrame))

_handlers: list[Any] = []
"""All handlers. They live as long as the process, because XLA may call them at any time."""


def register(target: str, function: Callable[[str, list[int]], None]) -> None:
    """Register a function with XLA, so that `call` can use it. Starts JAX if it has not started.

    Args:
        target: the name of the function in XLA.
        function: takes the key of a call, and the addresses of its arguments followed by those of its results.

    Raises:
        RuntimeError: XLA does not accept handlers of this `VERSION`.
    """
    jax.devices("cpu")  # before it starts, JAX would only keep the handler, and fail to start if XLA refuses it

    @_Handler
    def handler(pointer: Any) -> int | None:
        frame = pointer[0]
        try:
            _expect("the size of a call", frame.struct_size >= ctypes.sizeof(_CallFrame))
            if frame.extension:  # XLA asks for the version, once, when the handler is registered
                _report_version(frame.extension[0])
                return None
            key, buffers = _read(frame)
            function(key, buffers)
            return None
        except Exception as error:  # any exception: if it were lost, XLA would go on with wrong results
            return _error(frame, f"{type(error).__name__}: {error}")

    _handlers.append(handler)
    try:
        jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(handler), platform="cpu")
    except Exception as error:  # its type depends on the version of jaxlib
        raise RuntimeError(f"XLA refused a function of version {VERSION[0]}.{VERSION[1]}: {error}") from None


def call(target: str, key: str, results: Sequence[jax.ShapeDtypeStruct], *arguments: Array) -> list[Array]:
    """Call a registered function within a program that JAX traces. Under vmap, it is called once for each element.

    Args:
        target: the name that `register` was given.
        key: passed to the function.
        results: shapes and dtypes of the results.
        *arguments: arrays of any shapes and dtypes.

    Returns:
        The results.
    """
    return list(jax.ffi.ffi_call(target, list(results), vmap_method="sequential")(*arguments, key=key))


def _expect(what: str, holds: bool) -> None:
    if not holds:
        raise RuntimeError(f"{what} is not as in version {VERSION[0]}.{VERSION[1]} of XLA's interface")


def _report_version(extension: _MetadataExtension) -> None:
    _expect("the type of an extension", extension.base.type == _METADATA_EXTENSION)
    metadata = extension.metadata[0]
    _expect("the size of the metadata", metadata.struct_size >= _Metadata.traits.offset + _Metadata.traits.size)
    metadata.version.major, metadata.version.minor = VERSION


def _read(frame: _CallFrame) -> tuple[str, list[int]]:
    """Return the key of a call, and the addresses of its arguments and results."""
    arguments, results, attributes = frame.arguments, frame.results, frame.attributes
    _expect("the stage of a call", frame.stage == _EXECUTE_STAGE)
    for group in (arguments, results):
        _expect("the size of the arguments", group.struct_size >= ctypes.sizeof(_Buffers))
        _expect("the type of an argument", all(kind == _BUFFER for kind in group.types[: group.size]))
    _expect("the size of the attributes", attributes.struct_size >= ctypes.sizeof(_Attributes))
    _expect("the number of attributes", attributes.size == 1 and attributes.types[0] == _STRING)
    buffers = [group.values[i][0] for group in (arguments, results) for i in range(group.size)]
    _expect("the size of a buffer", all(buffer.struct_size >= ctypes.sizeof(_Buffer) for buffer in buffers))
    key = attributes.values[0][0]
    return ctypes.string_at(key.address, key.length).decode(), [buffer.data for buffer in buffers]


def _error(frame: _CallFrame, message: str) -> int:
    """Create an XLA_FFI_Error. The program that made the call raises it as an exception."""
    arguments = _ErrorArguments(ctypes.sizeof(_ErrorArguments), None, message.encode(), _INTERNAL_ERROR)
    return frame.api[0].create_error(ctypes.byref(arguments))
