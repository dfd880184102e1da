"""A trained net without its data: what is loaded of a run, what is refused."""

import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxconv import experiment
from jaxconv.config import load, to_json
from jaxconv.errors import UserError
from jaxconv.models import registry
from jaxconv.runs import checkpoint, signature, trained
from jaxconv.runs import workdir as files
from jaxconv.runs.clock import Clock
from jaxconv.runs.signature import Signature
from jaxconv.training.state import create_state
from tests.conftest import ROOT

# Orbax leaves coroutines behind when it cannot read what they were to read.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def make_run(workdir, config, image_shape, dtype="uint8", val_accuracies=(0.5,)):
    """Make a run of ten classes without training: epoch n ends at step n. Returns the state of each epoch."""
    config, rng = experiment.resolve(config), np.random.default_rng(0)
    workdir.mkdir()
    files.write_atomically(workdir / "config.json", to_json(config))
    channels = image_shape[-1]
    signature.keep(
        workdir,
        Signature(
            class_names=tuple(f"class {i}" for i in range(10)),
            image_shape=image_shape,
            dtype=dtype,
            mean=tuple(rng.uniform(-1, 1, channels).astype(np.float32).tolist()),
            std=tuple(rng.uniform(50, 90, channels).astype(np.float32).tolist()),
            train_examples=100,
        ),
    )

    def some(leaf):  # numbers with which a net neither dies nor explodes
        if leaf.ndim > 1:
            return rng.normal(0, np.sqrt(leaf.shape[-1] / leaf.size), leaf.shape).astype(leaf.dtype)
        return rng.uniform(0.5, 1, leaf.shape).astype(leaf.dtype)

    model = registry.create_model(config.model, 10)
    # By shapes alone: to compile the initialisation takes seconds.
    state = jax.eval_shape(
        lambda: create_state(model, optax.sgd(0.1), image_shape, config.seed, keeps_ema=bool(config.ema_decay))
    )
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), state)
    history, states = [], []
    with checkpoint.open_checkpoints(workdir) as checkpoints:
        for epoch, accuracy in enumerate(val_accuracies, start=1):
            params, collections, ema = jax.tree.map(some, (state.params, state.collections, state.ema))
            state = state.replace(step=np.int32(epoch), params=params, collections=collections, ema=ema)
            states.append(state)
            history.append({"epoch": epoch, "step": epoch, "val_accuracy": accuracy})
            checkpoint.save(checkpoints, state, checkpoint.progress(history, Clock(), {}))
        checkpoint.wait(checkpoints, state)
    return states


def snapshot(directory):
    """All files below a directory, with their contents and the times of their last change."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in directory.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A run of the recipe of clips, with batch norm, whose second of three epochs is the best."""
    config = load(str(ROOT / "configs" / "moving_digits.py"))
    config.model.batch_norm = True
    workdir = tmp_path_factory.mktemp("trained") / "run"
    states = make_run(workdir, config, (8, 20, 20, 1), val_accuracies=(0.3, 0.5, 0.4))
    return workdir, experiment.resolve(config), states


@pytest.fixture
def run(clips, tmp_path):
    """A copy of it, to be damaged."""
    return shutil.copytree(clips[0], tmp_path / "run")


def test_the_net_of_the_best_epoch(clips):
    workdir, config, states = clips
    before = snapshot(workdir)
    with files.claim(workdir, config):  # as a training does
        before |= snapshot(workdir)
        net = trained.load(workdir)
        assert snapshot(workdir) == before
    assert net.best == {"epoch": 2, "step": 2, "val_accuracy": 0.5}
    assert net.config.to_dict() == config.to_dict()
    assert net.config.model.kernel_size == (3, 3, 3)
    assert net.signature == signature.read(workdir)
    assert net.variables.keys() == {"params", "batch_stats"}
    jax.tree.map(np.testing.assert_array_equal, net.variables, states[1].variables)
    x = jnp.ones((2, *net.signature.image_shape))
    logits = net.model.apply(net.variables, x, train=False)
    np.testing.assert_array_equal(logits, states[1].apply_fn(states[1].variables, x, train=False))


def test_the_average_is_the_net(tmp_path):
    config = load(str(ROOT / "configs" / "moving_digits.py"))
    config.model.batch_norm, config.ema_decay = True, 0.9
    (state,) = make_run(tmp_path / "run", config, (8, 20, 20, 1))
    jax.tree.map(np.testing.assert_array_equal, trained.load(tmp_path / "run").variables, state.ema)
    say_another_digest(tmp_path / "run" / "checkpoints" / "1")
    with pytest.raises(UserError, match="None of the checkpoints in .* is whole"):
        trained.load(tmp_path / "run")


def test_tensorflow_stays_out(clips):
    program = (
        f"import pathlib, sys; from jaxconv.runs import trained; trained.load(pathlib.Path({str(clips[0])!r})); "
        "assert not {'tensorflow', 'tensorflow_datasets'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True)


def change_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def flip_bits(directory):
    for path in (directory / "state").rglob("*"):
        if path.is_file() and "/d/" in str(path):
            path.write_bytes(bytes(byte ^ (i % 61 == 0) for i, byte in enumerate(path.read_bytes())))


def say_another_digest(directory):
    path = directory / "progress" / "metadata"
    progress = json.loads(path.read_text()) | {"variables_sha256": "0"}
    progress.pop("sha256")
    path.write_text(json.dumps(progress | {"sha256": checkpoint._json_sha256(progress)}))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda run: shutil.rmtree(run), "holds no run: train one with --mode=train first"),
        (lambda run: (run / "signature.json").unlink(), "has no signature.json"),
        (lambda run: (run / "signature.json").write_text("{"), "signature.json cannot be read as JSON"),
        (lambda run: (run / "signature.json").write_text("{}"), "is not what a run writes"),
        (lambda run: (run / "config.json").write_text("[]"), "is not what a run writes"),
        (lambda run: change_json(run / "config.json", new=1), "is not what a run writes"),
        (lambda run: change_json(run / "config.json", seed="x"), "config.seed='x' must be of type int"),
        (lambda run: shutil.rmtree(run / "checkpoints"), "has not finished an epoch"),
        (lambda run: flip_bits(run / "checkpoints" / "2"), "best epoch, 2 at step 2, .* is broken"),
        (lambda run: say_another_digest(run / "checkpoints" / "2"), "best epoch, 2 at step 2, .* is broken"),
    ],
)
def test_refusals(run, damage, sentence):
    damage(run)
    with pytest.raises(UserError, match=sentence) as refusal:
        trained.load(run)
    assert "\n" not in str(refusal.value)


def test_a_broken_checkpoint_that_is_not_the_best_does_not_matter(run):
    flip_bits(run / "checkpoints" / "3")
    assert trained.load(run).best["epoch"] == 2


def test_a_field_that_an_earlier_version_did_not_have_has_its_default(run):
    recorded = json.loads((run / "config.json").read_text())
    del recorded["model"]["pool_strides"], recorded["seed"]
    (run / "config.json").write_text(json.dumps(recorded))
    config = trained.load(run).config
    assert config.model.pool_strides is None
    assert config.seed == 0
