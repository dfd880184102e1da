"""--mode=predict: the classes of image files, by the best epoch so far of a run."""

import functools
import glob
import itertools
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, UInt8

from jaxconv import experiment
from jaxconv.config import Config
from jaxconv.data import digits, images
from jaxconv.errors import ConfigError, printable
from jaxconv.models import registry
from jaxconv.ops import dispatch
from jaxconv.parallel.mesh import make_mesh
from jaxconv.parallel.sharding import replicated, split_by_example
from jaxconv.platform import threads
from jaxconv.platform.limits import cores
from jaxconv.runs import trained
from jaxconv.runs import workdir as files
from jaxconv.training.views import mean_logits

_BATCH = 32
"""The largest number of images of one device in a batch."""


class Prediction(NamedTuple):
    """What the net says of a file, or why it cannot be read."""

    file: str
    classes: list[tuple[str, float]]
    """Names and probabilities of the most probable classes, the highest first."""
    error: str | None = None

    def to_json(self) -> str:
        """Write one line of JSON."""
        if self.error:
            return json.dumps({"file": self.file, "error": self.error})
        classes = [{"name": name, "probability": probability} for name, probability in self.classes]
        return json.dumps({"file": self.file, "classes": classes})

    def to_text(self) -> str:
        """Write one line for a person."""
        classes = ", ".join(f"{name} ({probability:.1%})" for name, probability in self.classes)
        return f"{printable(self.file)}: {self.error or classes}"


def predict(config: Config, workdir: pathlib.Path, paths: Sequence[str], top: int) -> Iterator[Prediction]:
    """Return an iterator over the predictions for files, in order. It opens no data set.

    Args:
        config: the config of the command line.
        workdir: the workdir of a run.
        paths: paths of image files.
        top: the number of classes of each prediction.

    Raises:
        UserError: there is no trained net, or it does not take images.
    """
    config = experiment.resolve(config, files.read_config(workdir))
    files.check(workdir, config)
    return classify(trained.load(workdir), config, paths, top)


def classify(net: trained.Trained, config: Config, paths: Sequence[str], top: int) -> Iterator[Prediction]:
    """Return an iterator over the predictions of a net for files, in order.

    Args:
        net: a trained net.
        config: a resolved config, for the devices and the forms of the operations.
        paths: paths of image files.
        top: the number of classes of each prediction.

    Raises:
        ConfigError: the net does not take images.
    """
    read = reader(net)
    mesh = make_mesh(config.num_devices, config.batch_size)
    size = mesh.size * min(_BATCH, -(-len(paths) // mesh.size))
    forward = compile_forward(net, config, mesh, size)

    def predictions() -> Iterator[Prediction]:
        images_read = _read_ahead(paths, read, ahead=2 * size)
        while batch := list(itertools.islice(images_read, size)):
            probabilities = iter(forward([image for _, image in batch if not isinstance(image, str)]))
            for path, image in batch:
                if isinstance(image, str):
                    yield Prediction(path, [], error=image)
                else:
                    yield Prediction(path, _best(next(probabilities), net.signature.class_names, top))

    return predictions()


def _best(
    probabilities: Float[np.ndarray, " num_classes"], class_names: tuple[str, ...], top: int
) -> list[tuple[str, float]]:
    return [(class_names[i], float(probabilities[i])) for i in np.argsort(-probabilities, kind="stable")[:top]]


def find(patterns: Sequence[str]) -> list[str]:
    """Return the files that patterns name: a file, a directory of images, or a glob. Several are parted by commas.

    Raises:
        ConfigError: a pattern matches no file.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        for part in [pattern] if os.path.exists(pattern) else pattern.split(","):
            matches = [part] if os.path.exists(part) else sorted(glob.glob(os.path.expanduser(part), recursive=True))
            paths = [path for match in matches for path in (_images_in(match) if os.path.isdir(match) else [match])]
            if not paths:
                raise ConfigError(f"--images={printable(part)} matches no file: name files, directories or globs.")
            found |= dict.fromkeys(paths)
    return list(found)


def _images_in(directory: str) -> list[str]:
    paths = (os.path.join(folder, name) for folder, _, names in os.walk(directory) for name in names)
    return sorted(path for path in paths if path.lower().endswith(images.ENDINGS))


def reader(net: trained.Trained, who: str = "--mode=predict") -> Callable[[str | bytes], UInt8[np.ndarray, "h w c"]]:
    """Return the function that reads a file, by its path or of its bytes, as the net needs it.

    Args:
        net: a trained net.
        who: what reads images, as the subject of the error.

    Raises:
        ConfigError: the net does not take images.
    """
    shape, dtype = net.signature.image_shape, net.signature.dtype
    if len(shape) != 3 or shape[-1] not in (1, 3) or dtype != "uint8":
        raise ConfigError(
            f"{who} reads images, and the net of this run takes {dtype} arrays of shape {shape}: use --mode=report, or "
            "--mode=export and call the exported net."
        )
    height, width, channels = shape
    if net.config.data.name in digits.NAMES:
        return lambda file: digits.like_mnist(np.asarray(images.decode(file, 1))[..., None])
    return functools.partial(images.read, size=(height, width), channels=channels, how=net.config.data.fit)


def _read_ahead(
    paths: Sequence[str], read: Callable[[str], UInt8[np.ndarray, "h w c"]], ahead: int
) -> Iterator[tuple[str, UInt8[np.ndarray, "h w c"] | str]]:
    """Read files on all cores, at most `ahead` before they are used. A file that cannot be read gives the reason."""

    def attempt(path: str) -> UInt8[np.ndarray, "h w c"] | str:
        try:
            return read(path)
        except images.UnreadableImage as error:
            return str(error)

    yield from zip(paths, threads.ahead(attempt, paths, threads=cores(), most=ahead), strict=True)


def compile_forward(
    net: trained.Trained, config: Config, mesh: jax.sharding.Mesh, size: int, views: str = "none"
) -> Callable[[Sequence[np.ndarray] | np.ndarray], Float[np.ndarray, "examples num_classes"]]:
    """Return the function from up to `size` examples, as of the data set, to the probabilities of the classes.

    Args:
        net: a trained net.
        config: a resolved config, for the forms of the operations.
        mesh: the devices.
        size: the largest number of examples, a multiple of the devices. Fewer are padded.
        views: as config.evaluation.views.
    """
    signature = net.signature
    model = registry.create_model(net.config.model, len(signature.class_names), dispatch.KERNELS[config.ops])

    @functools.partial(jax.jit, out_shardings=replicated(mesh))
    def probabilities(variables: dict, batch: jax.Array) -> jax.Array:
        apply: Any = functools.partial(model.apply, variables, train=False)
        return jax.nn.softmax(mean_logits(apply, signature.normalize(batch), views))

    variables = jax.device_put(net.variables, replicated(mesh))

    def forward(batch: Sequence[np.ndarray] | np.ndarray) -> Float[np.ndarray, "examples num_classes"]:
        padded = np.zeros((size, *signature.image_shape), signature.dtype)
        if len(batch):
            padded[: len(batch)] = batch
        with jax.set_mesh(mesh):
            result = probabilities(variables, jax.device_put(padded, split_by_example(mesh)))
        return np.asarray(result)[: len(batch)]

    return forward
