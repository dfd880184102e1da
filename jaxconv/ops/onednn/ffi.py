"""Functions in Python that XLA:CPU calls in mid-program, with the addresses of its buffers.

XLA's foreign function interface wants a function in C, and ctypes makes one: a call costs some 10 microseconds, and
what it calls in C by ctypes.CDLL runs without Python's lock.

The structures below are those of jaxlib's xla/ffi/api/c_api.h. XLA accepts a function by the version that it reports,
and each call is checked against what this file expects, so that another layout ends in an error, not in wrong numbers.
"""

import ctypes
from collections.abc import Callable, Sequence
from ctypes import POINTER, Structure, c_char_p, c_int, c_int64, c_size_t, c_uint32, c_void_p
from typing import Any

import jax
from jaxtyping import Array

VERSION = 0, 3
"""The version of c_api.h that this file was written against: jaxlib 0.10.2 and 0.12.0.1 have it."""

_METADATA_EXTENSION, _EXECUTE_STAGE, _BUFFER, _STRING, _INTERNAL_ERROR = 1, 3, 1, 4, 13


class _Extension(Structure):
    _fields_ = (("struct_size", c_size_t), ("type", c_int), ("next", c_void_p))


class _Version(Structure):
    _fields_ = (("struct_size", c_size_t), ("extension", c_void_p), ("major", c_int), ("minor", c_int))


class _Metadata(Structure):
    _fields_ = (("struct_size", c_size_t), ("version", _Version), ("traits", c_uint32))


class _MetadataExtension(Structure):
    _fields_ = (("base", _Extension), ("metadata", POINTER(_Metadata)))


class _ErrorArguments(Structure):
    _fields_ = (("struct_size", c_size_t), ("extension", c_void_p), ("message", c_char_p), ("code", c_int))


_CreateError = ctypes.CFUNCTYPE(c_void_p, POINTER(_ErrorArguments))


class _Api(Structure):
    _fields_ = (
        ("struct_size", c_size_t),
        ("extension", c_void_p),
        ("version", _Version),
        ("internal_api", c_void_p),
        ("create_error", _CreateError),
    )


class _Buffer(Structure):
    _fields_ = (
        ("struct_size", c_size_t),
        ("extension", c_void_p),
        ("dtype", c_int),
        ("data", c_void_p),
        ("rank", c_int64),
        ("dims", POINTER(c_int64)),
    )


class _Buffers(Structure):
    """Arguments or results."""

    _fields_ = (
        ("struct_size", c_size_t),
        ("extension", c_void_p),
        ("size", c_int64),
        ("types", POINTER(c_int)),
        ("values", POINTER(POINTER(_Buffer))),
    )


class _Text(Structure):
    _fields_ = (("address", c_void_p), ("length", c_size_t))


class _Attributes(Structure):
    _fields_ = (
        ("struct_size", c_size_t),
        ("extension", c_void_p),
        ("size", c_int64),
        ("types", POINTER(c_int)),
        ("names", c_void_p),
        ("values", POINTER(POINTER(_Text))),
    )


class _CallFrame(Structure):
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
"""For as long as the process lives, since XLA may call them."""


def register(target: str, function: Callable[[str, list[int]], None]) -> None:
    """Let `call` reach `function`, which takes a key and the addresses of arguments and results, by this name.

    JAX must have started: before that it would keep the function for later, and then fail to start if XLA refuses it.

    Raises:
        RuntimeError: XLA does not accept functions of this `VERSION`.
    """
    jax.devices("cpu")

    @_Handler
    def handler(pointer: Any) -> int | None:
        frame = pointer[0]
        try:
            _expect("the size of a call", frame.struct_size >= ctypes.sizeof(_CallFrame))
            if frame.extension:  # XLA asks, once, what this is
                _report_version(frame.extension[0])
                return None
            key, buffers = _read(frame)
            function(key, buffers)
            return None
        except Exception as error:  # must not be lost: XLA would go on with whatever is in the results
            return _error(frame, f"{type(error).__name__}: {error}")

    _handlers.append(handler)
    try:
        jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(handler), platform="cpu")
    except Exception as error:  # of a type that depends on the version of jaxlib
        raise RuntimeError(f"XLA refused a function of version {VERSION[0]}.{VERSION[1]}: {error}") from None


def call(target: str, key: str, results: Sequence[jax.ShapeDtypeStruct], *arguments: Array) -> list[Array]:
    """The results of the function called `target`, within a program that is being traced."""
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
    """The key of a call, and the addresses of its arguments and results."""
    arguments, results, attributes = frame.arguments, frame.results, frame.attributes
    _expect("the stage of a call", frame.stage == _EXECUTE_STAGE)
    for group in (arguments, results):
        _expect("the size of the arguments", group.struct_size >= ctypes.sizeof(_Buffers))
        _expect("the type of an argument", all(kind == _BUFFER for kind in group.types[: group.size]))
    _expect("the size of the attributes", attributes.struct_size >= ctypes.sizeof(_Attributes))
    _expect("the number of attributes", attributes.size == 1 and attributes.types[0] == _STRING)
    buffers = [group.values[i][0] for group in (arguments, results) for i in range(group.size)]
    _expect("the size of a buffer", all(buffer.struct_size >= ctypes.sizeof(_Buffer) for buffer in buffers))
    text = attributes.values[0][0]
    return ctypes.string_at(text.address, text.length).decode(), [buffer.data for buffer in buffers]


def _error(frame: _CallFrame, message: str) -> int:
    """An XLA_FFI_Error, which ends the program in an exception."""
    arguments = _ErrorArguments(ctypes.sizeof(_ErrorArguments), None, message.encode(), _INTERNAL_ERROR)
    return frame.api[0].create_error(ctypes.byref(arguments))
