"""Sets of TensorFlow Datasets as files that need no TensorFlow: DATA_DIR/jaxconv/NAME.npz.

python -m jaxconv.data.prepare writes them. A file holds

- version (), class_names (classes,), splits (splits,): strings.
- SPLIT/images (examples, *spatial, channels), SPLIT/labels (examples,) and SPLIT/shards (files,) for each split. The
  last has the numbers of examples in the files of the set.
"""

import collections
import itertools
import os
import pathlib
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from jaxconv.config import Config
from jaxconv.data.examples import Examples, Source, check, check_memory
from jaxconv.data.splits import parts
from jaxconv.errors import UserError

_FILES, _BLOCK = 16, 16
"""The defaults of interleave_cycle_length and interleave_block_length of tfds.ReadConfig."""


class Split(NamedTuple):
    """A whole split of a set."""

    examples: Examples
    shards: Int[np.ndarray, " files"]
    """The numbers of examples in its files."""


def data_dir(data: Config) -> pathlib.Path:
    """Return the directory of the sets of TensorFlow Datasets."""
    found = data.data_dir or os.environ.get("TFDS_DATA_DIR") or os.path.join("~", "tensorflow_datasets")
    return pathlib.Path(found).expanduser()


def path_of(data: Config) -> pathlib.Path:
    """Return the path of the file of the set that config.data names."""
    return data_dir(data) / "jaxconv" / f"{data.name.replace('/', '-')}.npz"


def write(path: pathlib.Path, version: str, class_names: Iterable[str], splits: Mapping[str, Split]) -> None:
    """Write a file. A file that is there is replaced when the new one is whole.

    Raises:
        UserError: it cannot be written.
    """
    arrays: dict[str, Any] = {"version": version, "class_names": list(class_names), "splits": list(splits)}
    for name, (examples, shards) in splits.items():
        of_split = {"images": examples.images, "labels": examples.labels, "shards": shards}
        arrays |= {f"{name}/{key}": np.asarray(array) for key, array in of_split.items()}
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            np.savez(file, **arrays)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}): name another --data_dir.") from None


def open_file(path: pathlib.Path, name: str) -> Source:
    """Open a file that `write` wrote.

    Args:
        path: the file.
        name: the name of the set in messages.

    Raises:
        UserError: it is not such a file, or it is damaged.
    """
    version, class_names, splits = (read_array(path, key) for key in ("version", "class_names", "splits"))
    shards = {str(split): read_array(path, f"{split}/shards").tolist() for split in splits}
    shape, dtype = _shape(path, f"{splits[0]}/images")

    def check_split(split: str) -> list[tuple[str, slice]]:
        return parts(split, shards, name)

    def load(split: str) -> Examples:
        asked = check_split(split)
        count = sum(part.stop - part.start for _, part in asked)
        check_memory(
            f"The split {split!r} of {name!r}", count, shape, dtype, "take a part of it, such as 'train[:10%]'"
        )
        order = _read_order([size for of, part in asked for size in _sizes(shards[of], part)])
        images, labels = (
            np.concatenate([read_array(path, f"{of}/{key}")[part] for of, part in asked])[order]
            for key in ("images", "labels")
        )
        return check(Examples(images, labels), len(class_names), repr(split))

    return Source(tuple(class_names.tolist()), shape, str(version), load, check_split)


def _sizes(shards: Sequence[int], part: slice) -> list[int]:
    """Return how many examples of a part of a split are in each file that holds any."""
    stops = np.cumsum(shards)
    sizes = np.clip(stops, part.start, part.stop) - np.clip(stops - shards, part.start, part.stop)
    return sizes[sizes > 0].tolist()


def _read_order(sizes: Sequence[int]) -> Int[np.ndarray, " examples"]:
    """Return the order in which TFDS reads the examples of files: `_BLOCK` of each of `_FILES` files in turn.

    Args:
        sizes: the number of examples of each file.
    """
    stops = np.cumsum(sizes)
    waiting = collections.deque(zip((stops - sizes).tolist(), stops.tolist(), strict=True))
    files: list[tuple[int, int] | None] = [None] * _FILES
    order = []
    for place in itertools.cycle(range(_FILES)):
        if not waiting and not any(files):
            break
        file = files[place] or (waiting.popleft() if waiting else None)
        if file:
            first, stop = file
            block = np.arange(first, min(first + _BLOCK, stop))
            order.append(block)
            # A file that ends with a whole block keeps its place for one more turn.
            files[place] = (first + _BLOCK, stop) if len(block) == _BLOCK else None
    return np.concatenate(order)


def read_array(path: pathlib.Path, key: str) -> np.ndarray:
    """Read an array of a file.

    Raises:
        UserError: it is not there, or it is damaged.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return arrays[key]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from None


def _shape(path: pathlib.Path, key: str) -> tuple[tuple[int, ...], np.dtype]:
    """Read the shape of an example and its dtype from the head of an array."""
    try:
        with open(path, "rb") as whole, zipfile.ZipFile(whole) as archive, archive.open(f"{key}.npy") as file:
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from None
    return shape[1:], dtype


def _unreadable(path: pathlib.Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:100]
    return UserError(
        f"{path} is not a file of python -m jaxconv.data.prepare, or it is damaged: remove it, or prepare it anew. "
        f"({reason})"
    )
