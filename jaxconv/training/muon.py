"""Muon: steps along the orthogonalised momentum, for kernels of a fixed norm (kellerjordan.github.io/posts/muon).

In an optax chain, `scale_by_muon` makes the update, and `reset_norms` comes last, after the learning rate.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

_STEPS = 3
_LINEAR, _CUBIC, _QUINTIC = 3.4445, -4.7750, 2.0315
"""Coefficients of a polynomial whose steps bring singular values from 0 to 1 near 1, small ones fast."""


def scale_by_muon(momentum: float, dtype: str = "float32") -> optax.GradientTransformation:
    """Replace gradients by their Nesterov momentum, orthogonalised for kernels and as it is for all others.

    Args:
        momentum: the momentum, to which each gradient is added whole, as in optax.trace.
        dtype: the dtype of the orthogonalisation, "float32" or "bfloat16".
    """
    orthogonal = optax.stateless(lambda updates, params: orthogonalize(updates, dtype))
    return optax.chain(optax.trace(momentum, nesterov=True), orthogonal)


def reset_norms() -> optax.GradientTransformation:
    """Let the update of each kernel start from the kernel scaled to the norm sqrt(filters)."""

    def from_scaled(update: Array, param: Array) -> Array:
        if not _is_kernel(param):
            return update
        return update + (param.shape[-1] ** 0.5 / jnp.linalg.norm(param.ravel()) - 1) * param

    return optax.stateless(lambda updates, params: jax.tree.map(from_scaled, updates, params))


def orthogonalize(tree: Any, dtype: str = "float32") -> Any:
    """Bring the singular values of each kernel near 1, by three Newton-Schulz steps.

    A kernel (*window, in, filters) counts as a matrix (window * in, filters). Singular values of at least a fiftieth of
    its norm come to lie between 0.68 and 1.21; smaller ones grow up to 41 times. Kernels whose matrices have the same
    shape are iterated as one batch.

    Args:
        tree: arrays. Those of fewer than two dimensions are not kernels.
        dtype: the dtype of the steps.

    Returns:
        The tree in its own shapes and dtypes; what is not a kernel is unchanged.
    """
    leaves, structure = jax.tree.flatten(tree)
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for number, leaf in enumerate(leaves):
        if _is_kernel(leaf):
            by_shape.setdefault((leaf.size // leaf.shape[-1], leaf.shape[-1]), []).append(number)
    for shape, numbers in by_shape.items():
        batch = _newton_schulz(jnp.stack([leaves[number].reshape(shape) for number in numbers]), dtype)
        for number, matrix in zip(numbers, batch, strict=True):
            leaves[number] = matrix.reshape(leaves[number].shape)
    return jax.tree.unflatten(structure, leaves)


def _newton_schulz(matrices: Float[Array, "batch rows columns"], dtype: str) -> Float[Array, "batch rows columns"]:
    norms = jnp.linalg.norm(matrices, axis=(1, 2), keepdims=True)
    x = (matrices / (norms + 1e-7)).astype(dtype)
    is_tall = x.shape[1] > x.shape[2]
    x = x.mT if is_tall else x  # x @ x.mT is the smaller of the two products
    for _ in range(_STEPS):
        square = x @ x.mT
        x = _LINEAR * x + (_CUBIC * square + _QUINTIC * (square @ square)) @ x
    return (x.mT if is_tall else x).astype(matrices.dtype)


def _is_kernel(leaf: Array) -> bool:
    return leaf.ndim > 1
