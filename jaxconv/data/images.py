"""One way to read an image from a file, for training and for prediction: decode it, and fit it to the net's size.

This module imports neither TensorFlow nor JAX. Its functions may be called from several threads.
"""

import contextlib
import io
import os
import re
import threading
import warnings
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")

_READABLE = "png apng jpg jpeg jpe jfif webp bmp dib gif tif tiff"
_OTHERS = "heic heif avif jxl jp2 j2k ico svg psd tga ppm pgm pbm pnm exr hdr dng cr2 cr3 nef arw"
ENDINGS = tuple(f".{ending}" for ending in f"{_READABLE} {_OTHERS}".split())
"""The endings, in lower case, of files that claim to be images. Those of other formats are among them, so that such a
file is reported as unreadable, and not ignored."""

MAX_PIXELS = 64_000_000
"""Images with more pixels are refused before they are decoded: a file of a few kilobytes can hold billions."""

_DRAFT = 2
"""A JPEG is decoded at a smaller scale as long as its sides keep this many times the pixels that the net sees."""


class UnreadableImage(Exception):
    """A file is not an image that can be read. Its text is the reason, as in "is truncated"."""


def read(
    file: str | os.PathLike[str] | BinaryIO | bytes, size: tuple[int, int], channels: int, how: str
) -> UInt8[np.ndarray, "height width channels"]:
    """Decode an image and fit it to a size. Training and prediction use this function.

    A large JPEG is decoded at a half, a quarter or an eighth of its size, which is faster. Its values then differ from
    those of `fit(decode(file))` by about 2 of 255.

    Args:
        file: see `decode`.
        size: height and width.
        channels: 3 for colour, 1 for grey.
        how: "stretch", "crop" or "pad", see `fit`.

    Raises:
        UnreadableImage: the file is not an image that can be read.
    """
    return fit(decode(file, channels, enough=_DRAFT * max(size)), size, how)


def decode(file: str | os.PathLike[str] | BinaryIO | bytes, channels: int, enough: int | None = None) -> Image.Image:
    """Decode a PNG, JPEG, WebP, BMP, GIF or TIFF file, upright, as its EXIF data says.

    Transparent pixels are put on white, as on a web page. Of an animation, this is the first frame. Grey values of 16
    bits are divided by 257, and floats must be from 0 to 1. Colour becomes grey by the weights of ITU-R 601-2.

    Args:
        file: a path, an open binary file, or the bytes of a file.
        channels: 3 for colour, 1 for grey.
        enough: a JPEG may be decoded at a smaller scale at which both sides have at least this many pixels.

    Returns:
        An image of the mode "RGB" or "L".

    Raises:
        UnreadableImage: the file is empty, truncated, no image of these formats, or larger than `MAX_PIXELS`, or it
            cannot be opened.
    """
    try:
        with _no_warnings, _open(file) as stream:
            if not stream.read(1):
                raise UnreadableImage("is empty")
            stream.seek(0)
            image = Image.open(stream, formats=FORMATS)
            _check_pixels(image.width * image.height)
            if enough is not None:
                image.draft(None, (enough, enough))
            image.load()
            with contextlib.suppress(Exception):  # broken EXIF data: viewers show the image as it is stored
                ImageOps.exif_transpose(image, in_place=True)
            return _convert(image, "RGB" if channels == 3 else "L")
    except UnreadableImage:
        raise
    except Exception as error:  # Pillow raises many types of errors
        raise UnreadableImage(_reason(error)) from error


def fit(image: Image.Image, size: tuple[int, int], how: str) -> UInt8[np.ndarray, "height width channels"]:
    """Bring an image to a size, by bicubic interpolation without aliasing. One of that size stays bit for bit.

    Args:
        image: an image of the mode "RGB" or "L".
        size: height and width.
        how: "stretch" changes the proportions; "crop" keeps them, and the middle of the image; "pad" keeps them and the
            whole image, and adds black on both sides.

    Returns:
        uint8 (height, width, channels), with 3 channels for "RGB" and 1 for "L".
    """
    height, width = size
    scales = image.width / width, image.height / height  # pixels of the image for each of the result
    if how == "crop":
        scale = min(scales)
        # Whole pixels of the result, so that an image which needs no scaling is not interpolated either.
        left, top = (scale * int((own / scale - new) / 2) for own, new in zip(image.size, (width, height), strict=True))
        box = left, top, min(left + scale * width, image.width), min(top + scale * height, image.height)
        fitted = _resize(image, (width, height), box)
    elif how == "pad":
        inner = tuple(max(1, round(own / max(scales))) for own in image.size)
        fitted = Image.new(image.mode, (width, height))
        fitted.paste(_resize(image, inner), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    else:
        fitted = _resize(image, (width, height))
    return np.array(fitted).reshape(height, width, -1)


def _resize(image: Image.Image, size: tuple[int, ...], box: tuple[float, ...] | None = None) -> Image.Image:
    return image.resize(size, Image.Resampling.BICUBIC, box, reducing_gap=3.0)  # type: ignore[arg-type]


def _open(file: str | os.PathLike[str] | BinaryIO | bytes) -> BinaryIO:
    if isinstance(file, str | os.PathLike):
        if os.path.exists(file) and not os.path.isfile(file):  # a pipe would wait for its writer
            raise UnreadableImage("is a folder" if os.path.isdir(file) else "is not a regular file")
        return open(file, "rb")
    return io.BytesIO(file if isinstance(file, bytes) else file.read())


def _check_pixels(pixels: int) -> None:
    if pixels > MAX_PIXELS:
        raise UnreadableImage(f"has {pixels:,} pixels, and the limit is {MAX_PIXELS:,}")


def _convert(image: Image.Image, mode: str) -> Image.Image:
    """Convert a decoded image of any mode to "RGB" or "L"."""
    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(_to_bytes(np.asarray(image)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def _to_bytes(values: np.ndarray) -> UInt8[np.ndarray, "height width"]:
    """Scale grey values of more than 8 bits. Their range must be known: guessed ones would differ between images."""
    top = 1.0 if values.dtype.kind == "f" else 65535
    if not ((values >= 0) & (values <= top)).all():
        wanted = "floats from 0 to 1" if values.dtype.kind == "f" else "values of 16 bits"
        raise UnreadableImage(f"holds numbers that are not {wanted}")
    return np.rint(values * (255 / top)).astype(np.uint8)


def _reason(error: Exception) -> str:
    """Write what went wrong as the end of a sentence that begins with the name of the file."""
    text = " ".join(str(error).split())[:100]
    if isinstance(error, UnidentifiedImageError):
        return "is not a valid PNG, JPEG, WebP, BMP, GIF or TIFF image"
    if isinstance(error, Image.DecompressionBombError):  # of Pillow's own limit, which is higher
        pixels = re.search(r"\d+", text)
        return f"has {int(pixels[0]):,} pixels, and the limit is {MAX_PIXELS:,}" if pixels else "has too many pixels"
    if isinstance(error, MemoryError):
        return "does not fit into memory"
    if isinstance(error, OSError) and error.strerror:  # Pillow's own have none
        return f"cannot be opened: {error.strerror.lower()}"
    return "is truncated" if "truncated" in text.lower() else f"cannot be decoded ({text or type(error).__name__})"


class _NoWarnings:
    """Silences warnings while any thread is inside. `warnings.catch_warnings` alone is not safe in threads."""

    def __init__(self):
        self._lock, self._inside = threading.Lock(), 0
        self._caught: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._caught = warnings.catch_warnings(action="ignore")
                self._caught.__enter__()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._caught.__exit__(None, None, None)


_no_warnings = _NoWarnings()
