"""Where oneDNN does not fit this jaxlib, it is not used, and the run says why."""

import ctypes

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxconv.ops.convolution import by_onednn
from jaxconv.ops.onednn import availability, ffi, operations
from jaxconv.platform.limits import cores
from tests.conftest import ROOT, launch
from tests.ops.conftest import expects_onednn

pytestmark = pytest.mark.skipif(not expects_onednn(), reason="oneDNN does not support this system")


@pytest.fixture
def problem(monkeypatch):
    """A function that registers oneDNN again, under another name, and returns the problem."""

    def ask():
        monkeypatch.setattr(operations, "_TARGET", f"test_problem_{len(ffi._handlers)}")
        return availability.problem.__wrapped__()

    return ask


def test_no_problem_here(problem):
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


def test_a_run_without_onednn_says_why_and_uses_all_cores(tiny_config, tmp_path):
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
    devices = max(n for n in (1, 2, 4, 8, 16) if n <= cores())
    assert f"; {devices} x cpu without oneDNN; " in process.stderr


def test_the_kernels_of_xla_give_the_same_where_it_is_not_used(monkeypatch):
    arrays = [
        jnp.asarray(np.random.default_rng(0).normal(size=s), jnp.float32) for s in ((2, 8, 8, 3), (3, 3, 3, 5), (5,))
    ]
    with_onednn = by_onednn(*arrays, strides=(1, 1), padding="SAME")
    monkeypatch.setattr(availability, "problem", lambda: "doctored")
    program = str(jax.make_jaxpr(lambda *arrays: by_onednn(*arrays, strides=(1, 1), padding="SAME"))(*arrays))
    assert "ffi_call" not in program
    np.testing.assert_allclose(by_onednn(*arrays, strides=(1, 1), padding="SAME"), with_onednn, rtol=1e-4, atol=1e-5)
