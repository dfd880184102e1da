"""Whole epochs of the peers as their users write them: Keras' fit, and PyTorch with a DataLoader.

python -m benchmarks.epochs NAME NET EXAMPLES EPOCHS prints a line of JSON when the first step is done, and one for
each epoch: its images per second. The examples are those that launch.py would train on.
"""

# pyright: reportMissingImports=false
# The peers come with the extra "benchmarks".

import json
import os
import sys
import time
from collections.abc import Callable

import numpy as np

from benchmarks.contestants import NETS, keras_model, torch_model, torch_optimizer


def say(**record: object) -> None:
    """One line for `train_epoch`."""
    print(json.dumps(record), flush=True)


def load(net: str, examples: int) -> tuple[np.ndarray, np.ndarray]:
    """Images, normalised, float32 (examples, *shape), and labels, int32 (examples,)."""
    from jaxconv import config as configs
    from jaxconv.data import pipeline, sources

    data = configs.load(f"configs/{net}.py").data
    train = sources.open_source(data).load(f"train[:{examples}]")
    mean, std = pipeline.fit_normalizer(train)
    return (train.images - mean) / std, train.labels


def keras(backend: str, net: str, examples: int, epochs: int, batch_size: int) -> None:
    """Fit on arrays, with accuracy."""
    os.environ["KERAS_BACKEND"] = backend
    import keras

    images, labels = load(net, examples)
    model = keras_model(NETS[net], metrics=["accuracy"])

    class Report(keras.callbacks.Callback):
        first = True

        def on_train_batch_end(self, batch, logs=None):
            if self.first:
                say(first_step=True)
            Report.first = False

        def on_epoch_begin(self, epoch, logs=None):
            self.began = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            say(images_per_s=examples / (time.perf_counter() - self.began))

    model.fit(images, labels, batch_size=batch_size, epochs=epochs, verbose=0, callbacks=[Report()])


def torch(compiled: bool, net: str, examples: int, epochs: int, batch_size: int) -> None:
    """A shuffling DataLoader over tensors, with running loss and accuracy."""
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    images, labels = load(net, examples)
    dataset = TensorDataset(torch.tensor(images.transpose(0, 3, 1, 2)), torch.tensor(labels, dtype=torch.int64))
    loader = DataLoader(dataset, batch_size, shuffle=True)
    model = torch_model(NETS[net])
    optimizer, loss_function = torch_optimizer(NETS[net], model), nn.CrossEntropyLoss()
    forward = torch.compile(model) if compiled else model
    first = True
    for _ in range(epochs):
        began, total, correct = time.perf_counter(), 0.0, 0
        for x, y in loader:
            optimizer.zero_grad()
            logits = forward(x.to(memory_format=torch.channels_last))
            loss = loss_function(logits, y)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(y)
            correct += int((logits.argmax(1) == y).sum())
            if first:
                say(first_step=True)
            first = False
        say(images_per_s=examples / (time.perf_counter() - began), loss=total / examples, accuracy=correct / examples)


PEERS: dict[str, Callable[[str, int, int, int], None]] = {
    "keras-tensorflow": lambda *run: keras("tensorflow", *run),
    "keras-jax": lambda *run: keras("jax", *run),
    "torch": lambda *run: torch(False, *run),
    "torch-compile": lambda *run: torch(True, *run),
}


if __name__ == "__main__":
    try:
        PEERS[sys.argv[1]](sys.argv[2], *map(int, sys.argv[3:]))
    except ModuleNotFoundError:
        say(missing=True)
