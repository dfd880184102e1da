"""The files of a folder of images: which of them are images, and the class and the split of each."""

import hashlib
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from jaxconv.config import Config
from jaxconv.data.images import ENDINGS
from jaxconv.errors import ConfigError, UserError

SPLITS = ("train", "validation", "test")

_FOLDERS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
"""The split that a folder of this name holds."""

_LIKE_SPLITS = {*_FOLDERS, "training", "valid", "testing"}


class ImageFile(NamedTuple):
    """A file that claims to be an image by its ending."""

    path: str
    """Relative to the root."""
    class_name: str
    """The name of its class folder."""
    size: int
    """In bytes."""
    position: float
    """A hash of config.data.split_seed, the class and the name within the class, from 0 to 1."""


def list_files(root: str, data: Config) -> dict[str, list[ImageFile]]:
    """List the images of a folder, CLASS/FILE or SPLIT/CLASS/FILE. Files may lie in folders within a class folder.

    A missing validation or test split is split off from train. A file's split depends on its own name, so it keeps it
    when others are added. Only where a split would get no image of a class, the one with the nearest hash goes there.

    Args:
        root: the folder, without symbolic links in its path.
        data: config.data.

    Returns:
        The files of "train", "validation" and "test", in the order of their hashes, which is random and fixed.

    Raises:
        UserError: a folder cannot be read.
        ConfigError: the folder has another layout, or too few images or classes, or links that are not followed.
    """
    top = _folders(root, root)
    folders = _split_folders(top, root)
    found = {
        split: _sorted(
            file for name in _folders(folder, root) for file in _class_files(folder, name, root, data.split_seed)
        )
        for split, folder in folders.items()
    }
    classes = _classes(found["train"])
    for split, files in found.items():
        if not files:
            raise ConfigError(f"{_name(folders[split])} holds no image: add images, one folder for each class.")
        if unknown := sorted(_classes(files) - classes):
            raise ConfigError(
                f"{_name(folders[split])} has images of the class {unknown[0]!r}, and the folder {folders['train']!r} "
                "has none: add some there, or remove the class."
            )
    if len(classes) < 2:
        raise ConfigError(f"{_name(folders['train'])} holds one class, {min(classes)!r}: a net needs two or more.")
    missing = [split for split in SPLITS if split not in found]
    if missing:
        found |= _split_off(found["train"], missing, data.held_out)
    return {split: _sorted(found[split]) for split in SPLITS}


def _split_folders(top: list[str], root: str) -> dict[str, str]:
    """Return the folder of each split that there is. Without splits the root is that of "train"."""
    if "train" not in top:
        if alike := [name for name in top if name.casefold() in _LIKE_SPLITS]:
            raise ConfigError(
                f"{_name(root)} has a folder {alike[0]!r} and none that is called 'train': name the folders of splits "
                "train, validation and test, or give that class another name."
            )
        return {"train": root}
    if other := [name for name in top if name not in _FOLDERS]:
        raise ConfigError(
            f"{_name(root)} has a folder 'train' and a folder {other[0]!r}: beside train, only validation (or val) and "
            "test can be there."
        )
    if "val" in top and "validation" in top:
        raise ConfigError(f"{_name(root)} has a folder 'val' and a folder 'validation': remove one.")
    return {_FOLDERS[name]: os.path.join(root, name) for name in top}


def _folders(folder: str, root: str) -> list[str]:
    """Return the names of the folders in a folder which should hold nothing else."""
    entries = _entries(folder, root)
    names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    if images := sorted(entry.name for entry in entries if entry.name not in names and _is_image(entry.name)):
        raise ConfigError(
            f"{_name(folder)} holds the image {images[0]!r} outside of a class folder: make one folder for each class, "
            "and move the image into its own."
        )
    if not names:
        raise ConfigError(f"{_name(folder)} holds no folder: make one for each class, and put its images there.")
    return names


def _class_files(folder: str, class_name: str, root: str, seed: int) -> Iterator[ImageFile]:
    """Yield the images in a class folder and in the folders within it."""
    top, count = os.path.join(folder, class_name), 0
    waiting = [top]
    while waiting:
        for entry in _entries(waiting.pop(), root):
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
            elif _is_image(entry.name):
                count += 1
                name = pathlib.Path(os.path.relpath(entry.path, top)).as_posix()
                path = os.path.relpath(entry.path, root)
                yield ImageFile(path, class_name, _size(entry), _position(seed, class_name, name))
    if not count:
        raise ConfigError(f"The class folder {top!r} holds no image: add images, or remove it.")


def _entries(folder: str, root: str) -> list[os.DirEntry[str]]:
    """Return what is in a folder, without hidden files and folders."""
    try:
        with os.scandir(folder) as found:
            entries = [entry for entry in found if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(f"{_name(folder)} cannot be read ({error.strerror}): see to its permissions.") from None
    for entry in entries:
        _check_link(entry, root)
    return entries


def _check_link(entry: os.DirEntry[str], root: str) -> None:
    """Refuse links to folders, which can be endless, and links that lead out of the root, whose files may change."""
    if not entry.is_symlink():
        return
    target = os.path.realpath(entry.path)
    is_folder, is_outside = os.path.isdir(target), not pathlib.Path(target).is_relative_to(root)
    if is_folder or (is_outside and _is_image(entry.name)):
        what = "a link to a folder" if is_folder else "a link that leads out of the folder"
        raise ConfigError(f"{entry.path!r} is {what} and is not followed: copy what it links to, as cp -rL does.")


def _is_image(name: str) -> bool:
    return name.lower().endswith(ENDINGS)


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:  # a link to nowhere
        return 0


def _position(seed: int, class_name: str, name: str) -> float:
    key = f"{seed}\0{class_name}\0{name}".encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(key, digest_size=4).digest()) / 2**32


def _split_off(files: list[ImageFile], missing: list[str], share: float) -> dict[str, list[ImageFile]]:
    """Divide files among "train" and the missing splits, each class by itself.

    Raises:
        ConfigError: a class has fewer images than there are splits to fill.
    """
    classes: dict[str, list[ImageFile]] = {}
    for file in files:
        classes.setdefault(file.class_name, []).append(file)
    divided: dict[str, list[ImageFile]] = {split: [] for split in ("train", *missing)}
    for class_name, of_class in classes.items():
        if len(of_class) < len(divided):
            count = f"{len(of_class)} image{'s' if len(of_class) > 1 else ''}"
            raise ConfigError(
                f"The class {class_name!r} has {count}, and each of {', '.join(divided)} needs one: add images, or "
                "remove the class."
            )
        for split, part in divide(of_class, missing, share).items():
            divided[split] += part
    return divided


def divide(files: list[ImageFile], missing: list[str], share: float) -> dict[str, list[ImageFile]]:
    """Divide the files of one class among "train" and the missing splits. Each gets at least one.

    Args:
        files: as many files as there are splits, or more.
        missing: the splits beside "train".
        share: the share of each of them.
    """
    bounds = {split: (share * i, share * (i + 1)) for i, split in enumerate(missing)}
    bounds["train"] = (share * len(missing), 1.0)
    divided = {split: [file for file in files if low <= file.position < high] for split, (low, high) in bounds.items()}
    for split, (low, high) in bounds.items():
        if not divided[split]:
            fullest = max(divided.values(), key=len)
            nearest = min(fullest, key=lambda file: abs(file.position - (low + high) / 2))
            fullest.remove(nearest)
            divided[split].append(nearest)
    return divided


def _sorted(files: Iterable[ImageFile]) -> list[ImageFile]:
    return sorted(files, key=lambda file: (file.position, file.path))


def _classes(files: Iterable[ImageFile]) -> set[str]:
    return {file.class_name for file in files}


def _name(folder: str) -> str:
    return f"The folder {folder!r}"
