"""A folder of images as a data set: config.data.name="image_folder"."""

import functools
import hashlib
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import PIL
from jaxtyping import UInt8

from jaxconv.config import Config
from jaxconv.data import images
from jaxconv.data.encoded import Encoded
from jaxconv.data.examples import Examples, Findings, Source, check_memory, from_arrays, is_in_memory
from jaxconv.data.layout import SPLITS, ImageFile, list_files
from jaxconv.errors import ConfigError, UserError, printable
from jaxconv.platform import cache
from jaxconv.platform.limits import cores
from jaxconv.platform.threads import ahead

_MOST_LISTED = 20
"""Files that a note lists one by one."""

_FILES = 64
"""Files that a thread reads at a time."""


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
        # Of the whole folder, which a run reads: parts of several splits must not differ in it.
        self.in_memory = is_in_memory(data.in_memory, sum(map(len, self.files.values())), self.image_shape)
        self.seen: dict[str, _Seen] = {}

    def version(self) -> str:
        """Name the files, their sizes, and Pillow, which decodes them."""
        listed = sorted((file.path, file.size) for files in self.files.values() for file in files)
        return f"image_folder {_digest(repr(listed).encode()).hex()[:8]}, Pillow {PIL.__version__}"

    def read(self, split: str) -> Examples:
        """Read a whole split, from the cache where it can. Its images stay on the disk if they are not in memory.

        Raises:
            ConfigError: it does not fit into memory, or has no readable image, or none of a class to train on, or it
                has files that cannot be read and config.data.strict is set.
            UserError: the disk cannot be read, or the files have changed since they were first read.
        """
        files, shape = self.files[split], self.image_shape
        if self.in_memory:
            advice = "set config.data.in_memory='no', or lower config.data.image_size"
            check_memory(f"The {self._of(split)}", len(files), shape, np.dtype(np.uint8), advice)
        paths = [os.path.join(self.root, file.path) for file in files]
        name = f"{[file.path for file in files]} {shape} {self.data.fit} {PIL.__version__}"
        # Those that may not be read are not among the sources, so that they are read as soon as they may.
        sources = [path for path in paths if os.access(path, os.R_OK)]
        if self.in_memory:
            pixels, digests, broken, reasons = cache.arrays(f"images {name}", sources, lambda: self._pixels(paths))
        else:
            pixels = None
            digests, broken, reasons = cache.arrays(f"digests {name}", sources, lambda: self._read_all(paths, None))
        bad = dict(zip(broken.tolist(), reasons.tolist(), strict=True))
        readable = [file for i, file in enumerate(files) if i not in bad]
        unreadable = [f"{files[i].path!r} {reason}" for i, reason in bad.items()]
        self._check(split, readable, unreadable)
        now = _Seen(readable, unreadable, [digest.tobytes() for digest in digests])
        seen = self.seen.setdefault(split, now)
        if seen != now:
            raise UserError(f"Files in the {self._of(split)} have changed since this run began: run it again.")
        labels = {class_name: label for label, class_name in enumerate(self.classes)}
        if pixels is None:
            items = [(file.path, digest) for file, digest in zip(readable, seen.digests, strict=True)]
            pixels = Encoded(items, shape, decode=self._decode, identity=lambda item: item[1])
        return Examples(pixels, np.array([labels[file.class_name] for file in readable], np.int32))

    def _pixels(self, paths: Sequence[str]) -> tuple[np.ndarray, ...]:
        """Return the images of readable files, uint8 (readable, *shape), and what `_read_all` does."""
        pixels = np.empty((len(paths), *self.image_shape), np.uint8)
        digests, broken, reasons = self._read_all(paths, pixels)
        return np.delete(pixels, broken, axis=0) if len(broken) else pixels, digests, broken, reasons

    def _read_all(
        self, paths: Sequence[str], pixels: UInt8[np.ndarray, "files h w c"] | None
    ) -> tuple[np.ndarray, ...]:
        """Read files, and put their images into `pixels`, unless that is None.

        Returns:
            The digests of the readable images, uint8 (readable, 16); the indices of the files that cannot be read, and
            the reasons.
        """

        def read(start: int) -> list[bytes | str]:
            return [read_one(i) for i in range(start, min(start + _FILES, len(paths)))]

        def read_one(i: int) -> bytes | str:
            try:
                image = self._read(paths[i])
            except images.UnreadableImage as error:
                return str(error)
            if pixels is not None:
                pixels[i] = image
            return _digest(image.tobytes())

        digests, reasons = [], {}
        for results in ahead(read, range(0, len(paths), _FILES), threads=cores(), most=2 * cores()):
            for result in results:
                if isinstance(result, str):
                    reasons[len(digests) + len(reasons)] = result
                else:
                    digests.append(result)
        return (
            np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16),
            np.array(list(reasons), np.int64),
            np.array(list(reasons.values()), np.str_),
        )

    def _read(self, path: str) -> UInt8[np.ndarray, "h w c"]:
        """Read a file.

        Raises:
            UnreadableImage: it cannot be read, for a reason that stays.
            UserError: it cannot be read now.
        """
        try:
            return images.read(path, self.image_shape[:2], self.data.channels, self.data.fit)
        except images.UnreadableImage as error:
            cause = error.__cause__
            fails = isinstance(cause, OSError) and cause.errno and os.access(path, os.R_OK)
            if fails or isinstance(cause, MemoryError):  # which may pass: do not keep it in the cache
                raise UserError(f"{path!r} {error}: see to the disk and the memory of this machine.") from None
            raise

    def _decode(self, items: Sequence[tuple[str, bytes]]) -> UInt8[np.ndarray, "items h w c"]:
        """Read files anew, which must have the digests that they had.

        Raises:
            UserError: one has changed, or cannot be read.
        """
        pixels = np.empty((len(items), *self.image_shape), np.uint8)
        for i, (path, digest) in enumerate(items):
            try:
                pixels[i] = self._read(os.path.join(self.root, path))
                problem = "" if _digest(pixels[i].tobytes()) == digest else "has other pixels"
            except images.UnreadableImage as error:
                problem = str(error)
            if problem:
                raise UserError(
                    f"The file {path!r} in {self.root!r} has changed since this run began (it {problem}): run it again."
                )
        return pixels

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
