"""What a run keeps of its data, to be used without it."""

import json

import numpy as np
import pytest

from jaxconv.errors import ConfigError, UserError
from jaxconv.runs.signature import Signature, check, keep, read

SIGNATURE = Signature(
    ("cat", "Größe 日本"), (8, 8, 3), "uint8", (0.1, float(np.float32(1 / 3)), 2.0), (1.0, 2.0, 3.0), 7
)


def test_it_is_read_as_it_was_written(tmp_path):
    keep(tmp_path, SIGNATURE)
    keep(tmp_path, SIGNATURE)
    assert read(tmp_path) == SIGNATURE


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"class_names": ("cat", "dog")}, "class_names was ['cat', 'Größe 日本'] and is ['cat', 'dog']"),
        ({"image_shape": (9, 8, 3)}, "image_shape was [8, 8, 3] and is [9, 8, 3]"),
        ({"dtype": "float32"}, "dtype was uint8 and is float32"),
        ({"train_examples": 8}, "train_examples was 7 and is 8"),
    ],
)
def test_changed_data_is_refused(tmp_path, change, sentence):
    keep(tmp_path, SIGNATURE)
    with pytest.raises(ConfigError) as refusal:
        keep(tmp_path, SIGNATURE._replace(**change))
    assert f"The data has changed since the run in {tmp_path} began: {sentence}. " in str(refusal.value)
    assert read(tmp_path) == SIGNATURE


def test_no_run(tmp_path):
    with pytest.raises(UserError, match="has no signature.json: it holds no run"):
        read(tmp_path)


def test_a_broken_file(tmp_path):
    (tmp_path / "signature.json").write_text(json.dumps(SIGNATURE._asdict())[:-5])
    with pytest.raises(UserError, match="cannot be read as JSON"):
        read(tmp_path)


def test_a_check_writes_nothing(tmp_path):
    check(tmp_path, SIGNATURE)
    assert list(tmp_path.iterdir()) == []
    keep(tmp_path, SIGNATURE)
    check(tmp_path, SIGNATURE)
    with pytest.raises(ConfigError, match="The data has changed"):
        check(tmp_path, SIGNATURE._replace(class_names=("a", "b")))
