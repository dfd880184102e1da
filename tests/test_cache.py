"""Arrays made once, and anew when what they were made from has changed."""

import numpy as np
import pytest

from jaxconv import cache


@pytest.fixture
def make(tmp_path, monkeypatch):
    """A function that gives the arrays of a source file, and how often they were made."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source, made = tmp_path / "source", []
    source.write_text("1")

    def arrays(name="set"):
        def read():
            made.append(name)
            return np.full((2, 3), int(source.read_text()), np.uint8), np.arange(2, dtype=np.int32)

        return cache.arrays(name, [source], read)

    return arrays, made, source


def test_made_once(make):
    arrays, made, _ = make
    first, second = arrays(), arrays()
    assert len(made) == 1
    for one, other in zip(first, second, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    arrays("another")
    assert made == ["set", "another"]


def test_made_anew_when_the_source_changes(make):
    arrays, _, source = make
    arrays()
    source.write_text("22")
    assert arrays()[0][0, 0] == 22


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive"])
def test_a_broken_file_is_made_anew(make, tmp_path, content):
    arrays, made, _ = make
    arrays()
    (kept,) = (tmp_path / "cache").rglob("*.npz")
    kept.write_bytes(content)
    assert arrays()[0][0, 0] == 1
    arrays()
    assert len(made) == 2


def test_no_place_to_keep_them(make, tmp_path):
    arrays, made, _ = make
    (tmp_path / "cache").write_text("a file")
    arrays()
    arrays()
    assert len(made) == 2
