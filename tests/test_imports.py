"""Imports run downward only, by the layers below; and what they keep out."""

import ast
import pathlib
import tomllib

from tests.conftest import ROOT

# From the top. A module imports from its own layer and from those below.
LAYERS = [
    {"cli", "seeds"},
    {"flags", "local", "train", "evaluate", "preview", "explain", "predict", "export", "report", "compare", "demo"},
    {"experiment", "feed"},
    {"runs"},
    {"training"},
    {"data", "models"},
    {"ops"},
    {"parallel"},
    {"config", "platform"},
    {"errors"},
]
MODES = {"cli", "seeds", "train", "evaluate", "preview", "explain", "predict", "export", "report", "compare", "demo"}


def layer(name):
    return next(number for number, names in enumerate(LAYERS) if name in names)


def imports(path):
    """The modules of this package that a file imports, as dotted names without the package."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "jaxconv":
            for alias in node.names:
                yield ".".join([*node.module.split(".")[1:], alias.name])


def files():
    for path in sorted((ROOT / "jaxconv").rglob("*.py")):
        relative = path.relative_to(ROOT / "jaxconv")
        if relative != pathlib.Path("__init__.py"):
            yield path, relative.with_suffix("").parts


def test_imports_run_downward():
    for path, parts in files():
        for imported in imports(path):
            if imported == "__version__":
                continue
            assert layer(parts[0]) <= layer(imported.split(".")[0]), f"{path} imports {imported}"


def test_only_modes_speak_to_the_console():
    for path, parts in files():
        if parts[0] not in MODES and parts != ("runs", "console"):
            assert not [name for name in imports(path) if "console" in name], path


def test_tools_are_not_installed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["packages"]["find"]["include"] == ["jaxconv*"]
