"""What a later start need not do again, in the user's cache directory: it may be deleted at any time."""

import contextlib
import hashlib
import os
import pathlib
import time
import zipfile
from collections.abc import Callable, Iterable

import numpy as np
import platformdirs

_MAX_BYTES = 1 << 30
"""Of arrays that are kept: larger sets are read anew at each start rather than fill a disk unasked."""


_LEFT_OVER_SECONDS = 24 * 60 * 60
"""Age of a temporary file that no process can still be writing."""


def directory(name: str) -> pathlib.Path | None:
    """The directory `name` in the user's cache, which nobody else may read or write.

    None where it cannot be written or belongs to another user: what that one left there is not to be trusted.
    """
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
    """What `make` returns, made once and kept for as long as the files `sources` stay as they are."""
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
        except OSError:  # no room: then not
            temporary.unlink(missing_ok=True)
    return made
