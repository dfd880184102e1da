"""tools.notebooks executes a page and knows when its outputs are of an older source."""

import nbformat
import pytest

from tools import notebooks

PAGE = """---
jupytext:
  formats: md:myst
kernelspec:
  name: python3
  display_name: Python 3
---

# A page

```{code-cell} ipython3
print(6 * 7)
```
"""


@pytest.fixture
def page(tmp_path, monkeypatch):
    docs = tmp_path / "docs"
    docs.mkdir()
    monkeypatch.setattr(notebooks, "DOCS", docs)
    monkeypatch.setattr(notebooks, "SHARED", docs / "pages.py")
    notebooks.SHARED.write_text("")
    (docs / "text.md").write_text("# No code\n")
    (docs / "page.md").write_text(PAGE)
    return docs / "page.md"


def test_a_page_is_executed_and_its_outputs_belong_to_its_source(page):
    assert notebooks.sources() == [page]
    assert notebooks.stored(page) == {}
    notebooks.main([])
    (cell,) = (
        cell for cell in nbformat.read(page.with_suffix(".ipynb"), as_version=4).cells if cell.cell_type == "code"
    )
    assert cell.outputs[0].text == "42\n"
    assert notebooks.stored(page)["sources_sha256"] == notebooks.digest(page)
    page.write_text(PAGE.replace("7", "8"))
    assert notebooks.stored(page)["sources_sha256"] != notebooks.digest(page)


def test_a_file_that_a_page_reads_is_part_of_its_digest(page):
    page.write_text(PAGE.replace("\n---\n\n", "\nreads:\n- numbers.json\n---\n\n"))
    numbers = page.parent.parent / "numbers.json"
    numbers.write_text("[1]")
    before = notebooks.digest(page)
    numbers.write_text("[2]")
    assert notebooks.digest(page) != before


def test_a_page_that_takes_too_long_is_not_stored(page, monkeypatch):
    monkeypatch.setattr(notebooks, "MOST_SECONDS", 1e-3)
    with pytest.raises(SystemExit, match="make it lighter"):
        notebooks.main(["page"])
    assert not page.with_suffix(".ipynb").exists()


def test_an_unknown_page_is_named(page):
    with pytest.raises(SystemExit, match="There is no page pgae: name some of page"):
        notebooks.main(["pgae"])
