"""Memory of a run on a folder of images that it does not keep in memory, epoch by epoch.

python -m benchmarks.large_set [--examples=200000] [--epochs=3] [--json=FILE]

It writes JPEGs of 64 x 64 into a temporary folder and trains a small net on them with config.data.in_memory="no", in a
process of its own, whose resident set it samples: when Python, JAX and TensorFlow have started, before any data, and
all the time from then on. The preparation reads all files and ends before the first step; an epoch contains its
validation. Memory should not grow from epoch to epoch. python -m benchmarks.large_set FOLDER WORKDIR EPOCHS trains.
"""

import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil
from absl import app, flags
from PIL import Image

from benchmarks import interleave
from jaxconv.platform import allocator

SIDE, CLASSES = 64, 10
_SECONDS = 0.1
"""Between two samples."""

_EXAMPLES = flags.DEFINE_integer("examples", 200_000, "Number of images.", lower_bound=3 * CLASSES)
_EPOCHS = flags.DEFINE_integer("epochs", 3, "Epochs to train.", lower_bound=1)
_JSON = flags.DEFINE_string("json", None, "File for the result.")


def write_files(directory: pathlib.Path, count: int) -> int:
    """Write JPEGs of random smooth colours, in a folder for each class, and return their bytes."""
    rng = np.random.default_rng(0)
    size = 0
    for label in range(CLASSES):
        (directory / str(label)).mkdir()
    for number in range(count):
        label = number % CLASSES
        coarse = rng.integers(0, 156, (8, 8, 3)) + 10 * label
        path = directory / str(label) / f"{number}.jpg"
        Image.fromarray(coarse.astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.BILINEAR).save(path, quality=85)
        size += path.stat().st_size
    return size


def train(directory: str, workdir: str, epochs: int) -> None:
    """Say that the process has started, and train when it is told to."""
    from jaxconv import config as configs
    from jaxconv import experiment, train
    from jaxconv.data.tensorflow import import_tfds

    config = configs.load("configs/image_folder.py")
    config.data.dir, config.data.image_size, config.data.in_memory = directory, SIDE, "no"
    config.model.filters, config.model.strides, config.model.batch_norm = ((8,),), 2, False
    config.num_epochs, config.batch_size = epochs, 128
    experiment.start_jax(config)
    import_tfds()
    print(interleave.READY, flush=True)
    sys.stdin.readline()
    train.train(config, pathlib.Path(workdir))


def measure(
    directory: pathlib.Path, workdir: pathlib.Path, epochs: int, say: Callable[[str], object]
) -> dict[str, Any]:
    """Train in a process of its own, and sample its memory."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.large_set", str(directory), str(workdir), str(epochs)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | allocator.ENVIRONMENT | {"TF_CPP_MIN_LOG_LEVEL": "2"},
        )
        try:
            assert process.stdin
            assert process.stdout
            process.stdout.readline()
            resident = psutil.Process(process.pid).memory_info
            baseline = resident().rss
            process.stdin.write("\n")
            process.stdin.flush()
            peaks, ends = _sample(process, workdir / "history.jsonl", lambda: resident().rss, say)
        finally:
            process.kill()
            process.wait()
        errors.seek(0)
        said = errors.read()
    if len(ends) < epochs:
        raise RuntimeError(f"The training failed:\n{said}")
    first_step = re.search(r"First step done ([\d.]+) s", said)
    history = [json.loads(line) for line in (workdir / "history.jsonl").read_text().splitlines()]
    return {
        "baseline_bytes": baseline,
        "preparation_peak_bytes": peaks[0],
        "first_step_s": float(first_step[1]) if first_step else None,
        "epochs": [
            {"end_bytes": end, "peak_bytes": peak}
            | {key: epoch[key] for key in ("data_wait", "seconds", "images_per_s", "val_accuracy")}
            for end, peak, epoch in zip(ends, peaks[1:], history, strict=False)
        ],
    }


def _sample(
    process: subprocess.Popen, history: pathlib.Path, resident: Callable[[], int], say: Callable[[str], object]
) -> tuple[list[int], list[int]]:
    """Sample memory until the process ends.

    Returns:
        The peaks before the first epoch and of each epoch, and what was resident at the end of each epoch, in bytes.
    """
    peaks, ends = [0, 0], []
    while process.poll() is None:
        try:
            now = resident()
        except psutil.NoSuchProcess:
            break
        has_begun = history.exists()  # it is written before the first step
        place = -1 if has_begun else 0
        peaks[place] = max(peaks[place], now)
        if has_begun and len(history.read_text().splitlines()) > len(ends):
            ends.append(now)
            peaks.append(0)
            say(f"epoch {len(ends)}: {now / 1e6:,.0f} MB")
        time.sleep(_SECONDS)
    return peaks, ends


def main(argv: list[str]) -> None:
    """Measure, print and write; or, with a folder, a workdir and a number of epochs, train."""
    if len(argv) == 4:
        train(argv[1], argv[2], int(argv[3]))
        return
    with tempfile.TemporaryDirectory() as directory, interleave.progress() as say:
        folder = pathlib.Path(directory, "images")
        folder.mkdir()
        say(f"writing {_EXAMPLES.value:,} images")
        size = write_files(folder, _EXAMPLES.value)
        say("training")
        measured = measure(folder, pathlib.Path(directory, "run"), _EPOCHS.value, say)
    rows = [_row("started, before data", measured["baseline_bytes"])]
    rows.append(_row("preparation, peak", measured["preparation_peak_bytes"]))
    for number, epoch in enumerate(measured["epochs"], start=1):
        wait, speed = f"{epoch['data_wait']:.1%}", f"{epoch['images_per_s']:,.0f}"
        rows.append(_row(f"epoch {number}, peak", epoch["peak_bytes"], wait, speed))
    result = {
        "command": f"python -m benchmarks.large_set --examples={_EXAMPLES.value} --epochs={_EPOCHS.value}",
        "examples": _EXAMPLES.value,
        "encoded_bytes": size,
        "decoded_bytes": _EXAMPLES.value * SIDE * SIDE * 3,
        **measured,
        "median_data_wait": statistics.median(epoch["data_wait"] for epoch in measured["epochs"]),
        "interrupted": False,
        "machine": interleave.machine(),
        "versions": interleave.versions(),
    }
    megabytes = f"{size / 1e6:,.0f} MB of files, {result['decoded_bytes'] / 1e6:,.0f} MB decoded"
    title = f"{_EXAMPLES.value:,} images, {megabytes}"
    interleave.report(title, rows, result, _JSON.value)


def _row(when: str, resident: int, data_wait: str = "", speed: str = "") -> dict[str, str]:
    return {"": when, "resident MB": f"{resident / 1e6:,.0f}", "data wait": data_wait, "images/s": speed}


if __name__ == "__main__":
    app.run(main)
