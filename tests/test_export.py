"""--mode=export: each file computes what the net computes, without what the README says it does not need."""

import functools
import json
import os
import re
import subprocess
import sys

import jax
import numpy as np
import onnxruntime
import pytest

from jaxconv.config import load
from jaxconv.errors import UserError
from jaxconv.export import export, to_npz
from jaxconv.models import onnx_graph
from jaxconv.runs import trained
from jaxconv.runs import workdir as files
from tests.conftest import ROOT, TINY_SHAPE, launch
from tests.runs.test_trained import make_run, snapshot

SHAPES = {
    "mnist": (28, 28, 1),
    "mnist_sample": (28, 28, 1),
    "cifar10": (32, 32, 3),
    "mnist1d": (40, 1),
    "moving_digits": (8, 20, 20, 1),
    "moving_digits_frame": (20, 20, 1),
    "image_folder": (64, 64, 3),
}
ALL = {"README.md", "classes.json", "model.onnx", "model.stablehlo", "params.npz"}


@pytest.fixture
def run(tiny, tmp_path):
    """A run of `tiny` with batch norm and one epoch."""
    tiny.model.batch_norm = True
    make_run(tmp_path / "run", tiny, TINY_SHAPE)
    return tmp_path / "run"


def examples_for(net):
    rng, shape = np.random.default_rng(0), (7, *net.signature.image_shape)
    return rng.integers(0, 256, shape, np.uint8) if net.signature.dtype == "uint8" else rng.normal(size=shape)


@pytest.mark.parametrize("recipe", sorted(path.name for path in (ROOT / "configs").glob("*.py")))
def test_a_recipe(recipe, tmp_path):
    config = load(str(ROOT / "configs" / recipe))
    name, workdir = config.data.name, tmp_path / "run"
    make_run(workdir, config, SHAPES[name], "float32" if name == "mnist1d" else "uint8")
    there = export(config, workdir)
    assert there == workdir / "export"
    assert {path.name for path in there.iterdir()} == ALL

    net = trained.load(workdir)
    examples = examples_for(net).astype(net.signature.dtype)
    normalized = (examples - np.float32(net.signature.mean)) / np.float32(net.signature.std)
    apply = jax.jit(functools.partial(net.model.apply, train=False))
    expected = np.asarray(apply(net.variables, normalized))
    stablehlo = jax.export.deserialize((there / "model.stablehlo").read_bytes())
    session = onnxruntime.InferenceSession(there / "model.onnx")
    for batch in (1, 7):
        for logits in (
            stablehlo.call(examples[:batch]),
            session.run(["logits"], {"examples": examples[:batch]})[0],
        ):
            assert logits.dtype == np.float32
            np.testing.assert_allclose(logits, expected[:batch], rtol=1e-5, atol=1e-5)
    assert stablehlo.platforms == ("cpu", "cuda", "tpu")


def test_params_and_classes(tiny, run):
    there, net = export(tiny, run), trained.load(run)
    with np.load(there / "params.npz") as arrays:
        np.testing.assert_array_equal(arrays["Conv_0/kernel"], net.variables["params"]["Conv_0"]["kernel"])
        stats = net.variables["batch_stats"]["BatchNorm_0"]["BatchNorm_0"]
        np.testing.assert_array_equal(arrays["batch_stats/BatchNorm_0/BatchNorm_0/mean"], stats["mean"])
        np.testing.assert_array_equal(arrays["normalization/std"], np.float32(net.signature.std))
        assert len(arrays.files) == len(jax.tree.leaves(net.variables)) + 2
    assert json.loads((there / "classes.json").read_text()) == list(net.signature.class_names)


BLOCK = """
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}.split():
            raise ImportError(name)
sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_the_programs_in_the_readme(dtype, tiny, tmp_path):
    tiny.model.batch_norm, tiny.model.kernel_size = True, (3, 2)
    make_run(tmp_path / "run", tiny, TINY_SHAPE, dtype)
    there = export(tiny, tmp_path / "run")
    programs = re.findall(r"```python\n(.*?)```", (there / "README.md").read_text(), re.DOTALL)
    stablehlo, onnx, npz = programs
    printed = []
    for program, blocked in (
        (stablehlo, "jaxconv flax orbax optax tensorflow onnx onnxruntime"),
        (onnx, "jaxconv flax orbax optax tensorflow jax jaxlib onnx"),
        (npz, "tensorflow orbax onnx onnxruntime"),
    ):
        command = [sys.executable, "-c", BLOCK.format(names=blocked) + program]
        environment = os.environ | {"PYTHONPATH": str(ROOT) if program == npz else ""}
        process = subprocess.run(command, cwd=there, env=environment, capture_output=True, text=True, timeout=120)
        assert process.returncode == 0, process.stderr
        printed.append(process.stdout)
    assert printed[0] == printed[1] == printed[2]
    assert printed[0].startswith("['class ")


def test_the_readme_says_what_goes_in_and_comes_out(tmp_path):
    config = load(str(ROOT / "configs" / "cifar_simple.py"))
    config.data.fit = "pad"
    make_run(tmp_path / "run", config, SHAPES["cifar10"])
    text = (export(config, tmp_path / "run") / "README.md").read_text()
    for part in (
        f"with jax {jax.__version__} and jaxlib ",
        "The parameters are those of epoch 1,",
        "Input: uint8 (batch, 32, 32, 3)",
        "logits, float32 (batch, 10)",
        "brought to 32 x 32 first. By config.data.fit='pad' it keeps its proportions, and is padded",
    ):
        assert part in text


def test_an_earlier_export_is_replaced(tiny, run):
    there = export(tiny, run)
    (there / "README.md").unlink()
    (there / "mine").touch()
    export(tiny, run)
    assert {path.name for path in there.iterdir()} == ALL
    assert not list(run.glob("export-*"))


def test_a_failed_write_leaves_the_earlier_export(tiny, run, monkeypatch):
    export(tiny, run)
    before = snapshot(run)

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(UserError, match="cannot be written"):
        export(tiny, run)
    assert snapshot(run) == before
    assert not list(run.glob("export-*"))


def test_without_the_package_onnx(tiny, run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert {path.name for path in export(tiny, run).iterdir()} == ALL - {"model.onnx"}
    assert "model.onnx is left out, as the package onnx is missing: pip install" in capsys.readouterr().err


def test_a_net_that_onnx_cannot_say(tiny, run, monkeypatch, capsys):
    monkeypatch.delitem(onnx_graph._SAME, "max")
    assert {path.name for path in export(tiny, run).iterdir()} == ALL - {"model.onnx"}
    assert "model.onnx is left out: jaxconv/models/onnx_graph.py has no translation of max." in capsys.readouterr().err


def test_another_config_is_refused(tiny, run):
    tiny.batch_size = 8
    with pytest.raises(UserError, match="holds a run of another config"):
        export(tiny, run)
    assert not (run / "export").exists()


def test_no_run(tiny, tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        export(tiny, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_no_finished_epoch(tiny, tmp_path):
    make_run(tmp_path / "run", tiny, TINY_SHAPE, val_accuracies=())
    with pytest.raises(UserError, match="has not finished an epoch"):
        export(tiny, tmp_path / "run")
    assert not (tmp_path / "run" / "export").exists()


def test_a_net_that_was_not_validated(tiny, tmp_path, capsys):
    tiny.data.validation = None
    make_run(tmp_path / "run", tiny, TINY_SHAPE, val_accuracies=(None, None))
    text = (export(tiny, tmp_path / "run") / "README.md").read_text()
    assert "The parameters are those of epoch 2,\nthe last.\n" in text
    assert capsys.readouterr().err == "Exported epoch 2, the last so far.\n"


def test_from_the_command_line_beside_a_training(tiny_config, tmp_path):
    config, workdir = load(str(tiny_config)), tmp_path / "run"
    make_run(workdir, config, TINY_SHAPE, val_accuracies=(0.5, 0.75))
    with files.claim(workdir, trained.load(workdir).config):
        process = launch(f"--config={tiny_config}", f"--workdir={workdir}", "--mode=export")
    assert process.stdout == f"{workdir}/export\n"
    assert process.stderr == "Exported epoch 2, the best so far (val_acc: 0.7500).\n"
    assert to_npz(trained.load(workdir)) == (workdir / "export" / "params.npz").read_bytes()
