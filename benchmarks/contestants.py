"""One training step of the lecture's nets by this project and by each peer, from batches in memory.

Each function builds a net with its loss and optimizer for a batch size, and returns a function that runs so many
steps and waits for the last one. python -m benchmarks.contestants NAME NET BATCH_SIZE answers the rounds of
`interleave`.
"""

# pyright: reportMissingImports=false
# The peers come with the extra "benchmarks".

import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks import interleave
from jaxconv.platform import allocator

Run = Callable[[int], object]


class Net(NamedTuple):
    """What the peers need to know of a net; this project reads its own config."""

    shape: tuple[int, int, int]
    filters: tuple[tuple[int, ...], ...]
    kernel_size: int
    dense: tuple[int, ...]
    dropout: float
    dense_dropout: float
    optimizer: str


NETS = {
    "mlp": Net((28, 28, 1), (), 3, (128, 128), 0.0, 0.0, "adam"),
    "lenet": Net((28, 28, 1), ((20,), (50,)), 5, (500,), 0.0, 0.0, "adam"),
    "cifar_simple": Net((32, 32, 3), ((32,),), 3, (512,), 0.25, 0.5, "rmsprop"),
    "cifar_deep": Net((32, 32, 3), ((32, 32), (64, 64)), 3, (512,), 0.25, 0.5, "rmsprop"),
}
LEARNING_RATE = 1e-3


def batch_of(net: Net, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images, float32 (batch_size, *shape), and labels, int32 (batch_size,)."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((batch_size, *net.shape), np.float32), rng.integers(0, 10, batch_size).astype(np.int32)


def jaxconv(dtype: str, name: str, batch_size: int) -> Run:
    """The step that launch.py runs, with dtype as config.compute_dtype."""
    import jax

    from jaxconv import config as configs
    from jaxconv import experiment
    from jaxconv.parallel.mesh import make_mesh
    from jaxconv.parallel.sharding import split_by_example
    from jaxconv.training.in_flight import StepsInFlight

    config = configs.load(f"configs/{name}.py")
    config.batch_size, config.compute_dtype = batch_size, dtype
    experiment.start_jax(config)
    config = experiment.resolve(config)
    net, mesh = NETS[name], make_mesh(config.num_devices, config.batch_size)
    _, _, state = experiment.create(config, mesh, net.shape, num_classes=10, steps_per_epoch=1000)
    train_step = experiment.compile_train_step(config, mesh, state, net.shape)
    images, labels = batch_of(net, batch_size)
    batch = {"image": images, "label": labels, "weight": np.full(batch_size, 1 / batch_size, np.float32)}
    batch = jax.device_put(batch, split_by_example(mesh))

    def run(steps: int) -> None:
        nonlocal state
        in_flight = StepsInFlight(experiment.steps_that_overlap(mesh))
        for step in range(steps):
            state, sums = train_step(state, batch)
            in_flight.add(step, sums)
            list(in_flight.wait(for_all=False))
        jax.block_until_ready(state)

    return run


def flax(name: str, batch_size: int) -> Run:
    """A plain Flax linen step: nn.Conv, nn.max_pool, nn.Dropout, one device."""
    import flax.linen as nn
    import jax
    import optax

    net = NETS[name]

    class Plain(nn.Module):
        @nn.compact
        def __call__(self, x):
            for stage in net.filters:
                for filters in stage:
                    x = nn.relu(nn.Conv(filters, (net.kernel_size, net.kernel_size))(x))
                x = nn.max_pool(x, (2, 2), (2, 2))
                x = nn.Dropout(net.dropout, deterministic=False)(x)
            x = x.reshape(len(x), -1)
            for units in net.dense:
                x = nn.Dropout(net.dense_dropout, deterministic=False)(nn.relu(nn.Dense(units)(x)))
            return nn.Dense(10)(x)

    model = Plain()
    images, labels = jax.device_put(batch_of(net, batch_size))
    optimizer = {
        "adam": lambda: optax.adam(LEARNING_RATE, eps=1e-7),
        "rmsprop": lambda: optax.rmsprop(LEARNING_RATE, decay=0.9, eps=1e-7),
    }[net.optimizer]()
    params = jax.jit(model.init)({"params": jax.random.key(0), "dropout": jax.random.key(1)}, images)["params"]
    state = (params, optimizer.init(params), jax.random.key(2))

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: Any, images: Any, labels: Any) -> Any:
        params, opt_state, rng = state
        rng, dropout = jax.random.split(rng)

        def loss(params: Any) -> Any:
            logits: Any = model.apply({"params": params}, images, rngs={"dropout": dropout})
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state, rng), value

    def run(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            state, _ = step(state, images, labels)
        jax.block_until_ready(state)

    return run


def keras_model(net: Net, metrics: Sequence[str] = ()) -> Any:
    """The net in Keras 3, compiled, on the backend of $KERAS_BACKEND."""
    import keras

    layers = [keras.Input(net.shape)]
    for stage in net.filters:
        layers += [keras.layers.Conv2D(f, net.kernel_size, padding="same", activation="relu") for f in stage]
        layers += [keras.layers.MaxPooling2D(), keras.layers.Dropout(net.dropout)]
    layers.append(keras.layers.Flatten())
    for units in net.dense:
        layers += [keras.layers.Dense(units, activation="relu"), keras.layers.Dropout(net.dense_dropout)]
    model = keras.Sequential([*layers, keras.layers.Dense(10)])
    optimizer = {"adam": keras.optimizers.Adam, "rmsprop": keras.optimizers.RMSprop}[net.optimizer](LEARNING_RATE)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=optimizer, loss=loss, metrics=list(metrics))
    return model


def keras(backend: str, policy: str, name: str, batch_size: int) -> Run:
    """Keras' fit without metrics and shuffling, which is its step and little else. The policy is that of dtypes."""
    os.environ["KERAS_BACKEND"] = backend
    import keras
    import tensorflow as tf

    keras.config.set_dtype_policy(policy)
    model = keras_model(NETS[name])
    batches = tf.data.Dataset.from_tensors(batch_of(NETS[name], batch_size)).repeat()
    return lambda steps: model.fit(batches, steps_per_epoch=steps, verbose=0)


def torch_model(net: Net) -> Any:
    """The net in PyTorch, channels last."""
    import torch
    from torch import nn

    size, channels, layers = net.shape[0], net.shape[2], []
    for stage in net.filters:
        for filters in stage:
            layers += [nn.Conv2d(channels, filters, net.kernel_size, padding="same"), nn.ReLU()]
            channels = filters
        layers += [nn.MaxPool2d(2), nn.Dropout(net.dropout)]
        size //= 2
    layers.append(nn.Flatten())
    units_in = size * size * channels
    for units in net.dense:
        layers += [nn.Linear(units_in, units), nn.ReLU(), nn.Dropout(net.dense_dropout)]
        units_in = units
    model: Any = nn.Sequential(*layers, nn.Linear(units_in, 10))  # its types do not know of layouts
    return model.to(memory_format=torch.channels_last)


def torch_optimizer(net: Net, model: Any) -> Any:
    """Its optimizer."""
    import torch

    if net.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), LEARNING_RATE)
    return torch.optim.RMSprop(model.parameters(), LEARNING_RATE, alpha=0.9)


def torch(kind: str, name: str, batch_size: int) -> Run:
    """PyTorch's usual loop.

    Args:
        kind: "eager", "compiled", "autocast to bfloat16" or "whole net in bfloat16".
        name: the net.
        batch_size: examples in a step.
    """
    import torch
    from torch import nn

    dtype = torch.bfloat16 if kind == "whole net in bfloat16" else torch.float32

    net = NETS[name]
    model = torch_model(net).to(dtype)
    optimizer, loss_function = torch_optimizer(net, model), nn.CrossEntropyLoss()
    forward = torch.compile(model) if kind == "compiled" else model
    images, labels = batch_of(net, batch_size)
    x = torch.tensor(images.transpose(0, 3, 1, 2)).to(dtype, memory_format=torch.channels_last)
    y = torch.tensor(labels, dtype=torch.int64)

    def run(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast to bfloat16"):
                loss = loss_function(forward(x), y)
            loss.backward()
            optimizer.step()

    return run


BFLOAT16 = "-bfloat16"
"""At the end of a name: activations are bfloat16."""
CONTESTANTS: dict[str, Callable[[str, int], Run]] = {
    "jaxconv": functools.partial(jaxconv, "float32"),
    "flax": flax,
    "keras-tensorflow": functools.partial(keras, "tensorflow", "float32"),
    "keras-jax": functools.partial(keras, "jax", "float32"),
    "torch": functools.partial(torch, "eager"),
    "torch-compile": functools.partial(torch, "compiled"),
    "jaxconv-bfloat16": functools.partial(jaxconv, "bfloat16"),
    "keras-tensorflow-bfloat16": functools.partial(keras, "tensorflow", "mixed_bfloat16"),
    "torch-autocast-bfloat16": functools.partial(torch, "autocast to bfloat16"),
    "torch-bfloat16": functools.partial(torch, "whole net in bfloat16"),
}
"""With float32, then with bfloat16; this project is the first of each."""
ALLOCATOR = "+allocator"
"""After a name: with the memory allocator set as this project sets it for itself."""


def environment(name: str) -> dict[str, str]:
    """What is set for a contestant."""
    return allocator.ENVIRONMENT if name.startswith("jaxconv") or name.endswith(ALLOCATOR) else {}


def main(name: str, net: str, batch_size: int) -> None:
    """Answer the rounds of `interleave`."""
    try:
        run = CONTESTANTS[name.removesuffix(ALLOCATOR)](net, batch_size)
    except ModuleNotFoundError:
        print(interleave.MISSING, flush=True)
        return
    interleave.answer(run, batch_size)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
