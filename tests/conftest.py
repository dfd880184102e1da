"""What the tests share: a tiny data set in TFDS' own format, and launch.py as a user starts it."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Tests run side by side: a thread of oneDNN that waits must leave its core to the others, and not spin.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import jax
import numpy as np
import pytest

from jaxconv.config import default_config
from jaxconv.data.tensorflow import import_tfds

# Neither read nor fill the cache of whoever runs the tests, but let their runs share one, in all workers of pytest.
# Each worker has one for itself: JAX warns of an entry that another process is writing, and a warning is an error here.
_worker = os.environ.get("PYTEST_XDIST_WORKER")
if _worker is None:
    _cache = tempfile.TemporaryDirectory()
    os.environ["XDG_CACHE_HOME"] = _cache.name
jax.config.update("jax_compilation_cache_dir", f"{os.environ['XDG_CACHE_HOME']}/in-process-{_worker}")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

ROOT = pathlib.Path(__file__).resolve().parent.parent

TINY_TRAIN, TINY_TEST, TINY_SHAPE = 210, 55, (8, 8, 3)

# Nothing listens there: what asks for the network is refused at once, on any machine.
NO_NETWORK = {name: "http://127.0.0.1:9" for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")}


def prepare(
    name: str,
    directory: pathlib.Path,
    features: dict[str, Any],
    splits: dict[str, Iterable[dict[str, Any]]],
    supervised_keys: tuple[str, str] | None = None,
) -> None:
    """Write a data set in TFDS' own format."""
    tfds = import_tfds()

    class Made(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Made by the tests."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            described = tfds.features.FeaturesDict(features)
            return self.dataset_info_from_configs(features=described, supervised_keys=supervised_keys)

        def _split_generators(self, dl_manager):
            return {split: enumerate(examples) for split, examples in splits.items()}

        def _generate_examples(self):
            raise NotImplementedError  # `_split_generators` has the examples

    Made.name = name
    tfds.disable_progress_bar()
    Made(data_dir=directory).download_and_prepare()


@pytest.fixture(scope="session")
def tfds_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A TFDS data directory that holds the set "tiny": four classes of noisy colour patches."""
    tfds = import_tfds()
    directory = tmp_path_factory.mktemp("tfds")

    def examples(count: int, seed: int) -> Iterator[dict[str, Any]]:
        rng = np.random.default_rng(seed)
        for _ in range(count):
            label = int(rng.integers(4))
            image = rng.integers(0, 200, TINY_SHAPE)
            image[4 * (label // 2) :, 4 * (label % 2) :] += 55
            yield {"image": image.astype(np.uint8), "label": label}

    features = {"image": tfds.features.Image(shape=TINY_SHAPE), "label": tfds.features.ClassLabel(num_classes=4)}
    splits = {"train": examples(TINY_TRAIN, 0), "test": examples(TINY_TEST, 1)}
    prepare("tiny", directory, features, splits, supervised_keys=("image", "label"))
    return directory


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse this process the network at once."""
    for name, value in NO_NETWORK.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def tiny(tfds_dir: pathlib.Path) -> Any:
    """The config of a run of seconds, for use in this process: 2 epochs of 11 steps, the last of each one padded."""
    config = default_config()
    config.data.name, config.data.data_dir = "tiny", str(tfds_dir)
    config.model.name, config.model.filters, config.model.dense = "cifar_simple", ((4,),), (8,)
    config.batch_size, config.num_epochs, config.num_devices = 16, 2, 1
    config.report = False
    return config


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
    config.report = False
    config.augment.rotation = 10.0
    config.augment.horizontal_flip = True
    config.mixup = 0.2
    config.optimizer.name = "rmsprop"
    config.optimizer.schedule = "cosine"
    return config
"""
    )
    return path


def start(*arguments: object, program: str | pathlib.Path = "launch.py", **keywords) -> subprocess.Popen:
    """launch.py, started as a user starts it, away from the network."""
    environment = os.environ | NO_NETWORK | keywords.pop("env", {})
    environment.pop("XLA_FLAGS", None)
    keywords = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT} | keywords
    return subprocess.Popen([sys.executable, program, *map(str, arguments)], env=environment, **keywords)


def launch(*arguments: object, status: int = 0, **keywords) -> subprocess.CompletedProcess:
    """launch.py, run to its end, which must have this exit status."""
    process = start(*arguments, **keywords)
    out, err = process.communicate(timeout=240)
    assert process.returncode == status, f"{arguments}\n{out}\n{err}"
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def read(workdir: pathlib.Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The history and the summary of a finished run, without what differs from run to run: its speed."""
    history = [json.loads(line) for line in (workdir / "history.jsonl").read_text().splitlines()]
    summary = json.loads((workdir / "summary.json").read_text())
    for record in history:
        assert record.pop("seconds") > 0
        assert record.pop("images_per_s") > 0
        assert 0 <= record.pop("data_wait") <= 1
    for key in ("wall_seconds", "clock_seconds", "train_images_per_s"):
        assert summary.pop(key) > 0
    return history, summary


def wait_for_step(workdir: pathlib.Path, step: int, process: subprocess.Popen) -> int:
    """Wait until the run has a whole checkpoint of `step` or later, and return which."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, f"ended before step {step}: {process.communicate()}"
        done = [int(path.name) for path in workdir.glob("checkpoints/*") if path.name.isdigit()]
        if done and max(done) >= step:
            return max(done)
        time.sleep(0.005)
    raise AssertionError(f"no checkpoint of step {step}")


@pytest.fixture(scope="session")
def finished(
    tiny_config: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[pathlib.Path, subprocess.CompletedProcess]:
    """A run on one device that nothing interrupted: its workdir and what it printed."""
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    return workdir, launch(f"--config={tiny_config}", f"--workdir={workdir}", "--config.num_devices=1")
