"""A config made real: devices, data, net, optimizer, state and compiled steps. Every mode starts from here."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend.backend import clear_backends
from jax.sharding import Mesh
from jaxtyping import Float32

from jaxconv.config import Config, validate
from jaxconv.data import device, pipeline, sources
from jaxconv.data.augment import transform as augment
from jaxconv.data.examples import Examples, Source, check
from jaxconv.data.tensorflow import is_installed
from jaxconv.errors import ConfigError
from jaxconv.models import registry, whitening
from jaxconv.ops import dispatch, onednn
from jaxconv.parallel import distributed
from jaxconv.parallel.distributed import from_lead
from jaxconv.parallel.mesh import make_mesh, own_rows, prefetch_to_devices
from jaxconv.parallel.sharding import replicated, split_by_example
from jaxconv.platform import cluster, devices
from jaxconv.platform.limits import cores
from jaxconv.runs.clock import Clock
from jaxconv.runs.signature import Signature
from jaxconv.training import memory, views
from jaxconv.training.losses import balanced
from jaxconv.training.optimizers import create_optimizer, create_schedule
from jaxconv.training.phases import WHOLE, Phase, resized
from jaxconv.training.state import Batch, Sums, TrainState, create_state
from jaxconv.training.step import eval_step, make_train_step

TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Sums]]
EvalStep = Callable[[TrainState, Batch, Sums], tuple[Sums, jax.Array]]


class Experiment(NamedTuple):
    """What a config stands for."""

    config: Config
    mesh: Mesh
    source: Source
    train: Examples
    validation: Examples | None
    """None: the run has no such split."""
    normalizer: pipeline.Normalizer
    model: nn.Module
    schedule: optax.Schedule
    state: TrainState
    """The state before the first step."""
    steps_per_epoch: int

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of one image: (*spatial, channels)."""
        return self.train.images.shape[1:]

    @property
    def signature(self) -> Signature:
        """What the net takes and gives."""
        return Signature(
            class_names=self.source.class_names,
            image_shape=self.image_shape,
            dtype=self.train.images.dtype.name,
            mean=tuple(map(float, self.normalizer.mean)),
            std=tuple(map(float, self.normalizer.std)),
            train_examples=len(self.train.labels),
        )

    @property
    def class_weights(self) -> Float32[np.ndarray, " num_classes"] | None:
        """The weight of each class in the loss of training. None: all are 1."""
        if self.config.class_weights == "none":
            return None
        return balanced(self.train.labels, self.source.num_classes)

    @property
    def last_step(self) -> int:
        """The number of steps of the whole run, if it does not stop early."""
        return self.config.num_epochs * self.steps_per_epoch

    @property
    def platform(self) -> str:
        """The platform of the devices, such as "cpu"."""
        return self.mesh.devices.flat[0].platform


def start_jax(config: Config) -> None:
    """Set JAX up for a run, and meet its other processes. Call it before the first use of JAX.

    XLA:CPU runs a convolution on one thread of one device, so a net with convolutions gets a device for each core. One
    device is enough where oneDNN is used, or where there are no convolutions: its kernels, and XLA's products, use all
    cores by themselves.
    """
    devices.share_cores_with_xla()
    devices.keep_compiled_programs()
    precision = None if config.matmul_precision == "default" else config.matmul_precision
    jax.config.update("jax_default_matmul_precision", precision)
    has_convolutions = bool(registry.resolve(config.model).filters)
    wants_onednn = has_convolutions and config.ops in ("auto", "onednn") and onednn.is_installed()

    place = cluster.own_place()
    processes = place.num_processes if place else 1

    def split(most: int) -> None:
        """Split the CPU of each process: into as many devices as asked for, or up to `most` that divide the batch."""
        share = config.batch_size // config.accumulate_steps // processes
        count = config.num_devices or processes * devices.largest_divisor(share, most)
        devices.split_cpu(max(1, count // processes))

    split(cores() if has_convolutions and not wants_onednn else 1)
    if place:
        devices.let_threads_take_turns()
        distributed.join(place)
    elif wants_onednn and jax.default_backend() == "cpu" and not onednn.is_available():
        clear_backends()  # JAX had to start to answer whether oneDNN works
        split(cores())


def resolve(config: Config, recorded: dict[str, Any] | None = None) -> Config:
    """Copy a config, with the values that it leaves open filled in.

    Args:
        config: the config as the user gave it.
        recorded: the resolved config of earlier starts of the same run, as JSON. What was "auto" keeps its meaning.

    Returns:
        The config. What "auto" means for config.data.pipeline is open until `set_up` knows the data.

    Raises:
        ConfigError: a value is wrong.
    """
    validate(config)
    resolved = config.copy_and_resolve_references()
    resolved.model = registry.resolve(config.model)
    platform = jax.default_backend()
    resolved.ops = dispatch.resolve(config.ops, platform, (recorded or {}).get("ops"))
    if config.compute_dtype == "auto":
        is_fast = platform != "cpu" or (resolved.ops == "onednn" and devices.cpu_has_bfloat16())
        resolved.compute_dtype = "bfloat16" if is_fast else "float32"
    if recorded:  # an earlier version had no such fields
        if config.compute_dtype == "auto":
            resolved.compute_dtype = recorded.get("compute_dtype", "float32")
        if config.data.pipeline == "auto":
            resolved.data.pipeline = recorded["data"].get("pipeline", "host")
    return resolved


def create(
    config: Config, mesh: Mesh, image_shape: tuple[int, ...], *, num_classes: int, steps_per_epoch: int
) -> tuple[nn.Module, optax.Schedule, TrainState]:
    """Create the net, the learning rate schedule and the state before the first step.

    Args:
        config: a resolved config.
        mesh: the devices.
        image_shape: (*spatial, channels).
        num_classes: number of logits.
        steps_per_epoch: steps in an epoch, for the schedule.

    Raises:
        ConfigError: they cannot be made as the config asks, or do not fit into memory.
    """
    views.check(config.evaluation.views, image_shape)
    kernels = dispatch.KERNELS[config.ops]
    model = registry.create_model(
        config.model,
        num_classes,
        kernels,
        frozen_stages=config.freeze_stages,
        dtype=config.compute_dtype,
        remat=config.remat,
    )
    schedule = create_schedule(config.optimizer, num_epochs=config.num_epochs, steps_per_epoch=steps_per_epoch)
    optimizer = create_optimizer(
        config.optimizer,
        num_epochs=config.num_epochs,
        steps_per_epoch=steps_per_epoch,
        clip_norm=config.clip_norm,
        dtype=config.compute_dtype,
    )
    state = functools.partial(
        create_state,
        model,
        optimizer,
        image_shape,
        config.seed,
        keeps_ema=bool(config.ema_decay),
        looks_ahead=bool(config.lookahead_steps),
    )
    memory.check_net(model, state, image_shape, config.batch_size // config.accumulate_steps, mesh)
    _check_resizing(config, model, image_shape)
    return model, schedule, jax.device_put(state(), replicated(mesh))


def _check_resizing(config: Config, model: nn.Module, image_shape: tuple[int, ...]) -> None:
    """Check that one set of parameters fits all sizes of config.progressive_resizing.

    Raises:
        ConfigError: it does not.
    """

    def shapes(image_shape: tuple[int, ...]) -> Any:
        init = functools.partial(model.init, train=False)
        params = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, *image_shape)))["params"]
        return jax.tree.map(jnp.shape, params)

    for share, _ in config.progressive_resizing:
        if shapes(resized(image_shape, share)) != shapes(image_shape):
            raise ConfigError(
                f"config.progressive_resizing={config.progressive_resizing} needs a net whose parameters fit images of "
                "any size: set config.model.global_pooling to 'max' or 'average', or leave it out."
            )


def set_up(config: Config, clock: Clock | None = None) -> Experiment:
    """Make devices, data, net and optimizer of a resolved config, and the state before the first step.

    Args:
        config: the config.
        clock: counts the time that it takes to fit what follows from the training examples.

    Returns:
        The experiment. Its config says what "auto" means for config.data.pipeline.

    Raises:
        UserError: they cannot be made as the config asks.
    """
    if config.data.pipeline == "host" and not is_installed():
        raise ConfigError(
            "config.data.pipeline='host' needs TensorFlow and TensorFlow Datasets, which are not installed: "
            "pip install tensorflow tensorflow-datasets, or set config.data.pipeline to 'device'."
        )
    mesh = make_mesh(config.num_devices, config.batch_size, config.accumulate_steps)
    source = sources.open_source(config.data)
    source.check_split(config.data.test)  # it is opened at the end; a slip must not wait for that
    train = source.load(config.data.train)
    image_shape = train.images.shape[1:]
    augment.check(config.augment, image_shape, train.images.dtype)
    steps_per_epoch = pipeline.steps_per_epoch(train, config.batch_size)
    model, schedule, state = create(
        config, mesh, image_shape, num_classes=source.num_classes, steps_per_epoch=steps_per_epoch
    )
    validation = None
    if (split := config.data.validation) is not None:
        validation = check(source.load(split), source.num_classes, split, like=train)
    with (clock or Clock()).counting():
        normalizer = pipeline.fit_normalizer(train)
        if config.model.whitening:
            state = _whiten(state, config.model.whitening, train, normalizer, mesh)
    config = _choose_pipeline(config, (train,) if validation is None else (train, validation), mesh)
    if config.data.pipeline == "device":
        train = device.put(train, mesh)
        validation = None if validation is None else device.put(validation, mesh)
    return Experiment(
        config=config,
        mesh=mesh,
        source=source,
        train=train,
        validation=validation,
        normalizer=normalizer,
        model=model,
        schedule=schedule,
        state=state,
        steps_per_epoch=steps_per_epoch,
    )


def _whiten(state: TrainState, window: int, train: Examples, normalizer: pipeline.Normalizer, mesh: Mesh) -> TrainState:
    """Fit the whitening layer of a state to the training split. Process 0 decides, so that all have the same bits."""
    fitted = from_lead(lambda: whitening.fit(train.images, *normalizer, window).tolist())
    ((layer, _),) = state.collections["whitening"].items()
    kernel = jax.device_put(np.asarray(fitted, np.float32), replicated(mesh))
    of_layer = {"whitening": {layer: {"kernel": kernel}}}
    # A step consumes its state: no array is twice.
    ema, slow = (tree and tree | jax.tree.map(jnp.copy, of_layer) for tree in (state.ema, state.slow))
    return state.replace(collections=state.collections | of_layer, ema=ema, slow=slow)


def _choose_pipeline(config: Config, splits: tuple[Examples, ...], mesh: Mesh) -> Config:
    """Copy a config with what "auto" means for config.data.pipeline. Process 0 decides.

    On a CPU, TensorFlow interpolates faster, and on threads of its own.
    """
    if config.data.pipeline != "auto":
        return config
    chosen = config.copy_and_resolve_references()
    slow = mesh.devices.flat[0].platform == "cpu" and augment.interpolates(config.augment)
    on_device = from_lead(lambda: not is_installed() or (device.fits(splits, mesh) and not slow))
    chosen.data.pipeline = "device" if on_device else "host"
    return chosen


def compile_train_step(
    config: Config,
    mesh: Mesh,
    state: TrainState,
    image_shape: tuple[int, ...],
    class_weights: Float32[np.ndarray, " num_classes"] | None = None,
    phase: Phase = WHOLE,
) -> TrainStep:
    """Compile the step of training in a phase of the run. It consumes its state.

    `class_weights` are those of the loss. None: all are 1.
    """
    train_step = make_train_step(config, class_weights, phase)
    with jax.set_mesh(mesh):  # for the operations that divide themselves among its devices
        compiled = jax.jit(train_step, donate_argnums=0, out_shardings=replicated(mesh))
        return compiled.lower(state, _batch_shapes(config, mesh, image_shape)).compile(compiler_options(config, mesh))


def compile_eval_step(config: Config, mesh: Mesh, state: TrainState, image_shape: tuple[int, ...]) -> EvalStep:
    """Compile the step of evaluation."""
    with jax.set_mesh(mesh):
        compiled = jax.jit(eval_step, static_argnames="views", out_shardings=replicated(mesh))
        batch = _batch_shapes(config, mesh, image_shape)
        lowered = compiled.lower(state, batch, state.epoch_sums, views=config.evaluation.views)
        return lowered.compile(compiler_options(config, mesh))


def _batch_shapes(config: Config, mesh: Mesh, image_shape: tuple[int, ...]) -> dict[str, jax.ShapeDtypeStruct]:
    split = split_by_example(mesh)
    return {
        "image": jax.ShapeDtypeStruct((config.batch_size, *image_shape), "float32", sharding=split),
        "label": jax.ShapeDtypeStruct((config.batch_size,), "int32", sharding=split),
        "weight": jax.ShapeDtypeStruct((config.batch_size,), "float32", sharding=split),
    }


def compiler_options(config: Config, mesh: Mesh) -> dict[str, str | bool]:
    """Return the options of XLA for the steps on these devices."""
    platform = mesh.devices.flat[0].platform
    if platform == "gpu" and config.deterministic:
        return {"xla_gpu_deterministic_ops": True}
    if platform == "cpu" and config.remat:
        # This pass removes the barriers of remat before equal computations are merged, which undoes it.
        return {"xla_disable_hlo_passes": "cse_barrier_expander"}
    return {}


class Evaluation(NamedTuple):
    """What a net makes of a split. Every example counts once."""

    loss: float
    accuracy: float
    probabilities: Float32[np.ndarray, "examples num_classes"]


def ready(experiment: Experiment, examples: Examples) -> Examples:
    """Bring a split to where `evaluate` takes its batches from, and compile what makes them on the device.

    Raises:
        ConfigError: it does not fit there.
    """
    if experiment.config.data.pipeline != "device":
        return examples
    mesh = experiment.mesh
    examples, batch_size = device.put(examples, mesh), experiment.config.batch_size
    batches = device.eval_batches(examples, experiment.normalizer, batch_size=batch_size, mesh=mesh)
    jax.block_until_ready(next(batches))
    return examples


def evaluate(experiment: Experiment, eval_step: EvalStep, state: TrainState, examples: Examples) -> Evaluation:
    """Evaluate every example of a split, each once."""
    mesh, normalizer, batch_size = experiment.mesh, experiment.normalizer, experiment.config.batch_size
    if experiment.config.data.pipeline == "device":
        batches = device.eval_batches(examples, normalizer, batch_size=batch_size, mesh=mesh)
    else:
        rows = own_rows(mesh, batch_size)
        host_batches = pipeline.eval_batches(examples, normalizer, batch_size=batch_size, rows=rows)
        batches = prefetch_to_devices(host_batches, mesh)
    sums = jax.device_put(Sums.zero(), replicated(mesh))
    probabilities = []
    for batch in batches:
        sums, of_batch = eval_step(state, batch, jax.block_until_ready(sums))
        probabilities.append(of_batch)
    loss, accuracy = sums.means()
    return Evaluation(loss, accuracy, np.concatenate(probabilities)[: len(examples.labels)])


def steps_that_overlap(mesh: Mesh) -> int:
    """Return how many steps may run while the host prepares the next one.

    None on several devices of a CPU: XLA:CPU can deadlock in the collectives of steps that overlap.
    """
    return 0 if mesh.devices.flat[0].platform == "cpu" and mesh.size > 1 else 1


def learning_rate(experiment: Experiment, step: int) -> float:
    """Return the learning rate of step number `step`, from 1."""
    return float(np.asarray(experiment.schedule(step - 1)))
