"""The site: its stored outputs are those of its sources, it builds, and it stands by itself."""

import json
import re
import subprocess
import sys

import jupytext
import nbformat
import pytest

from tests.browser import chromium
from tests.conftest import ROOT
from tests.test_project import recipe
from tools import notebooks

SOURCES = notebooks.sources()
PHONE, DESKTOP = 390, 1280


def test_there_are_pages_with_code():
    assert {"start", "flattening", "lenet", "augmentation"} <= {source.stem for source in SOURCES}


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_stored_outputs_are_those_of_the_source(source):
    stored = notebooks.stored(source)
    again = f"run: python -m tools.notebooks {source.stem}"
    assert stored.get("sources_sha256") == notebooks.digest(source), again
    assert stored["seconds"] <= notebooks.MOST_SECONDS
    notebook = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code), again
    for cell in code:
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", f"{source.stem} prints to stderr: {output.get('text')}"
            assert str(ROOT) not in json.dumps(output), f"{source.stem} shows a path of the machine that executed it"


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_a_page_names_the_stored_files_that_it_shows(source):
    """Otherwise their change would not ask for its execution."""
    if re.search(r'ROOT / "(results|docs)"|\bstored\(', source.read_text()):
        assert jupytext.read(source, fmt="md:myst").metadata["reads"]


def test_what_pages_need_of_trained_nets_is_small():
    assert sum(path.stat().st_size for path in (ROOT / "docs" / "data").iterdir()) < 5e6


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site as `make docs` builds it."""
    built = tmp_path_factory.mktemp("site") / "html"
    (command,) = recipe("docs")
    words = [str(built) if word == "docs/_build/html" else word for word in command.split()]
    assert words[0] == "python"
    done = subprocess.run([sys.executable, *words[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return built


def test_the_site_stands_by_itself(site):
    for source in SOURCES:
        assert (site / source.relative_to(ROOT / "docs").with_suffix(".html")).exists()
    for page in site.rglob("*.html"):
        text = page.read_text()
        loads = re.findall(r"<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)=\"(https?:[^\"]*)", text)
        assert not loads, f"{page.name} needs another host: {loads}"
        for link in re.findall(r'<a\b[^>]*?\bhref="([^"#?:]+)["#?]', text):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


@pytest.mark.parametrize(("width", "dark"), [(DESKTOP, False), (PHONE, True)])
def test_pages_log_nothing_ask_nothing_and_do_not_scroll_sideways(site, width, dark):
    with chromium(width, dark=dark) as window:
        for page in [site / "index.html", site / "start.html", site / "results.html", *site.glob("[!_]*/*.html")]:
            window.get(page.as_uri())
            assert window.execute_script("return document.documentElement.scrollWidth") <= width, page.name
        assert not [line for line in window.get_log("browser") if line["level"] == "SEVERE"]
        messages = [json.loads(line["message"])["message"] for line in window.get_log("performance")]
        sent = [of["params"] for of in messages if of["method"] == "Network.requestWillBeSent"]
        assert all(of["request"]["url"].startswith(("file:", "data:")) for of in sent)
