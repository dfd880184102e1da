"""Arrays made once, and anew when what they were made from has changed."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from jaxconv.platform import cache


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


def cache_files(tmp_path):
    return sorted((tmp_path / "cache").rglob("*"))


def test_nobody_else_may_read_it(make, tmp_path):
    arrays, _, _ = make
    (tmp_path / "cache").mkdir(mode=0o755)
    arrays()
    directories = [path for path in cache_files(tmp_path) if path.is_dir()]
    assert directories
    assert {path.stat().st_mode & 0o777 for path in directories} == {0o700}


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no such owners")
def test_what_another_user_owns_is_neither_read_nor_written(make, tmp_path, monkeypatch):
    arrays, made, source = make
    arrays()
    before = {path: path.read_bytes() for path in cache_files(tmp_path) if path.is_file()}
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    source.write_text("1")
    arrays()
    assert len(made) == 2
    assert {path: path.read_bytes() for path in cache_files(tmp_path) if path.is_file()} == before


def test_old_temporary_files_are_swept(make, tmp_path):
    arrays, _, _ = make
    arrays()
    (kept,) = (tmp_path / "cache").rglob("*.npz")
    old, new = kept.with_name("x.npz.1.tmp"), kept.with_name("y.npz.2.tmp")
    for path, age in ((old, 25 * 3600), (new, 60)):
        path.write_bytes(b"half")
        os.utime(path, (time.time() - age,) * 2)
    arrays()
    assert (old.exists(), new.exists(), kept.exists()) == (False, True, True)


FILL = """
import sys, time, numpy as np
from jaxconv.platform import cache
source, begin = sys.argv[1], float(sys.argv[2])
for number in range(40):
    time.sleep(max(0, begin + number * 0.02 - time.time()))
    made = cache.arrays(f"set {number}", [source], lambda: (np.full(200_000, number, np.int32),))
    assert (made[0] == number).all() and len(made[0]) == 200_000
"""


def test_two_processes_fill_it_at_once(tmp_path):
    source = tmp_path / "source"
    source.write_text("1")
    command = [sys.executable, "-c", FILL, str(source), str(time.time() + 1.5)]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    processes = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    files = [path for path in cache_files(tmp_path) if path.is_file()]
    assert len(files) == 40
    assert all(path.suffix == ".npz" for path in files)
