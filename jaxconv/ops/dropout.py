"""Dropout (Srivastava et al., 2014) that draws few random bits on a CPU, where they are what it costs."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def dropout(x: Float[Array, "batch *rest"], rate: float, rng: jax.Array) -> Float[Array, "batch *rest"]:
    """Zero for a share `rate` of the units of x, and the others scaled up to keep the mean.

    On a CPU the rate is rounded to a multiple of 1/256 where that is exact, else of 1/65536, and below 1.
    """
    if rate == 0:
        return x
    if jax.default_backend() != "cpu":
        return jnp.where(jax.random.bernoulli(rng, 1 - rate, x.shape), x / (1 - rate), 0)
    bits = jnp.uint8 if (256 * rate).is_integer() else jnp.uint16
    levels = 1 << 8 * bits.dtype.itemsize
    dropped = min(round(levels * rate), levels - 1)
    return jnp.where(_random(rng, x.shape, bits) >= dropped, x * (levels / (levels - dropped)), 0)


def _random(rng: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    """Random integers, several from each of the 32-bit words that the generator makes."""
    batch, *rest = shape
    units = 1
    for size in rest:
        units *= size
    per_word = 4 // jnp.dtype(dtype).itemsize
    words = jax.random.bits(rng, (batch, -(-units // per_word)), jnp.uint32)
    return jax.lax.bitcast_convert_type(words, dtype).reshape(batch, -1)[:, :units].reshape(shape)
