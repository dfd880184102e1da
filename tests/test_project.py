"""README, Makefile and .ci/run stay in step."""

import re

from tests.conftest import ROOT


def recipe(target):
    """The commands of a target of the Makefile."""
    makefile = (ROOT / "Makefile").read_text()
    return re.search(rf"^{target}:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)[1].replace("\t", "").splitlines()


def test_the_readme_has_two_commands_and_ci_runs_the_second():
    commands = re.findall(r"^```sh\n(.*)\n```$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert commands == ["pip install -e . && python launch.py --config=configs/quickstart.py", *recipe("test")]
    ci = (ROOT / ".ci" / "run").read_text().splitlines()
    assert ci[-3:] == ["make install", "make check", "make test"]
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert re.findall(r"- run: (.*)", workflow) == ci[-3:]


def test_every_config_says_how_to_run_it():
    for path in (ROOT / "configs").glob("*.py"):
        assert f"python launch.py --config=configs/{path.name}" in path.read_text(), path
