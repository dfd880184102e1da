"""The array operations of the transformations, under NumPy's names: of TensorFlow for the host, of JAX for the device.

The transformations are written once, for either. They take the operations as their argument `xp`.
"""

import functools
import operator
import types
from typing import Any

import numpy as np

from jaxconv.data.tensorflow import import_tensorflow

Operations = Any
"""A namespace with the operations below, which `tensorflow` or `jax` returns."""


@functools.cache
def tensorflow() -> Operations:
    """Return the operations of TensorFlow."""
    tf = import_tensorflow()
    return types.SimpleNamespace(
        arange=lambda stop, dtype="int32": tf.range(stop, dtype=dtype),
        astype=tf.cast,
        array=lambda value: tf.constant(value, tf.float32),
        clip=tf.clip_by_value,
        cos=tf.cos,
        erfinv=tf.math.erfinv,
        floor=tf.floor,
        max=lambda x, axis: tf.reduce_max(x, axis=axis, keepdims=True),
        mean=lambda x, axis: tf.reduce_mean(x, axis=axis, keepdims=True),
        min=lambda x, axis: tf.reduce_min(x, axis=axis, keepdims=True),
        minimum=tf.minimum,
        mod=tf.math.floormod,
        ones_like=tf.ones_like,
        reshape=tf.reshape,
        right_shift=lambda word, bits: tf.bitwise.right_shift(word, tf.constant(bits, tf.uint32)),
        shape=tf.shape,
        sin=tf.sin,
        take=tf.gather,
        unstack=lambda x: tf.unstack(x, axis=1),
        where=tf.where,
    )


@functools.cache
def jax() -> Operations:
    """Return the operations of JAX."""
    import jax.numpy as jnp
    from jax import lax

    def extreme(x: Any, axis: tuple[int, ...], start: float, is_better: Any) -> Any:
        # On a CPU, jnp.max takes five times as long, because it passes NaN on. Images have none.
        found = lax.reduce(x, np.asarray(start, x.dtype), lambda a, b: jnp.where(is_better(a, b), a, b), axis)
        return jnp.expand_dims(found, axis)

    return types.SimpleNamespace(
        arange=lambda stop, dtype="int32": jnp.arange(stop, dtype=dtype),
        astype=lambda x, dtype: jnp.asarray(x).astype(dtype),
        array=lambda value: jnp.asarray(value, jnp.float32),
        clip=jnp.clip,
        cos=jnp.cos,
        erfinv=lax.erf_inv,
        floor=jnp.floor,
        max=lambda x, axis: extreme(x, axis, -np.inf, operator.gt),
        mean=lambda x, axis: jnp.mean(x, axis=axis, keepdims=True),
        min=lambda x, axis: extreme(x, axis, np.inf, operator.lt),
        minimum=jnp.minimum,
        mod=jnp.mod,
        ones_like=jnp.ones_like,
        reshape=jnp.reshape,
        right_shift=lambda word, bits: word >> bits,
        shape=jnp.shape,
        sin=jnp.sin,
        take=lambda x, index: jnp.asarray(x).at[index].get(mode="promise_in_bounds"),
        unstack=lambda x: jnp.unstack(jnp.asarray(x), axis=1),
        where=jnp.where,
    )
