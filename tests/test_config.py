"""The table of fields, and what is made of it."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxconv.config import FIELDS, default_config, flatten, load, to_json, validate
from jaxconv.data.augment import transform
from jaxconv.errors import ConfigError
from jaxconv.models import convnet, registry
from jaxconv.ops import dispatch
from jaxconv.training import optimizers
from tests.conftest import ROOT
from tools import fields, results

OF_ANOTHER_TYPE = {
    bool: [0, "yes", 1.0],
    int: [1.5, "many", True, (1,), np.int64(1)],
    float: ["high", (0.5,), 1j],
    str: [1, False, ("a",)],
    tuple: ["(1,)", 1, {1, 2}],
    int | tuple: [1.5, "3", True, np.int64(1), [3, 3]],
}


def test_the_defaults_are_those_of_the_table_and_valid():
    config = default_config()
    assert flatten(config) == {key: field.initial for key, field in FIELDS.items()}
    validate(config)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda path: path.stem)
def test_the_recipes_are_valid(path):
    validate(load(str(path)))


@pytest.mark.parametrize("key", FIELDS)
def test_a_field_says_what_it_means_in_one_line(key):
    meaning = FIELDS[key].meaning
    assert meaning
    assert "\n" not in meaning
    assert "|" not in meaning  # which would end a cell of the README's table
    assert not meaning.endswith(".")


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, field in FIELDS.items() for value in OF_ANOTHER_TYPE[field.type]]
)
def test_a_value_of_another_type_from_python(key, value):
    config = default_config()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(ConfigError) as refusal:
        validate(config)
    wanted = FIELDS[key].type_name + (" or None" if FIELDS[key].is_optional else "")
    assert str(refusal.value) == f"config.{key}={value!r} must be of type {wanted}."


@pytest.mark.parametrize("key", FIELDS)
def test_none_is_for_optional_fields(key):
    config = default_config()
    config.update_from_flattened_dict({key: None})
    if FIELDS[key].is_optional:
        validate(config)
    else:
        with pytest.raises(ConfigError, match=f"config.{key}=None must be of type {FIELDS[key].type_name}."):
            validate(config)


def test_early_stopping_needs_validation():
    config = default_config()
    config.data.validation, config.early_stopping_epochs = None, 3
    with pytest.raises(ConfigError, match="config.early_stopping_epochs=3 looks at the validation accuracy, and"):
        validate(config)


def test_one_of_the_flips():
    config = default_config()
    config.augment.horizontal_flip = config.augment.alternating_flip = True
    with pytest.raises(ConfigError, match="config.augment.horizontal_flip and config.augment.alternating_flip mirror"):
        validate(config)


def test_a_whole_number_is_a_float():
    tree = default_config().to_dict()
    tree["mixup"] = tree["model"]["dropout"] = 0
    validate(ConfigDict(tree))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda tree: tree.pop("seed"), "The config lacks seed: start it from jaxconv.config.default_config()."),
        (lambda tree: tree["data"].pop("name"), "The config lacks data.name: start"),
        (lambda tree: tree.update(optimizer=3), "The config lacks optimizer.groups, optimizer.learning_rate, "),
        (
            lambda tree: tree.update(batchsize=3),
            r"config.batchsize is not a field of the config; the nearest are config.batch_size \(int\)",
        ),
        (lambda tree: tree["model"].update(dense={1: 2}), "The config lacks model.dense: start"),
        (lambda tree: tree.update(mixup=True), "config.mixup=True must be of type float."),
        (lambda tree: tree.update(batch_size=1.5), "config.batch_size=1.5 must be of type int."),
        (lambda tree: tree["model"].update(filters=[[4]]), r"config.model.filters=\[\[4\]\] must be of type tuple"),
        (lambda tree: tree["model"].update(filters=([4],)), r"config.model.filters=\(\[4\],\) must be a tuple of st"),
        (lambda tree: tree["model"].update(dense=(True,)), r"config.model.dense=\(True,\) must be a tuple of numbers"),
        (lambda tree: tree.update(ops="mkl"), "config.ops='mkl' must be one of auto, stock, xla, onednn."),
        (lambda tree: tree.update(num_devices=3), "config.batch_size=128 does not divide among config.num_devices=3: "),
        (
            lambda tree: tree.update(accumulate_steps=3),
            "config.batch_size=128 does not divide among config.accumulate_steps=3: make it a multiple of 3.",
        ),
        (
            lambda tree: tree.update(accumulate_steps=64, num_devices=4),
            "config.batch_size=128 does not divide among config.num_devices=4 x config.accumulate_steps=64: make it a "
            "multiple of 256.",
        ),
    ],
)
@pytest.mark.parametrize("make", [ConfigDict, dict])
def test_a_config_of_ones_own(make, change, sentence):
    tree = default_config().to_dict()
    change(tree)
    with pytest.raises(ConfigError, match=f"^{sentence}"):
        validate(make(tree))


@pytest.mark.parametrize(
    "groups",
    [
        (("logits/*",),),
        ("logits/*", {"learning_rate": 0.1}),  # the comma is missing that makes it a tuple of one pair
        (("logits/*", 0.1),),
        ((3, {"learning_rate": 0.1}),),
        (("logits/*", {"learning_rat": 0.1}),),
        (("logits/*", {"schedule": "linear"}),),
        (("logits/*", {"learning_rate": 0.1}), "*/bias"),
    ],
)
def test_groups_that_are_no_pairs_of_a_pattern_and_settings(groups):
    config = default_config()
    config.optimizer.groups = groups
    with pytest.raises(ConfigError) as refusal:
        validate(config)
    assert str(refusal.value) == (
        f"config.optimizer.groups={groups!r} must be a tuple of pairs, of a pattern and a dict of some of name, "
        'learning_rate, momentum, weight_decay, epochs, such as (("logits/*", {"learning_rate": 0.1}),).'
    )


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"learning_rate": -1.0}, "learning_rate=-1.0 must be above 0 and finite."),
        ({"learning_rate": "high"}, "learning_rate='high' must be of type float."),
        ({"momentum": 1.0}, "momentum=1.0 must be at least 0 and below 1."),
        ({"name": 3}, "name=3 must be of type str."),
        ({"momentum": 0.5, "weight_decay": float("nan")}, "weight_decay=nan must be 0 or more and finite."),
        ({"epochs": -1}, "epochs=-1 must be from 0 to 1000000."),
        ({"epochs": True}, "epochs=True must be of type float or None."),
    ],
)
def test_the_settings_of_a_group_are_checked_as_the_fields_are(settings, sentence):
    config = default_config()
    config.optimizer.groups = (("*/bias", {"learning_rate": 0.1, "epochs": None}), ("logits/*", settings))
    with pytest.raises(ConfigError) as refusal:
        validate(config)
    assert str(refusal.value) == f"config.optimizer.groups['logits/*'].{sentence}"


def test_validate_leaves_the_config_as_it_is():
    config = default_config()
    before = to_json(config)
    validate(config)
    assert to_json(config) == before
    assert config.is_locked


def test_a_field_that_is_not_there_cannot_be_set():
    with pytest.raises(AttributeError, match="batch_size"):
        default_config().batchsize = 3


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("augment.fill", transform.FILLS),
        ("model.name", registry.MEMBERS),
        ("model.padding", convnet.PADDINGS),
        ("model.pooling", convnet.POOLINGS),
        ("model.activation", convnet.ACTIVATIONS),
        ("optimizer.name", optimizers.OPTIMIZERS),
        ("optimizer.schedule", optimizers.SCHEDULES),
        ("ops", ["auto", *dispatch.KERNELS]),
    ],
)
def test_the_table_names_the_choices(key, names):
    assert [name for name in names if f'"{name}"' not in FIELDS[key].meaning] == []


def test_the_check_of_ops_is_that_of_the_code():
    check = FIELDS["ops"].check
    assert check is not None
    assert all(map(check.test, ["auto", *dispatch.KERNELS]))


def test_the_readme_is_in_step_with_the_table():
    assert fields.BEGIN + fields.markdown_table() + results.END in (ROOT / "README.md").read_text()
    assert fields.markdown_table().count("\n") == len(FIELDS) + 2


def test_a_row_of_the_readme():
    assert "| `augment.shear` | float | `0.0` | shear by " in fields.markdown_table()
    assert " | at least 0 and below 90 degrees |\n" in fields.markdown_table()
