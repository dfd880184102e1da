"""Predictions for image files: those of the net, in order, whatever is among the files."""

import functools
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from jaxconv import experiment
from jaxconv.data import digits, images
from jaxconv.errors import ConfigError
from jaxconv.models.registry import create_model
from jaxconv.predict import Prediction, classify, find
from jaxconv.runs.signature import Signature
from jaxconv.runs.trained import Trained
from tests.conftest import launch

NAMES = ("cat", "dog", "bird", "Größe")


def net_of(config, shape=(8, 8, 3), dtype="uint8"):
    """An untrained net, as a run would keep it."""
    config = experiment.resolve(config)
    model = create_model(config.model, len(NAMES))
    init = jax.jit(functools.partial(model.init, train=False))
    variables = dict(init(jax.random.key(0), np.zeros((1, *shape), np.float32)))
    channels = shape[-1]
    signature = Signature(NAMES, shape, dtype, tuple(range(90, 90 + channels)), (60.0,) * channels, 7)
    return Trained(model=model, variables=variables, signature=signature, config=config, best={})


@pytest.fixture
def pictures(tmp_path):
    """A directory of 11 images of different sizes."""
    rng = np.random.default_rng(0)
    for number in range(11):
        shape = (8, 8, 3) if number < 4 else (*rng.integers(5, 40, 2), 3)
        Image.fromarray(rng.integers(0, 256, shape).astype(np.uint8)).save(tmp_path / f"{number:02}.png")
    return tmp_path


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_they_are_those_of_the_net(tiny, pictures, fit):
    tiny.data.fit = fit
    net = net_of(tiny)
    paths = find([str(pictures)])
    assert [os.path.basename(path) for path in paths] == [f"{number:02}.png" for number in range(11)]
    results = list(classify(net, net.config, paths, top=9))
    assert [result.file for result in results] == paths
    pixels = np.stack([images.read(path, (8, 8), 3, fit) for path in paths])
    mean, std = (np.float32(values) for values in (net.signature.mean, net.signature.std))
    expected = jax.nn.softmax(net.model.apply(net.variables, (pixels - mean) / std, train=False))
    for result, row in zip(results, expected, strict=True):
        names, probabilities = zip(*result.classes, strict=True)
        assert names == tuple(NAMES[i] for i in np.argsort(-row))
        np.testing.assert_allclose(probabilities, np.sort(row)[::-1], rtol=1e-4)


def test_two_devices_say_the_same(finished, tiny_config, pictures):
    run = [f"--config={tiny_config}", f"--workdir={finished[0]}", "--mode=predict", f"--images={pictures}"]
    one, two = (launch(*run, f"--config.num_devices={devices}").stdout for devices in (1, 2))
    assert one == two


def test_a_net_of_mnist_reads_photographs_of_digits(tiny, tmp_path):
    tiny.data.name = "mnist_sample"
    image = np.full((90, 70), 250, np.uint8)
    image[20:70, 30:36] = 20
    Image.fromarray(image).save(tmp_path / "one.png")
    net = net_of(tiny, (28, 28, 1))
    ((_, probability), *_), *_ = (result.classes for result in classify(net, net.config, [f"{tmp_path}/one.png"], 1))
    pixels = digits.like_mnist(image[..., None])[None]
    logits = net.model.apply(net.variables, (pixels - np.float32(90)) / np.float32(60), train=False)
    assert probability == pytest.approx(float(jax.nn.softmax(logits).max()), rel=1e-4)


def test_what_is_no_image_is_named_in_its_place(tiny, pictures):
    (pictures / "03.png").write_bytes(b"")
    (pictures / "07.png").write_text("text")
    net = net_of(tiny)
    results = list(classify(net, net.config, [*find([str(pictures)]), str(pictures / "gone.png")], top=1))
    assert [number for number, result in enumerate(results) if result.error] == [3, 7, 11]
    assert [len(result.classes) for result in results] == [1, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 0]
    assert results[3].error == "is empty"


def test_files_none_of_which_is_an_image(tiny, tmp_path):
    (tmp_path / "a.png").write_text("text")
    net = net_of(tiny)
    (result,) = classify(net, net.config, [str(tmp_path / "a.png")], top=1)
    assert result.error


@pytest.mark.parametrize(("shape", "dtype"), [((40, 1), "uint8"), ((8, 8, 2), "uint8"), ((8, 8, 3), "float32")])
def test_a_net_that_takes_no_images(tiny, shape, dtype):
    with pytest.raises(ConfigError, match="--mode=predict reads images, and the net of this run takes"):
        classify(net_of(tiny, shape, dtype), tiny, ["a.png"], top=1)


def test_patterns(pictures):
    one, two = str(pictures / "01.png"), str(pictures / "02.png")
    (pictures / "notes.txt").write_text("not an image by its name")
    (pictures / "deep" / "er").mkdir(parents=True)
    (pictures / "deep" / "er" / "x.JPG").write_bytes(b"")
    odd = pictures / "a, b\n日本.png"
    odd.write_bytes(b"")
    assert find([one, two, one]) == [one, two]
    assert find([f"{two},{one}"]) == [two, one]
    assert find([str(pictures / "0[12].png")]) == [one, two]
    assert find([str(pictures / "**" / "*.JPG")]) == [str(pictures / "deep" / "er" / "x.JPG")]
    assert find([str(odd)]) == [str(odd)]
    assert len(find([str(pictures)])) == 13
    assert find([str(pictures / "notes.txt")]) == [str(pictures / "notes.txt")]  # asked for by name
    for pattern in (f"{one},{pictures}/nothing*", f"{pictures}/gone.png", ""):
        with pytest.raises(ConfigError, match="matches no file"):
            find([pattern])


def test_lines():
    result = Prediction("a\nb\udcff.png", [("cat", 0.75), ("dog", 0.25)])
    assert result.to_text() == "a\\nb\\udcff.png: cat (75.0%), dog (25.0%)"
    assert json.loads(result.to_json()) == {
        "file": "a\nb\udcff.png",
        "classes": [{"name": "cat", "probability": 0.75}, {"name": "dog", "probability": 0.25}],
    }
    bad = Prediction("c.png", [], error="is empty")
    assert bad.to_text() == "c.png: is empty"
    assert json.loads(bad.to_json()) == {"file": "c.png", "error": "is empty"}


def test_30_bad_files_of_40(finished, tiny_config, tmp_path):
    rng = np.random.default_rng(0)
    good = tmp_path / "good.png"
    Image.fromarray(rng.integers(0, 256, (30, 20, 3)).astype(np.uint8)).save(good)
    whole = good.read_bytes()
    bad = [
        b"",
        b"text",
        whole[:200],
        whole[:-30],
        whole[20:],
        whole[:40] + b"\0" * 9,
        b"GIF89a",
        b"\xff\xd8",
        b"BM",
        b"II*",
    ]
    for number in range(30):
        (tmp_path / f"bad {number}.{['png', 'jpg', 'gif'][number % 3]}").write_bytes(bad[number % len(bad)])
    for number in range(9):
        (tmp_path / f"good {number}.png").write_bytes(whole)
    run = [f"--config={tiny_config}", f"--workdir={finished[0]}", "--mode=predict", f"--images={tmp_path}"]
    process = launch(*run, "--top=2", status=1)
    lines = process.stdout.splitlines()
    assert len(lines) == 10
    assert all(line.startswith(f"{tmp_path}/good") and line.count("%") == 2 for line in lines)
    *named, last = process.stderr.splitlines()
    assert sorted(line.split(": ")[0] for line in named) == sorted(f"{path}" for path in tmp_path.glob("bad*"))
    assert last == "launch.py: 30 of 40 files could not be read; the others have their classes."
    as_json = [json.loads(line) for line in launch(*run, "--json", status=1).stdout.splitlines()]
    assert sum("error" in line for line in as_json) == 30
    assert [len(line["classes"]) for line in as_json if "classes" in line] == [3] * 10


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--mode=predict"], "--images and --mode=predict need each other"),
        (["--images=a.png"], "--images and --mode=predict need each other"),
        (["--mode=predict", "--images=/nowhere/*.png"], "--images=/nowhere/*.png matches no file"),
        (["--mode=predict", "--images=README.md", "--top=0"], "--top=0 must be 1 or more"),
    ],
)
def test_wrong_command_lines(tiny_config, tmp_path, arguments, sentence):
    process = launch(f"--config={tiny_config}", f"--workdir={tmp_path}/run", *arguments, status=2)
    assert sentence in process.stderr
    assert "Traceback" not in process.stderr
    assert process.stdout == ""
    assert not (tmp_path / "run").exists()


def test_without_a_run(tiny_config, tmp_path):
    process = launch(
        f"--config={tiny_config}", f"--workdir={tmp_path}/run", "--mode=predict", "--images=README.md", status=2
    )
    assert process.stderr == f"launch.py: --workdir={tmp_path}/run holds no run: train one with --mode=train first.\n"


def test_it_imports_no_tensorflow(finished, tiny_config, pictures):
    code = f"""
import pathlib, sys
from jaxconv import config, experiment, predict
loaded = config.load({str(tiny_config)!r})
loaded.num_devices = 1
experiment.start_jax(loaded)
print(len(list(predict.predict(loaded, pathlib.Path({str(finished[0])!r}), predict.find([{str(pictures)!r}]), 3))))
print([name for name in sys.modules if name.startswith("tensorflow")])
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert process.stdout == "11\n[]\n", process.stderr
