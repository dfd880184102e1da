"""The command line: from --config=FILE and --config.KEY=VALUE to a config."""

import ast
import os
import re
import sys
import textwrap
from collections.abc import Callable
from typing import Any

from absl import flags

from jaxconv.config import FIELDS, Config, flatten, load, not_a_field
from jaxconv.errors import ConfigError


def parse_flags(argv: list[str]) -> Config:
    """Parse absl's flags, and make the config that they ask for. The config file is executed once.

    The program defines the flag --config, which holds the path of the config file. The flags --config.KEY, one for
    each field, are defined here.

    Args:
        argv: the program and its arguments, as in sys.argv.

    Returns:
        The config in the file, with the overrides of the command line. Its values are not validated.

    Raises:
        ConfigError: a flag, the config file, or an override is wrong.
        SystemExit: --help, which is printed, or another flag of its kind.
    """
    _define_overrides()
    try:
        rest = flags.FLAGS(argv)
    except (SystemExit, BrokenPipeError):  # absl has printed the help, and would end with the status of a failure
        _complete_help(argv)
        sys.exit(0)
    except flags.UnrecognizedFlagError as error:
        raise ConfigError(_unknown_flag(error)) from None
    except (flags.Error, ValueError) as error:
        raise ConfigError(_sentence(error)) from None
    if len(rest) > 1:
        raise ConfigError(f"{rest[1]!r} does not belong to a flag: write --FLAG=VALUE.")
    config = load(flags.FLAGS["config"].value or "")
    for key in FIELDS:
        text = flags.FLAGS[f"config.{key}"].value
        if text is not None:
            _override(config, key, text)
    return config


def _complete_help(argv: list[str]) -> None:
    try:
        if any(re.fullmatch(r"--?(help|helpshort|\?)", arg) for arg in argv[1:]):
            print(f"\n{fields_help(flags.get_help_width())}")
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough; Python would flush once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def fields_help(width: int) -> str:
    """List the fields of a config for a terminal of `width` columns."""
    fields = [
        textwrap.fill(
            f"{key} ({field.type_name}, {field.initial!r}): {field.meaning}",
            width=width,
            initial_indent="  ",
            subsequent_indent="      ",
            break_on_hyphens=False,
        )
        for key, field in FIELDS.items()
    ]
    head = "Fields of a config, with type and default. --config.KEY=VALUE sets one:"
    return "\n".join([textwrap.fill(head, width=width), "", *fields])


def _define_overrides() -> None:
    """Define the flag --config.KEY for each field. It holds text: a wrong value is compared with the config file's."""
    for key, field in FIELDS.items():
        if (name := f"config.{key}") not in flags.FLAGS:
            flags.DEFINE(
                flags.ArgumentParser(),
                name,
                None,
                f"{field.type_name}: {field.meaning}",
                serializer=flags.ArgumentSerializer(),
                module_name=__name__,  # not the caller's, whose flags --help lists
                boolean=field.type is bool,
            )


def _override(config: Config, key: str, text: str) -> None:
    """Set a field to what `text` says: "None" is no text in a field that may be None."""
    is_none = FIELDS[key].is_optional and text == "None"
    try:
        config.update_from_flattened_dict({key: None if is_none else _PARSERS[FIELDS[key].type](text)})
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # all that literal_eval may raise
        raise ConfigError(
            f"--config.{key}={text} has a value of the wrong type: "
            f"config.{key} is of type {FIELDS[key].type_name} ({flatten(config)[key]!r} in the config file)."
        ) from None


def _tuple(text: str) -> tuple[Any, ...]:
    value = ast.literal_eval(text)
    if isinstance(value, int):  # --config.model.dense=512
        return (value,)
    if isinstance(value, tuple | list):
        return tuple(value)
    raise ValueError


def _int_or_tuple(text: str) -> int | tuple[Any, ...]:
    value = ast.literal_eval(text)
    return value if isinstance(value, int) else _tuple(text)


_PARSERS: dict[Any, Callable[[str], Any]] = {
    bool: flags.BooleanParser().parse,
    int: flags.IntegerParser().parse,
    float: flags.FloatParser().parse,
    str: str,
    tuple: _tuple,
    int | tuple: _int_or_tuple,
}


def _unknown_flag(error: flags.UnrecognizedFlagError) -> str:
    match = re.fullmatch(r"(?:no)?config\.(.*)", error.flagname)
    if match and match[1] not in FIELDS:
        return f"--config.{match[1]} {not_a_field(match[1])}"
    return _sentence(error)


def _sentence(error: Exception) -> str:
    text = str(error)
    return text if text.endswith((".", "?")) else f"{text}."
