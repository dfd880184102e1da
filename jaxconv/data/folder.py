"""A folder of images as a data set: config.data.name="image_folder"."""

import concurrent.futures
import functools
import hashlib
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import PIL

from jaxconv.config import Config
from jaxconv.data import images
from jaxconv.data.examples import Examples, Findings, Source, check_memory, from_arrays
from jaxconv.data.layout import SPLITS, ImageFile, list_files
from jaxconv.errors import ConfigError, UserError, printable
from jaxconv.platform import cache
from jaxconv.platform.limits import cores

_MOST_LISTED = 20
"""Files that a note lists one by one."""


class _Seen(NamedTuple):
    """What reading a split tells about its files."""

    readable: list[ImageFile]
    unreadable: list[str]
    """For each unreadable file its path and the reason, as in "'cat/1.png' is truncated"."""
    digests: list[bytes]
    """A hash of the pixels of each readable file, at the size that the net sees."""


class _Folder:
    """A folder of images. It keeps what it has seen of each split, but not the images."""

    def __init__(self, root: str, data: Config):
        self.root, self.data = root, data
        self.files = list_files(root, data)
        self.classes = sorted({file.class_name for file in self.files["train"]})
        height, width = np.broadcast_to(data.image_size, 2).tolist()
        self.image_shape = (height, width, int(data.channels))
        self.seen: dict[str, _Seen] = {}

    def version(self) -> str:
        """Name the files, their sizes, and Pillow, which decodes them."""
        listed = sorted((file.path, file.size) for files in self.files.values() for file in files)
        return f"image_folder {_digest(repr(listed).encode()).hex()[:8]}, Pillow {PIL.__version__}"

    def read(self, split: str) -> Examples:
        """Read a whole split, from the cache where it can.

        Raises:
            ConfigError: it does not fit into memory, or has no readable image, or none of a class to train on, or it
                has files that cannot be read and config.data.strict is set.
            UserError: the disk cannot be read, or the files have changed since they were first read.
        """
        files, shape = self.files[split], self.image_shape
        check_memory(f"The {self._of(split)}", len(files), shape, np.dtype(np.uint8), "lower config.data.image_size")
        paths = [os.path.join(self.root, file.path) for file in files]
        name = f"images {[file.path for file in files]} {shape} {self.data.fit} {PIL.__version__}"
        # Those that may not be read are not among the sources, so that they are read as soon as they may.
        sources = [path for path in paths if os.access(path, os.R_OK)]
        pixels, digests, broken, reasons = cache.arrays(name, sources, lambda: self._decode(paths))
        bad = dict(zip(broken.tolist(), reasons.tolist(), strict=True))
        readable = [file for i, file in enumerate(files) if i not in bad]
        unreadable = [f"{files[i].path!r} {reason}" for i, reason in bad.items()]
        self._check(split, readable, unreadable)
        seen = _Seen(readable, unreadable, [digest.tobytes() for digest in digests])
        if self.seen.setdefault(split, seen) != seen:
            raise UserError(f"Files in the {self._of(split)} have changed since this run began: run it again.")
        labels = {class_name: label for label, class_name in enumerate(self.classes)}
        return Examples(pixels, np.array([labels[file.class_name] for file in readable], np.int32))

    def _decode(self, paths: Sequence[str]) -> tuple[np.ndarray, ...]:
        """Decode files.

        Returns:
            The images and their digests, uint8 (readable, *shape) and (readable, 16); the indices of the files that
            cannot be read, and the reasons.
        """
        pixels = np.empty((len(paths), *self.image_shape), np.uint8)

        def decode(i: int) -> str:
            try:
                pixels[i] = images.read(paths[i], self.image_shape[:2], self.data.channels, self.data.fit)
            except images.UnreadableImage as error:
                cause = error.__cause__
                fails = isinstance(cause, OSError) and cause.errno and os.access(paths[i], os.R_OK)
                if fails or isinstance(cause, MemoryError):  # which may pass: do not keep it in the cache
                    raise UserError(f"{paths[i]!r} {error}: see to the disk and the memory of this machine.") from None
                return str(error)
            return ""

        with concurrent.futures.ThreadPoolExecutor(cores()) as pool:
            reasons = np.array(list(pool.map(decode, range(len(paths)))), np.str_)
        broken = np.flatnonzero(reasons != "")
        pixels = np.delete(pixels, broken, axis=0) if len(broken) else pixels
        digests = np.frombuffer(b"".join(_digest(image.tobytes()) for image in pixels), np.uint8).reshape(-1, 16)
        return pixels, digests, broken, reasons[broken]

    def _check(self, split: str, readable: list[ImageFile], unreadable: list[str]) -> None:
        if unreadable and (self.data.strict or not readable):
            first = "; ".join(unreadable[:3])
            raise ConfigError(
                f"{len(unreadable)} of {len(unreadable) + len(readable)} files in the {self._of(split)} cannot be read "
                f"(first {first}): mend or remove them"
                + (", or leave them out with --config.data.strict=False." if readable else ".")
            )
        if split == "train" and (lost := set(self.classes) - {file.class_name for file in readable}):
            raise ConfigError(
                f"No image of the class {min(lost)!r} in the {self._of(split)} can be read: mend its files, or remove "
                "the class."
            )

    def _of(self, split: str) -> str:
        return f"split {split!r} of {self.root!r}"

    def examine(self) -> Findings:
        """Look for unreadable files, images that are in several splits, and classes that a split lacks."""
        for split in SPLITS:
            if split not in self.seen:
                self.read(split)
        seen = [self.seen[split] for split in SPLITS]
        unreadable = [line for part in seen for line in part.unreadable]
        duplicates = _duplicates(seen)
        notes = []
        if unreadable:
            left, total = len(unreadable) - _MOST_LISTED, sum(len(files) for files in self.files.values())
            more = [f"and {left:,} more"] if left > 0 else []
            head = f"Files that cannot be read are left out ({len(unreadable):,} of {total:,} in {self.root!r}):"
            notes.append("\n  ".join([head, *unreadable[:_MOST_LISTED], *more]))
        if duplicates:
            here, there = duplicates[0]
            notes.append(
                f"Images for validation or test with the pixels of an image in another split: {len(duplicates):,} "
                f"(such as {here!r} and {there!r}); they make the scores too high: remove them."
            )
        for split, part in zip(SPLITS, seen, strict=True):
            if lacks := sorted(set(self.classes) - {file.class_name for file in part.readable}):
                names = ", ".join(map(repr, lacks))
                notes.append(f"The {self._of(split)} has no image of {names}: its scores say nothing about that.")
        return Findings({"unreadable_files": len(unreadable), "duplicates": len(duplicates)}, notes)


def image_folder(data: Config) -> Source:
    """Open the folder config.data.dir, with the layout CLASS/FILE or train, validation and test/CLASS/FILE.

    No image is read. The source's `load` and `examine` leave out the files that cannot be read, unless
    config.data.strict.

    Args:
        data: config.data.

    Raises:
        UserError: a folder cannot be read.
        ConfigError: there is no such folder, or its layout cannot be used.
    """
    if data.dir is None:
        raise ConfigError("config.data.dir is missing: name the folder of images, as in --config.data.dir=DIR.")
    root = os.path.realpath(os.path.expanduser(data.dir))
    if not os.path.isdir(root):
        what = "is a file" if os.path.exists(root) else "does not exist"
        raise ConfigError(f"config.data.dir={data.dir!r} {what}: name a folder that holds one folder for each class.")
    if data.image_size is None:
        raise ConfigError(
            "config.data.image_size is missing: say to which size the images are brought, as in "
            "--config.data.image_size=64."
        )
    folder = _Folder(root, data)
    return from_arrays(
        "image_folder",
        version=folder.version(),
        class_names=[printable(name) for name in folder.classes],
        image_shape=folder.image_shape,
        sizes={split: len(files) for split, files in folder.files.items()},
        make=folder.read,
    )._replace(examine=functools.cache(folder.examine))


def _duplicates(splits: Sequence[_Seen]) -> list[tuple[str, str]]:
    """Pair each image that has the pixels of one in an earlier split with that one."""
    earlier: dict[bytes, str] = {}
    pairs = []
    for seen in splits:
        own = {}
        for digest, file in zip(seen.digests, seen.readable, strict=True):
            if digest in earlier:
                pairs.append((file.path, earlier[digest]))
            own[digest] = file.path
        earlier = own | earlier
    return pairs


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()
