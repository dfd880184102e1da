"""predictions.npz: what is written comes back, and what is broken is said."""

import numpy as np
import pytest

from jaxconv.errors import UserError
from jaxconv.runs import predictions
from jaxconv.runs.predictions import Predictions


def some(examples=7):
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(4), examples).astype(np.float32)
    return Predictions("test[:50%]", rng.integers(0, 4, examples).astype(np.int32), probabilities)


def test_what_is_written_comes_back(tmp_path):
    assert predictions.read(tmp_path) is None
    predictions.write(tmp_path, some())
    back = predictions.read(tmp_path)
    assert back.split == "test[:50%]"
    for one, other in zip(back[1:], some()[1:], strict=True):
        np.testing.assert_array_equal(one, other, strict=True)
    np.testing.assert_array_equal(back.predicted, some().probabilities.argmax(axis=1))
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.npz"]


def test_every_array_has_a_row_for_each_example(tmp_path):
    predictions.write(tmp_path, some(5))
    with np.load(tmp_path / "predictions.npz") as arrays:
        assert {name: arrays[name].shape for name in arrays} == {
            "split": (5,),
            "index": (5,),
            "label": (5,),
            "probabilities": (5, 4),
        }
        assert arrays["index"].tolist() == [0, 1, 2, 3, 4]
        assert set(arrays["split"]) == {"test[:50%]"}


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 cut off"])
def test_a_broken_file_is_said(tmp_path, content):
    (tmp_path / "predictions.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"predictions\.npz is broken"):
        predictions.read(tmp_path)


def test_a_file_with_other_arrays_is_said(tmp_path):
    np.savez(tmp_path / "predictions.npz", label=np.zeros(3))
    with pytest.raises(UserError, match="broken"):
        predictions.read(tmp_path)
