"""Dropout (Srivastava et al., 2014): JAX's own form, and one that draws few random bits, its main cost on a CPU."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def stock(x: Float[Array, "batch *rest"], rate: float, rng: jax.Array) -> Float[Array, "batch *rest"]:
    """Set a share `rate` of the units of x to zero, and scale the others up to keep the mean."""
    return jnp.where(jax.random.bernoulli(rng, 1 - rate, x.shape), x / (1 - rate), 0)


def by_few_bits(x: Float[Array, "batch *rest"], rate: float, rng: jax.Array) -> Float[Array, "batch *rest"]:
    """Compute `stock` with the rate rounded to a multiple of 1/256 where that is exact, else of 1/65536; below 1."""
    if rate == 0:
        return x
    bits = jnp.uint8 if (256 * rate).is_integer() else jnp.uint16
    levels = 1 << 8 * bits.dtype.itemsize
    dropped = min(round(levels * rate), levels - 1)
    return jnp.where(_random(rng, x.shape, bits) >= dropped, x * (levels / (levels - dropped)), 0)


def _random(rng: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    """Draw random integers, several from each 32-bit word of the generator."""
    batch, *rest = shape
    units = 1
    for size in rest:
        units *= size
    per_word = 4 // jnp.dtype(dtype).itemsize
    words = jax.random.bits(rng, (batch, -(-units // per_word)), jnp.uint32)
    return jax.lax.bitcast_convert_type(words, dtype).reshape(batch, -1)[:, :units].reshape(shape)
