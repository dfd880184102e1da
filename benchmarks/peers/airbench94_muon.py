"""The record recipe airbench94_muon on CIFAR-10 in PyTorch, for a CPU: in bfloat16 where that is fast, else in float32.

python -m benchmarks.peers.airbench94_muon --seed=0 [--json=FILE]

The recipe is Keller Jordan's (https://github.com/KellerJordan/cifar10-airbench, arXiv:2404.00498; Muon:
https://kellerjordan.github.io/posts/muon), written anew from its facts. Beside 94% in 2.6 seconds of an A100, it is
what a user of PyTorch would run. The clock is that of the records: it runs from the first look at the data to the last
prediction, and the loading is not part of it. Nothing is evaluated between the epochs.
"""

# pyright: reportMissingImports=false
# The peers come with the extra "benchmarks".

import json
import math
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from absl import app, flags
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import interleave
from jaxconv.platform import devices, limits
from jaxconv.runs import interrupt

WIDTHS = (64, 256, 256)
WHITENING_EXAMPLES, WHITENING_EPSILON, WHITENING_EPOCHS = 5000, 5e-4, 3
FILTER_RATE, FILTER_MOMENTUM = 0.24, 0.6
BIAS_RATE, HEAD_RATE, MOMENTUM, DECAY = 0.053, 0.67, 0.85, 2e-6
SMOOTHING = 0.2
DTYPE = torch.bfloat16 if devices.cpu_has_bfloat16() else torch.float32
"""The dtype of the net (without batch normalisation), of the images, and of Muon's products."""
SHIFT = 2
"""Pixels by which an image is shifted at most in training."""

_SEED = flags.DEFINE_integer("seed", 0, "The seed of parameters, order and augmentation.")
_EPOCHS = flags.DEFINE_integer("epochs", 8, "Passes over the training images.", lower_bound=1)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 2000, "Images in a step.", lower_bound=1)
_TRAIN_EXAMPLES = flags.DEFINE_integer("train_examples", 50_000, "The first so many training images.", lower_bound=1)
_JSON = flags.DEFINE_string("json", None, "File for the result.")


def whitening(images: Tensor) -> Tensor:
    """Filters whose outputs on 2 x 2 patches are uncorrelated, with variance 1, and the negatives of them.

    Args:
        images: float32 (n, 3, height, width), with mean 0.

    Returns:
        float32 (24, 3, 2, 2).
    """
    patches = images.unfold(2, 2, 1).unfold(3, 2, 1).transpose(1, 3).reshape(-1, 12)
    variances, directions = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (directions / (variances + WHITENING_EPSILON).sqrt()).T.reshape(12, 3, 2, 2)
    return torch.cat([filters, -filters])


def orthogonal(gradient: Tensor) -> Tensor:
    """The orthogonal matrix nearest to a matrix, roughly: three Newton-Schulz steps, as Muon takes them."""
    x = gradient.to(DTYPE)
    x = x / (x.norm() + 1e-7)
    wide = x.shape[0] <= x.shape[1]
    x = x if wide else x.T
    for _ in range(3):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x if wide else x.T


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose updates of a filter bank are orthogonal; the bank keeps the norm sqrt(filters)."""

    def __init__(self, params: Any, lr: float, momentum: float):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update the filters, (filters, channels, height, width) each."""
        for group in self.param_groups:
            for filters in group["params"]:
                buffer = self.state[filters].setdefault("momentum", torch.zeros_like(filters))
                buffer.mul_(group["momentum"]).add_(filters.grad)
                gradient = filters.grad.add(buffer, alpha=group["momentum"])
                filters.mul_(math.sqrt(len(filters)) / filters.norm())
                update = orthogonal(gradient.reshape(len(filters), -1)).view(filters.shape)
                filters.add_(update, alpha=-group["lr"])


def filters_3x3(channels: int, width: int) -> nn.Conv2d:
    """A convolution whose first filters pass the channels on; the others are PyTorch's default."""
    layer = nn.Conv2d(channels, width, 3, padding="same", bias=False)
    nn.init.dirac_(layer.weight.data[:channels])
    return layer


def batch_norm(width: int) -> nn.BatchNorm2d:
    """Batch normalisation of float32 without a learned scale."""
    layer = nn.BatchNorm2d(width, eps=1e-12, momentum=0.4)
    layer.weight.requires_grad_(False)
    return layer


class Net(nn.Module):
    """The net in DTYPE, channels last, for images of 3 x 32 x 32 and 10 classes."""

    def __init__(self):
        super().__init__()
        self.whiten = nn.Conv2d(3, 24, 2)
        self.whiten.weight.requires_grad_(False)
        groups, channels = [], 24
        for width in WIDTHS:
            groups += [filters_3x3(channels, width), nn.MaxPool2d(2), batch_norm(width), nn.GELU()]
            groups += [filters_3x3(width, width), batch_norm(width), nn.GELU()]
            channels = width
        self.groups = nn.Sequential(*groups, nn.MaxPool2d(3), nn.Flatten())
        self.head = nn.Linear(channels, 10, bias=False)
        self.head.weight.data /= self.head.weight.data.std()
        self.to(DTYPE, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        for layer in self.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.float()

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (n, 10), of images, (n, 3, 32, 32), both of DTYPE."""
        return self.head(self.groups(functional.gelu(self.whiten(x)))) / 256


def train_batches(images: Tensor, labels: Tensor, batch_size: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of an epoch in random order, shifted, and all mirrored if it is an odd one; the rest is left out.

    Args:
        images: (n, 36, 36, 3), padded.
        labels: (n,).
        batch_size: how many are in a batch.
        epoch: the number of the epoch, from 0.

    Yields:
        Images, (batch_size, 3, 32, 32), channels last, and labels.
    """
    places = 2 * SHIFT + 1
    size = images.shape[1] - 2 * SHIFT
    windows = images.unfold(1, size, 1).unfold(2, size, 1)  # (n, places, places, 3, size, size), a view
    for index in torch.randperm(len(images)).split(batch_size):
        if len(index) == batch_size:
            batch = windows[index, *torch.randint(places, (2, batch_size))]
            batch = batch.flip(3) if epoch % 2 else batch
            yield batch.contiguous(memory_format=torch.channels_last), labels[index]


def train(net: Net, images: Tensor, labels: Tensor, epochs: int, batch_size: int) -> None:
    """Train the net, and print each epoch's loss and seconds.

    Args:
        net: the net, with its whitening filters.
        images: DTYPE (n, 3, 32, 32), normalised.
        labels: int64 (n,).
        epochs: how many.
        batch_size: images in a step.
    """
    mirrored = torch.rand(len(images)) < 0.5
    images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    images = functional.pad(images, [SHIFT] * 4, "reflect").permute(0, 2, 3, 1).contiguous()
    steps_per_epoch = len(images) // batch_size
    steps, whitening_steps = epochs * steps_per_epoch, WHITENING_EPOCHS * steps_per_epoch
    filters = [p for p in net.groups.parameters() if p.ndim == 4]
    biases = [p for p in net.groups.parameters() if p.ndim == 1 and p.requires_grad]
    decay, bias = DECAY * batch_size, net.whiten.bias
    assert bias is not None
    muon = Muon(filters, FILTER_RATE, FILTER_MOMENTUM)
    sgd = torch.optim.SGD(
        [
            {"params": [bias], "lr": BIAS_RATE, "weight_decay": decay / BIAS_RATE},
            {"params": biases, "lr": BIAS_RATE, "weight_decay": decay / BIAS_RATE},
            {"params": [net.head.weight], "lr": HEAD_RATE, "weight_decay": decay / HEAD_RATE},
        ],
        momentum=MOMENTUM,
        nesterov=True,
    )
    groups = [*sgd.param_groups, *muon.param_groups]
    rates, ends = [group["lr"] for group in groups], [whitening_steps] + [steps] * (len(groups) - 1)
    net.train()
    step, began = 0, time.perf_counter()
    for epoch in range(epochs):
        total = torch.zeros(())
        for x, y in train_batches(images, labels, batch_size, epoch):
            bias.requires_grad_(step < whitening_steps)
            for group, rate, end in zip(groups, rates, ends, strict=True):
                group["lr"] = rate * max(0.0, 1 - step / end)
            loss = functional.cross_entropy(net(x).float(), y, label_smoothing=SMOOTHING, reduction="sum")
            loss.backward()
            for optimizer in (sgd, muon):
                optimizer.step()
                optimizer.zero_grad()
            total += loss.detach()
            step += 1
        mean = float(total) / (steps_per_epoch * batch_size)
        print(f"epoch {epoch + 1}: loss {mean:.4f}, {time.perf_counter() - began:.1f} s", file=sys.stderr, flush=True)


@torch.inference_mode()
def predict(net: Net, images: Tensor, batch_size: int = 2000) -> Tensor:
    """Logits, float32 (n, 10), averaged over six views: plain and shifted by a pixel up-left or down-right, mirrored.

    Args:
        net: the net.
        images: DTYPE (n, 3, 32, 32), normalised.
        batch_size: images at once.
    """

    def both(x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        return (net(x).float() + net(x.flip(3)).float()) / 2

    net.eval()
    logits = []
    for x in images.split(batch_size):
        size = x.shape[2]
        padded = functional.pad(x, [1] * 4, "reflect")
        shifted = both(padded[:, :, :size, :size]) + both(padded[:, :, 2:, 2:])
        logits.append(0.5 * both(x) + 0.25 * shifted)
    return torch.cat(logits)


def load(split: str) -> tuple[Tensor, Tensor]:
    """Images of CIFAR-10, uint8 (n, 3, 32, 32), and labels, int64 (n,)."""
    from jaxconv import config as configs
    from jaxconv.data import sources

    data = configs.load("configs/cifar_deep.py").data
    examples = sources.open_source(data).load(split)
    images = torch.tensor(np.moveaxis(np.asarray(examples.images), -1, 1))
    return images, torch.tensor(examples.labels, dtype=torch.int64)


def main(argv: list[str]) -> None:
    """Train, test, print and write."""
    epochs, batch_size = _EPOCHS.value, _BATCH_SIZE.value
    if batch_size > _TRAIN_EXAMPLES.value:
        sys.exit(f"--batch_size={batch_size} is more than --train_examples={_TRAIN_EXAMPLES.value}.")
    torch.set_num_threads(limits.cores())
    torch.manual_seed(_SEED.value)
    images, labels = load(f"train[:{_TRAIN_EXAMPLES.value}]")
    test_images, test_labels = load("test")
    net = Net()

    began = time.perf_counter()
    images = images / 255
    std, mean = torch.std_mean(images, (0, 2, 3), keepdim=True)
    images = (images - mean) / std
    net.whiten.weight.data.copy_(whitening(images[:WHITENING_EXAMPLES]))
    train(net, images.to(DTYPE), labels, epochs, batch_size)
    predicted = predict(net, ((test_images / 255 - mean) / std).to(DTYPE)).argmax(1)
    seconds = time.perf_counter() - began

    accuracy = float((predicted == test_labels).float().mean())
    print(f"Test accuracy {accuracy:.2%} in {seconds:.1f} s.")
    if _JSON.value:
        result = {
            "command": interrupt.command(),
            "seed": _SEED.value,
            "dtype": str(DTYPE).removeprefix("torch."),
            "epochs": epochs,
            "batch_size": batch_size,
            "train_examples": len(images),
            "accuracy": accuracy,
            "seconds": seconds,
            "machine": interleave.machine(),
            "versions": interleave.versions(),
        }
        pathlib.Path(_JSON.value).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
