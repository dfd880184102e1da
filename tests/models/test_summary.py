"""What each layer sees and costs: by hand, against Keras, and against the gradient."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxconv.config import default_config
from jaxconv.models import registry, summary
from jaxconv.models.convnet import ConvNet


def layers(model, image_shape):
    return summary.layers(summary.trace(model, image_shape))


def test_lenet_by_hand():
    config = default_config()
    config.model.padding = "valid"
    convolution = {"kernel_size": (5, 5), "strides": (1, 1), "padding": "valid"}
    pooling = {"kernel_size": (2, 2), "strides": (2, 2), "padding": "valid"}
    other = {"kernel_size": None, "strides": None, "padding": None, "positions": 1, "receptive_field": (28, 28)}
    rows = [
        # output_shape, receptive field, positions = (28 - 5 + 1)^2, ..., parameters, multiplications
        ("Conv_0", "convolution", (24, 24, 20), (5, 5), 576, 520, 576 * 25 * 20, convolution),
        ("Pool_0", "max pooling", (12, 12, 20), (6, 6), 144, 0, 0, pooling),
        ("Conv_1", "convolution", (8, 8, 50), (14, 14), 64, 25_050, 64 * 25 * 20 * 50, convolution),
        ("Pool_1", "max pooling", (4, 4, 50), (16, 16), 16, 0, 0, pooling),
        ("Flatten_0", "flatten", (800,), (28, 28), 1, 0, 0, other),
        ("Dense_0", "dense", (500,), (28, 28), 1, 400_500, 800 * 500, other),
        ("logits", "dense", (10,), (28, 28), 1, 5_010, 500 * 10, other),
    ]
    expected = [
        summary.Layer(
            **{"name": name, "kind": kind, "output_shape": shape, "receptive_field": field, "positions": positions}
            | {"params": params, "multiplications": multiplications}
            | {"output_bytes": 4 * int(np.prod(shape)), "param_bytes": 4 * params}
            | windows
        )
        for name, kind, shape, field, positions, params, multiplications, windows in rows
    ]
    assert layers(registry.create_model(config.model, 10), (28, 28, 1)) == expected


def test_a_signal_by_hand():
    model = ConvNet(
        3, ((4, 6),), kernel_size=3, strides=2, pool_size=3, pool_strides=1, pooling="average", batch_norm=True
    )
    listed = layers(model, (40, 2))
    assert [(layer.name, layer.output_shape, layer.receptive_field, layer.multiplications) for layer in listed] == [
        ("Conv_0", (20, 4), (3,), 20 * 3 * 2 * 4),
        ("BatchNorm_0", (20, 4), (3,), 20 * 4),
        ("Conv_1", (10, 6), (7,), 10 * 3 * 4 * 6),
        ("BatchNorm_1", (10, 6), (7,), 10 * 6),
        ("Pool_0", (8, 6), (15,), 8 * 6),
        ("Flatten_0", (48,), (40,), 0),  # 15 + 7 x 4 = 43, of which 3 are padding
        ("logits", (3,), (40,), 48 * 3),
    ]


def test_a_clip_equals_keras():
    spatial, kernel, strides, window = (9, 14, 15), (2, 3, 5), (1, 2, 1), (1, 2, 3)
    net = keras.Sequential(
        [
            keras.Input((*spatial, 2)),
            keras.layers.Conv3D(4, kernel, strides=strides, padding="same"),
            keras.layers.BatchNormalization(),
            keras.layers.AveragePooling3D(window, strides=2, padding="same"),
            keras.layers.GlobalAveragePooling3D(),
            keras.layers.Dense(7),
            keras.layers.Dense(5),
        ]
    )
    model = ConvNet(
        num_classes=5,
        filters=((4,),),
        kernel_size=kernel,
        strides=strides,
        batch_norm=True,
        pooling="average",
        pool_size=window,
        pool_strides=2,
        pool_padding="same",
        global_pooling="average",
        dense=(7,),
    )
    listed = layers(model, (*spatial, 2))
    for ours, theirs in zip(listed, net.layers, strict=True):
        assert ours.output_shape == theirs.output.shape[1:]
        assert ours.param_bytes == 4 * theirs.count_params()  # which counts the statistics of batch norm, as we do
        assert ours.params == sum(np.prod(weight.shape) for weight in theirs.trainable_weights)
    assert [layer.receptive_field for layer in listed] == [(2, 3, 5), (2, 3, 5), (2, 5, 7)] + 3 * [spatial]
    outputs = 9 * 7 * 15 * 4
    assert [layer.multiplications for layer in listed] == [outputs * 30 * 2, outputs, 5 * 4 * 8 * 4, 4, 4 * 7, 7 * 5]


def test_a_net_without_convolutions_sees_everything():
    listed = layers(ConvNet(10, dense=(6,)), (7, 5, 3))
    assert {layer.receptive_field for layer in listed} == {(7, 5)}
    assert [layer.multiplications for layer in listed] == [0, 7 * 5 * 3 * 6, 60]


def test_an_unknown_layer_is_traced_and_not_explained():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            return nn.Dense(3)(x.reshape(len(x), -1))

    traced = summary.trace(Net(), (4, 2))
    assert [(call.name, call.output_shape, call.num_params) for call in traced.calls] == [("Dense_0", (3,), 27)]
    with pytest.raises(TypeError, match="does not know what Dense sees"):
        summary.layers(traced)


# ---- Receptive fields by gradient


def seen(model, image_shape, layer, unit):
    """Between which values of the image, along each spatial dimension, a layer's `unit` has a gradient."""

    def value(image):
        _, captured = model.apply(variables, image, train=False, capture_intermediates=True)
        return captured["intermediates"][layer]["__call__"][0][(0, *unit)].sum()

    image = jnp.zeros((1, *image_shape))  # where tanh is the identity
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), image, train=False))
    variables = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.1), shapes)  # positive: no path cancels another
    places = np.argwhere(np.asarray(jax.grad(value)(image))[0].any(-1))
    return places.min(0), places.max(0)


def nets(spatial, stages, padding):
    """Nets of average pooling, with one number for each spatial dimension."""

    def sizes(most):
        return st.tuples(*spatial * [st.integers(1, most)])

    return st.builds(
        ConvNet,
        num_classes=st.just(2),
        filters=st.just(stages * ((1,),)),
        kernel_size=sizes(4),
        strides=sizes(3),
        padding=padding,
        pooling=st.just("average"),
        pool_size=sizes(3),
        pool_strides=sizes(3),
        pool_padding=padding,
        activation=st.just("tanh"),
    )


@pytest.mark.parametrize("sizes", [(400,), (300, 280)])
@settings(max_examples=8, deadline=None)
@given(st.data())
def test_a_unit_away_from_the_borders_has_the_gradient_of_its_receptive_field(sizes, data):
    stages = data.draw(st.integers(1, 2))
    model = data.draw(nets(len(sizes), stages, st.sampled_from(["valid", "same"])))
    layer = data.draw(st.sampled_from(layers(model, (*sizes, 1))[: 2 * stages]))
    first, last = seen(model, (*sizes, 1), layer.name, [size // 2 for size in layer.output_shape[:-1]])
    assert (first > 0).all()
    assert tuple(last - first + 1) == layer.receptive_field


@settings(max_examples=8, deadline=None)
@given(st.data(), st.lists(st.integers(10, 40), min_size=1, max_size=2))
def test_flattening_sees_what_the_windows_reach(data, sizes):
    """Windows without padding may leave the end of the image out."""
    model = data.draw(nets(len(sizes), 1, st.just("valid")))
    *_, flatten, _ = layers(model, (*sizes, 1))
    first, last = seen(model, (*sizes, 1), "Flatten_0", [slice(None)])
    assert not first.any()
    assert tuple(last + 1) == flatten.receptive_field
