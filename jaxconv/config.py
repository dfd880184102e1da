"""The fields of a config: what each one means, its default, and what it may hold."""

import difflib
import json
import os
import pathlib
import re
import traceback
import types
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

from ml_collections import config_dict

from jaxconv.errors import ConfigError

Config = Any
"""An ml_collections ConfigDict with the fields of `FIELDS`; type checkers do not know them."""

CONFIGS = pathlib.Path("configs")


class Check(NamedTuple):
    """A condition on the value of a field, which already has the type of the field."""

    test: Callable[[Any], bool]
    words: str
    """Completes the sentence "config.KEY=VALUE must be ..."."""


class Field(NamedTuple):
    """A field of a config."""

    default: Any
    """The default, or a type such as `int` or `int | tuple`: the field is then optional, and its default is None."""
    meaning: str
    check: Check | None = None
    optional: bool = False
    """Whether the field may be None although its default is a value."""

    @property
    def is_optional(self) -> bool:
        """Whether the field may be None."""
        return self.optional or self.initial is None

    @property
    def type(self) -> Any:
        """The type of the values other than None."""
        return self.default if self.initial is None else type(self.default)

    @property
    def type_name(self) -> str:
        """The name of the type, such as "int or tuple"."""
        return " or ".join(part.__name__ for part in getattr(self.type, "__args__", (self.type,)))

    @property
    def initial(self) -> Any:
        """The value in `default_config`."""
        return None if isinstance(self.default, type | types.UnionType) else self.default


def _between(low: float, high: float, unit: str = "") -> Check:
    return Check(lambda value: low <= value <= high, f"from {low} to {high}{unit}")


def _below(high: float, unit: str = "") -> Check:
    return Check(lambda value: 0 <= value < high, f"at least 0 and below {high}{unit}")


def _one_of(*choices: Any) -> Check:
    return Check(lambda value: value in choices, f"one of {', '.join(map(str, choices))}")


def _is_size_or_sizes(value: Any, counts: Collection[int]) -> bool:
    return _is_size(value) or (isinstance(value, tuple) and len(value) in counts and all(map(_is_size, value)))


def _sizes_at_each(layer: str) -> Check:
    return Check(
        lambda value: _is_size_or_sizes(value, (1, 2, 3)),
        f"{_A_SIZE} at each {layer}, or a tuple of one such number for each dimension of the data, such as (3, 3)",
    )


_MAX_SIZE = 65536
"""An upper bound of what takes memory. It catches slips of the keyboard: no sensible value is larger."""


def _is_size(value: Any) -> bool:
    return type(value) is int and 1 <= value <= _MAX_SIZE


_A_SIZE = f"from 1 to {_MAX_SIZE}"
_SIZE = Check(_is_size, _A_SIZE)
_SIZES = Check(lambda value: all(map(_is_size, value)), f"a tuple of numbers {_A_SIZE}, such as (512,)")
_STAGES = Check(
    lambda value: all(isinstance(stage, tuple) and stage and all(map(_is_size, stage)) for stage in value),
    f"a tuple of stages, each a tuple of numbers {_A_SIZE}, such as ((32, 32), (64, 64))",
)
_POSITIVE = Check(lambda value: 0 < value < float("inf"), "above 0 and finite")
_NOT_NEGATIVE = Check(lambda value: 0 <= value < float("inf"), "0 or more and finite")

_GROUP_EPOCHS = Field(float, "epochs over which the schedule of a group runs", _between(0, 1_000_000))
_GROUP_KEYS = ("name", "learning_rate", "momentum", "weight_decay", "epochs")
_GROUPS = Check(
    lambda value: all(map(_is_group, value)),
    f"a tuple of pairs, of a pattern and a dict of some of {', '.join(_GROUP_KEYS)}, such as "
    '(("logits/*", {"learning_rate": 0.1}),)',
)


def _is_share_and_epochs(value: Any) -> bool:
    if not (isinstance(value, tuple) and len(value) == 2):
        return False
    share, epochs = value
    return _has_type(share, float) and 0 < share <= 1 and _is_size(epochs)


def _is_group(value: Any) -> bool:
    if not (isinstance(value, tuple) and len(value) == 2):
        return False
    pattern, settings = value
    return isinstance(pattern, str) and isinstance(settings, dict) and all(key in _GROUP_KEYS for key in settings)


# Names without a check are looked up where they are used, by `choose`.
FIELDS: dict[str, Field] = {
    "seed": Field(
        0,
        "seed of the initial parameters, the order of the examples, augmentation, dropout and mixup",
        _between(0, 2**31 - 1),
    ),
    "num_epochs": Field(20, "number of passes over the training examples", _between(1, 1_000_000)),
    "batch_size": Field(128, "examples in a step, over all devices together", _SIZE),
    "accumulate_steps": Field(
        1,
        "parts of each batch that a step computes one after the other, to take less memory; batch norm sees one at a "
        "time; 1: all at once",
        _SIZE,
    ),
    "remat": Field(
        False,
        "keep the input of each stage alone for the gradient, and compute the stage again, to take less memory "
        "(arXiv:1604.06174)",
    ),
    "num_devices": Field(int, "devices to split each batch among; None: all there are", _SIZE),
    "ops": Field(
        "auto",
        'forms of the operations of the net: "auto" the fastest of the platform, "stock" JAX\'s own (which jvp, '
        'hessian and grad of grad need), "xla" or "onednn" those for a CPU',
        _one_of("auto", "stock", "xla", "onednn"),
    ),
    "compute_dtype": Field(
        "float32",
        'dtype of activations and their gradients: "float32", or "bfloat16", which is faster on accelerators and on a '
        'CPU with AVX512-BF16 or AMX; "auto": bfloat16 there, and float32 elsewhere; parameters, batch statistics and '
        "loss stay float32, and so do predict and export",
        _one_of("auto", "float32", "bfloat16"),
    ),
    "matmul_precision": Field(
        "default",
        "least precision of products and convolutions of float32 on an accelerator: "
        '"default" the fastest (TensorFloat-32 on recent NVIDIA GPUs, bfloat16 on TPUs), "tensorfloat32" or "float32"; '
        "a CPU computes in float32",
        _one_of("default", "tensorfloat32", "float32"),
    ),
    "deterministic": Field(
        True,
        "on a GPU, use only operations that give the same bits each time, which an exact resume needs; "
        "XLA then does not try which of its kernels is the fastest",
    ),
    "checkpoint_every_steps": Field(
        0, "steps between checkpoints, besides the one after each epoch; 0: none besides", _NOT_NEGATIVE
    ),
    "stop_on_nan": Field(True, "end the run at the first loss or parameter that is not finite"),
    "report": Field(True, "write report.html at the end of the training"),
    "ema_decay": Field(
        0.0,
        "decay of an exponential moving average of the parameters and batch statistics, with which the net is "
        "validated, tested and used (arXiv:1512.00567); after n steps, at most (1 + n) / (10 + n); 0: no average",
        _below(1),
    ),
    "lookahead_steps": Field(
        0,
        "steps after which the parameters and batch statistics go back to a point on their way since the last such "
        "step, and go on from there (arXiv:1907.08610); 0: they never do",
        _between(0, 1_000_000),
    ),
    "lookahead_alpha": Field(0.5, "how far along its way that point lies, from 0 to 1", _between(0, 1)),
    "clip_norm": Field(
        0.0,
        "largest norm of the gradients of all parameters together; longer ones are scaled to it (arXiv:1211.5063); "
        "0: any",
        _NOT_NEGATIVE,
    ),
    "loss_reduction": Field(
        "mean",
        'loss of a step: the "mean" over the examples of the batch, or their "sum", whose gradients are as many times '
        "as large; train_loss is the mean",
        _one_of("mean", "sum"),
    ),
    "progressive_resizing": Field(
        (),
        "sizes of the images in the first epochs, which cost less when they are small: pairs of a share of height and "
        "width and a number of epochs, such as ((0.75, 3),); then images have their own size",
        Check(
            lambda value: all(map(_is_share_and_epochs, value)),
            "a tuple of pairs, each of a number above 0 and at most 1 and a number of epochs, such as ((0.75, 3),)",
        ),
    ),
    "label_smoothing": Field(0.0, "share of each label that is spread over all classes", _below(1)),
    "mixup": Field(
        0.0,
        "alpha of the Beta distribution of the share of a second image (arXiv:1710.09412); 0: no mixup",
        _NOT_NEGATIVE,
    ),
    "init_from": Field(
        str,
        "workdir of another run; this run starts from the layers of its best epoch that have the same shapes",
    ),
    "freeze_stages": Field(
        0, "number of stages, from the first, whose parameters and batch statistics stay as they are", _NOT_NEGATIVE
    ),
    "class_weights": Field(
        "none",
        'weight of each class in the loss of training, also in train_loss: "none", or "balanced" the inverse of its '
        "share of the examples",
        _one_of("none", "balanced"),
    ),
    "early_stopping_epochs": Field(
        0, "end the run after this many epochs in a row without a better validation accuracy; 0: never", _NOT_NEGATIVE
    ),
    "data.name": Field(
        "mnist",
        "a set of TensorFlow Datasets of images, audio, video or arrays with one class each, or one that needs no "
        'download: "mnist_sample", "mnist1d", "moving_digits" or "moving_digits_frame"; "image_folder" is the folder '
        "data.dir",
    ),
    "data.dir": Field(str, 'folder of images, CLASS/FILE or train, validation and test/CLASS/FILE; for "image_folder"'),
    "data.image_size": Field(
        int | tuple,
        "height and width to which the images of a folder are brought; one number for both",
        Check(
            lambda value: _is_size_or_sizes(value, (2,)),
            f"{_A_SIZE}, or a tuple of two such numbers, height and width, such as (48, 64)",
        ),
    ),
    "data.channels": Field(
        3, "channels to which the images of a folder are brought: 3 for colour, 1 for grey", _one_of(1, 3)
    ),
    "data.fit": Field(
        "crop",
        'how an image is brought to a size, in a folder and by --mode=predict: "stretch" it, "crop" its middle or '
        '"pad" it with black',
        _one_of("stretch", "crop", "pad"),
    ),
    "data.held_out": Field(
        0.15,
        "share of the images of a folder for each of validation and test, where it has no such split",
        Check(lambda value: 0 < value < 0.5, "above 0 and below 0.5"),
    ),
    "data.split_seed": Field(0, "seed that chooses the held-out images of a folder", _between(0, 2**31 - 1)),
    "data.strict": Field(False, "refuse a folder with files that cannot be read, instead of leaving them out"),
    "data.train": Field("train[:80%]", "split to train on"),
    "data.validation": Field(
        "train[80%:]",
        "split to validate on after each epoch; None: train on without, and the last epoch is the best",
        optional=True,
    ),
    "data.test": Field("test", "split to test on once, at the end"),
    "data.data_dir": Field(str, "where the data is; None: $TFDS_DATA_DIR, or ~/tensorflow_datasets"),
    "data.in_memory": Field(
        "auto",
        'whether decoded images stay in memory: "yes"; "no": each batch is decoded anew, from the files of a folder or '
        'from the encoded bytes of a TFDS set, which stay in memory, and is the same; "auto": "yes" where those of the '
        "folder, or of the split, take at most 4 GB and twice as much is free",
        _one_of("auto", "yes", "no"),
    ),
    "data.pipeline": Field(
        "host",
        'where batches are made: on the "host" by TensorFlow, or on the "device", which keeps the splits and does many '
        'steps in one program; "auto": on the device where the splits take no more than a quarter of its free memory, '
        "unless a CPU would have to interpolate them, or where there is no TensorFlow",
        _one_of("host", "device", "auto"),
    ),
    "augment.rotation": Field(
        0.0,
        "rotate each training image, anew in every epoch, by up to this many degrees either way; 0: off",
        _between(0, 180, " degrees"),
    ),
    "augment.width_shift": Field(
        0.0, "shift left or right at random, by up to this fraction of the width or length", _between(0, 1)
    ),
    "augment.height_shift": Field(
        0.0, "shift up or down at random, by up to this fraction of the height", _between(0, 1)
    ),
    "augment.rescaling": Field(
        0.0, "scale the whole image by a random factor from 1 - rescaling to 1 + rescaling", _below(1)
    ),
    "augment.zoom": Field(0.0, "scale width and height by a random factor each, from 1 - zoom to 1 + zoom", _below(1)),
    "augment.shear": Field(
        0.0, "shear by a random angle of up to this many degrees either way", _below(90, " degrees")
    ),
    "augment.horizontal_flip": Field(False, "mirror half of the images left to right"),
    "augment.alternating_flip": Field(
        False,
        "mirror half of the images left to right at random in the first epoch, and then every image every other epoch "
        "(arXiv:2404.00498)",
    ),
    "augment.vertical_flip": Field(False, "mirror half of the images top to bottom"),
    "augment.crop_padding": Field(
        0, "pad by this many pixels and take a random crop of the image's own size", _between(0, _MAX_SIZE)
    ),
    "augment.fill": Field("nearest", 'what lies beyond the edges: the "nearest" pixel, "reflect" or "constant" zeros'),
    "augment.channel_shift": Field(
        0.0, "add a random number of up to this, either way, to all values of an image, in their unit", _between(0, 255)
    ),
    "augment.brightness": Field(
        0.0,
        "multiply the values by a random factor from 1 - brightness to 1 + brightness; for bytes only",
        _between(0, 1),
    ),
    "augment.contrast": Field(
        0.0,
        "multiply the distance to the mean by a random factor from 1 - contrast to 1 + contrast; for bytes only",
        _between(0, 1),
    ),
    "augment.noise": Field(
        0.0,
        "add Gaussian noise to each value; its standard deviation is this share of the channel's over the training "
        "split",
        _between(0, 1),
    ),
    "augment.cutout": Field(
        0,
        "replace a square of this many pixels a side (of a signal, a stretch), at a random place, by the mean",
        _between(0, _MAX_SIZE),
    ),
    "evaluation.views": Field(
        "none",
        "views of an example over which validation and test, and what a report predicts, average the logits "
        '(arXiv:2404.00498): "none" itself alone; "mirror" it and its mirror image, left to right; "mirror_and_shifts" '
        "also both shifted by one pixel, up-left and down-right; not those of predict and export",
        _one_of("none", "mirror", "mirror_and_shifts"),
    ),
    "model.name": Field(
        "lenet",
        'member of the family: "mlp", "lenet", "cifar_simple", "cifar_deep", "airbench" or "resnet18"; it gives the '
        "other model fields that are None their values, as far as the net has them",
    ),
    "model.filters": Field(tuple, "filters of each convolution, by stage", _STAGES),
    "model.kernel_size": Field(int | tuple, "size of the kernel of each convolution", _sizes_at_each("convolution")),
    "model.strides": Field(int | tuple, "strides of each convolution", _sizes_at_each("convolution")),
    "model.padding": Field(str, 'padding of each convolution, "same" or "valid"'),
    "model.kernel_init": Field(
        str,
        'how the kernels of the convolutions start: "glorot" uniform (Keras), "he" normal by the outputs (PyTorch\'s '
        'ResNet), or "identity": the first filters pass a channel on (arXiv:2404.00498)',
    ),
    "model.use_bias": Field(bool, "give each filter of a convolution a bias"),
    "model.whitening": Field(
        int,
        "side of the windows of a first convolution that whitens them; its kernel is fitted to the training split and "
        "not trained, its bias is (arXiv:2404.00498); 0: none",
        _between(0, 16),
    ),
    "model.batch_norm": Field(bool, "normalise the output of each convolution over the batch (arXiv:1502.03167)"),
    "model.batch_norm_scale": Field(bool, "give batch norm a scale for each channel, beside the bias"),
    "model.batch_norm_momentum": Field(float, "share of the running statistics that a step keeps", _below(1)),
    "model.batch_norm_epsilon": Field(float, "what batch norm adds to the variance", _POSITIVE),
    "model.pooling": Field(str, 'pooling at the end of each stage, "max" or "average"'),
    "model.pool_size": Field(int | tuple, "size of the pooling windows", _sizes_at_each("pooling")),
    "model.pool_strides": Field(
        int | tuple,
        "strides of the pooling windows; None: model.pool_size, so that they do not overlap",
        _sizes_at_each("pooling"),
    ),
    "model.pool_padding": Field(str, 'padding of each pooling, "same" or "valid"'),
    "model.pool_place": Field(
        str,
        'convolution of a stage after which it is pooled: the "last", after the activation, or the "first", before '
        "batch norm and activation",
    ),
    "model.global_pooling": Field(
        str, 'pooling over all positions before the dense layers, "max" or "average"; "none": flatten instead'
    ),
    "model.dropout": Field(float, "share of the units to drop after each pooling", _below(1)),
    "model.dense": Field(tuple, "units of each hidden dense layer", _SIZES),
    "model.dense_dropout": Field(float, "share of the units to drop after each hidden dense layer", _below(1)),
    "model.scaled_head": Field(
        bool,
        "compute the logits without bias, divided by the number of their inputs, by a kernel that starts with variance "
        "1 (arXiv:2404.00498)",
    ),
    "model.activation": Field(str, 'activation: "relu", "gelu", "silu", "elu", "tanh" or "sigmoid"'),
    "optimizer.name": Field(
        "adam",
        'the optimizer: "adam", "rmsprop", "sgd", or "muon", which orthogonalises the steps of kernels and keeps their '
        'norm at the root of their number of filters (kellerjordan.github.io/posts/muon), and is "sgd" for all other '
        "parameters",
    ),
    "optimizer.learning_rate": Field(1e-3, "learning rate, the highest of the schedule", _POSITIVE),
    "optimizer.schedule": Field("constant", 'learning rate over time: "constant", or "linear" or "cosine" down to 0'),
    "optimizer.warmup_epochs": Field(
        0.0, "epochs over which the learning rate rises linearly from 0, before the schedule", _between(0, 1_000_000)
    ),
    "optimizer.momentum": Field(0.9, 'momentum of "sgd" and "muon", with Nesterov\'s correction', _below(1)),
    "optimizer.weight_decay": Field(
        0.0, "decoupled weight decay, on kernels only, times the learning rate (arXiv:1711.05101)", _NOT_NEGATIVE
    ),
    "optimizer.groups": Field(
        (),
        'parameters with settings of their own, as pairs of a pattern of their paths, such as "logits/*" or "*/bias", '
        "and a dict of what differs: name, learning_rate, momentum, weight_decay (which is then on all of them), and "
        "epochs, over which their schedule runs and after which they stay; the first pattern that matches counts",
        _GROUPS,
    ),
}
"""Every field by its dotted key, in the order in which help and README list them."""


def default_config() -> Config:
    """Create a config with every field at its default. A recipe in configs/ changes those it cares about."""
    tree: dict[str, Any] = {}
    for key, field in FIELDS.items():
        *groups, name = key.split(".")
        group = tree
        for part in groups:
            group = group.setdefault(part, {})
        group[name] = config_dict.placeholder(field.type) if field.initial is None else field.default
    # `validate` checks the types: unlike an error of ConfigDict, its sentence names the field.
    return config_dict.ConfigDict(tree, type_safe=False).lock()


def validate(config: Config) -> None:
    """Check that a config has the fields of `FIELDS`, and that their values have the right types and ranges.

    Args:
        config: a ConfigDict. It is not changed.

    Raises:
        ConfigError: it does not. The sentence names the field and says what it must be.
    """
    check_fields(config, "The config")
    values = flatten(config)
    for key, field in FIELDS.items():
        _check_value(key, values[key], field)
    for pattern, settings in values["optimizer.groups"]:
        for key, value in settings.items():
            field = _GROUP_EPOCHS if key == "epochs" else FIELDS[f"optimizer.{key}"]
            _check_value(f"optimizer.groups[{pattern!r}].{key}", value, field)
    batch_size, num_devices = values["batch_size"], values["num_devices"]
    accumulate_steps = values["accumulate_steps"]
    if batch_size % (shares := (num_devices or 1) * accumulate_steps):
        among = [f"config.num_devices={num_devices}"] if num_devices else []
        among += [f"config.accumulate_steps={accumulate_steps}"] if accumulate_steps > 1 else []
        raise ConfigError(
            f"config.batch_size={batch_size} does not divide among {' x '.join(among)}: make it a multiple of {shares}."
        )
    if values["augment.horizontal_flip"] and values["augment.alternating_flip"]:
        raise ConfigError(
            "config.augment.horizontal_flip and config.augment.alternating_flip mirror the same images: turn one of "
            "them off."
        )
    if values["data.validation"] is None and (patience := values["early_stopping_epochs"]):
        raise ConfigError(
            f"config.early_stopping_epochs={patience} looks at the validation accuracy, and there is none with "
            "config.data.validation=None: name a split, or set config.early_stopping_epochs to 0."
        )


def _check_value(key: str, value: Any, field: Field) -> None:
    """Check that a value has the type and the range of a field.

    Raises:
        ConfigError: it does not. The sentence calls it config.`key`.
    """
    if value is None and field.is_optional:
        return
    if not _has_type(value, field.type):
        wanted = field.type_name + (" or None" if field.is_optional else "")
        raise ConfigError(f"config.{key}={value!r} must be of type {wanted}.")
    if field.check and not field.check.test(value):
        raise ConfigError(f"config.{key}={value!r} must be {field.check.words}.")


def _has_type(value: Any, wanted: Any) -> bool:
    if isinstance(value, bool):  # which Python counts among the integers
        return wanted is bool
    return isinstance(value, int | float if wanted is float else wanted)


def check_fields(config: Config, name: str) -> None:
    """Check that a config has the fields of `FIELDS` and no others.

    Args:
        config: a ConfigDict.
        name: what the sentence calls the config.

    Raises:
        ConfigError: a field is missing or unknown.
    """
    there = flatten(config).keys()
    if missing := sorted(FIELDS.keys() - there):
        raise ConfigError(f"{name} lacks {', '.join(missing)}: start it from jaxconv.config.default_config().")
    if unknown := sorted(there - FIELDS.keys()):
        raise ConfigError(f"config.{unknown[0]} {not_a_field(unknown[0])}")


def not_a_field(key: str) -> str:
    """Write the end of a sentence on a key that is not in `FIELDS`: what is nearest to it."""
    inside = [known for known in FIELDS if known.startswith(key + ".")]
    if inside:
        return f"is a group of fields: set one of {', '.join(f'--config.{known}' for known in inside)}."
    near = difflib.get_close_matches(key, FIELDS, n=3, cutoff=0.5) or list(FIELDS)
    described = ", ".join(f"config.{known} ({FIELDS[known].type_name})" for known in near)
    return f"is not a field of the config; the nearest are {described}."


def load(path: str) -> Config:
    """Execute a config file and return what its get_config() returns.

    Args:
        path: the path of the file, such as "configs/lenet.py".

    Returns:
        The config. Its fields are those of `FIELDS`; their values are not validated.

    Raises:
        ConfigError: there is no such file, or it raises an exception, which is shown as a traceback into that file
            alone, or what it returns is not a config.
    """
    available = sorted(str(p) for p in CONFIGS.glob("*.py"))
    if not path:
        raise ConfigError(f"--config is missing: choose one of {', '.join(available)}, or a file of your own.")
    if not os.path.isfile(path):
        raise ConfigError(
            f"--config={path} is not a file{did_you_mean(path, available)}: there are {', '.join(available)}."
        )
    namespace: dict[str, Any] = {"__name__": "config", "__file__": path}
    try:
        exec(compile(pathlib.Path(path).read_bytes(), path, "exec"), namespace)
        if "get_config" not in namespace:
            raise ConfigError(f"--config={path} has no function get_config(): add one that returns the config.")
        config = namespace["get_config"]()
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
        # ml_collections goes on with all fields that there are.
        if frames and (unknown := re.search(r'Key "(\w+)" does not exist', str(error))):
            where = f"--config={path}, line {frames[-1].lineno}"
            raise ConfigError(f"{where}: {unknown[1]} {not_a_field(unknown[1])}") from None
        where = "".join(traceback.format_list(frames) + traceback.format_exception_only(error))
        raise ConfigError(f"--config={path} failed:\n{where.rstrip()}") from None
    if type(config) is not config_dict.ConfigDict:  # a FrozenConfigDict takes no overrides
        raise ConfigError(f"--config={path}: get_config() returned {type(config).__name__}, not a ConfigDict.")
    check_fields(config, f"--config={path}")
    return config


def choose(key: str, name: str, choices: Mapping[str, Any]) -> Any:
    """Look up what a field names.

    Args:
        key: the key of the field.
        name: its value.
        choices: the values by name.

    Returns:
        The entry of `choices` called `name`.

    Raises:
        ConfigError: there is none. The sentence names config.`key`, the nearest choice and all of them.
    """
    if name in choices:
        return choices[name]
    raise ConfigError(
        f"config.{key}={name!r} is not known{did_you_mean(name, choices)}: choose from {', '.join(choices)}."
    )


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Write a parenthesis with the nearest choices, or nothing when none is near."""
    near = difflib.get_close_matches(word, list(choices), n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def flatten(config: Config, prefix: str = "") -> dict[str, Any]:
    """Collect the leaves of a nested config by their dotted keys."""
    leaves = {}
    for key, value in config.items():
        if isinstance(value, Mapping | config_dict.ConfigDict):
            leaves |= flatten(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def to_json(config: Config) -> str:
    """Write a config as the text of config.json."""
    return json.dumps(config.to_dict(), indent=2) + "\n"


def differences(old: Config, new: Config, but: Collection[str] = ()) -> list[str]:
    """Compare two nested configs.

    Args:
        old: the config that is called "there".
        new: the config that is called "here".
        but: dotted keys to leave out.

    Returns:
        One line for each dotted key whose value differs.
    """
    before, after = flatten(old), flatten(new)
    return [
        f"  config.{key}: {before.get(key, '(absent)')!r} there, {after.get(key, '(absent)')!r} here"
        for key in sorted(before.keys() | after.keys())
        if key not in but and before.get(key, "(absent)") != after.get(key, "(absent)")
    ]
