"""The site: make docs builds it from the stored outputs of the pages, make notebooks executes the pages."""

import pathlib
import re

from jaxconv import __version__

project = "jaxconv"
author = "the developers of jaxconv"
version = release = __version__
html_title = "jaxconv"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_design"]
_HERE = pathlib.Path(__file__).parent
_EXECUTED = [path.relative_to(_HERE) for path in _HERE.glob("**/*.ipynb") if "_build" not in path.parts]
exclude_patterns = ["_build", *(str(path.with_suffix(".md")) for path in _EXECUTED)]  # their sources
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
myst_ref_domains = ["std"]  # a link to padding means the page, not an argument of that name
nb_execution_mode = "off"
nb_render_markdown_format = "gfm"  # tables in outputs
nb_ipywidgets_js = {}  # it is loaded from another host, and no page has a widget

html_theme = "sphinx_book_theme"
html_theme_options = {"show_navbar_depth": 1, "home_page_in_toc": True, "navbar_persistent": []}
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system is
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["layer.html"]  # its own page: the layer to play with
html_show_sourcelink = False
html_copy_source = False

default_role = "code"  # in docstrings
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the shapes are in the signatures

_COLON = "\0"


def _before_napoleon(app, what, name, of, options, lines):
    """Hide what would be misread: the star in (*spatial, channels), and in an attribute what comes before a colon."""
    for number, line in enumerate(lines):
        line = re.sub(r"\*(?=\w)", r"\\*", line)
        lines[number] = line.replace(":", _COLON) if what in ("attribute", "data") else line


def _after_napoleon(app, what, name, of, options, lines):
    lines[:] = [line.replace(_COLON, ":") for line in lines]


def setup(app):
    """Connect to Sphinx, before and after napoleon, whose priority is 500."""
    app.connect("autodoc-process-docstring", _before_napoleon, priority=400)
    app.connect("autodoc-process-docstring", _after_napoleon, priority=600)
