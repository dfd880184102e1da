"""--mode=explain: what each layer of a net sees and costs, before any training."""

import functools
import json
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from rich import box
from rich.console import Console, Group
from rich.table import Table

from jaxconv import experiment
from jaxconv.config import Config
from jaxconv.data import sources
from jaxconv.models import registry, summary

TOTALS = ("params", "multiplications", "output_bytes", "param_bytes")
"""What is added up over the layers."""


class Compiled(NamedTuple):
    """What XLA counts in the compiled evaluation of one example, in the stock form. None: it does not say."""

    platform: str
    flops: int | None
    """Operations. A multiplication with its addition is 2; those with the zeros of the padding are left out."""
    argument_bytes: int | None
    """Bytes of the parameters, the statistics of batch norm and the example."""


class Explanation(NamedTuple):
    """A net, layer by layer."""

    model: str
    """config.model.name."""
    data: str
    """config.data.name."""
    input_shape: tuple[int, ...]
    """The shape of one example: (*spatial, channels)."""
    input_bytes: int
    num_classes: int
    layers: list[summary.Layer]
    compiled: Compiled

    @property
    def totals(self) -> dict[str, int]:
        """The sums of `TOTALS` over the layers."""
        return {key: sum(getattr(layer, key) for layer in self.layers) for key in TOTALS}


def explain(config: Config) -> Explanation:
    """List what the layers of a config's net see and cost, by shapes alone. No split of the data is read.

    Raises:
        UserError: the config is wrong, its net does not fit its data, or the data set cannot be opened.
    """
    config = experiment.resolve(config)
    source = sources.open_source(config.data)
    model = registry.create_model(config.model, source.num_classes)
    traced = summary.trace(model, source.image_shape)
    image = jax.ShapeDtypeStruct((1, *source.image_shape), jnp.float32)
    return Explanation(
        model=config.model.name,
        data=config.data.name,
        input_shape=source.image_shape,
        input_bytes=math.prod(image.shape) * image.dtype.itemsize,
        num_classes=source.num_classes,
        layers=summary.layers(traced),
        compiled=count_compiled(model, traced.variables, image),
    )


def count_compiled(model: nn.Module, variables: Any, image: jax.ShapeDtypeStruct) -> Compiled:
    """Compile the evaluation of `image`, a batch of one example, and return what XLA counts in it."""
    program = jax.jit(functools.partial(model.apply, train=False)).lower(variables, image).compile()
    flops = (program.cost_analysis() or {}).get("flops")
    memory = program.memory_analysis()
    return Compiled(
        platform=jax.default_backend(),
        flops=None if flops is None else int(flops),
        argument_bytes=None if memory is None else memory.argument_size_in_bytes,
    )


def to_json(explanation: Explanation) -> str:
    """Write an explanation as JSON: its fields, those of each layer, and the totals."""
    fields = explanation._asdict() | {
        "layers": [layer._asdict() for layer in explanation.layers],
        "compiled": explanation.compiled._asdict(),
        "totals": explanation.totals,
    }
    return json.dumps(fields, indent=2)


def print_tables(explanation: Explanation) -> None:
    """Print an explanation to stdout: a table of what the layers see, one of what they cost, and notes."""
    parts = []
    for part in (_windows(explanation), _costs(explanation), *_notes(explanation)):
        parts += [part, ""]
    Console(highlight=False, markup=False).print(Group(*parts[:-1]))


def _windows(explanation: Explanation) -> Table:
    table = _table(
        f"{explanation.model} on {explanation.data}, input {explanation.input_shape}, {explanation.num_classes} classes"
    )
    for column in ("kernel", "strides", "padding", "output shape", "receptive\nfield", "positions"):
        table.add_column(column, justify="right", overflow="fold")
    for layer in explanation.layers:
        table.add_row(
            layer.name,
            _sizes(layer.kernel_size),
            _sizes(layer.strides),
            layer.padding or "",
            str(layer.output_shape),
            _sizes(layer.receptive_field),
            f"{layer.positions:,}",
        )
    return table


def _costs(explanation: Explanation) -> Table:
    table = _table("Costs of evaluation, for one example")
    table.show_footer = True
    table.add_column("kind", max_width=15, overflow="fold")
    columns = ("parameters", "multiplications", "output\nbytes", "parameter\nbytes")
    for column, total in zip(columns, explanation.totals.values(), strict=True):
        table.add_column(column, f"{total:,}", justify="right", overflow="fold")
    for layer in explanation.layers:
        table.add_row(layer.name, layer.kind, *(f"{getattr(layer, key):,}" for key in TOTALS))
    return table


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("layer", "total", overflow="fold")
    return table


def _sizes(sizes: tuple[int, ...] | None) -> str:
    return "x".join(map(str, sizes or ()))


def _notes(explanation: Explanation) -> list[str]:
    """Write the sentences below the tables."""
    kinds, compiled = {layer.kind for layer in explanation.layers}, explanation.compiled
    notes = []
    if any(layer.kernel_size for layer in explanation.layers):
        notes.append(
            "Positions along a dimension: (size - kernel) / strides + 1, rounded down, with padding valid; "
            "size / strides, rounded up, with padding same."
        )
    if "batch norm" in kinds:
        notes.append(
            "The parameter bytes of batch norm contain its running mean and variance, which are no parameters."
        )
    if "whitening" in kinds:
        notes.append("The parameter bytes of whitening contain its kernel, which is not trained and no parameter.")
    if compiled.flops is not None:
        notes.append(
            f"XLA counts {compiled.flops:,} flops in the program that it compiles for {compiled.platform}; "
            f"2 x multiplications is {2 * explanation.totals['multiplications']:,}. XLA counts a multiplication with "
            "its addition as 2, leaves out those with the zeros of the padding, and adds 1 for each bias, comparison "
            "and other operation on a single value."
        )
    if compiled.argument_bytes is not None:
        notes.append(
            f"The arguments of that program take {compiled.argument_bytes:,} bytes: the parameter bytes, and "
            f"{explanation.input_bytes:,} bytes of the input."
        )
    return notes
