"""The fields of a config, what they may hold, and how the command line changes them."""

import difflib
import json
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from absl import flags
from ml_collections import config_dict

from jaxconv.errors import ConfigError

Config = Any
"""An ml_collections ConfigDict: its fields, known only as the program runs, are those of `default_config`."""

CONFIGS = pathlib.Path("configs")


def default_config() -> Config:
    """Every field that a config may set; a recipe in configs/ changes those it cares about.

    A field that is None here is optional: its type is known, and None means what its comment says.
    """
    config = config_dict.ConfigDict()
    config.seed = 0  # of the initial parameters, the order of the examples, their augmentation, dropout and mixup
    config.num_epochs = 20
    config.batch_size = 128  # over all devices together
    config.num_devices = config_dict.placeholder(int)  # None: all there are
    config.checkpoint_every_steps = 0  # besides the checkpoint of every epoch; 0: no others
    config.stop_on_nan = True  # end the run at the first loss that is not finite
    config.label_smoothing = 0.0
    config.mixup = 0.0  # alpha of the Beta distribution of the share of a second image (arXiv:1710.09412); 0: none

    config.data = config_dict.ConfigDict()
    config.data.name = "mnist"  # a TFDS image-classification set, or "mnist_sample"
    config.data.train = "train[:80%]"
    config.data.validation = "train[80%:]"
    config.data.test = "test"
    config.data.data_dir = config_dict.placeholder(str)  # None: $TFDS_DATA_DIR, or ~/tensorflow_datasets

    # Of the training images, anew in every epoch; "0.1" is a number from -0.1 to 0.1, and 0 or False turns it off.
    config.augment = config_dict.ConfigDict()
    config.augment.rotation = 0.0  # degrees
    config.augment.width_shift = 0.0  # fraction of the width
    config.augment.height_shift = 0.0  # fraction of the height
    config.augment.rescaling = 0.0  # of the size, from 1 - rescaling to 1 + rescaling
    config.augment.zoom = 0.0  # the same, but width and height each by their own
    config.augment.shear = 0.0  # degrees
    config.augment.horizontal_flip = False  # half of the images
    config.augment.vertical_flip = False  # half of the images
    config.augment.crop_padding = 0  # pixels: a crop of the image's own size from one padded by so many (by fill)
    config.augment.fill = "nearest"  # beyond the edges: "nearest" pixel, "reflect" or "constant" zeros
    config.augment.channel_shift = 0.0  # added to the values, which are from 0 to 255, of an image
    config.augment.brightness = 0.0  # of the factor, from 1 - brightness to 1 + brightness
    config.augment.contrast = 0.0  # of the factor, from 1 - contrast to 1 + contrast
    config.augment.cutout = 0  # pixels: side of a square that is replaced by the mean

    config.model = config_dict.ConfigDict()
    config.model.name = "lenet"  # a member of the family in jaxconv/models.py
    # None: as the member has it.
    config.model.filters = config_dict.placeholder(tuple)  # of each convolution, by stage: ((32, 32), (64, 64))
    config.model.kernel_size = config_dict.placeholder(int)
    config.model.strides = config_dict.placeholder(int)
    config.model.padding = config_dict.placeholder(str)  # "same" or "valid"
    config.model.pooling = config_dict.placeholder(str)  # "max" or "average"
    config.model.pool_size = config_dict.placeholder(int)  # also the stride of the pooling
    config.model.dropout = config_dict.placeholder(float)  # after each pooling
    config.model.dense = config_dict.placeholder(tuple)  # units of each hidden dense layer
    config.model.dense_dropout = config_dict.placeholder(float)  # after each hidden dense layer
    config.model.activation = config_dict.placeholder(str)

    config.optimizer = config_dict.ConfigDict()
    config.optimizer.name = "adam"  # "adam", "rmsprop" or "sgd"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "constant"  # "constant", "linear" or "cosine", the last two down to zero
    config.optimizer.warmup_epochs = 0.0
    config.optimizer.momentum = 0.9  # of sgd, with Nesterov's correction
    config.optimizer.weight_decay = 0.0  # decoupled, on kernels only, times the learning rate
    return config.lock()


_MAX_SIZE = 65536  # of what takes memory: nothing sensible is larger, and a slip of the keyboard is


def _size(value: Any) -> bool:
    return type(value) is int and 1 <= value <= _MAX_SIZE


def _fraction(value: Any) -> bool:
    return 0 <= value < 1


def _part(value: Any) -> bool:
    return 0 <= value <= 1


def _finite(value: Any) -> bool:
    return 0 <= value < float("inf")


_A_SIZE = f"from 1 to {_MAX_SIZE}"

# key -> (test, what the value must be); a value of None passes.
_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "seed": (lambda seed: 0 <= seed < 2**31, "from 0 to 2147483647"),
    "num_epochs": (lambda epochs: 1 <= epochs <= 1_000_000, "from 1 to 1000000"),
    "batch_size": (_size, _A_SIZE),
    "num_devices": (_size, _A_SIZE),
    "checkpoint_every_steps": (_finite, "0 or more"),
    "label_smoothing": (_fraction, "at least 0 and below 1"),
    "mixup": (_finite, "0 or more and finite"),
    "augment.rotation": (lambda degrees: 0 <= degrees <= 180, "from 0 to 180 degrees"),
    "augment.width_shift": (_part, "from 0 to 1"),
    "augment.height_shift": (_part, "from 0 to 1"),
    "augment.rescaling": (_fraction, "at least 0 and below 1"),
    "augment.zoom": (_fraction, "at least 0 and below 1"),
    "augment.shear": (lambda degrees: 0 <= degrees < 90, "at least 0 and below 90 degrees"),
    "augment.crop_padding": (lambda pixels: 0 <= pixels <= _MAX_SIZE, f"from 0 to {_MAX_SIZE}"),
    "augment.channel_shift": (lambda shift: 0 <= shift <= 255, "from 0 to 255"),
    "augment.brightness": (_part, "from 0 to 1"),
    "augment.contrast": (_part, "from 0 to 1"),
    "augment.cutout": (lambda pixels: 0 <= pixels <= _MAX_SIZE, f"from 0 to {_MAX_SIZE}"),
    "model.filters": (
        lambda stages: all(isinstance(stage, tuple) and stage and all(map(_size, stage)) for stage in stages),
        f"a tuple of stages, each a tuple of numbers of filters {_A_SIZE}, such as ((32, 32), (64, 64))",
    ),
    "model.kernel_size": (_size, _A_SIZE),
    "model.strides": (_size, _A_SIZE),
    "model.pool_size": (_size, _A_SIZE),
    "model.dropout": (_fraction, "at least 0 and below 1"),
    "model.dense": (lambda units: all(map(_size, units)), f"a tuple of numbers of units {_A_SIZE}, such as (512,)"),
    "model.dense_dropout": (_fraction, "at least 0 and below 1"),
    "optimizer.learning_rate": (lambda rate: 0 < rate < float("inf"), "above 0 and finite"),
    "optimizer.warmup_epochs": (lambda epochs: 0 <= epochs <= 1_000_000, "from 0 to 1000000"),
    "optimizer.momentum": (_fraction, "at least 0 and below 1"),
    "optimizer.weight_decay": (_finite, "0 or more and finite"),
}


def choose(key: str, name: str, choices: Mapping[str, Any]) -> Any:
    """The entry of `choices` called `name`.

    Raises:
        ConfigError: there is none; the sentence names config.`key`, the nearest choice and all of them.
    """
    if name in choices:
        return choices[name]
    raise ConfigError(
        f"config.{key}={name!r} is not known{did_you_mean(name, choices)}: choose from {', '.join(choices)}."
    )


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """A parenthesis with the nearest choices, or nothing when none is near."""
    near = difflib.get_close_matches(word, list(choices), n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def validate(config: Config) -> None:
    """Check the values that have a range.

    Raises:
        ConfigError: a value is outside its range; the sentence names the field and the range.
    """
    values = flatten(config)
    for key, (test, meaning) in _RANGES.items():
        value = values[key]
        if value is not None and not test(value):
            raise ConfigError(f"config.{key}={value!r} must be {meaning}.")
    if config.num_devices and config.batch_size % config.num_devices:
        raise ConfigError(
            f"config.batch_size={config.batch_size} does not divide among config.num_devices="
            f"{config.num_devices}: make it a multiple of {config.num_devices}."
        )


def flatten(config: Config, prefix: str = "") -> dict[str, Any]:
    """The leaves of a nested config by their dotted keys."""
    leaves = {}
    for key, value in config.items():
        if isinstance(value, Mapping | config_dict.ConfigDict):
            leaves |= flatten(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = value
    return leaves


def to_json(config: Config) -> str:
    """A config as the text of config.json."""
    return json.dumps(config.to_dict(), indent=2) + "\n"


def differences(old: Config, new: Config, but: Collection[str] = ()) -> list[str]:
    """One line for each dotted key, `but` some, whose value differs between two nested configs."""
    before, after = flatten(old), flatten(new)
    return [
        f"  config.{key}: {before.get(key, '(absent)')!r} there, {after.get(key, '(absent)')!r} here"
        for key in sorted(before.keys() | after.keys())
        if key not in but and before.get(key, "(absent)") != after.get(key, "(absent)")
    ]


# ---- The command line


def parse_flags(argv: list[str]) -> list[str]:
    """Parse absl's flags, among them --config=FILE and its overrides --config.KEY=VALUE.

    Raises:
        ConfigError: a flag, the config file, or an override is wrong.
    """
    wants_help = any(re.fullmatch(r"--?(help|helpfull|helpshort|helpxml|\?)", arg) for arg in argv[1:])
    if not wants_help:
        config = load(_config_path(argv))
        for key in _overridden_keys(argv):
            _check_key(key, config)
    try:
        return flags.FLAGS(argv)
    except SystemExit:
        if wants_help:  # which absl has printed, and would end with the status of a failure
            sys.exit(0)
        raise
    except flags.Error as error:
        raise ConfigError(_explain(str(error), argv)) from None


def _config_path(argv: list[str]) -> str:
    for i, arg in enumerate(argv[1:], start=1):
        match = re.fullmatch(r"--?config(?:=(.*))?", arg, re.DOTALL)
        if match:
            return match[1] if match[1] is not None else "".join(argv[i + 1 : i + 2])
    return ""


def _overridden_keys(argv: list[str]) -> list[str]:
    matches = (re.match(r"--?(?:no)?config\.([^=]*)", arg) for arg in argv[1:])
    return [match[1] for match in matches if match]


def load(path: str) -> Config:
    """Run the config file at `path`; an exception inside it is shown as a traceback into that file alone."""
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
        where = "".join(traceback.format_list(frames) + traceback.format_exception_only(error))
        raise ConfigError(f"--config={path} failed:\n{where.rstrip()}") from None
    if not isinstance(config, config_dict.ConfigDict):
        raise ConfigError(f"--config={path}: get_config() returned {type(config).__name__}, not a ConfigDict.")
    missing = sorted(flatten(default_config()).keys() - flatten(config).keys())
    if missing:
        raise ConfigError(f"--config={path} lacks {', '.join(missing)}: start it from jaxconv.config.default_config().")
    return config


def _check_key(key: str, config: Config) -> None:
    known = flatten(config)
    if key in known:
        return
    parents = {k.rsplit(".", i)[0] for k in known for i in range(1, k.count(".") + 1)}
    if key in parents:
        inside = ", ".join(f"--config.{k}" for k in known if k.startswith(key + "."))
        raise ConfigError(f"--config.{key} is a group of fields: set one of {inside}.")
    near = difflib.get_close_matches(key, known, n=3, cutoff=0.5) or list(known)
    described = ", ".join(f"config.{k} ({_type_name(k, config)})" for k in near)
    raise ConfigError(f"--config.{key} is not a field of the config; the nearest are {described}.")


def _type_name(key: str, config: Config) -> str:
    *parents, leaf = key.split(".")
    for parent in parents:
        config = config[parent]
    return config.get_type(leaf).__name__


def _explain(message: str, argv: list[str]) -> str:
    """Absl's message on a flag, with the type that the config wants where it is an override of the config."""
    for key in _overridden_keys(argv):
        if re.search(rf"config\.{re.escape(key)}\b", message):
            config = load(_config_path(argv))
            given = re.search(rf"--?(?:no)?config\.{re.escape(key)}=?(\S*)", " ".join(argv))
            value = given[1] if given else ""
            return (
                f"--config.{key}={value} has a value of the wrong type: "
                f"config.{key} is of type {_type_name(key, config)} ({flatten(config)[key]!r} in the config file)."
            )
    return message.rstrip(".") + "."
