"""The executed pages of the site: python -m tools.notebooks [NAME ...] executes docs/**/NAME.md, or all of them.

A page with code is written as a notebook in MyST's Markdown, NAME.md. Executed, with its outputs, it is NAME.ipynb
beside it, which the site shows. The digest of what made the outputs is kept in it, so that a test finds a page that was
changed and not executed again, without running anything. Stored files that a page shows are named in its head, "reads".
"""

import hashlib
import pathlib
import sys
import time
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient

DOCS = pathlib.Path(__file__).parents[1] / "docs"
SHARED = DOCS / "lecture" / "pages.py"
"""What the pages have in common."""
MOST_SECONDS = 60


def sources() -> list[pathlib.Path]:
    """Return the sources of the pages with code."""
    return sorted(path for path in DOCS.rglob("*.md") if path.read_text().startswith("---\njupytext:"))


def digest(source: pathlib.Path) -> str:
    """Return the SHA-256 of what the outputs of a page are made by: source, `SHARED`, and the files that it reads."""
    reads = jupytext.read(source, fmt="md:myst").metadata.get("reads", [])
    files = [source, SHARED, *(DOCS.parent / file for file in reads)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def stored(source: pathlib.Path) -> dict[str, Any]:
    """Return what the executed form of a page keeps of its making: sources_sha256 and seconds. Empty: there is none."""
    path = source.with_suffix(".ipynb")
    return nbformat.read(path, as_version=4).metadata.get("jaxconv", {}) if path.exists() else {}


def execute(source: pathlib.Path) -> float:
    """Execute a page, write it with its outputs, and return the seconds that it took.

    Raises:
        CellExecutionError: a cell of it failed.
        SystemExit: it took more than `MOST_SECONDS`. Nothing is written.
    """
    notebook = jupytext.read(source, fmt="md:myst")
    made_by = digest(source)
    began = time.perf_counter()
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(source.parent)}}).execute()
    seconds = time.perf_counter() - began
    if seconds > MOST_SECONDS:
        sys.exit(f"{source} took {seconds:.0f} seconds, and a page may take {MOST_SECONDS}: make it lighter.")
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"  # otherwise random, and every execution would change every line of it
        cell.metadata.pop("execution", None)
    notebook.metadata["jaxconv"] = {"sources_sha256": made_by, "seconds": round(seconds, 1)}
    nbformat.write(notebook, source.with_suffix(".ipynb"))
    return seconds


def main(names: list[str]) -> None:
    """Execute the pages named, or all."""
    pages = {source.stem: source for source in sources()}
    if unknown := set(names) - set(pages):
        sys.exit(f"There is no page {', '.join(sorted(unknown))}: name some of {', '.join(pages)}.")
    for name in names or pages:
        print(f"{name}: {execute(pages[name]):.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
