"""What a later start does not have to do again, in the user's cache directory. It may be deleted at any time."""

import contextlib
import hashlib
import os
import pathlib
import time
import zipfile
from collections.abc import Callable, Iterable

import numpy as np
import platformdirs

from jaxconv.platform import switches

_MAX_BYTES = 1 << 30
"""Largest size of arrays that are cached. Larger sets are read at each start, so that they do not fill the disk."""


_LEFT_OVER_SECONDS = 24 * 60 * 60
"""Age of a temporary file that no process can still be writing."""


def directory(name: str) -> pathlib.Path | None:
    """Make the directory `name` in the user's cache. Nobody else may read or write it.

    Returns:
        Its path; None where it cannot be written, or belongs to another user, whose files are not to be trusted.
    """
    if not switches.is_on("cache"):
        return None
    path = pathlib.Path(platformdirs.user_cache_dir("jaxconv")) / name
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        for part in (path.parent, path):
            if hasattr(os, "geteuid") and part.stat().st_uid != os.geteuid():
                return None
            part.chmod(0o700)
    except OSError:
        return None
    if not os.access(path, os.W_OK):
        return None
    _sweep(path)
    return path


def _sweep(path: pathlib.Path) -> None:
    """Remove what processes that were killed left half written."""
    for file in path.glob("*.tmp"):
        with contextlib.suppress(OSError):  # another process sweeps too
            if time.time() - file.stat().st_mtime > _LEFT_OVER_SECONDS:
                file.unlink()


def arrays(
    name: str, sources: Iterable[str | os.PathLike[str]], make: Callable[[], tuple[np.ndarray, ...]]
) -> tuple[np.ndarray, ...]:
    """Make arrays once, and read them from the cache for as long as the files in `sources` stay as they are.

    Args:
        name: what the arrays are.
        sources: paths of the files that they are made from.
        make: returns the arrays.
    """
    parent = directory("arrays")
    if parent is None:
        return make()
    stats = [(os.path.abspath(path), os.stat(path)) for path in sources]
    key = repr([name, *((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats)])
    path = parent / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as kept:
            return tuple(kept[key] for key in kept.files)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # not there, or broken
    made = make()
    if sum(array.nbytes for array in made) <= _MAX_BYTES:
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            with open(temporary, "wb") as file:
                np.savez(file, *made)
            os.replace(temporary, path)
        except OSError:  # disk full: skip caching
            temporary.unlink(missing_ok=True)
    return made
