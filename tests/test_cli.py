"""A wrong command line ends in one sentence and exit status 2, before anything is loaded."""

import subprocess
import sys

import pytest

from jaxconv.config import FIELDS
from tests.conftest import ROOT, launch

LENET = f"--config={ROOT}/configs/lenet.py"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["--config is missing", "configs/cifar_deep.py", "configs/quickstart.py"]),
        (["--config=configs/lenett.py"], ["configs/lenett.py is not a file (did you mean configs/lenet.py"]),
        (["--config", "configs/nope.py"], ["configs/nope.py is not a file"]),
        ([LENET, "--config.batchsize=3"], ["config.batchsize is not a field", "config.batch_size (int)"]),
        ([LENET, "--config.batch_sise", "3"], ["config.batch_sise is not a field", "config.batch_size (int)"]),
        ([LENET, "--config.model.dropuot=0.5"], ["config.model.dropuot", "config.model.dropout (float)"]),
        ([LENET, "--config.optimizer=3"], ["group of fields", "--config.optimizer.learning_rate"]),
        ([LENET, "--config.batch_size=many"], ["config.batch_size=many", "of type int (128 in the config file)"]),
        ([LENET, "--config.batch_size=1.5"], ["config.batch_size=1.5", "of type int"]),
        ([LENET, "--config.optimizer.learning_rate=high"], ["config.optimizer.learning_rate=high", "of type float"]),
        ([LENET, "--config.num_devices=two"], ["config.num_devices=two", "of type int"]),
        ([LENET, "--config.model.dropout=1.5"], ["config.model.dropout=1.5 must be at least 0 and below 1"]),
        ([LENET, "--config.model.filters=(3,)"], ["config.model.filters=(3,) must be a tuple of stages"]),
        ([LENET, "--config.num_epochs=0"], ["config.num_epochs=0 must be from 1 to 1000000"]),
        ([LENET, "--config.optimizer.learning_rate=nan"], ["config.optimizer.learning_rate=nan must be above 0"]),
        ([LENET, "--config.num_devices=3"], ["config.batch_size=128 does not divide among config.num_devices=3"]),
        ([LENET, "--config.model.name=lenett"], ["config.model.name='lenett' is not known (did you mean lenet"]),
        ([LENET, "--config.ops=onednnn"], ["config.ops='onednnn' must be one of auto, stock, xla, onednn"]),
        ([LENET, "--wokdir=x"], ["'wokdir'", "workdir"]),
        ([LENET, "--mode=tain"], ["--mode=tain", "train"]),
        ([LENET, "--json"], ["--json needs a mode that prints JSON (explain, predict): --mode=train does not."]),
        ([LENET, "--config.stop_on_nan", "False"], ["'False' does not belong to a flag"]),
    ],
)
def test_wrong_command_lines(arguments, parts):
    process = launch(*arguments, status=2)
    assert process.stdout == ""
    assert process.stderr.startswith("launch.py: ")
    assert process.stderr.count("\n") == 1, process.stderr
    for part in parts:
        assert part in process.stderr


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("def get_config(:\n", ["failed:", "SyntaxError"]),
        ("x = 1\n", ["has no function get_config()"]),
        ("def get_config():\n    return {}\n", ["returned dict, not a ConfigDict"]),
        ("def get_config():\n    return 1 / 0\n", ["line 2, in get_config", "ZeroDivisionError"]),
        ("import sys\ndef get_config():\n    sys.exit(0)\n", ["line 3, in get_config", "SystemExit"]),
        (
            "from jaxconv.config import default_config\ndef get_config():\n"
            "    config = default_config()\n    config.batchsize = 3\n    return config\n",
            ["mine.py, line 4: batchsize is not a field of the config; the nearest are config.batch_size (int)"],
        ),
        (
            "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({'seed': 0})\n",
            [
                "lacks accumulate_steps, augment.alternating_flip, augment.brightness",
                ", batch_size,",
                "default_config()",
            ],
        ),
    ],
)
def test_wrong_config_files(tmp_path, text, parts):
    path = tmp_path / "mine.py"
    path.write_text(text)
    process = launch(f"--config={path}", status=2)
    for part in parts:
        assert part in process.stderr
    assert "site-packages" not in process.stderr
    assert "jaxconv/" not in process.stderr


def test_help_names_the_flags_and_loads_neither_jax_nor_tensorflow():
    process = launch("--help", env={"COLUMNS": "80"})
    for flag in ("--config", "--workdir", "--mode", "--[no]json", *(f"\n  {key} (" for key in FIELDS)):
        assert flag in process.stdout
    assert all(len(line) <= 80 for line in process.stdout.splitlines())
    code = "import sys, launch; print([name for name in ('jax', 'tensorflow') if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout == "[]\n"


def test_importing_the_package_does_not_import_tensorflow():
    code = (
        "import sys, jaxconv, jaxconv.train, jaxconv.data.pipeline; "
        "print([name for name in ('tensorflow', 'tensorflow_datasets') if name in sys.modules])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout == "[]\n"
