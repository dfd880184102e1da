"""Whether oneDNN can be used: that it works with this jaxlib, and has fast kernels on this processor."""

import concurrent.futures
import functools
import importlib.metadata
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.ops.onednn import library, operations
from jaxconv.ops.onednn.library import PrimitiveDescriptor, Propagation, memory_descriptor
from jaxconv.ops.onednn.operations import Operation


def is_available() -> bool:
    """Return whether oneDNN is installed and works with this jaxlib. Starts JAX if it has not started."""
    return library.is_installed() and problem() is None


@functools.cache
def problem() -> str | None:
    """Return why oneDNN is installed and cannot be used. Starts JAX if it has not started.

    Returns:
        The end of a sentence; None where oneDNN can be used, or is not installed.
    """
    if not library.is_installed():
        return library.loading_problem()
    try:
        operations.register()
        # On another thread, because this one may be tracing a program.
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            executor.submit(_probe).result()
    except Exception as error:  # any exception: XLA's own kernels do not need oneDNN
        return f"it does not work with jaxlib {importlib.metadata.version('jaxlib')}: {error}"
    return None


class _Transpose(NamedTuple):
    """The transpose of a matrix, to test whether XLA and oneDNN work together."""

    rows: int
    columns: int

    def operation(self, propagation: Propagation) -> Operation:
        operation = Operation(
            arguments={"x": memory_descriptor((self.rows, self.columns), [0, 1])},
            results={"y": memory_descriptor((self.columns, self.rows), [1, 0])},
        )
        operation.add_reorder("x", "y")
        return operation


def _probe() -> None:
    """Run a small program.

    Raises:
        RuntimeError: its result is wrong.
    """
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    y = jax.ShapeDtypeStruct((3, 2), jnp.float32)
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        (result,) = jax.jit(lambda x: operations.call("forward", _Transpose(2, 3), [y], x))(x)
    if not np.array_equal(result, x.T):
        raise RuntimeError("a small program gave a wrong result")


class PrimitiveSpec(Protocol):
    """A hashable description of primitives by the shapes of their arrays."""

    def primitive_descriptor(self, propagation: Propagation) -> PrimitiveDescriptor:
        """Describe the primitive for one propagation."""
        ...


def has_fast_primitives(spec: PrimitiveSpec, *propagations: Propagation) -> bool:
    """Return whether oneDNN can be used, and has fast kernels for these propagations on this processor."""
    if not is_available():
        return False
    operations.set_openmp_threads()  # oneDNN chooses kernels for this number of threads
    return all(_is_fast(spec, propagation) for propagation in propagations)


@functools.cache
def _is_fast(spec: PrimitiveSpec, propagation: Propagation) -> bool:
    """Return whether oneDNN has a kernel besides its reference ("ref"), which is slow."""
    try:
        descriptor = spec.primitive_descriptor(propagation)
    except RuntimeError:  # it has no kernel at all
        return False
    return not library.implementation(descriptor).startswith("ref")
