"""Compare runs: their results, configs and curves, whether chance explains a difference, and where they disagree.

python -m jaxconv.compare runs/cifar_simple runs/cifar_deep
python -m jaxconv.compare runs/seed_0 runs/seed_1 runs/seed_2 --output=seeds.html

A run is a workdir with at least one finished epoch. The tables go to stdout, and all of it to one page.
"""

import os
import pathlib
import sys
import tempfile
from collections.abc import Sequence

from absl import app, flags

from jaxconv.errors import ConfigError, UserError
from jaxconv.platform import compatibility
from jaxconv.runs import interrupt


def main(argv: list[str]) -> None:
    """Compare the runs that the command line names. A UserError ends in its sentence on stderr and its exit status."""
    compatibility.quiet()
    try:
        interrupt.install()
        compare([pathlib.Path(name) for name in argv[1:]], pathlib.Path(flags.FLAGS.output))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os._exit(0)
    except UserError as error:
        _say(str(error))
        os._exit(error.exit_status)  # do not wait for threads of a download, which wait for the network
    except interrupt.Interrupted as stopped:
        os._exit(stopped.exit_status)


def compare(workdirs: Sequence[pathlib.Path], output: pathlib.Path) -> None:
    """Write the page of a comparison, and print its tables.

    Raises:
        UserError: the runs cannot be compared, or the page cannot be written. Nothing is written then.
    """
    check(workdirs, output)
    from jaxconv.compare import comparison, runs, terminal

    compared = comparison.compare(runs.load(workdirs))
    for found in compared.disagreements:
        if found.note:
            _say(found.note)
    html = comparison.to_html(compared)
    try:
        output.write_text(html, encoding="utf-8")
    except OSError as error:
        raise _cannot_write(output, error) from None
    print(terminal.to_text(compared.tables), end="")
    print(output)


def check(workdirs: Sequence[pathlib.Path], output: pathlib.Path) -> None:
    """Check a command line. It reads no run.

    Raises:
        ConfigError: it is wrong.
        UserError: the page cannot be written.
    """
    if len(workdirs) < 2:
        raise ConfigError("Name two runs or more: python -m jaxconv.compare RUN RUN [RUN ...] [--output=FILE].")
    for number, workdir in enumerate(workdirs):
        if not workdir.is_dir():
            raise ConfigError(f"{workdir} is not a directory: name the workdir of a run.")
        if any(workdir.samefile(earlier) for earlier in workdirs[:number]):
            raise ConfigError(f"{workdir} is named twice: name different runs.")
    if output.is_dir():
        raise ConfigError(f"--output={output} is a directory: name a file.")
    if not output.parent.is_dir():
        raise ConfigError(f"--output={output}: there is no directory {output.parent}. Make it, or name another file.")
    try:
        with open(output, "ab") if output.exists() else tempfile.TemporaryFile(dir=output.parent):
            pass
    except OSError as error:
        raise _cannot_write(output, error) from None


def _cannot_write(output: pathlib.Path, error: OSError) -> UserError:
    return UserError(f"--output={output} cannot be written ({error.strerror}): name another file.")


def _say(sentence: str) -> None:
    print(f"jaxconv.compare: {sentence}", file=sys.stderr, flush=True)


def _parse(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except SystemExit:  # absl has printed the help, and would end with the status of a failure
        sys.exit(0)
    except flags.Error as error:
        _say(str(error))
        sys.exit(ConfigError.exit_status)


if __name__ == "__main__":
    flags.DEFINE_string("output", "comparison.html", "The page to write.")
    app.run(main, flags_parser=_parse)
