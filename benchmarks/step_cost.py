"""What a run costs, counted from its compiled steps: arithmetic and bytes, and the least time of an accelerator.

python -m benchmarks.step_cost --config=configs/cifar94.py [--json=FILE]

XLA counts the operations of the step of each phase, compiled here for a CPU with JAX's own operations, and the bytes
that they read and write. A batch is counted as one part. An accelerator does the same arithmetic; it fuses operations
otherwise, so its bytes differ. The least time is that of the arithmetic at the peak of an NVIDIA A100 (312 TFLOP/s) or
H100 (989 TFLOP/s) in bfloat16, by their data sheets. No accelerator is needed, and none is measured.
"""

import sys
from typing import Any

import jax
from absl import app, flags

from benchmarks import interleave
from jaxconv import config as configs
from jaxconv import experiment
from jaxconv.data import sources
from jaxconv.data.pipeline import steps_per_epoch
from jaxconv.errors import UserError
from jaxconv.parallel.mesh import make_mesh
from jaxconv.training.phases import phase_of

PEAKS = {"A100": 312e12, "H100": 989e12}
"""Operations a second in bfloat16, without sparsity."""

_CONFIG = flags.DEFINE_string("config", "configs/cifar94.py", "A config file.")
_JSON = flags.DEFINE_string("json", None, "File for the result.")


def count(config: configs.Config) -> list[dict[str, Any]]:
    """Count the operations and bytes of a step in each phase of a run, and how many steps the phase has."""
    config.ops, config.num_devices = "stock", 1
    config.accumulate_steps = 1  # with more parts, XLA would count only one of them
    if config.compute_dtype == "auto":
        config.compute_dtype = "bfloat16"  # as on an accelerator
    config = experiment.resolve(config)
    mesh = make_mesh(1, config.batch_size)
    source = sources.open_source(config.data)
    train = source.load(config.data.train)
    per_epoch, shape = steps_per_epoch(train, config.batch_size), train.images.shape[1:]
    _, _, state = experiment.create(config, mesh, shape, num_classes=source.num_classes, steps_per_epoch=per_epoch)
    steps: dict[Any, int] = {}
    for epoch in range(config.num_epochs):
        phase = phase_of(config, epoch)
        steps[phase] = steps.get(phase, 0) + per_epoch
    rows = []
    for phase, number in steps.items():
        compiled: Any = experiment.compile_train_step(config, mesh, state, shape, phase=phase)
        cost = compiled.cost_analysis()
        rows.append(
            {"phase": phase._asdict(), "steps": number, "flops": cost["flops"], "bytes": cost["bytes accessed"]}
        )
    return rows


def main(argv: list[str]) -> None:
    """Count, print and write."""
    jax.config.update("jax_platforms", "cpu")
    config = configs.load(_CONFIG.value)
    try:
        rows = count(config)
    except UserError as error:
        sys.exit(str(error))
    flops, num_bytes = (sum(row["steps"] * row[key] for row in rows) for key in ("flops", "bytes"))
    least = {name: flops / peak for name, peak in PEAKS.items()}
    table = [
        {
            "images": f"{row['phase']['share']:g} of their size",
            "groups that stand still": str(len(row["phase"]["still"])),
            "steps": str(row["steps"]),
            "GFLOP a step": f"{row['flops'] / 1e9:,.0f}",
            "GB a step": f"{row['bytes'] / 1e9:.2f}",
        }
        for row in rows
    ]
    total = {"images": "the run", "groups that stand still": "", "steps": str(sum(row["steps"] for row in rows))}
    total |= {"GFLOP a step": f"{flops / 1e9:,.0f} in all", "GB a step": f"{num_bytes / 1e9:,.0f} in all"}
    result = {
        "command": f"python -m benchmarks.step_cost --config={_CONFIG.value}",
        "phases": rows,
        "flops": flops,
        "bytes": num_bytes,
        "least_seconds": least,
        "interrupted": False,
        "versions": interleave.versions(),
    }
    title = ", ".join(f"{name} at its peak {seconds:.2f} s" for name, seconds in least.items())
    interleave.report(f"{_CONFIG.value}, batch {config.batch_size}; {title}", [*table, total], result, _JSON.value)


if __name__ == "__main__":
    app.run(main)
