"""The lecture's nets trained by Keras on TensorFlow as its users write it: fit on arrays, or on an ImageDataGenerator.

python -m benchmarks.peers.keras_lecture --net=cifar_deep_augment [--epochs=2] [--seed=0] [--json=FILE]

Epochs, batch size and augmentation are those of configs/NET.py; the learning rate is constant, as in the lecture. The
last 20% of the training images validate. The clock runs from the first look at the data to the last prediction, as that
of benchmarks.peers.airbench94_muon. With fewer epochs than the config's, the seconds are scaled to these: each missing
epoch takes as long as the measured ones did on average, without the first, which compiles.
"""

# pyright: reportMissingImports=false
# The peers come with the extra "benchmarks".

import json
import os
import pathlib
import statistics
import time
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks import interleave
from benchmarks.contestants import NETS, keras_model
from jaxconv import config as configs
from jaxconv.config import Config
from jaxconv.data import sources
from jaxconv.platform import limits
from jaxconv.runs import interrupt

AUGMENTED = "cifar_deep_augment"
LECTURE = (*NETS, AUGMENTED)
VALIDATION = 0.2

_NET = flags.DEFINE_enum("net", None, LECTURE, "The net.", required=True)
_EPOCHS = flags.DEFINE_integer("epochs", None, "Passes over the training images; those of the config if not given.", 1)
_SEED = flags.DEFINE_integer("seed", 0, "The seed of parameters, order, dropout and augmentation.")
_JSON = flags.DEFINE_string("json", None, "File for the result.")


def load(config: Config, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 (n, height, width, channels), and labels."""
    examples = sources.open_source(config.data).load(split)
    return np.asarray(examples.images), examples.labels


def generator(config: Config) -> Any:
    """The lecture's transformations; the zoom of each side is both the config's rescaling and its zoom."""
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    return ImageDataGenerator(
        featurewise_center=True,
        featurewise_std_normalization=True,
        rotation_range=config.augment.rotation,
        zoom_range=config.augment.zoom,
        horizontal_flip=config.augment.horizontal_flip,
        channel_shift_range=config.augment.channel_shift,
    )


def fit(net: str, config: Config, epochs: int, images: np.ndarray, labels: np.ndarray) -> tuple[Any, Any, list[float]]:
    """Train.

    Returns:
        The model, its normalisation of images, and the seconds of each epoch.
    """
    import keras

    seconds = []

    class Clock(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.began = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            seconds.append(time.perf_counter() - self.began)

    options = {"epochs": epochs, "verbose": 2, "callbacks": [Clock()]}
    if net != AUGMENTED:
        model = keras_model(NETS[net], metrics=["accuracy"])
        mean, std = images.mean((0, 1, 2)), images.std((0, 1, 2))

        def normalize(x: np.ndarray) -> np.ndarray:
            return ((x - mean) / std).astype(np.float32)

        model.fit(normalize(images), labels, batch_size=config.batch_size, validation_split=VALIDATION, **options)
        return model, normalize, seconds

    model = keras_model(NETS["cifar_deep"], metrics=["accuracy"])
    datagen, train = generator(config), round(len(images) * (1 - VALIDATION))
    images = images.astype(np.float32)
    datagen.fit(images[:train])
    batches = datagen.flow(images[:train], labels[:train], batch_size=config.batch_size)
    batches.workers = limits.cores()
    validation = datagen.standardize(images[train:].copy()), labels[train:]
    model.fit(batches, validation_data=validation, **options)
    return model, lambda x: datagen.standardize(x.astype(np.float32)), seconds


def main(argv: list[str]) -> None:
    """Train, test, print and write."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras

    net = _NET.value
    config = configs.load(f"configs/{net}.py")
    epochs = _EPOCHS.value or config.num_epochs
    keras.utils.set_random_seed(_SEED.value)
    (images, labels), (test_images, test_labels) = load(config, "train"), load(config, "test")

    began = time.perf_counter()
    model, normalize, of_epochs = fit(net, config, epochs, images, labels)
    fitted = time.perf_counter()
    loss, accuracy = model.evaluate(normalize(test_images), test_labels, verbose=0)
    ended = time.perf_counter()

    per_epoch = statistics.mean(of_epochs[1:] or of_epochs)
    seconds = ended - began + per_epoch * (config.num_epochs - epochs)
    scaled = epochs < config.num_epochs
    print(f"Test accuracy {accuracy:.2%} after {epochs} epochs, {seconds:.1f} s{' for all epochs' if scaled else ''}.")
    if _JSON.value:
        result = {
            "command": interrupt.command(),
            "net": net,
            "dtype": "float32",
            "seed": _SEED.value,
            "epochs": epochs,
            "recipe_epochs": config.num_epochs,
            "batch_size": config.batch_size,
            "accuracy": accuracy,
            "loss": loss,
            "fit_seconds": fitted - began,
            "seconds_per_epoch": per_epoch,
            "seconds": seconds,
            "scaled": scaled,
            "machine": interleave.machine(),
            "versions": interleave.versions(),
        }
        pathlib.Path(_JSON.value).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
