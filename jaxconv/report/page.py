"""From a template and figures to one page that opens without a network. Its styles and figures are inside."""

import base64
import functools
import pathlib
import re
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from jaxconv.runs.workdir import writing


class Figure(NamedTuple):
    """A chart (SVG) or a picture (PNG)."""

    name: str
    """The name of its file, which ends in ".svg" or ".png"."""
    content: bytes
    alt: str
    """What it shows, for those who cannot see it."""

    def __html__(self) -> str:
        """Write the element of a page. A chart takes the colour of the text around it."""
        if self.name.endswith(".png"):
            data = base64.b64encode(self.content).decode()
            return Markup('<img src="data:image/png;base64,{}" alt="{}">').format(Markup(data), self.alt)
        label = Markup('<svg role="img" aria-label="{}" class="chart" ').format(self.alt)
        return self.content.decode().replace("<svg ", label, 1)


def render(template: str, **values: Any) -> str:
    """Fill a template of this folder."""
    return _templates().get_template(template).render(values)


@functools.cache
def _templates() -> jinja2.Environment:
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("jaxconv.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"percent": _percent, "count": "{:,}".format, "duration": duration}
    return templates


def _percent(share: float | None, digits: int = 1) -> str:
    return "\N{EN DASH}" if share is None or share != share else f"{share:.{digits}%}"


def duration(seconds: float) -> str:
    """Write a time for a person."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def save_figures(directory: pathlib.Path, figures: list[Figure]) -> None:
    """Write figures as files. Those of a number, such as mistake_12.png, that an earlier page had are deleted.

    Raises:
        UserError: one cannot be written.
    """
    with writing(directory.parent):
        directory.mkdir(parents=True, exist_ok=True)
        for path in directory.iterdir():
            if re.fullmatch(r"[a-z_]+_\d+\.(svg|png)", path.name):
                path.unlink()
        for figure in figures:
            (directory / figure.name).write_bytes(_alone(figure))


def _alone(figure: Figure) -> bytes:
    """A chart in a file has no text around it whose colour it could take."""
    return figure.content.replace(b"<svg ", b'<svg style="color:#1c2024;background:#fff" ', 1)
