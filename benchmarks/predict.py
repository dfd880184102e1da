"""Predictions per second for image files: ours and the peers', from JPEG files to classes, by cifar_deep.

python -m benchmarks.predict [--peers=keras,torch] [--files=2048] [--rounds=5] [--json=FILE]

"jaxconv" is what --mode=predict does. "keras" is image_dataset_from_directory with predict, on TensorFlow. "torch" is a
DataLoader with a worker for each core, Pillow and torchvision's steps by hand. All bring photographs of 500 x 375 to
32 x 32. The peers come with pip install -e ".[benchmarks]"; python -m benchmarks.predict NAME DIRECTORY answers the
rounds of `interleave`.
"""

# pyright: reportMissingImports=false

import functools
import os
import pathlib
import sys
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import app, flags
from PIL import Image

from benchmarks import interleave
from benchmarks.contestants import NETS, keras_model
from jaxconv.platform.limits import cores

NET, SIDE, BATCH = "cifar_deep", 32, 32
SIZE = 500, 375


def write_files(directory: pathlib.Path, count: int) -> None:
    """Write synthetic photographs as JPEG: smooth random colours with some noise."""
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3)).astype(np.uint8)).resize(
            SIZE, Image.Resampling.BICUBIC
        )
        image = np.asarray(coarse) + rng.normal(0, 8, (*SIZE[::-1], 3))
        folder = directory / str(number % 10)
        folder.mkdir(exist_ok=True)
        Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(folder / f"{number}.jpg", quality=90)


def jaxconv(directory: str) -> Callable[[], Any]:
    """What --mode=predict does, behind the loading of the run."""
    import jax

    from jaxconv import config as configs
    from jaxconv import experiment, predict
    from jaxconv.models.registry import create_model
    from jaxconv.runs.signature import Signature
    from jaxconv.runs.trained import Trained

    config = configs.load(f"configs/{NET}.py")
    experiment.start_jax(config)
    config = experiment.resolve(config)
    model = create_model(config.model, 10)
    shape = NETS[NET].shape
    variables = jax.jit(functools.partial(model.init, train=False))(
        jax.random.key(0), np.zeros((1, *shape), np.float32)
    )
    signature = Signature(tuple("0123456789"), shape, "uint8", (125.0,) * 3, (63.0,) * 3, 0)
    net = Trained(model=model, variables=dict(variables), signature=signature, config=config, best={})
    paths = predict.find([directory])
    return lambda: list(predict.classify(net, config, paths, top=3))


def keras(directory: str) -> Callable[[], Any]:
    """Keras' own way from a directory to predictions."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras

    model = keras_model(NETS[NET])
    images: Any = keras.utils.image_dataset_from_directory(
        directory,
        labels=None,  # type: ignore[arg-type]
        image_size=(SIDE, SIDE),
        batch_size=BATCH,
        shuffle=False,
        crop_to_aspect_ratio=True,
    )
    return lambda: model.predict(images.map(lambda x: (x - 125.0) / 63.0).prefetch(2), verbose=0).argsort(-1)[:, -3:]


class Files:
    """A data set of PyTorch: a file by its number."""

    def __init__(self, directory: str):
        self.paths = sorted(pathlib.Path(directory).rglob("*.jpg"))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> np.ndarray:
        with Image.open(self.paths[number]) as image:
            image = image.convert("RGB")
            scale = SIDE / min(image.size)
            image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
        left, top = (image.width - SIDE) // 2, (image.height - SIDE) // 2
        pixels = np.asarray(image.crop((left, top, left + SIDE, top + SIDE)), np.float32)
        return ((pixels - 125.0) / 63.0).transpose(2, 0, 1)


def torch(directory: str) -> Callable[[], Any]:
    """A DataLoader whose workers decode, and the net in inference mode."""
    import torch

    from benchmarks.contestants import torch_model

    model = torch_model(NETS[NET]).eval()
    loader = torch.utils.data.DataLoader(
        Files(directory),
        batch_size=BATCH,
        num_workers=cores(),
        persistent_workers=True,  # type: ignore[arg-type]
    )

    def run() -> Any:
        with torch.inference_mode():
            return [model(batch).softmax(-1).topk(3) for batch in loader]

    return run


CONTESTANTS: dict[str, Callable[[str], Callable[[], Any]]] = {"jaxconv": jaxconv, "keras": keras, "torch": torch}
PEERS = [name for name in CONTESTANTS if name != "jaxconv"]

_PEERS = flags.DEFINE_list("peers", PEERS, f"Any of {', '.join(PEERS)}.")
_FILES = flags.DEFINE_integer("files", 2048, "Number of files.", lower_bound=BATCH)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Measurements of each contestant.", lower_bound=1)
_JSON = flags.DEFINE_string("json", None, "File for the result.")


def answer(name: str, directory: str) -> None:
    """Answer the rounds of `interleave`; a step is a pass over all files."""
    warnings.simplefilter("ignore")
    sys.stdout, stdout = sys.stderr, sys.stdout  # Keras says how many files it found
    try:
        run = CONTESTANTS[name](directory)
    except ModuleNotFoundError:
        sys.stdout = stdout
        print(interleave.MISSING, flush=True)
        return
    sys.stdout = stdout
    interleave.answer(lambda steps: [run() for _ in range(steps)], len(Files(directory)))


def main(argv: list[str]) -> None:
    """Measure, print and write; or, with the name of a contestant, answer."""
    if len(argv) == 3:
        answer(argv[1], argv[2])
        return
    with tempfile.TemporaryDirectory() as directory, interleave.progress() as say:
        write_files(pathlib.Path(directory), _FILES.value)
        commands = {
            name: interleave.Command(["-m", "benchmarks.predict", name, directory], {})
            for name in ("jaxconv", *_PEERS.value)
        }
        comparison = interleave.compare(commands, rounds=_ROUNDS.value, say=say)
    about = {"command": "python -m benchmarks.predict", "files": _FILES.value, "rounds": _ROUNDS.value}
    interleave.present("Predictions for files", "files", comparison, about, _JSON.value)


if __name__ == "__main__":
    app.run(main)
