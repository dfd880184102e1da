"""Images that are not in memory: they are read by index and decoded anew each time."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from jaxconv.platform.limits import cores
from jaxconv.platform.threads import ahead

_CHUNK_BYTES = 1 << 22


class Encoded:
    """A stand-in for an array of images, uint8 (examples, height, width, channels), that may not fit into memory.

    It has the shape and the dtype of that array. An index, a list or an array of indices, or a slice decodes the images
    that it selects. Any threads may do that. It raises UserError where an image cannot be read as before.
    """

    def __init__(
        self,
        items: Sequence[Any],
        image_shape: tuple[int, ...],
        *,
        decode: Callable[[Sequence[Any]], UInt8[np.ndarray, "items height width channels"]],
        identity: Callable[[Any], bytes],
    ):
        """Describe images.

        Args:
            items: what each image is decoded from, such as the bytes of a file.
            image_shape: (height, width, channels).
            decode: decodes some of the items, at least one. It raises UserError if it cannot.
            identity: bytes that are equal only for items with the same pixels.
        """
        self.items, self.decode, self.identity = items, decode, identity
        self.shape = (len(items), *image_shape)
        self.dtype = np.dtype(np.uint8)
        self.ndim = len(self.shape)
        self._numbers = np.arange(len(items))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Any) -> UInt8[np.ndarray, "..."]:
        chosen = self._numbers[index]
        if not chosen.size:
            return np.empty((0, *self.shape[1:]), np.uint8)
        decoded = self.decode([self.items[i] for i in np.atleast_1d(chosen)])
        return decoded if chosen.ndim else decoded[0]

    def chunks(self) -> Iterator[UInt8[np.ndarray, "some height width channels"]]:
        """Yield all images, in order, some at a time. Threads decode them on all cores."""
        size = max(1, _CHUNK_BYTES // int(np.prod(self.shape[1:])))
        slices = (slice(start, start + size) for start in range(0, len(self), size))
        return ahead(self.__getitem__, slices, threads=cores(), most=cores())

    def digest(self) -> str:
        """Hash what all images are decoded from."""
        state = hashlib.blake2b(repr(self.shape).encode(), digest_size=16)
        for item in self.items:
            state.update(self.identity(item))
        return state.hexdigest()


def join(parts: Sequence[tuple[np.ndarray | Encoded, slice]]) -> np.ndarray | Encoded:
    """Concatenate slices of arrays, or of images of one source that are not in memory, which are not decoded."""
    first, _ = parts[0]
    if not isinstance(first, Encoded):
        return np.concatenate([images[part] for images, part in parts])
    items = [item for images, part in parts if isinstance(images, Encoded) for item in images.items[part]]
    return Encoded(items, first.shape[1:], decode=first.decode, identity=first.identity)
