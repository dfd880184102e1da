"""Which forms a net uses, on which platform, and what JAX may do with them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxconv.config import default_config
from jaxconv.models.registry import MEMBERS, create_model
from jaxconv.ops import dispatch, onednn
from jaxconv.training.state import Sums, create_state
from jaxconv.training.step import eval_step, make_train_step
from tests.ops.conftest import FORMS

LECTURE = ("mlp", "lenet", "cifar_simple", "cifar_deep")
SHAPES = {name: (28, 28, 1) if name in ("mlp", "lenet") else (32, 32, 3) for name in MEMBERS}


@pytest.mark.parametrize(
    ("ops", "platform", "available", "recorded", "resolved"),
    [
        ("auto", "cpu", True, None, "onednn"),
        ("auto", "cpu", False, None, "xla"),
        ("auto", "cuda", True, None, "stock"),
        ("auto", "tpu", True, None, "stock"),
        ("auto", "cpu", True, "xla", "xla"),  # as in earlier starts of the run
        ("auto", "cpu", True, "stock", "stock"),
        ("auto", "cpu", False, "onednn", "xla"),  # which can no longer be
        ("auto", "cuda", True, "onednn", "stock"),
        ("stock", "cpu", True, "onednn", "stock"),
        ("xla", "cpu", True, None, "xla"),
        ("onednn", "cpu", False, None, "xla"),
        ("xla", "tpu", True, None, "stock"),
    ],
)
def test_resolve(monkeypatch, ops, platform, available, recorded, resolved):
    monkeypatch.setattr(onednn, "is_available", lambda: available)
    assert dispatch.resolve(ops, platform, recorded) == resolved


@functools.cache
def steps(name, form, batch_norm, dtype="float32"):
    """The traced steps of training and evaluation of a net."""
    config = default_config()
    config.model.name, config.mixup = name, 0.2
    if name in LECTURE:  # the others always have it
        config.model.batch_norm = batch_norm
    model = create_model(config.model, 10, dispatch.KERNELS[form], dtype=dtype)
    state = jax.eval_shape(lambda: create_state(model, optax.adam(0.1), SHAPES[name], 0))
    shapes = {"image": ((8, *SHAPES[name]), jnp.float32), "label": ((8,), jnp.int32), "weight": ((8,), jnp.float32)}
    batch = {key: jax.ShapeDtypeStruct(*shape) for key, shape in shapes.items()}
    sums = jax.eval_shape(Sums.zero)
    return jax.jit(make_train_step(config)).trace(state, batch), jax.jit(eval_step).trace(state, batch, sums)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize(
    ("name", "batch_norm"), [(name, False) for name in MEMBERS] + [(name, True) for name in MEMBERS if name in LECTURE]
)
def test_steps_lower_for_a_platform_that_is_not_here(name, platform, batch_norm):
    form = dispatch.resolve("auto", platform)
    for step in steps(name, form, batch_norm):
        program = step.lower(lowering_platforms=(platform,)).as_text()
        assert "stablehlo.dot_general" in program or "onednn" in program
        has_ours = "jaxconv" in "".join(line for line in program.splitlines() if "custom_call" in line)
        assert has_ours == (form == "onednn" and name != "mlp")


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("name", list(MEMBERS))
def test_accelerators_multiply_in_bfloat16(name, platform):
    for step in steps(name, "stock", True, "bfloat16"):
        program = step.lower(lowering_platforms=(platform,)).as_text()
        products = [line for line in program.splitlines() if "dot_general" in line or "stablehlo.convolution" in line]
        assert products
        assert all("xbf16>" in line.split(":")[-1] for line in products)


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_a_cpu_are_those_of_the_net(form):
    (train, _) = steps("lenet", form, False)
    assert ("ffi_call" in str(train.jaxpr)) == (form == "onednn")
    assert "custom_vjp" in str(train.jaxpr) or form == "onednn"


def test_stock_has_no_form_of_ours():
    for name in MEMBERS:
        for step in steps(name, "stock", False):
            assert "ffi_call" not in str(step.jaxpr)
            assert "custom_vjp" not in str(step.jaxpr)


@pytest.fixture
def loss():
    """A loss of a small net, of stock operations, as a function of the parameters, and the parameters."""
    config = default_config()
    config.model.name, config.model.filters, config.model.dense = "cifar_deep", ((2,),), (3,)
    config.model.activation = "tanh"
    model = create_model(config.model, 3)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 4, 1)), jnp.float32)
    params = model.init(jax.random.key(0), x, train=False)["params"]
    flat, unflatten = jax.flatten_util.ravel_pytree(params)

    def loss(flat):
        variables = {"params": unflatten(flat)}
        logits = model.apply(variables, x, train=True, rngs={"dropout": jax.random.key(1)})
        return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - logits[:, 0])

    return loss, flat


def test_stock_takes_every_transformation(loss):
    loss, flat = loss
    direction = jnp.asarray(np.random.default_rng(1).normal(size=flat.shape), jnp.float32)
    gradient = jax.grad(loss)(flat)
    value, slope = jax.jvp(loss, (flat,), (direction,))
    np.testing.assert_allclose(value, loss(flat), rtol=1e-6)
    np.testing.assert_allclose(slope, gradient @ direction, rtol=1e-4, atol=1e-6)

    curvature = jax.grad(lambda flat: jax.grad(loss)(flat) @ direction)(flat)
    hessian = jax.hessian(loss)(flat)
    np.testing.assert_allclose(hessian @ direction, curvature, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(hessian, hessian.T, rtol=1e-3, atol=1e-4)

    several = jnp.stack([flat, flat + 0.1 * direction])
    batched = jax.vmap(jax.grad(loss))(several)
    for one, expected in zip(batched, map(jax.grad(loss), several), strict=True):
        np.testing.assert_allclose(one, expected, rtol=1e-4, atol=1e-6)
