"""The tables of a comparison as text."""

import sys
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table as Drawn

from jaxconv.compare.tables import Table

_PIPED_WIDTH = 160
"""Columns where stdout is no terminal, enough to leave most names in one piece."""


def to_text(tables: Sequence[Table]) -> str:
    """Write tables for stdout, as wide as the terminal. The sentences of each follow it."""
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else _PIPED_WIDTH)
    with console.capture() as captured:
        for table in tables:
            console.print(_draw(table) if table.rows else table.title, *table.findings, *table.notes, "", sep="\n")
    return captured.get()


def _draw(table: Table) -> Drawn:
    drawn = Drawn(title=table.title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for column in table.columns:
        if column in table.numbers:
            drawn.add_column(column.replace(" ", "\n"), justify="right", no_wrap=True)
        else:
            drawn.add_column(column, overflow="fold")
    for row in table.rows:
        drawn.add_row(*row)
    return drawn
