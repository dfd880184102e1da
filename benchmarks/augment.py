"""Augmented images per second on one core: ours and the peers', the lecture's transformations at 32 x 32 x 3.

python -m benchmarks.augment [--peers=keras-generator,torch] [--batch_size=128] [--rounds=5] [--json=FILE]

Each delivers shuffled, augmented, normalised batches of float32 from 10,000 images in memory. "none" is our pipeline
without augmentation. The peers come with pip install -e ".[benchmarks]"; python -m benchmarks.augment NAME
BATCH_SIZE answers the rounds of `interleave`.
"""

# pyright: reportMissingImports=false

import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks import interleave

EXAMPLES = 10_000
ROTATION, ZOOM, CHANNEL_SHIFT = 10, 0.1, 20  # as in configs/cifar_deep_augment.py
MEAN, STD = np.array([125, 123, 114], np.float32), np.array([63, 62, 67], np.float32)


def data() -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 (EXAMPLES, 32, 32, 3), and labels."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (EXAMPLES, 32, 32, 3)).astype(np.uint8), rng.integers(0, 10, EXAMPLES).astype(np.int32)


def jaxconv(batch_size: int, augmented: bool = True) -> Iterator[Any]:
    """The pipeline of launch.py."""
    from jaxconv import config as configs
    from jaxconv.data import pipeline
    from jaxconv.data.examples import Examples

    config = configs.load("configs/cifar_deep_augment.py")
    return iter(
        pipeline.train_batches(
            Examples(*data()),
            pipeline.Normalizer(MEAN, STD),
            batch_size=batch_size,
            seed=0,
            start_step=0,
            end_step=2**31,
            augmentation=config.augment if augmented else None,
        )
    )


def keras_generator(batch_size: int) -> Iterator[Any]:
    """Keras' ImageDataGenerator, which the lecture used; its zoom is both of ours."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    generator = ImageDataGenerator(
        featurewise_center=True,
        featurewise_std_normalization=True,
        rotation_range=ROTATION,
        zoom_range=ZOOM,
        horizontal_flip=True,
        channel_shift_range=CHANNEL_SHIFT,
    )
    generator.mean, generator.std = MEAN, STD
    return generator.flow(*data(), batch_size=batch_size)


def keras_layers(batch_size: int) -> Iterator[Any]:
    """Keras' preprocessing layers in tf.data; RandomBrightness adds one number to all channels."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras
    import tensorflow as tf

    layers = [
        keras.layers.RandomRotation(ROTATION / 360, fill_mode="nearest"),
        keras.layers.RandomZoom(ZOOM, fill_mode="nearest"),  # of both sides, as our rescaling
        keras.layers.RandomZoom(ZOOM, ZOOM, fill_mode="nearest"),
        keras.layers.RandomFlip("horizontal"),
        keras.layers.RandomBrightness(CHANNEL_SHIFT / 255),
        keras.layers.Normalization(mean=MEAN, variance=STD**2),
    ]

    def augment(images: Any, labels: Any) -> Any:
        images = tf.cast(images, tf.float32)
        for layer in layers:
            images = layer(images, training=True) if layer is not layers[-1] else layer(images)
        return images, labels

    dataset = tf.data.Dataset.from_tensor_slices(data()).shuffle(EXAMPLES).repeat().batch(batch_size)
    return dataset.map(augment, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE).as_numpy_iterator()


def torch(batch_size: int) -> Iterator[Any]:
    """The same composed into one matrix by hand: torch.nn.functional's affine_grid and grid_sample."""
    import torch
    from torch.nn import functional

    images, labels = data()
    x, y = torch.tensor(images.transpose(0, 3, 1, 2)), torch.tensor(labels)
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]

    def batches() -> Iterator[Any]:
        while True:
            for index in torch.randperm(EXAMPLES).split(batch_size):
                batch, n = x[index].float(), len(index)
                angle = (torch.rand(n) * 2 - 1) * (ROTATION * np.pi / 180)
                zoom = 1 + (torch.rand(2, n) * 2 - 1) * ZOOM
                zoom = zoom * (1 + (torch.rand(n) * 2 - 1) * ZOOM)
                flip = torch.where(torch.rand(n) < 0.5, -1.0, 1.0)
                cos, sin, zero = torch.cos(angle), torch.sin(angle), torch.zeros(n)
                rows = [cos * zoom[0] * flip, -sin * zoom[1], zero, sin * zoom[0] * flip, cos * zoom[1], zero]
                grid = functional.affine_grid(torch.stack(rows, 1).view(n, 2, 3), list(batch.shape), False)
                batch = functional.grid_sample(batch, grid, padding_mode="border", align_corners=False)
                low, high = batch.amin((1, 2, 3), keepdim=True), batch.amax((1, 2, 3), keepdim=True)
                shift = (torch.rand(n, 1, 1, 1) * 2 - 1) * CHANNEL_SHIFT
                yield (torch.clamp(batch + shift, low, high) - mean) / std, y[index]

    return batches()


CONTESTANTS: dict[str, Callable[[int], Iterator[Any]]] = {
    "jaxconv": jaxconv,
    "keras-generator": keras_generator,
    "keras-layers": keras_layers,
    "torch": torch,
    "none": lambda batch_size: jaxconv(batch_size, augmented=False),
}
PEERS = [name for name in CONTESTANTS if name != "jaxconv"]

_PEERS = flags.DEFINE_list("peers", PEERS, f"Any of {', '.join(PEERS)}.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Images in a batch.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Measurements of each contestant.", lower_bound=1)
_JSON = flags.DEFINE_string("json", None, "File for the result.")


def answer(name: str, batch_size: int) -> None:
    """Answer the rounds of `interleave`, on one core where the system can tie a process to it."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    warnings.simplefilter("ignore")
    try:
        batches = CONTESTANTS[name](batch_size)
    except ModuleNotFoundError:
        print(interleave.MISSING, flush=True)
        return

    def run(steps: int) -> None:
        for _ in range(steps):
            next(batches)

    interleave.answer(run, batch_size)


def main(argv: list[str]) -> None:
    """Measure, print and write; or, with the name of a contestant, answer."""
    if len(argv) == 3:
        answer(argv[1], int(argv[2]))
        return
    commands = {
        name: interleave.Command(["-m", "benchmarks.augment", name, str(_BATCH_SIZE.value)], {})
        for name in ("jaxconv", *_PEERS.value)
    }
    with interleave.progress() as say:
        comparison = interleave.compare(commands, rounds=_ROUNDS.value, say=say)
    about = {"command": "python -m benchmarks.augment", "batch_size": _BATCH_SIZE.value, "rounds": _ROUNDS.value}
    interleave.present("Augmented images on one core", "images", comparison, about, _JSON.value)


if __name__ == "__main__":
    app.run(main)
