"""A page and its figures: text is escaped, charts take the page's colour, and old files go."""

import pytest

from jaxconv.errors import UserError
from jaxconv.report.page import Figure, render, save_figures

CHART = Figure("chart.svg", b'<svg width="3" height="2"><text>a</text></svg>', 'of class <b> "x"')
PICTURE = Figure("picture.png", b"\x89PNG", 'of class <b> "x"')


def test_figures_within_a_page_say_what_they_show():
    assert PICTURE.__html__() == ('<img src="data:image/png;base64,iVBORw==" alt="of class &lt;b&gt; &#34;x&#34;">')
    chart = CHART.__html__()
    assert chart.startswith('<svg role="img" aria-label="of class &lt;b&gt; &#34;x&#34;" class="chart" width="3"')


def test_figures_as_files(tmp_path):
    figures = tmp_path / "figures"
    figures.mkdir()
    for name in ("mistake_12.png", "preview.png", "chart.svg", "mine_1.txt"):
        (figures / name).write_text("old")
    save_figures(figures, [CHART, PICTURE])
    assert {path.name for path in figures.iterdir()} == {"preview.png", "mine_1.txt", "chart.svg", "picture.png"}
    assert (figures / "preview.png").read_text() == "old"
    assert (figures / "picture.png").read_bytes() == b"\x89PNG"
    assert b"background:#fff" in (figures / "chart.svg").read_bytes()


def test_figures_that_cannot_be_written(tmp_path):
    (tmp_path / "figures").write_text("a file")
    with pytest.raises(UserError, match="cannot be written"):
        save_figures(tmp_path / "figures", [CHART])


def test_a_value_that_is_not_there_is_an_error():
    with pytest.raises(Exception, match="undefined"):
        render("run.html")
