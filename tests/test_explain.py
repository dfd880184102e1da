"""--mode=explain: its tables and its JSON, and its figures against those of the compiled program."""

import functools
import json
import math

import jax
import jax.numpy as jnp
import pytest

from jaxconv import explain
from jaxconv.models import summary
from jaxconv.models.convnet import ConvNet
from tests.conftest import ROOT, launch


def count(model, image_shape):
    """The layers of a net, and what XLA counts in it."""
    traced = summary.trace(model, image_shape)
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    return summary.layers(traced), explain.count_compiled(model, traced.variables, image)


def flops(layer, inputs):
    """The operations of a layer without padding that turns `inputs` values into its outputs."""
    outputs = math.prod(layer.output_shape)
    if layer.kind in ("convolution", "dense"):
        return 2 * layer.multiplications + outputs  # and the biases
    if layer.kind == "batch norm":
        return 3 * outputs + 2 * layer.output_shape[-1]  # minus mean, by factor, plus bias; and what makes the factor
    if layer.kind == "flatten":
        return 0
    window = math.prod(layer.kernel_size) if layer.kernel_size else inputs // outputs
    return outputs * (window - 1) + layer.multiplications  # comparisons or additions; the average's factor


VALID = functools.partial(ConvNet, 10, padding="valid")
NETS = [
    # the net, the shape of its input, and the layers that a ReLU follows
    (VALID(dense=(128, 64)), (28, 28, 1), ["Dense_0", "Dense_1"]),
    (VALID(((20,), (50,)), kernel_size=5, dense=(500,)), (28, 28, 1), ["Pool_0", "Pool_1", "Dense_0"]),
    (VALID(((4, 5),), pooling="average", batch_norm=True), (9, 12, 2), ["BatchNorm_0", "BatchNorm_1"]),
    (VALID(((4,),), strides=2, pool_size=3, pool_strides=2, global_pooling="max"), (40, 3), ["Pool_0"]),
    (VALID(((4,),), kernel_size=(2, 3, 4), strides=(1, 2, 1), global_pooling="average"), (7, 9, 9, 2), ["Pool_0"]),
]


@pytest.mark.parametrize(("model", "image_shape", "rectified"), NETS)
def test_the_compiled_program_of_a_net_without_padding_counts_the_same(model, image_shape, rectified):
    layers, compiled = count(model, image_shape)
    inputs = [math.prod(image_shape), *(math.prod(layer.output_shape) for layer in layers)]
    expected = sum(map(flops, layers, inputs))
    expected += sum(math.prod(layer.output_shape) for layer in layers if layer.name in rectified)
    assert compiled.flops == expected
    assert compiled.argument_bytes == sum(layer.param_bytes for layer in layers) + inputs[0] * 4


def test_the_compiled_program_leaves_out_the_zeros_of_the_padding():
    (convolution, *rest), compiled = count(ConvNet(10, ((6,),), pool_size=1, activation="tanh"), (9, 8, 2))
    # Of 3 taps at each of n positions, the first and the last position have one in the padding.
    assert convolution.multiplications == (3 * 9) * (3 * 8) * 2 * 6
    without_padding = (3 * 9 - 2) * (3 * 8 - 2) * 2 * 6
    assert compiled.flops == 2 * without_padding + 9 * 8 * 6 + 2 * rest[-1].multiplications + 10


def test_tables(tiny, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    tiny.model.batch_norm = True
    explanation = explain.explain(tiny)
    explain.print_tables(explanation)
    shown = capsys.readouterr().out
    rows = [" ".join(line.split()) for line in shown.splitlines()]
    for row in (
        "cifar_simple on tiny, input (8, 8, 3), 4 classes",
        "Conv_0 3x3 1x1 same (8, 8, 4) 3x3 64",
        "Pool_0 2x2 2x2 valid (4, 4, 4) 4x4 16",
        "logits (4,) 8x8 1",
        "Conv_0 convolution 112 6,912 1,024 448",
        "BatchNorm_0 batch norm 8 256 1,024 64",
        f"total 676 {6912 + 256 + 512 + 32:,} {2 * 1024 + 2 * 256 + 32 + 16:,} 2,736",
    ):
        assert row in rows
    for layer in explanation.layers:
        assert sum(row.startswith(f"{layer.name} ") for row in rows) == 2
    assert f"XLA counts {explanation.compiled.flops:,} flops" in shown
    assert f"take {2736 + 768:,} bytes" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_counts_that_a_platform_does_not_have_are_left_out(tiny, capsys, monkeypatch):
    monkeypatch.setattr(jax.stages.Compiled, "cost_analysis", lambda self: None)
    monkeypatch.setattr(jax.stages.Compiled, "memory_analysis", lambda self: None)
    explanation = explain.explain(tiny)
    assert json.loads(explain.to_json(explanation))["compiled"] == {
        "platform": "cpu",
        "flops": None,
        "argument_bytes": None,
    }
    explain.print_tables(explanation)
    assert "flops" not in (shown := capsys.readouterr().out)
    assert "arguments" not in shown


def test_json(tiny_config, tmp_path):
    process = launch(f"--config={tiny_config}", f"--workdir={tmp_path}/run", "--mode=explain", "--json")
    explanation = json.loads(process.stdout)
    assert explanation["input_shape"] == [8, 8, 3]
    assert explanation["num_classes"] == 4
    assert [layer["name"] for layer in explanation["layers"]] == ["Conv_0", "Pool_0", "Flatten_0", "Dense_0", "logits"]
    assert explanation["layers"][0] == {
        "name": "Conv_0",
        "kind": "convolution",
        "output_shape": [8, 8, 4],
        "receptive_field": [3, 3],
        "positions": 64,
        "params": 112,
        "multiplications": 64 * 9 * 3 * 4,
        "output_bytes": 1024,
        "param_bytes": 448,
        "kernel_size": [3, 3],
        "strides": [1, 1],
        "padding": "same",
    }
    assert explanation["totals"]["params"] == 668
    assert explanation["compiled"]["argument_bytes"] == 4 * 668 + explanation["input_bytes"]
    assert process.stderr == ""
    assert not (tmp_path / "run").exists()


def test_a_net_that_does_not_fit_its_data(tiny_config):
    process = launch(f"--config={tiny_config}", "--mode=explain", "--config.model.kernel_size=(3,3,3)", status=2)
    assert "config.model.kernel_size=(3, 3, 3) has 3 numbers" in process.stderr
    assert process.stderr.count("\n") == 1
    assert process.stdout == ""


def test_a_recipe_on_a_terminal_without_unicode():
    process = launch(f"--config={ROOT}/configs/quickstart.py", "--mode=explain", env={"PYTHONIOENCODING": "ascii"})
    assert "lenet on mnist_sample, input (28, 28, 1), 10 classes" in process.stdout
    assert "1,256,080" in process.stdout
