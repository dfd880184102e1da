"""What cannot fit into memory is refused with its figures, at once."""

import functools
import time

import pytest

from jaxconv import experiment
from jaxconv.data import sources, tfds
from jaxconv.errors import ConfigError
from jaxconv.models.registry import create_model
from jaxconv.parallel.mesh import make_mesh
from jaxconv.platform import limits
from jaxconv.training import memory
from jaxconv.training.optimizers import create_optimizer
from jaxconv.training.state import create_state
from tests.conftest import ROOT, TINY_SHAPE, launch


def test_a_net_that_cannot_fit_is_refused_at_once(tmp_path):
    began = time.monotonic()
    flags = [f"--config={ROOT}/configs/quickstart.py", "--config.model.kernel_size=65536"]
    process = launch(*flags, f"--workdir={tmp_path}/run", status=2)
    assert time.monotonic() - began < 60
    for part in (
        "needs at least",
        "parameters 17,",
        "optimizer 35,",
        "GB are free",
        "config.batch_size",
        "kernel_size",
    ):
        assert part in process.stderr
    assert process.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_bytes_are_those_of_the_shapes(tiny, monkeypatch):
    model = create_model(tiny.model, num_classes=4)
    optimizer = create_optimizer(tiny.optimizer, num_epochs=1, steps_per_epoch=1)
    create = functools.partial(create_state, model, optimizer, TINY_SHAPE, seed=0)

    def check(free):
        monkeypatch.setattr(limits, "free_memory", lambda: free)
        memory.check_net(model, create, TINY_SHAPE, 16, make_mesh(tiny.num_devices, tiny.batch_size))

    # 668 parameters, their gradients, the two numbers that adam keeps of each, and its count and the schedule's; 16
    # images of 192 values, and the outputs of the convolution (256), the pooling (64), the dense layers (8 and 4) and
    # the net (4).
    needed = 4 * (4 * 668 + 2 + 16 * (192 + 256 + 64 + 8 + 4 + 4))
    check(needed)
    with pytest.raises(ConfigError, match=r"needs at least .* are free: make config\.batch_size smaller"):
        check(needed - 1)


def test_what_a_step_computes_at_a_time_counts(tiny, monkeypatch):
    tiny.num_devices = 1

    def create():
        mesh = make_mesh(1, tiny.batch_size)
        experiment.create(experiment.resolve(tiny), mesh, TINY_SHAPE, num_classes=4, steps_per_epoch=3)

    monkeypatch.setattr(limits, "free_memory", lambda: 4 * (4 * 668 + 2 + 8 * (192 + 256 + 64 + 8 + 4 + 4)))
    with pytest.raises(ConfigError, match=r"config\.accumulate_steps larger"):
        create()
    tiny.accumulate_steps = 2
    create()
    tiny.accumulate_steps = 1
    monkeypatch.setattr(limits, "free_memory", lambda: 4 * (4 * 668 + 2 + 16 * (192 + 64 + 8 + 4 + 4)))
    with pytest.raises(ConfigError):
        create()
    tiny.remat = True
    create()


def test_a_set_that_cannot_fit_is_refused_before_it_is_read(tiny, monkeypatch):
    tiny.data.in_memory = "yes"
    source = sources.open_source(tiny.data)
    monkeypatch.setattr(tfds.cache, "arrays", lambda *arguments: pytest.fail("read"))
    monkeypatch.setattr(limits, "free_memory", lambda: 2 * 210 * 192 - 1)
    with pytest.raises(ConfigError, match=r"The split 'train' of 'tiny' takes .* GB of memory \(210 examples of shape"):
        source.load("train")
