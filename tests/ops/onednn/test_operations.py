"""Operations of oneDNN within XLA's programs: nothing grows from call to call."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from jaxconv.ops import onednn
from jaxconv.ops.convolution import by_onednn
from jaxconv.ops.onednn import operations
from tests.conftest import ROOT
from tests.ops.conftest import expects_onednn

pytestmark = pytest.mark.skipif(not expects_onednn(), reason="oneDNN does not support this system")


def resident_bytes():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_thousands_of_calls_prepare_little_and_take_no_memory(monkeypatch):
    prepared = []
    prepare = operations._prepare
    monkeypatch.setattr(operations, "_prepare", lambda operation: prepared.append(1) or prepare(operation))
    x, kernel, bias = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4, 8)), jnp.ones(8)

    def loss(kernel):  # its gradient takes three operations, which XLA runs on threads of its own
        return jnp.sum(by_onednn(x, kernel, bias, strides=(1, 1), padding="SAME") ** 2)

    step = jax.jit(jax.grad(loss))

    def run(calls):
        for _ in range(calls):
            jax.block_until_ready(step(kernel))

    run(300)
    before = resident_bytes()
    run(3000)
    assert resident_bytes() - before < 4 << 20
    assert 1 <= len(prepared) <= 12


@pytest.mark.parametrize("wrong", [jnp.float16, jnp.bfloat16, jnp.int32])
def test_an_array_that_onednn_would_misread_is_refused(wrong):
    assert onednn.is_available()
    dense = onednn.Dense(4, 8, 16)
    arrays = jnp.ones((4, 8)), jnp.ones((8, 16)), jnp.ones(16)
    assert dense.forward(*arrays).shape == (4, 16)
    for i, name in enumerate(("x", "kernel", "bias")):
        mixed = [array.astype(wrong) if i == number else array for number, array in enumerate(arrays)]
        with pytest.raises(TypeError, match=f": {name} is {jnp.dtype(wrong)} .*, which oneDNN would misread"):
            dense.forward(*mixed)


MANY_CORES = """
import os, threading
import jax, jax.numpy as jnp
from jaxconv.ops.onednn import operations
operations.cores = lambda: 16
from jaxconv.ops.convolution import by_onednn

x, kernel, bias = jnp.ones((2, 8, 8, 8)), jnp.ones((3, 3, 8, 8)), jnp.ones(8)
step = jax.jit(lambda x: by_onednn(x, kernel, bias, strides=(1, 1), padding="SAME"))
jax.block_until_ready(step(x))
before = len(os.listdir("/proc/self/task"))
everyone = threading.Barrier(9)

def caller():
    for _ in range(5):
        jax.block_until_ready(step(x))
    everyone.wait()  # all callers are alive here, and so are the threads that run for them
    everyone.wait()

for _ in range(8):
    threading.Thread(target=caller).start()
everyone.wait()
print(len(os.listdir("/proc/self/task")) - before - 8)
everyone.wait()
"""


def test_threads_of_many_cores_do_not_multiply_by_those_that_call():
    said = subprocess.run([sys.executable, "-c", MANY_CORES], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(said.stdout) < 16
