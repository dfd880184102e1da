"""From the command line to a run, and from an error to a sentence and an exit status."""

import contextlib
import os
import pathlib
import sys
import warnings
from collections.abc import Callable
from typing import Any

from absl import app, logging

from jaxconv.config import Config, parse_flags, validate
from jaxconv.errors import UserError
from jaxconv.platform import allocator
from jaxconv.runs import interrupt

MODES = ("train", "evaluate", "preview")


def start(main: Callable[[list[str]], None]) -> None:
    """Run `main` on absl's flags; a UserError ends in its sentence on stderr and its exit status."""

    def parse(argv: list[str]) -> list[str]:
        try:
            return parse_flags(argv)
        except UserError as error:
            _say(error)
            sys.exit(error.exit_status)

    allocator.restart_with_huge_pages()
    app.run(main, flags_parser=parse)


def run(mode: str, config: Config, workdir: str) -> None:
    """Do what `mode` says; the results go to stdout, everything else to stderr."""
    logging.set_verbosity(logging.FATAL)  # what goes wrong is ours to say
    # What Orbax and TensorStore leave behind where a write failed is no news beside the error itself.
    sys.unraisablehook = _unraisablehook
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    try:
        interrupt.install()
        validate(config)
        # JAX and its companions only now: --help, a wrong command line and a preview need not wait for them.
        if mode == "preview":
            from jaxconv import preview

            print(preview.preview(config, pathlib.Path(workdir)))
            return
        from jaxconv import train
        from jaxconv.platform import devices as runtime

        runtime.prepare(config)
        results = {"train": train.train, "evaluate": train.evaluate}[mode](config, pathlib.Path(workdir))
        shown = {"train": _TEST, "evaluate": _VALIDATION | _TEST}[mode]
        for key in [key for key in shown if key in results]:
            print(f"{shown[key]}: {float('nan') if results[key] is None else results[key]:.4f}")
    except (UserError, interrupt.Interrupted) as error:
        _say(error)
        _wait_for_devices()
        sys.stdout.flush()
        os._exit(error.exit_status)  # threads that wait for the network, in a download, would hold the process up
    finally:
        _wait_for_devices()


_VALIDATION = {"val_loss": "Validation score", "val_accuracy": "Validation accuracy"}
_TEST = {"test_loss": "Test score", "test_accuracy": "Test accuracy"}


def _wait_for_devices() -> None:
    """Let the step in flight end: a process that ends beneath one may crash."""
    if jax := sys.modules.get("jax"):
        for array in jax.live_arrays():
            with contextlib.suppress(Exception):  # of a step that failed, which has been said
                array.block_until_ready()


def _unraisablehook(unraisable: Any) -> None:
    """Python's own, but for what TensorStore's threads print when a failed write has closed their event loop."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def _say(error: UserError | interrupt.Interrupted) -> None:
    print(f"{os.path.basename(sys.argv[0])}: {error}", file=sys.stderr, flush=True)
