"""oneDNN within XLA's programs: nothing grows from call to call, and what does not fit together is not used."""

import ctypes
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxconv.ops.convolution import convolve
from jaxconv.ops.onednn import ffi
from jaxconv.ops.onednn import library as onednn
from tests.conftest import ROOT, launch
from tests.ops.conftest import has_to_be_there

pytestmark = pytest.mark.skipif(not has_to_be_there(), reason="oneDNN is not for this system")


def resident_bytes():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_thousands_of_calls_prepare_little_and_take_no_memory(monkeypatch):
    prepared = []
    prepare = onednn._prepare
    monkeypatch.setattr(onednn, "_prepare", lambda operation: prepared.append(1) or prepare(operation))
    x, kernel, bias = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4, 8)), jnp.ones(8)

    def loss(kernel):  # whose gradient takes three operations, which XLA runs on threads of its own
        return jnp.sum(convolve(x, kernel, bias, strides=(1, 1), padding="SAME") ** 2)

    step = jax.jit(jax.grad(loss))

    def run(calls):
        for _ in range(calls):
            jax.block_until_ready(step(kernel))

    run(300)
    before = resident_bytes()
    run(3000)
    assert resident_bytes() - before < 4 << 20
    assert 1 <= len(prepared) <= 12


MANY_CORES = """
import os, threading
import jax, jax.numpy as jnp
from jaxconv.ops.onednn import library as onednn
onednn.cores = lambda: 16
from jaxconv.ops.convolution import convolve

x, kernel, bias = jnp.ones((2, 8, 8, 8)), jnp.ones((3, 3, 8, 8)), jnp.ones(8)
step = jax.jit(lambda x: convolve(x, kernel, bias, strides=(1, 1), padding="SAME"))
jax.block_until_ready(step(x))
before = len(os.listdir("/proc/self/task"))
everyone = threading.Barrier(9)

def caller():
    for _ in range(5):
        jax.block_until_ready(step(x))
    everyone.wait()  # alive, and so are the threads that run for it
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


@pytest.fixture
def problem(monkeypatch):
    """What is said of oneDNN when it is asked anew, under another name."""

    def ask():
        monkeypatch.setattr(onednn, "_TARGET", f"test_problem_{len(ffi._handlers)}")
        return onednn.problem.__wrapped__()

    return ask


def test_there_is_none_here(problem):
    assert problem() is None


def test_another_version_of_the_interface(problem, monkeypatch):
    monkeypatch.setattr(ffi, "VERSION", (0, 99))
    assert "XLA refused a function of version 0.99" in problem()


def test_a_wrong_result(problem, monkeypatch):
    read = ffi._read
    monkeypatch.setattr(ffi, "_read", lambda frame: (read(frame)[0], read(frame)[1][:1] * 3))  # writes elsewhere
    assert "a small program gave a wrong result" in problem()


@pytest.mark.parametrize("structure", ["_CallFrame", "_Buffers", "_Buffer", "_Attributes"])
def test_a_structure_of_another_size(problem, monkeypatch, structure):
    class Larger(getattr(ffi, structure)):
        _fields_ = (("more", ctypes.c_uint64 * 9),)

    monkeypatch.setattr(ffi, structure, Larger)
    assert "is not as in version 0.3 of XLA's interface" in problem()


@pytest.mark.parametrize(
    ("constant", "said"),
    [
        ("_METADATA_EXTENSION", "the type of an extension"),
        ("_EXECUTE_STAGE", "the stage of a call"),
        ("_BUFFER", "the type of an argument"),
        ("_STRING", "the number of attributes"),
    ],
)
def test_another_kind_of_call(problem, monkeypatch, constant, said):
    monkeypatch.setattr(ffi, constant, 7)
    assert f"{said} is not as in version 0.3" in problem()


def test_another_number_of_buffers(problem, monkeypatch):
    read = ffi._read
    monkeypatch.setattr(ffi, "_read", lambda frame: (read(frame)[0], read(frame)[1] * 2))
    assert "has 6 buffers; 3 were expected" in problem()


def test_a_run_without_says_why_and_uses_all_cores(tiny_config, tmp_path):
    doctored = tmp_path / "doctored.py"
    doctored.write_text(
        f"import runpy, sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom jaxconv.ops.onednn import ffi\n"
        f"ffi.VERSION = 1, 0\nrunpy.run_path({str(ROOT / 'launch.py')!r}, run_name='__main__')\n"
    )
    arguments = [f"--config={tiny_config}", f"--workdir={tmp_path / 'run'}", "--config.num_epochs=1"]
    process = launch(*arguments, program=doctored)
    assert (
        "oneDNN is installed and not used, which makes the run slower: it does not work with jaxlib" in process.stderr
    )
    devices = max(n for n in (1, 2, 4, 8, 16) if n <= onednn.cores())
    assert f"; {devices} x cpu without oneDNN; " in process.stderr


def test_the_kernels_of_xla_give_the_same_where_it_is_not_used(monkeypatch):
    arrays = [
        jnp.asarray(np.random.default_rng(0).normal(size=s), jnp.float32) for s in ((2, 8, 8, 3), (3, 3, 3, 5), (5,))
    ]
    with_onednn = convolve(*arrays, strides=(1, 1), padding="SAME")
    monkeypatch.setattr(onednn, "problem", lambda: "doctored")
    program = str(jax.make_jaxpr(lambda *arrays: convolve(*arrays, strides=(1, 1), padding="SAME"))(*arrays))
    assert "ffi_call" not in program
    np.testing.assert_allclose(convolve(*arrays, strides=(1, 1), padding="SAME"), with_onednn, rtol=1e-4, atol=1e-5)
