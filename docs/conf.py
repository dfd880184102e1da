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
_EXECUTED = [path.relative_to(_HERE) for path in _HERE.rglob("*.ipynb")]
exclude_patterns = ["_build", *(str(path.with_suffix(".md")) for path in _EXECUTED)]  # their sources
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_ipywidgets_js = {}  # it is loaded from another host, and no page has a widget

html_theme = "sphinx_book_theme"
html_theme_options = {"show_navbar_depth": 1, "home_page_in_toc": True}
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["layer.html"]  # its own page: the layer to play with
html_show_sourcelink = False
html_copy_source = False

default_role = "code"  # in docstrings
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the shapes are in the signatures
napoleon_google_docstring = True


def _escape_stars(app, what, name, of, options, lines):
    """Escape the stars of shapes such as (*spatial, channels): docutils would take them for emphasis."""
    lines[:] = [re.sub(r"\*(?=\w)", r"\\*", line) for line in lines]


def setup(app):
    """Connect to Sphinx."""
    app.connect("autodoc-process-docstring", _escape_stars)
