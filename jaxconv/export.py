"""--mode=export: the net of a run as files that run without jaxconv: StableHLO, ONNX and NumPy's npz."""

import datetime
import importlib.metadata
import importlib.util
import io
import json
import os
import pathlib
import string
import tempfile
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.export
import numpy as np
from flax import traverse_util

from jaxconv import __version__, experiment
from jaxconv.config import Config
from jaxconv.data import digits
from jaxconv.models import registry
from jaxconv.runs import console, trained
from jaxconv.runs import workdir as files
from jaxconv.runs.trained import Trained

_PLATFORMS = ("cpu", "cuda", "tpu")

_README = string.Template("""\
# $model trained on $data

Exported on $date by jaxconv $version, with jax $jax and jaxlib $jaxlib. The parameters are those of epoch $epoch,
$accuracy.

- Input: $dtype (batch, $sizes), for a batch of any size. The net normalises the values by itself.
- Output: logits, float32 (batch, $num_classes). classes.json names the classes, in order.
- $size

## model.stablehlo, with jax

`pip install jax flatbuffers`. jax.export has written the file, for $platforms. JAX promises that its versions of the 6
months after that date load it; for a later one, export the run anew.

```python
$start
from jax import export

$examples
with open("model.stablehlo", "rb") as file:
    net = export.deserialize(file.read())
logits = np.asarray(net.call(examples))
$end
```

## model.onnx, with onnxruntime

`pip install numpy onnxruntime`.

```python
$start
import onnxruntime

$examples
net = onnxruntime.InferenceSession("model.onnx")
(logits,) = net.run(["logits"], {"examples": examples})
$end
```

## params.npz, with jaxconv, to train on or to look into the net

The file holds the parameters by their paths, the running statistics of batch norm under batch_stats/, the kernel of
a whitening layer under whitening/, and the mean and the standard deviation of each channel, by which the input is
normalised, under normalization/.

```python
$start
from flax.traverse_util import unflatten_dict
from $module import $net

$examples
tree = unflatten_dict(dict(np.load("params.npz")), sep="/")
normalization = tree.pop("normalization")
others = {name: tree.pop(name) for name in ("batch_stats", "whitening") if name in tree}
net = $net($fields)
normalized = (examples - normalization["mean"]) / normalization["std"]
logits = net.apply({"params": tree} | others, normalized, train=False)
$end
```
""")


def export(config: Config, workdir: pathlib.Path) -> pathlib.Path:
    """Export the best net so far of the run in `workdir`. It opens no data set, and may run beside a training.

    An earlier export is replaced.

    Returns:
        The directory with the files, `workdir`/export.

    Raises:
        UserError: there is no run of this config with a finished epoch, or the files cannot be written.
    """
    config = experiment.resolve(config, files.read_config(workdir))
    files.check(workdir, config)
    net = trained.load(workdir)
    contents = {
        "model.stablehlo": to_stablehlo(net),
        "model.onnx": _to_onnx(net),
        "params.npz": to_npz(net),
        "classes.json": (json.dumps(net.signature.class_names, indent=2) + "\n").encode(),
        "README.md": readme(net).encode(),
    }
    there = workdir / "export"
    _replace(there, {name: content for name, content in contents.items() if content is not None})
    accuracy = net.best["val_accuracy"]
    which = "the last so far" if accuracy is None else f"the best so far (val_acc: {accuracy:.4f})"
    console.say(f"Exported epoch {net.best['epoch']}, {which}.")
    return there


def forward(net: Trained) -> Callable[[jax.Array], jax.Array]:
    """Return the function from examples (batch, *spatial, channels) to logits, float32 (batch, num_classes)."""

    def logits(examples: jax.Array) -> jax.Array:
        return net.model.apply(net.variables, net.signature.normalize(examples), train=False)  # type: ignore[return-value]

    return logits


def to_stablehlo(net: Trained) -> bytes:
    """Export a net by jax.export, for a batch of any size and every platform of `_PLATFORMS`."""
    (batch,) = jax.export.symbolic_shape("batch")
    examples = jax.ShapeDtypeStruct((batch, *net.signature.image_shape), net.signature.dtype)
    return bytes(jax.export.export(jax.jit(forward(net)), platforms=_PLATFORMS)(examples).serialize())


def _to_onnx(net: Trained) -> bytes | None:
    """Export a net to ONNX. Where that is not possible, say why."""
    if importlib.util.find_spec("onnx") is None:
        console.say(
            "model.onnx is left out, as the package onnx is missing: pip install -e '.[export]', and export again."
        )
        return None
    from jaxconv.models import onnx_graph

    try:
        return onnx_graph.convert(forward(net), net.signature.image_shape, net.signature.dtype)
    except NotImplementedError as error:
        console.say(f"model.onnx is left out: jaxconv/models/onnx_graph.py has no translation of {error}.")
        return None


def to_npz(net: Trained) -> bytes:
    """Write the variables of a net, and its normalisation, as an npz file of float32 arrays."""
    others = {name: tree for name, tree in net.variables.items() if name != "params"}
    others["normalization"] = {"mean": net.signature.mean, "std": net.signature.std}
    arrays = traverse_util.flatten_dict(net.variables["params"] | others, sep="/")
    file = io.BytesIO()
    named: dict[str, Any] = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
    np.savez(file, **named)
    return file.getvalue()


def readme(net: Trained) -> str:
    """Write the README of an export: what the files are, and how to run each."""
    signature, shape, accuracy = net.signature, net.signature.image_shape, net.best["val_accuracy"]
    if signature.dtype == "uint8":
        examples = f"rng.integers(0, 256, (2, {_join(shape)}), np.uint8)"
    else:
        examples = f"rng.standard_normal((2, {_join(shape)}), np.float32)"
    return _README.substitute(
        model=net.config.model.name,
        data=net.config.data.name,
        date=datetime.date.today().isoformat(),
        version=__version__,
        jax=jax.__version__,
        jaxlib=importlib.metadata.version("jaxlib"),
        epoch=net.best["epoch"],
        accuracy="the last" if accuracy is None else f"with a validation accuracy of {accuracy:.4f}",
        dtype=signature.dtype,
        sizes=_join(shape),
        num_classes=len(signature.class_names),
        size=_size(net),
        platforms=_join(_PLATFORMS),
        module=type(net.model).__module__,
        net=type(net.model).__name__,
        fields=_fields(net),
        start="import json\n\nimport numpy as np",
        examples=f"rng = np.random.default_rng(0)\nexamples = {examples}  # put yours here",
        end='with open("classes.json") as file:\n    classes = json.load(file)\n'
        "print([classes[i] for i in logits.argmax(axis=1)])",
    )


def _size(net: Trained) -> str:
    """Say what to do with an example of another size."""
    *sizes, _ = net.signature.image_shape
    size = " x ".join(map(str, sizes))
    if net.config.data.name in digits.NAMES:
        return (
            f"The image of a digit must look like one of MNIST, {size}: like_mnist in jaxconv/data/digits.py does it."
        )
    if len(sizes) != 2:
        return f"An example must have the size {size}."
    fit = net.config.data.fit
    how = {
        "stretch": "is stretched",
        "crop": "keeps its proportions, and its middle is cropped",
        "pad": "keeps its proportions, and is padded with black",
    }[fit]
    return (
        f"An image of another size must be brought to {size} first. By config.data.fit='{fit}' it {how}: fit in "
        "jaxconv/data/images.py does it."
    )


def _fields(net: Trained) -> str:
    """Write the arguments of the net, without those that have their default."""
    fields = registry.fields(net.config.model)
    differing = {key: value for key, value in fields.items() if value != getattr(type(net.model), key)}
    return _join([f"num_classes={len(net.signature.class_names)}"] + [f"{k}={v!r}" for k, v in differing.items()])


def _join(words: Iterable[object]) -> str:
    return ", ".join(map(str, words))


def _replace(directory: pathlib.Path, contents: dict[str, bytes]) -> None:
    """Write a directory of files aside, and put it in place by a rename, so that a kill leaves no half of it.

    Raises:
        UserError: it cannot be written.
    """
    workdir = directory.parent
    with files.writing(workdir), tempfile.TemporaryDirectory(prefix="export-", dir=workdir) as aside:
        new, old = pathlib.Path(aside, "new"), pathlib.Path(aside, "old")
        new.mkdir()
        for name, content in contents.items():
            (new / name).write_bytes(content)
        if directory.exists():
            os.rename(directory, old)
        os.rename(new, directory)
