"""What the tests share: a tiny data set in TFDS' own format, and launch.py as a user starts it."""

import os
import pathlib
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pytest

from jaxconv.data.tensorflow import import_tfds

ROOT = pathlib.Path(__file__).resolve().parent.parent

TINY_TRAIN, TINY_TEST, TINY_SHAPE = 210, 55, (8, 8, 3)

# Nothing listens there: what asks for the network is refused at once, on any machine.
NO_NETWORK = {name: "http://127.0.0.1:9" for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")}


@pytest.fixture(scope="session")
def tfds_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A TFDS data directory that holds the set "tiny": four classes of noisy colour patches."""
    tfds = import_tfds()
    directory = tmp_path_factory.mktemp("tfds")

    class Tiny(tfds.core.GeneratorBasedBuilder):
        """Colour patches."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict(
                    {"image": tfds.features.Image(shape=TINY_SHAPE), "label": tfds.features.ClassLabel(num_classes=4)}
                ),
                supervised_keys=("image", "label"),
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(TINY_TRAIN, 0), "test": self._generate_examples(TINY_TEST, 1)}

        def _generate_examples(self, count, seed):
            rng = np.random.default_rng(seed)
            for i in range(count):
                label = int(rng.integers(4))
                image = rng.integers(0, 200, TINY_SHAPE)
                image[4 * (label // 2) :, 4 * (label % 2) :] += 55
                yield i, {"image": image.astype(np.uint8), "label": label}

    tfds.disable_progress_bar()
    Tiny(data_dir=directory).download_and_prepare()
    return directory


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory: pytest.TempPathFactory, tfds_dir: pathlib.Path) -> pathlib.Path:
    """A config file for a run of seconds: 5 epochs of 11 steps, the last of each one padded."""
    path = tmp_path_factory.mktemp("configs") / "tiny.py"
    path.write_text(
        f"""
from jaxconv.config import default_config

def get_config():
    config = default_config()
    config.data.name = "tiny"
    config.data.data_dir = {str(tfds_dir)!r}
    config.model.name = "cifar_simple"
    config.model.filters = ((4,),)
    config.model.dense = (8,)
    config.batch_size = 16
    config.num_epochs = 5
    config.checkpoint_every_steps = 4
    config.optimizer.name = "rmsprop"
    config.optimizer.schedule = "cosine"
    return config
"""
    )
    return path


def start(*arguments: object, **keywords) -> subprocess.Popen:
    """launch.py, started as a user starts it, away from the network."""
    environment = os.environ | NO_NETWORK | keywords.pop("env", {})
    environment.pop("XLA_FLAGS", None)
    keywords = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT} | keywords
    return subprocess.Popen([sys.executable, "launch.py", *map(str, arguments)], env=environment, **keywords)


def launch(*arguments: object, status: int = 0, **keywords) -> subprocess.CompletedProcess:
    """launch.py, run to its end, which must have this exit status."""
    process = start(*arguments, **keywords)
    out, err = process.communicate(timeout=240)
    assert process.returncode == status, f"{arguments}\n{out}\n{err}"
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
