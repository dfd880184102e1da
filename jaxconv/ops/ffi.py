"""Functions in Python that XLA:CPU calls in mid-program, with the addresses of its buffers.

XLA's foreign function interface wants a function in C, and ctypes makes one: a call costs some 10 microseconds, and
what it calls in C by ctypes.CDLL runs without Python's lock. See jaxlib's xla/ffi/api/c_api.h.
"""

import ctypes
import pathlib
import re
from collections.abc import Callable, Sequence
from ctypes import POINTER, c_char_p, c_size_t, c_void_p
from typing import Any

import jax
from jaxtyping import Array

# Structures of c_api.h as arrays of 64-bit words: where in XLA_FFI_CallFrame, and in what it points to, the fields are.
_EXTENSION, _API, _ARGUMENTS_SIZE, _ARGUMENTS, _RESULTS_SIZE, _RESULTS, _ATTRIBUTES = 1, 2, 7, 9, 12, 14, 20
_BUFFER_DATA, _METADATA, _METADATA_VERSION, _API_ERROR_CREATE = 3, 3, 3, 6
_INTERNAL_ERROR = 13

_Words = POINTER(c_size_t)
_Handler = ctypes.CFUNCTYPE(c_void_p, _Words)

_handlers: list[Any] = []
"""For as long as the process lives, since XLA may call them."""


def register(target: str, function: Callable[[str, list[int]], None]) -> None:
    """Let `call` reach `function`, which takes a key and the addresses of arguments and results, by this name.

    Raises:
        OSError: this jaxlib does not say which version of the interface it speaks.
    """
    version = _version()

    @_Handler
    def handler(frame: Any) -> int | None:
        try:
            if frame[_EXTENSION]:  # XLA asks, once, what this is
                _words(_words(frame[_EXTENSION])[_METADATA])[_METADATA_VERSION] = version
                return None
            buffers = _words(frame[_ARGUMENTS])[: frame[_ARGUMENTS_SIZE]]
            buffers += _words(frame[_RESULTS])[: frame[_RESULTS_SIZE]]
            text, length = _words(_words(frame[_ATTRIBUTES])[0])[:2]
            key = ctypes.string_at(text, length).decode()
            function(key, [_words(buffer)[_BUFFER_DATA] for buffer in buffers])
            return None
        except Exception as error:  # must not be lost: XLA would go on with whatever is in the results
            return _error(frame[_API], f"{type(error).__name__}: {error}")

    _handlers.append(handler)
    jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(handler), platform="cpu")


def call(target: str, key: str, results: Sequence[jax.ShapeDtypeStruct], *arguments: Array) -> list[Array]:
    """The results of the function called `target`, within a program that is being traced."""
    return list(jax.ffi.ffi_call(target, list(results), vmap_method="sequential")(*arguments, key=key))


def _words(address: int) -> Any:
    return ctypes.cast(address, _Words)


def _error(api: int, message: str) -> int:
    """An XLA_FFI_Error, which ends the program in an exception."""
    text = c_char_p(message.encode())
    arguments = (c_size_t * 4)(32, 0, ctypes.cast(text, c_void_p).value or 0, _INTERNAL_ERROR)
    create = ctypes.CFUNCTYPE(c_void_p, c_void_p)(_words(api)[_API_ERROR_CREATE])
    return create(ctypes.addressof(arguments))


def _version() -> int:
    """The version of the interface that this jaxlib speaks, as the two halves of a word."""
    header = (pathlib.Path(jax.ffi.include_dir()) / "xla/ffi/api/c_api.h").read_text()
    major, minor = (int(re.findall(rf"#define XLA_FFI_API_{half} (\d+)", header)[0]) for half in ("MAJOR", "MINOR"))
    return major | minor << 32
