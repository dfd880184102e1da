"""Muon against its authors' recipe, written again in NumPy for one kernel at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxconv.config import default_config
from jaxconv.training.muon import orthogonalize, reset_norms, scale_by_muon
from jaxconv.training.optimizers import create_optimizer

SHAPES = {
    "wide": (3, 3, 8, 16),  # filters are fewer than the values of each
    "wide too": (3, 3, 8, 16),
    "tall": (1, 1, 8, 32),
    "square": (2, 2, 4, 16),
    "signal": (5, 3, 7),
    "clip": (2, 2, 2, 3, 5),
    "dense": (40, 10),
    "dense tall": (10, 40),
}
"""Of kernels (*window, in, filters)."""


def draw(seed, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def newton_schulz(matrix):
    """The authors' zeropower_via_newtonschulz5, in float64."""
    x = np.float64(matrix) / (np.linalg.norm(np.float64(matrix)) + 1e-7)
    x = x.T if len(matrix) > matrix.shape[1] else x
    for _ in range(3):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if len(matrix) > matrix.shape[1] else x


def by_filter(kernel):
    """The filters of a kernel as rows, as PyTorch has them."""
    return np.moveaxis(kernel, -1, 0).reshape(kernel.shape[-1], -1)


def like(rows, kernel):
    """The inverse of `by_filter`."""
    return np.moveaxis(rows.reshape(kernel.shape[-1], *kernel.shape[:-1]), 0, -1)


def test_each_kernel_is_orthogonalized_as_by_its_authors():
    kernels = draw(0)
    for name, result in jax.jit(orthogonalize)(kernels).items():
        expected = like(newton_schulz(by_filter(kernels[name])), kernels[name])
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=2e-5, err_msg=name)


def test_bfloat16_agrees_to_its_rounding():
    kernels = draw(0)
    for name, result in jax.jit(orthogonalize, static_argnums=1)(kernels, "bfloat16").items():
        assert result.dtype == np.float32
        expected = like(newton_schulz(by_filter(kernels[name])), kernels[name])
        assert np.linalg.norm(result - expected) < 0.08 * np.linalg.norm(expected), name


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_singular_values_come_near_1(scale):
    for name, result in orthogonalize(jax.tree.map(lambda leaf: scale * leaf, draw(1))).items():
        values = np.linalg.svd(by_filter(np.asarray(result)), compute_uv=False)
        before = np.linalg.svd(by_filter(draw(1)[name]), compute_uv=False)
        large = before > np.linalg.norm(before) / 50
        assert large.mean() > 0.9
        assert np.all((values[large] > 0.67) & (values[large] < 1.22)), name


def test_what_is_no_kernel_and_what_is_zero_stay():
    tree = {"kernel": jnp.zeros((3, 4)), "bias": jnp.arange(3.0), "scale": jnp.float32(2)}
    jax.tree.map(np.testing.assert_array_equal, orthogonalize(tree), tree)


def test_equal_shapes_are_one_batch():
    jaxpr = str(jax.make_jaxpr(orthogonalize)([jnp.ones((3, 3, 8, 16)), jnp.ones((72, 16)), jnp.ones((4, 4))]))
    assert jaxpr.count("dot_general[") == 2 * 9  # three products in each of three steps, for two shapes


def test_the_momentum_is_nesterovs():
    transformation = scale_by_muon(0.6)
    state = transformation.init(draw(0))
    buffers = dict.fromkeys(SHAPES, 0.0)
    for seed in range(3):
        grads = draw(seed)
        updates, state = transformation.update(grads, state)
        for name, grad in grads.items():
            buffers[name] = 0.6 * buffers[name] + grad
            expected = newton_schulz(by_filter(grad + 0.6 * buffers[name]))
            np.testing.assert_allclose(updates[name], like(expected, grad), rtol=1e-4, atol=2e-5)


def test_a_kernel_goes_back_to_its_norm_before_its_step():
    params = draw(0) | {"bias": np.ones(3, np.float32)}
    zero = jax.tree.map(np.zeros_like, params)
    after = optax.apply_updates(params, reset_norms().update(zero, optax.EmptyState(), params)[0])
    for name, kernel in after.items():
        norm = np.sqrt(3) if name == "bias" else np.sqrt(SHAPES[name][-1])
        np.testing.assert_allclose(np.linalg.norm(kernel), norm, rtol=1e-5)
    np.testing.assert_array_equal(after["bias"], params["bias"])


def test_the_optimizer_is_the_authors_recipe():
    """Kernels by Muon, all others by SGD with Nesterov's momentum."""
    config = default_config()
    config.optimizer.update(name="muon", learning_rate=0.24, momentum=0.6, schedule="linear")
    optimizer = create_optimizer(config.optimizer, num_epochs=2, steps_per_epoch=5)
    shapes = SHAPES | {"bias": (16,)}
    params = expected = draw(9, shapes)
    expected = jax.tree.map(np.float64, expected)
    state, buffers = optimizer.init(params), dict.fromkeys(shapes, 0.0)
    update = jax.jit(optimizer.update)
    for step in range(10):
        grads, rate = draw(step, shapes), 0.24 * (1 - step / 10)
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
        for name, grad in grads.items():
            buffers[name] = 0.6 * buffers[name] + grad
            moved = grad + 0.6 * buffers[name]
            if name != "bias":
                moved = like(newton_schulz(by_filter(moved)), grad)
                expected[name] *= np.sqrt(grad.shape[-1]) / np.linalg.norm(expected[name])
            expected[name] = expected[name] - rate * moved
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-4), params, expected)
