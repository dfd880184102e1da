"""What a run prints, all to stderr: a table and a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import flax.linen as nn
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from jaxconv.models import summary
from jaxconv.models.registry import num_params
from jaxconv.training.state import Sums

_REFRESH_SECONDS = 0.2

T = TypeVar("T")

console = Console(stderr=True, highlight=False, soft_wrap=True)


def say(line: str) -> None:
    """Print one line."""
    console.print(line, markup=False)


def print_model(name: str, model: nn.Module, image_shape: tuple[int, ...]) -> None:
    """Print a table of the layers that have parameters, with the shape of their output for one image."""
    traced = summary.trace(model, image_shape)
    table = Table(title=f"{name}, input {image_shape}", box=box.SIMPLE_HEAD, show_footer=True, title_justify="left")
    table.add_column("layer", "total")
    table.add_column("output shape")
    table.add_column("parameters", f"{num_params(traced.variables['params']):,}", justify="right")
    for call in traced.calls:
        if call.num_params:
            table.add_row(call.name, str(call.output_shape), f"{call.num_params:,}")
    console.print(table)


class Bar:
    """A bar over the steps of an epoch, with ETA and running loss and accuracy; nothing where there is no terminal."""

    def __init__(self, num_epochs: int, steps_per_epoch: int):
        self._num_epochs, self._steps_per_epoch = num_epochs, steps_per_epoch
        self._epoch, self._drawn = 0, 0.0
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[metrics]}"),
            console=console,
            transient=True,
            auto_refresh=False,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=steps_per_epoch, metrics="", visible=False)

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, step: int, sums: Sums) -> None:
        """Show `step`, the number of steps done in the run, and the sums over the epoch so far.

        The sums are read from the device only when the bar is drawn anew.
        """
        if self._progress.disable or time.monotonic() - self._drawn < _REFRESH_SECONDS:
            return
        epoch = (step - 1) // self._steps_per_epoch + 1
        if epoch != self._epoch:
            name = f"Epoch {epoch:>{len(str(self._num_epochs))}}/{self._num_epochs}"
            self._progress.reset(self._task, description=name, visible=True)
        loss, accuracy = sums.means()
        metrics = f"loss: {loss:.4f} - acc: {accuracy:.4f}"
        completed = step - (epoch - 1) * self._steps_per_epoch
        self._progress.update(self._task, completed=completed, metrics=metrics, refresh=True)
        self._epoch, self._drawn = epoch, time.monotonic()


def track(items: Iterable[T], total: int) -> Iterator[T]:
    """Return items, with a bar on the terminal. There is none where stdout is the terminal and shows the results."""
    columns = (BarColumn(bar_width=30), MofNCompleteColumn(), TimeRemainingColumn())
    quiet = not console.is_terminal or sys.stdout.isatty()
    with Progress(*columns, console=console, transient=True, redirect_stdout=False, disable=quiet) as progress:
        yield from progress.track(items, total=total)


def print_epoch(record: dict[str, Any], num_epochs: int, steps: int) -> None:
    """Print the line of a finished epoch, in the lecture's form. `steps` is the number of steps in it."""
    per_step = 1000 * record["seconds"] / steps
    validation = ""
    if record["val_accuracy"] is not None:
        validation = f" - val_loss: {record['val_loss']:.4f} - val_acc: {record['val_accuracy']:.4f}"
    say(
        f"Epoch {record['epoch']:>{len(str(num_epochs))}}/{num_epochs} - {record['seconds']:.0f}s {per_step:.1f}ms/step"
        f" - loss: {record['train_loss']:.4f} - acc: {record['train_accuracy']:.4f}{validation}"
        f" - data_wait: {record['data_wait']:.1%}"
    )
