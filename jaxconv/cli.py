"""From the command line to a run, and from an error to a sentence and an exit status."""

import contextlib
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from absl import app

from jaxconv.config import Config, validate
from jaxconv.errors import ConfigError, UserError
from jaxconv.flags import parse_flags
from jaxconv.platform import allocator, cluster, compatibility, supervisor
from jaxconv.platform.cluster import Place
from jaxconv.runs import interrupt

_VALIDATION = {"val_loss": "Validation score", "val_accuracy": "Validation accuracy"}
_TEST = {"test_loss": "Test score", "test_accuracy": "Test accuracy"}


class Arguments(NamedTuple):
    """What the command line gives a mode beside the config."""

    workdir: pathlib.Path
    json: bool = False
    """Whether to print JSON."""
    images: tuple[str, ...] = ()
    """Files, directories and globs."""
    top: int = 3
    """The number of classes of each prediction."""
    processes: tuple[str | None, int | None, int | None] = (None, None, None)
    """--coordinator, --num_processes and --process_id."""


def _train(config: Config, arguments: Arguments) -> None:
    from jaxconv import experiment, train
    from jaxconv.parallel import distributed
    from jaxconv.runs import console

    console.console.quiet = not cluster.is_lead()
    experiment.start_jax(config)
    try:
        summary = train.train(config, arguments.workdir)
    except interrupt.Interrupted:
        distributed.leave()
        raise
    distributed.leave()
    if cluster.is_lead():
        _print_scores(summary, _TEST)
    if config.report and not cluster.own_place():
        _report_of_finished(config, arguments.workdir)


def _supervise(place: Place, config: Config, arguments: Arguments) -> None:
    """Train in a worker, one of several. When all are done, process 0 makes the report, on its own devices."""
    if status := supervisor.run(place, [sys.executable, *sys.orig_argv[1:]]):
        os._exit(status)  # the worker has said why
    interrupt.install()
    if config.report and place.process_id == 0:
        from jaxconv import experiment

        config.num_devices = None
        experiment.start_jax(config)
        _report_of_finished(config, arguments.workdir)


def _report_of_finished(config: Config, workdir: pathlib.Path) -> None:
    """Print where the report of a finished run is. Make it if there is none since the end of the run."""
    from jaxconv.report import run as report
    from jaxconv.runs import console

    start, path = time.monotonic(), workdir / "report.html"
    if not report.is_current(workdir):
        path = report.report(config, workdir)
        console.say(f"The report took {time.monotonic() - start:.1f} s.")
    print(f"Report: {path}")


def _evaluate(config: Config, arguments: Arguments) -> None:
    from jaxconv import evaluate, experiment

    experiment.start_jax(config)
    _print_scores(evaluate.evaluate(config, arguments.workdir), _VALIDATION | _TEST)


def _preview(config: Config, arguments: Arguments) -> None:
    from jaxconv import preview

    print(preview.preview(config, arguments.workdir))


def _explain(config: Config, arguments: Arguments) -> None:
    from jaxconv import experiment, explain

    experiment.start_jax(config)
    explanation = explain.explain(config)
    if arguments.json:
        print(explain.to_json(explanation))
    else:
        explain.print_tables(explanation)


def _predict(config: Config, arguments: Arguments) -> None:
    from jaxconv import experiment, predict
    from jaxconv.runs import console

    if arguments.top < 1:
        raise ConfigError(f"--top={arguments.top} must be 1 or more.")
    paths = predict.find(arguments.images)
    experiment.start_jax(config)
    unreadable = 0
    for prediction in console.track(predict.predict(config, arguments.workdir, paths, arguments.top), len(paths)):
        unreadable += prediction.error is not None
        if arguments.json:
            print(prediction.to_json())
        else:
            print(prediction.to_text(), file=sys.stderr if prediction.error else sys.stdout)
    if unreadable:
        raise UserError(f"{unreadable} of {len(paths)} files could not be read; the others have their classes.")


def _report(config: Config, arguments: Arguments) -> None:
    from jaxconv import experiment
    from jaxconv.report import run as report

    experiment.start_jax(config)
    print(report.report(config, arguments.workdir))


def _export(config: Config, arguments: Arguments) -> None:
    from jaxconv import experiment, export

    experiment.start_jax(config)
    print(export.export(config, arguments.workdir))


# A mode imports what it needs when it runs: --help and a wrong command line do not wait for JAX.
MODES: dict[str, Callable[[Config, Arguments], None]] = {
    "train": _train,
    "evaluate": _evaluate,
    "preview": _preview,
    "explain": _explain,
    "predict": _predict,
    "export": _export,
    "report": _report,
}
"""What --mode names: each prints its results to stdout, and everything else to stderr."""

WITH_JSON = ("explain", "predict")
"""The modes that can print their results as JSON."""


def start(main: Callable[[Config], None]) -> None:
    """Run `main` on the config of the command line; a UserError ends in its sentence on stderr and its exit status."""

    def parse(argv: list[str]) -> Config:
        try:
            return parse_flags(argv)
        except UserError as error:
            _say(error)
            sys.exit(error.exit_status)

    cluster.end_with_parent()
    allocator.restart_with_huge_pages()
    app.run(main, flags_parser=parse)


def run(mode: str, config: Config, arguments: Arguments) -> None:
    """Run a mode. An error that a person can mend ends the process with its sentence and its exit status."""
    place: Place | None = None
    with ends_in_a_sentence(lambda: supervisor.label(place) if place else ""):
        validate(config)
        if arguments.json and mode not in WITH_JSON:
            raise ConfigError(f"--json needs a mode that prints JSON ({', '.join(WITH_JSON)}): --mode={mode} does not.")
        if bool(arguments.images) != (mode == "predict"):
            raise ConfigError("--images and --mode=predict need each other: --mode=predict --images=FILES.")
        place = None if cluster.own_place() else cluster.find(*arguments.processes)
        if place is None:
            return MODES[mode](config, arguments)
        if mode != "train":
            raise ConfigError(f"--mode={mode} is for one process: start it alone, without the flags of several.")
        _supervise(place, config, arguments)


@contextlib.contextmanager
def ends_in_a_sentence(label: Callable[[], str] = str) -> Iterator[None]:
    """End the process with a sentence and its exit status where a signal, or an error that a person can mend, ends it.

    Args:
        label: gives what the lines of the sentence begin with.
    """
    compatibility.quiet()
    try:
        interrupt.install()
        yield
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os._exit(0)
    except (UserError, interrupt.Interrupted) as error:
        _say(error, label())
        _wait_for_devices()
        sys.stdout.flush()
        os._exit(error.exit_status)  # do not wait for threads of a download, which wait for the network
    except Exception:
        if cluster.own_place():
            _let_supervisor_explain()
        raise
    finally:
        _wait_for_devices()


def _let_supervisor_explain() -> None:
    try:
        supervisor.let_explain()
    except interrupt.Interrupted as error:
        os._exit(error.exit_status)


def _print_scores(results: dict[str, Any], names: dict[str, str]) -> None:
    for key, name in names.items():
        if key in results:
            print(f"{name}: {float('nan') if results[key] is None else results[key]:.4f}")


def _wait_for_devices() -> None:
    """Wait for the step in flight: a process that ends before its step may crash."""
    bridge = sys.modules.get("jax._src.xla_bridge")  # JAX has no public way to ask whether it has started
    if bridge and bridge.backends_are_initialized() and not cluster.own_place():  # another process may be gone
        for array in sys.modules["jax"].live_arrays():
            with contextlib.suppress(Exception):  # a step that failed has been reported
                array.block_until_ready()


def _say(error: UserError | interrupt.Interrupted, label: str = "") -> None:
    for line in f"{os.path.basename(sys.argv[0])}: {error}".split("\n"):
        print(f"{label}{line}", file=sys.stderr, flush=True)
