"""Feature maps, saliency and Grad-CAM: PAIR's package on a fixed net, and what must hold for any."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import saliency.core as pair

from jaxconv.models import attribution
from jaxconv.models.convnet import ConvNet

# The first stage ends in an activation after its pooling, and the second in its pooling.
NETS = {
    "relu": ConvNet(4, filters=((3,), (5, 6)), dense=(7,)),
    "gelu": ConvNet(4, filters=((3,), (5, 6)), dense=(7,), activation="gelu", pooling="average"),
}
SHAPE = (12, 10, 3)

# Compiled whole, they take a part of the time.
feature_maps, grad_cam, saliency = (
    jax.jit(function, static_argnums=0)
    for function in (attribution.feature_maps, attribution.grad_cam, attribution.saliency)
)


def fixed(net, shape=SHAPE, count=3):
    """Variables, examples and classes."""
    rng = np.random.default_rng(0)
    examples = rng.normal(size=(count, *shape)).astype(np.float32)
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), examples, train=False))
    variables = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)
    return variables, examples, rng.integers(0, 4, count)


def test_feature_maps_are_the_outputs_of_the_stages():
    net = NETS["relu"]
    variables, examples, _ = fixed(net)
    logits, maps = feature_maps(net, variables, examples)
    np.testing.assert_allclose(logits, net.apply(variables, examples, train=False), rtol=1e-5, atol=1e-6)
    assert [stage.shape for stage in maps] == [(3, 6, 5, 3), (3, 3, 2, 6)]
    first = ConvNet(4, filters=((3,),))  # its logits read the first stage: with an identity they are the stage
    head = {"kernel": jnp.eye(6 * 5 * 3), "bias": jnp.zeros(6 * 5 * 3)}
    alone = first.clone(num_classes=90).apply(
        {"params": {"Conv_0": variables["params"]["Conv_0"], "logits": head}}, examples, train=False
    )
    np.testing.assert_allclose(maps[0].reshape(3, -1), alone, rtol=1e-6)


def test_stages_are_in_order():
    net = ConvNet(4, filters=tuple((filters,) for filters in range(1, 12)), pool_size=1)
    variables, examples, _ = fixed(net)
    assert [maps.shape[-1] for maps in feature_maps(net, variables, examples)[1]] == list(range(1, 12))


@pytest.mark.parametrize("name", NETS)
def test_saliency_and_grad_cam_agree_with_pair(name):
    net = NETS[name]
    variables, examples, classes = fixed(net)

    @functools.partial(jax.jit, static_argnums=1)
    def gradient_of_head(maps, label):
        return jax.grad(head)(maps, label)

    @functools.partial(jax.jit, static_argnums=1)
    def gradient_of_net(images, label):
        return jax.grad(lambda x: net.apply(variables, x, train=False)[:, label].sum())(images)

    def head(maps, label):  # the dense layers, written once more
        x = maps.reshape(maps.shape[0], -1)
        for layer in ("Dense_0", "logits"):
            x = x @ variables["params"][layer]["kernel"] + variables["params"][layer]["bias"]
            if layer != "logits":
                x = jax.nn.relu(x) if net.activation == "relu" else jax.nn.gelu(x)
        return x[:, label].sum()

    def call(batch, call_model_args, expected_keys):
        label = call_model_args["label"]
        if expected_keys == [pair.INPUT_OUTPUT_GRADIENTS]:
            return {pair.INPUT_OUTPUT_GRADIENTS: np.asarray(gradient_of_net(jnp.asarray(batch), label))}
        maps = feature_maps(net, variables, jnp.asarray(batch))[1][1]
        return {
            pair.CONVOLUTION_LAYER_VALUES: np.asarray(maps),
            pair.CONVOLUTION_OUTPUT_GRADIENTS: np.asarray(gradient_of_head(maps, label)),
        }

    ours, places = saliency(net, variables, examples, classes), grad_cam(net, variables, examples, classes)
    for i, label in enumerate(classes.tolist()):
        gradient = pair.GradientSaliency().GetMask(examples[i], call, {"label": label})
        np.testing.assert_allclose(ours[i], np.abs(gradient).sum(axis=-1), rtol=1e-4, atol=1e-6)
        drawn = np.clip((ours[i] - ours[i].min()) / (np.percentile(ours[i], 99) - ours[i].min()), 0, 1)
        np.testing.assert_allclose(drawn, pair.VisualizeImageGrayscale(gradient), rtol=1e-3, atol=1e-4)

        # Without PAIR's interpolation, which mirrors the places at the borders.
        mask = pair.GradCam().GetMask(examples[i], call, {"label": label}, should_resize=False, three_dims=False)
        assert mask.max() > 0
        np.testing.assert_allclose(places[i], jax.image.resize(mask, SHAPE[:2], "linear"), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(20, 2), (12, 10, 3), (6, 8, 8, 1)])
def test_signals_images_and_clips(shape):
    net = ConvNet(4, filters=((3,),), batch_norm=True)
    variables, examples, classes = fixed(net, shape)
    variables = jax.tree.map(np.abs, variables)  # variances are positive
    for compute in (saliency, grad_cam):
        maps = compute(net, variables, examples, classes)
        assert maps.shape == (3, *shape[:-1])
        assert maps.min() >= 0
        alone = compute(net, variables, examples[1:2], classes[1:2])
        np.testing.assert_allclose(maps[1:2], alone, rtol=1e-4, atol=1e-6)


def test_a_net_without_stages_has_saliency_alone():
    net = ConvNet(4, dense=(5,))
    variables, examples, classes = fixed(net)
    assert feature_maps(net, variables, examples)[1] == ()
    assert grad_cam(net, variables, examples, classes) is None
    assert saliency(net, variables, examples, classes).shape == (3, 12, 10)


def test_reading_a_net_changes_neither_its_program_nor_its_variables():
    net = NETS["relu"]
    variables, examples, _ = fixed(net)
    assert set(jax.eval_shape(lambda: net.init(jax.random.key(0), examples, train=False))) == {"params"}
    _, collections = net.apply(variables, examples, train=True, mutable=["batch_stats"])  # as a step of training does
    assert collections == {}
