"""ONNX graphs against JAX, in onnxruntime."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest

from jaxconv.models.convnet import ACTIVATIONS, ConvNet
from jaxconv.models.onnx_graph import convert


def check(function, shape, dtype="float32"):
    """Compare the ONNX model of a function with the function, for two sizes of a batch."""
    model = convert(function, shape, dtype)
    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
    session = onnxruntime.InferenceSession(model)
    rng = np.random.default_rng(1)
    examples = (rng.integers(0, 256, (7, *shape)) if dtype == "uint8" else rng.normal(size=(7, *shape))).astype(dtype)
    expected = np.asarray(jax.jit(function)(examples))
    for batch in (1, 7):
        (logits,) = session.run(["logits"], {"examples": examples[:batch]})
        np.testing.assert_allclose(logits, expected[:batch], rtol=1e-5, atol=1e-5)


def check_net(model, shape):
    rng = np.random.default_rng(0)
    variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), jnp.zeros((1, *shape)))
    variables = jax.tree.map(lambda leaf: rng.uniform(-0.3, 0.5, leaf.shape).astype(np.float32), variables)
    variables |= jax.tree.map(np.abs, {"batch_stats": variables.get("batch_stats", {})})
    check(lambda x: model.apply(variables, x, train=False), shape)


OVERLAPPING = functools.partial(ConvNet, 5, ((4,), (6,)), pool_size=3, pool_strides=2, batch_norm=True)


@pytest.mark.parametrize("pooling", ["max", "average"])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("shape", [(15, 2), (15, 17, 1), (15, 16, 17, 3)])
def test_windows_that_overlap(shape, padding, pooling):
    global_pooling = "average" if pooling == "max" else "max"
    check_net(OVERLAPPING(padding=padding, pool_padding=padding, pooling=pooling, global_pooling=global_pooling), shape)


def test_sizes_that_differ_by_dimension():
    check_net(ConvNet(3, ((4,),), kernel_size=(2, 5), strides=(1, 2), pool_size=(3, 1), dense=(6,)), (9, 12, 2))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation):
    check_net(ConvNet(3, ((4,),), activation=activation, dense=(6,)), (6, 6, 2))


def test_bytes():
    check(lambda x: (x.astype(jnp.float32) - np.float32(3)) / np.array([2, 4], np.float32), (2,), "uint8")


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (jnp.sin, "sin"),
        (lambda x: jax.lax.dot_general(x, x, (((1,), (1,)), ((), ()))), "dot_general"),
        (lambda x: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2), (1, 1), "VALID"), "reduce_window_max"),
    ],
)
def test_what_has_no_translation(function, name):
    with pytest.raises(NotImplementedError, match=name):
        convert(function, (4,), "float32")
