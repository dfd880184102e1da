"""The lecture's family of nets against Keras: parameters, shapes and values."""

import functools
import math

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

from jaxconv.config import default_config
from jaxconv.errors import ConfigError
from jaxconv.models import attribution
from jaxconv.models.convnet import ConvNet
from jaxconv.models.registry import create_model, num_params
from jaxconv.ops import dispatch
from tests.ops.conftest import FORMS

INPUTS = {"mlp": (28, 28, 1), "lenet": (28, 28, 1), "cifar_simple": (32, 32, 3), "cifar_deep": (32, 32, 3)}


def named(name):
    config = default_config()
    config.model.name = name
    return create_model(config.model, num_classes=10)


def init(model, shape):
    return jax.jit(functools.partial(model.init, train=False))(jax.random.key(0), jnp.zeros((1, *shape)))["params"]


def keras_net(name):
    """The lecture's net as the lecture writes it."""
    layers = keras.layers
    conv = {"activation": "relu", "padding": "same"}
    stages = {
        "mlp": [
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(128, activation="relu"),
        ],
        "lenet": [
            layers.Conv2D(20, 5, **conv),
            layers.MaxPooling2D(),
            layers.Conv2D(50, 5, **conv),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(500, activation="relu"),
        ],
        "cifar_simple": [
            layers.Conv2D(32, 3, **conv),
            layers.MaxPooling2D(),
            layers.Dropout(0.25),
            layers.Flatten(),
            layers.Dense(512, activation="relu"),
            layers.Dropout(0.5),
        ],
        "cifar_deep": [
            layers.Conv2D(32, 3, **conv),
            layers.Conv2D(32, 3, **conv),
            layers.MaxPooling2D(),
            layers.Dropout(0.25),
            layers.Conv2D(64, 3, **conv),
            layers.Conv2D(64, 3, **conv),
            layers.MaxPooling2D(),
            layers.Dropout(0.25),
            layers.Flatten(),
            layers.Dense(512, activation="relu"),
            layers.Dropout(0.5),
        ],
    }[name]
    return keras.Sequential([keras.Input(INPUTS[name]), *stages, layers.Dense(10)])


def copy_to_keras(params, net):
    """Give a Keras net the parameters of ours: same order of layers, same layout of kernels."""
    names = sorted((name for name in params if name != "logits"), key=lambda name: (not name.startswith("Conv"), name))
    weights = [params[name][part] for name in [*names, "logits"] for part in ("kernel", "bias")]
    net.set_weights([np.asarray(weight) for weight in weights])


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("mlp", 118_282),
        ("lenet", 1_256_080),
        ("cifar_simple", 4_200_842),
        ("cifar_deep", 2_168_362),
        ("airbench", 1_971_352),  # without the kernel that is not trained
        ("resnet18", 11_173_962),
    ],
)
def test_number_of_parameters(name, count):
    assert num_params(init(named(name), INPUTS.get(name, (32, 32, 3)))) == count


@pytest.mark.parametrize("name", list(INPUTS))
def test_equals_keras(name):
    assert_equals(named(name), keras_net(name), INPUTS[name])


# One number for all dimensions, or one for each: kernel, strides and padding of the convolution, and of the pooling.
ARGUMENTS = [
    ((3, 2, 4), (1, 2, 1), "same", (3, 2, 2), (2, 1, 3), "same"),
    ((2, 3, 1), (2, 1, 2), "valid", (2, 3, 2), (1, 2, 1), "valid"),
    (3, 1, "same", 3, 2, "valid"),  # windows overlap
    (3, 1, "same", 3, 2, "same"),
    (2, 1, "valid", 2, 3, "same"),  # windows leave values out
    (3, 1, "same", (2, 1, 3), None, "same"),  # the strides are the size of the windows
]


@pytest.mark.parametrize("place", ["last", "first"])
@pytest.mark.parametrize("kind", ["max", "average"])
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
@pytest.mark.parametrize("spatial", [(13,), (11, 14), (9, 10, 8)], ids=len)
def test_equals_keras_with_every_argument_of_convolution_and_pooling(spatial, arguments, kind, place):
    layers, n = keras.layers, len(spatial)
    kernel, strides, padding, window, pool_strides, pool_padding = (
        argument[:n] if isinstance(argument, tuple) else argument for argument in arguments
    )
    pool = f"{'Max' if kind == 'max' else 'Average'}Pooling{n}D"
    body = [
        getattr(layers, f"Conv{n}D")(3, kernel, strides=strides, padding=padding),
        layers.Activation("tanh"),
        getattr(layers, pool)(window, strides=pool_strides, padding=pool_padding),
    ]
    if place == "first":
        body[1:] = reversed(body[1:])
    net = keras.Sequential([keras.Input((*spatial, 2)), *body, layers.Flatten(), layers.Dense(5)])
    model = ConvNet(
        5,
        filters=((3,),),
        kernel_size=kernel,
        strides=strides,
        padding=padding,
        pooling=kind,
        pool_size=window,
        pool_strides=pool_strides,
        pool_padding=pool_padding,
        pool_place=place,
        activation="tanh",
    )
    assert_equals(model, net, (*spatial, 2))


def test_what_no_window_of_the_pooling_covers_is_not_computed():
    model = ConvNet(5, filters=((6,),), pool_place="first")
    inputs = np.zeros((1, 9, 8, 2), np.float32)
    variables = model.init(jax.random.key(0), inputs, train=False)
    _, between = model.apply(variables, inputs, train=False, capture_intermediates=True, mutable=["intermediates"])
    assert between["intermediates"]["Conv_0"]["__call__"][0].shape == (1, 8, 8, 6)


@pytest.mark.parametrize("kind", ["max", "average"])
@pytest.mark.parametrize("spatial", [(13,), (11, 14), (9, 10, 8)], ids=len)
def test_global_pooling_equals_keras(spatial, kind):
    layers, n = keras.layers, len(spatial)
    pool = f"Global{'Max' if kind == 'max' else 'Average'}Pooling{n}D"
    net = keras.Sequential(
        [
            keras.Input((*spatial, 2)),
            getattr(layers, f"Conv{n}D")(3, 3, padding="same", activation="relu"),
            getattr(layers, f"MaxPooling{n}D")(2),
            getattr(layers, pool)(),
            layers.Dense(5),
        ]
    )
    assert_equals(ConvNet(5, filters=((3,),), global_pooling=kind), net, (*spatial, 2))


def assert_equals(model, net, shape):
    """With the same parameters, the nets must give the same logits."""
    params = init(model, shape)
    copy_to_keras(params, net)
    inputs = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    logits = model.apply({"params": params}, inputs, train=False)
    np.testing.assert_allclose(logits, net(inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", ["relu", "elu", "silu", "tanh", "sigmoid"])
def test_equals_keras_whichever_of_activation_and_pooling_comes_first(activation):
    layers = keras.layers
    convolution = layers.Conv2D(6, 3, padding="same", activation=activation)
    net = keras.Sequential(
        [keras.Input((9, 8, 2)), convolution, layers.MaxPooling2D(), layers.Flatten(), layers.Dense(5)]
    )
    model = ConvNet(5, filters=((6,),), activation=activation)
    params = init(model, (9, 8, 2))
    copy_to_keras(params, net)
    inputs = 3 * np.random.default_rng(0).normal(size=(4, 9, 8, 2)).astype(np.float32)
    np.testing.assert_allclose(model.apply({"params": params}, inputs, train=False), net(inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", ["max", "average"])
def test_batch_norm_equals_keras_in_training_and_evaluation(pooling):
    layers = keras.layers
    pool = layers.MaxPooling2D if pooling == "max" else layers.AveragePooling2D
    body = [layers.Conv2D(4, 3, padding="same"), layers.BatchNormalization(), layers.ReLU(), pool(2), layers.Flatten()]
    net = keras.Sequential([keras.Input((8, 6, 2)), *body, layers.Dense(5)])
    model = ConvNet(5, filters=((4,),), batch_norm=True, pooling=pooling)
    inputs = 3 * np.random.default_rng(0).normal(size=(7, 8, 6, 2)).astype(np.float32)
    variables = model.init(jax.random.key(0), inputs, train=False)
    params, stats = variables["params"], variables["batch_stats"]
    norm, running = params["BatchNorm_0"]["BatchNorm_0"], stats["BatchNorm_0"]["BatchNorm_0"]
    weights = [params["Conv_0"]["kernel"], params["Conv_0"]["bias"], norm["scale"], norm["bias"]]
    weights += [running["mean"], running["var"], params["logits"]["kernel"], params["logits"]["bias"]]
    net.set_weights([np.asarray(weight) for weight in weights])
    for _ in range(3):
        expected = net(inputs, training=True)
        logits, updated = model.apply(variables, inputs, train=True, mutable=["batch_stats"])
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
        variables = variables | updated
    np.testing.assert_allclose(model.apply(variables, inputs, train=False), net(inputs), rtol=1e-4, atol=1e-4)
    ours = variables["batch_stats"]["BatchNorm_0"]["BatchNorm_0"]
    np.testing.assert_allclose(ours["mean"], net.layers[1].moving_mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ours["var"], net.layers[1].moving_variance, rtol=1e-4, atol=1e-6)


def test_frozen_stages_equal_keras_layers_that_are_not_trainable():
    """Their batch norm uses and keeps the running statistics in training, and no gradient flows into them."""
    layers = keras.layers
    norms = [layers.BatchNormalization(trainable=trainable) for trainable in (False, True, True)]
    stages = [[layers.Conv2D(4, 3, padding="same"), norm, layers.ReLU()] for norm in norms]
    body = [*stages[0], layers.MaxPooling2D(), *stages[1], *stages[2], layers.MaxPooling2D(), layers.Flatten()]
    net = keras.Sequential([keras.Input((8, 6, 2)), *body, layers.Dense(5)])
    model = ConvNet(5, filters=((4,), (4, 4)), batch_norm=True, frozen_stages=1)
    inputs = 3 * np.random.default_rng(0).normal(size=(7, 8, 6, 2)).astype(np.float32)
    variables = jax.jit(functools.partial(model.init, train=False))(jax.random.key(0), inputs)
    for stage, norm in enumerate(norms):
        convolution = variables["params"][f"Conv_{stage}"]
        stages[stage][0].set_weights([np.asarray(convolution[part]) for part in ("kernel", "bias")])
        norm.gamma.assign(np.full(4, 2.0))
        variables["params"][f"BatchNorm_{stage}"]["BatchNorm_0"]["scale"] = jnp.full(4, 2.0)
    net.layers[-1].set_weights([np.asarray(variables["params"]["logits"][part]) for part in ("kernel", "bias")])

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def gradients_and_outputs(params):
        logits, updated = model.apply(variables | {"params": params}, inputs, train=True, mutable=["batch_stats"])
        return logits.sum(), (logits, updated)

    gradients, (logits, updated) = gradients_and_outputs(variables["params"])
    np.testing.assert_allclose(logits, net(inputs, training=True), rtol=1e-4, atol=1e-4)
    for stage, norm in enumerate(norms):
        ours = updated["batch_stats"][f"BatchNorm_{stage}"]["BatchNorm_0"]
        np.testing.assert_allclose(ours["mean"], norm.moving_mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(ours["var"], norm.moving_variance, rtol=1e-4, atol=1e-5)
        assert bool(jnp.any(ours["mean"])) == (stage > 0)
    for layer, arrays in gradients.items():
        trained = any(jnp.any(leaf) for leaf in jax.tree.leaves(arrays))
        assert trained == (layer not in ("Conv_0", "BatchNorm_0")), layer


@pytest.mark.parametrize(("name", "stages"), [("mlp", "0 stages"), ("cifar_simple", "1 stage"), ("lenet", "2 stages")])
def test_more_frozen_stages_than_there_are_are_refused(name, stages):
    config = default_config()
    config.model.name = name
    with pytest.raises(ConfigError, match=f"config.freeze_stages=3, but the net has {stages}, by config.model.filters"):
        create_model(config.model, 10, frozen_stages=3)


def test_parameters_start_as_in_keras():
    kernel = init(named("lenet"), INPUTS["lenet"])["Conv_1"]["kernel"]
    limit = np.sqrt(6 / (25 * (20 + 50)))
    assert limit * 0.99 < jnp.abs(kernel).max() <= limit
    np.testing.assert_allclose(kernel.std(), limit / np.sqrt(3), rtol=0.02)


def test_dropout_only_while_training():
    model = named("cifar_simple")
    params = init(model, INPUTS["cifar_simple"])
    images = jnp.ones((2, 32, 32, 3))

    def train(seed):
        return model.apply({"params": params}, images, train=True, rngs={"dropout": jax.random.key(seed)})

    assert not np.allclose(train(0), train(1))
    np.testing.assert_array_equal(train(0), train(0))
    assert not np.allclose(train(0)[0], train(0)[1])  # examples drop different units


def test_a_field_overrides_the_member():
    config = default_config()
    config.model.name = "cifar_deep"
    config.model.dropout = 0.1
    model = create_model(config.model, num_classes=10)
    assert isinstance(model, ConvNet)
    assert (model.dropout, model.dense_dropout, model.filters) == (0.1, 0.5, ((32, 32), (64, 64)))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "lenett"),
        ("padding", "full"),
        ("pooling", "min"),
        ("pool_padding", "valdi"),
        ("global_pooling", "mean"),
        ("activation", "rel"),
    ],
)
def test_unknown_names_are_refused(field, value):
    config = default_config()
    config.model[field] = value
    with pytest.raises(ConfigError, match=f"config.model.{field}='{value}' is not known"):
        init(create_model(config.model, 10), (28, 28, 1))


@pytest.mark.parametrize(
    ("fields", "shape", "sentence"),
    [
        (
            {"filters": ((2,), (2,), (2,)), "padding": "valid"},
            (14, 14, 1),
            "Convolution 1 of stage 3 of config.model leaves nothing of its 2 x 2 input, because its windows are "
            "3 x 3: use fewer stages in config.model.filters, smaller strides, a smaller config.model.kernel_size, or "
            "config.model.padding='same'.",
        ),
        (
            {"filters": ((2,), (2, 2)), "pool_size": (1, 3)},
            (4, 8, 1),
            "The pooling of stage 2 of config.model leaves nothing of its 4 x 2 input, because its windows are 1 x 3: "
            "use fewer stages in config.model.filters, smaller strides, a smaller config.model.pool_size, or "
            "config.model.pool_padding='same'.",
        ),
        (
            {"filters": ((2,),), "kernel_size": (3, 3)},
            (9, 1),
            "config.model.kernel_size=(3, 3) has 2 numbers, and the input of each convolution has 1 dimension: give "
            "one number for each, or one for all.",
        ),
        (
            {"filters": ((2,),), "strides": (2,)},
            (9, 9, 1),
            "config.model.strides=(2,) has 1 number, and the input of each convolution has 2 dimensions: give one "
            "number for each, or one for all.",
        ),
        (
            {"filters": ((2,),), "pool_strides": (1, 1, 1)},
            (9, 9, 1),
            "config.model.pool_strides=(1, 1, 1) has 3 numbers, and the input of each pooling has 2 dimensions: ",
        ),
    ],
)
def test_fields_that_do_not_fit_the_input_are_refused(fields, shape, sentence):
    with pytest.raises(ConfigError) as refusal:
        init(ConvNet(10, **fields), shape)
    assert str(refusal.value).split("\n")[0].startswith(sentence)


def test_windows_that_fit_exactly_leave_one_value():
    params = init(ConvNet(10, filters=((2,),), kernel_size=(5, 3), padding="valid", pool_size=(2, 4)), (6, 6, 1))
    assert params["logits"]["kernel"].shape == (2, 10)
    assert (
        init(ConvNet(10, filters=((2,),), pool_size=9, pool_padding="same"), (6, 6, 1))["logits"]["kernel"].size == 20
    )


# ---- Remat


def value_and_gradient(net, ops):
    """A function of parameters, statistics and images: a loss of training, the new statistics, and the gradient."""
    net = net.clone(kernels=dispatch.KERNELS[ops])

    def loss(params, statistics, x):
        logits, after = net.apply(
            {"params": params, **statistics},
            x,
            train=True,
            weight=jnp.ones(len(x)),
            rngs={"dropout": jax.random.key(3)},
            mutable=["batch_stats"],
        )
        return jnp.mean(logits**2), after

    return jax.value_and_grad(loss, has_aux=True)


DEEP = ConvNet(3, filters=((4, 5), (6, 7)), dense=(6,), batch_norm=True, dropout=0.3, dense_dropout=0.2)


@pytest.mark.parametrize("ops", ["stock", *FORMS])
def test_remat_changes_neither_names_nor_values_nor_gradients(ops):
    remat = DEEP.clone(remat=True)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 8, 8, 2)), jnp.float32)
    variables = jax.jit(functools.partial(DEEP.init, train=False))(jax.random.key(0), x)
    assert jax.tree.structure(jax.eval_shape(functools.partial(remat.init, train=False), jax.random.key(0), x)) == (
        jax.tree.structure(variables)
    )
    params = variables.pop("params")
    got, expected = (jax.jit(value_and_gradient(net, ops))(params, variables, x) for net in (remat, DEEP))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), got, expected)


@pytest.mark.parametrize("ops", ["stock", *FORMS])
def test_with_remat_less_is_kept_for_the_gradient(ops):
    """The inputs of the stages, and what the dense layers need, but no output of a convolution."""
    x = jax.ShapeDtypeStruct((6, 8, 8, 2), jnp.float32)

    def kept(net):
        net = net.clone(kernels=dispatch.KERNELS[ops])
        variables = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros(x.shape), train=False))
        statistics = {"batch_stats": variables["batch_stats"]}

        def linearized(params, statistics, x):
            def logits(params):
                rngs = {"dropout": jax.random.key(3)}
                applied = net.apply({"params": params, **statistics}, x, train=True, rngs=rngs, mutable=["batch_stats"])
                return applied[0]

            return jax.vjp(logits, params)[1]

        return [leaf.shape for leaf in jax.tree.leaves(jax.eval_shape(linearized, variables["params"], statistics, x))]

    plain, remat = kept(DEEP), kept(DEEP.clone(remat=True))
    outputs = {(6, 8, 8, 4), (6, 8, 8, 5), (6, 4, 4, 6), (6, 4, 4, 7)}
    assert outputs <= set(plain)
    assert not outputs & set(remat)
    assert sum(map(math.prod, remat)) < sum(map(math.prod, plain)) / 3


def test_a_net_with_remat_is_read_as_any_other():
    net = DEEP.clone(remat=True)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 2)), jnp.float32)
    variables = jax.jit(functools.partial(net.init, train=False))(jax.random.key(0), x)
    classes = jnp.asarray([0, 2])
    for read in (attribution.feature_maps, functools.partial(attribution.grad_cam, classes=classes)):
        with_remat, plain = (jax.jit(functools.partial(read, net))(variables, x) for net in (net, DEEP))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), with_remat, plain)

    def stages(variables, x):  # in training, where stages are computed again
        return net.apply(variables, x, train=True, rngs={"dropout": jax.random.key(3)}, mutable=True)[1]["stages"]

    assert list(jax.eval_shape(stages, variables, x)) == ["stage_1", "stage_2"]
