"""From the command line to a config, in this process."""

import pytest
from absl import flags

import launch as program  # defines the flag --config
from jaxconv.config import FIELDS, flatten, load
from jaxconv.errors import ConfigError
from jaxconv.flags import fields_help, parse_flags
from tests.conftest import ROOT, launch, start

LENET = f"{ROOT}/configs/lenet.py"


@pytest.fixture
def parse():
    """The config of a command line, from its arguments."""
    yield lambda *arguments: parse_flags(["launch.py", *arguments])
    flags.FLAGS.unparse_flags()


@pytest.mark.parametrize(
    ("arguments", "key", "value"),
    [
        (["--config.batch_size=64"], "batch_size", 64),
        (["--config.batch_size", "64"], "batch_size", 64),
        (["-config.batch_size=64"], "batch_size", 64),
        (["--config.batch_size=32", "--config.batch_size=64"], "batch_size", 64),
        (["--config.seed", "-1"], "seed", -1),
        (["--config.mixup=1"], "mixup", 1.0),
        (["--noconfig.stop_on_nan"], "stop_on_nan", False),
        (["--config.stop_on_nan=false"], "stop_on_nan", False),
        (["--config.augment.horizontal_flip"], "augment.horizontal_flip", True),
        (["--config.model.batch_norm"], "model.batch_norm", True),
        (["--config.model.filters=((32, 32), (64,))"], "model.filters", ((32, 32), (64,))),
        (["--config.model.dense=[512]"], "model.dense", (512,)),
        (["--config.model.dense=512"], "model.dense", (512,)),
        (["--config.model.dense=()"], "model.dense", ()),
        (["--config.data.train=train[:5%]"], "data.train", "train[:5%]"),
        (["--config.data.data_dir=a=b"], "data.data_dir", "a=b"),
        (["--config.ops=stock"], "ops", "stock"),
        (
            ['--config.optimizer.groups=(("logits/*", {"learning_rate": 0.67, "epochs": 3}), ("*/bias", {}))'],
            "optimizer.groups",
            (("logits/*", {"learning_rate": 0.67, "epochs": 3}), ("*/bias", {})),
        ),
    ],
)
def test_an_override_changes_its_field_alone(parse, arguments, key, value):
    expected = flatten(load(LENET)) | {key: value}
    assert flatten(parse(f"--config={LENET}", *arguments)) == expected
    assert program.CONFIG.value == LENET


def test_the_file_may_come_after_the_overrides_and_as_an_argument_of_its_own(parse):
    config = parse("--config.seed=3", "--config", LENET, "--mode=preview")
    assert (config.seed, config.model.name, program.MODE.value) == (3, "lenet", "preview")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--config"], "Missing value for flag --config."),
        (["--config="], "--config is missing: choose one of"),
        (["--config.seed"], "Missing value for flag --config.seed."),
        (["--noconfig.seed"], "Unknown command line flag 'noconfig.seed'"),
        (["--noconfig.stop_on_nan=1"], "--noconfig.stop_on_nan=1 does not take an argument."),
        (["--noconfig.stop_on_man"], "--config.stop_on_man is not a field of the config; the nearest are config.stop_"),
        (["--flagfile=/nowhere"], "Unable to open flagfile"),
        (["more"], "'more' does not belong to a flag: write --FLAG=VALUE."),
    ],
)
def test_wrong_flags(parse, arguments, sentence):
    with pytest.raises(ConfigError) as refusal:
        parse(f"--config={LENET}", *arguments)
    assert sentence in str(refusal.value)
    assert str(refusal.value).endswith((".", "?"))


TEXT = {bool: "perhaps", int: "1.5", float: "high", tuple: "{1: 2}", int | tuple: "1.5"}


@pytest.mark.parametrize("key", [key for key, field in FIELDS.items() if field.type is not str])
def test_no_field_takes_a_value_of_another_type(parse, key):
    wrong = TEXT[FIELDS[key].type]
    with pytest.raises(ConfigError) as refusal:
        parse(f"--config={LENET}", f"--config.{key}={wrong}")
    assert str(refusal.value) == (
        f"--config.{key}={wrong} has a value of the wrong type: config.{key} is of type {FIELDS[key].type_name} "
        f"({flatten(load(LENET))[key]!r} in the config file)."
    )


def test_none_is_for_optional_fields(parse):
    config = parse(f"--config={LENET}", "--config.data.validation=None", "--config.num_devices=None")
    assert config.data.validation is None
    assert config.num_devices is None
    assert parse(f"--config={LENET}", "--config.model.name=None").model.name == "None"


@pytest.mark.parametrize("text", ["(1,", "f()", "x", "()" * 9, "(" * 9999, "-" * 9999 + "1", "'a'"])
def test_text_that_is_no_tuple(parse, text):
    with pytest.raises(ConfigError, match="config.model.dense is of type tuple"):
        parse(f"--config={LENET}", f"--config.model.dense={text}")


@pytest.mark.parametrize("override", ["num_epochs=0", "num_epochs=few", "augment.fill=nearest"])
def test_a_config_file_is_executed_once(tmp_path, override):
    path, log = tmp_path / "mine.py", tmp_path / "log"
    path.write_text(
        f"from jaxconv.config import default_config\nopen({str(log)!r}, 'a').write('x')\n"
        "def get_config():\n    config = default_config()\n    config.seed = -1\n    return config\n"
    )
    launch(f"--config={path}", f"--config.{override}", status=2)
    assert log.read_text() == "x"


def test_help_of_a_narrow_terminal():
    text = fields_help(50)
    assert all(len(line) <= 50 for line in text.splitlines())
    for key, field in FIELDS.items():
        entry = f"{key} ({field.type_name}, {field.initial!r}): {field.meaning}"
        assert entry in " ".join(text.split())


@pytest.mark.parametrize(("flag", "lists"), [("--helpshort", True), ("-?", True), ("--helpxml", False)])
def test_every_kind_of_help_succeeds(flag, lists):
    process = launch(flag)
    assert ("Fields of a config" in process.stdout) is lists
    assert "workdir" in process.stdout


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_help_to_a_reader_that_has_seen_enough(unbuffered):
    process = start("--help", env={"PYTHONUNBUFFERED": unbuffered})
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(60) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()


def test_helpfull_lists_the_flag_of_each_field():
    process = launch("--helpfull")
    assert "--[no]config.model.batch_norm: bool: normalise" in process.stdout
    assert all(f"config.{key}: {field.type_name}" in process.stdout for key, field in FIELDS.items())
