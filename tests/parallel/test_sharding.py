"""How batches are cut."""

import subprocess
import sys

import numpy as np

from jaxconv.parallel.sharding import micro_batches
from tests.conftest import ROOT


def test_rows_are_dealt_out_in_turn():
    batch = {"image": np.arange(24).reshape(12, 2), "label": np.arange(12)}
    parts = micro_batches(batch, 3)
    for number in range(3):
        for key, array in batch.items():
            np.testing.assert_array_equal(parts[key][number], array[number::3])


DEAL = """
import re
import jax, numpy as np
from jax.sharding import PartitionSpec
from jaxconv.parallel.mesh import make_mesh
from jaxconv.parallel.sharding import micro_batches, split_by_example

jax.config.update("jax_num_cpu_devices", 4)
mesh = make_mesh(4, 24)
batch = jax.device_put(np.arange(24), split_by_example(mesh))
with jax.set_mesh(mesh):
    program = jax.jit(micro_batches, static_argnums=1).lower(batch, 3).compile()
assert not re.search("all-|collective|permute|send", program.as_text()), program.as_text()
parts = program(batch)
assert parts.sharding.spec == PartitionSpec(None, "data")
for number in range(3):
    np.testing.assert_array_equal(parts[number], np.arange(24)[number::3])
"""


def test_each_device_keeps_its_rows():
    process = subprocess.run([sys.executable, "-c", DEAL], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
