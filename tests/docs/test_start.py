"""A reader who follows the first page in a new environment gets what it shows."""

import json
import os
import re
import shutil
import subprocess
import sysconfig
import venv

import nbformat

from tests.conftest import ROOT

PAGE = ROOT / "docs" / "start.ipynb"


def commands_and_outputs():
    """The commands of the page, and what it shows after each."""
    shown = []
    for cell in nbformat.read(PAGE, as_version=4).cells:
        if cell.cell_type == "markdown":
            shown += [[command, ""] for command in re.findall(r"^```sh\n(.*)\n```$", cell.source, re.MULTILINE)]
        else:
            shown[-1][1] += "".join(output.get("text", "") for output in cell.outputs)
    return shown


def not_of_the_project(directory, names):
    """What a checkout does not have."""
    made = [name for name in names if name.startswith(".") or name.endswith((".egg-info", "__pycache__", "_build"))]
    return made + ["runs"] if directory == str(ROOT) else made


def test_the_commands_of_the_first_page_give_what_it_shows(tmp_path):
    project, environment = tmp_path / "jaxconv", tmp_path / "environment"
    shutil.copytree(ROOT, project, ignore=not_of_the_project)
    venv.create(environment, with_pip=True)
    packages = next(environment.glob("lib/python*/site-packages"))
    (packages / "installed.pth").write_text(sysconfig.get_path("purelib"))  # what is installed need not be again
    path = f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"
    outputs = {}
    for command, shown in commands_and_outputs():
        done = subprocess.run(
            command, shell=True, cwd=project, env=os.environ | {"PATH": path}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        outputs[command] = (done.stdout, shown)
    assert len(outputs) == 5  # the first run is there twice
    trained = [command for command in outputs if command.startswith("python launch.py")]
    for command in trained:
        found, shown = (re.findall(r"^Test accuracy: (.*)$", text, re.MULTILINE) for text in outputs[command])
        assert found
        assert abs(float(found[-1]) - float(shown[-1])) < 0.02, command
    found, shown = outputs["ls runs/quickstart"]
    assert found.split() == shown.split()
    found, shown = map(json.loads, outputs["cat runs/quickstart/summary.json"])
    assert found.keys() == shown.keys()
    assert found["num_params"] == shown["num_params"]
