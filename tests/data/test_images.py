"""Decoding: every format, mode and kind of broken file, against known pixels. Fitting: small cases by hand."""

import contextlib
import errno
import io
import os
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxconv.data import images
from jaxconv.data.images import UnreadableImage, decode, fit, read

RED, GREEN, BLUE, WHITE = [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]
COLOURS = np.array([[RED, GREEN, BLUE], [WHITE, [0, 0, 0], [10, 20, 30]]], np.uint8)
"""2 x 3 pixels."""


def encoded(image, form="PNG", **keywords):
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, form, **keywords)
    return file.getvalue()


def grey(rows):
    return Image.fromarray(np.array(rows, np.uint8))


def pixels(data, channels=3):
    return np.asarray(decode(data, channels))


# ---- Formats and modes


@pytest.mark.parametrize(
    ("form", "keywords"), [("PNG", {}), ("BMP", {}), ("GIF", {}), ("TIFF", {}), ("WEBP", {"lossless": True})]
)
def test_formats_without_loss(form, keywords, tmp_path):
    data = encoded(COLOURS, form, **keywords)
    (tmp_path / "image").write_bytes(data)
    for file in (data, io.BytesIO(data), tmp_path / "image", str(tmp_path / "image")):
        np.testing.assert_array_equal(pixels(file), COLOURS)
    assert pixels(data, channels=1).tolist() == [[76, 150, 29], [255, 0, 18]]


def test_jpeg():
    data = encoded(np.full((16, 16, 3), [200, 100, 50], np.uint8), "JPEG", quality=100)
    assert np.abs(pixels(data).astype(int) - [200, 100, 50]).max() <= 1


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_tiff_compressions(compression):
    np.testing.assert_array_equal(pixels(encoded(COLOURS, "TIFF", compression=compression)), COLOURS)


def test_grey_of_8_bits():
    grey = np.array([[0, 7, 255]], np.uint8)
    assert pixels(encoded(grey), channels=1).tolist() == [[0, 7, 255]]
    assert pixels(encoded(grey)).tolist() == [[[0] * 3, [7] * 3, [255] * 3]]


@pytest.mark.parametrize("form", ["PNG", "TIFF", "BMP", "GIF"])
def test_one_bit(form):
    bits = Image.fromarray(np.array([[True, False, True]]))
    assert pixels(encoded(bits, form), channels=1).tolist() == [[255, 0, 255]]


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bits_are_scaled(form):
    values = np.array([[0, 128, 257, 25700, 65407, 65535]], np.uint16)
    assert pixels(encoded(values, form), channels=1).tolist() == [[0, 0, 1, 100, 255, 255]]
    assert pixels(encoded(values, form))[0, 3].tolist() == [100] * 3


def test_16_bits_in_the_other_order_of_bytes():
    image = Image.frombytes("I;16B", (2, 1), struct.pack(">HH", 25700, 65535))
    assert pixels(encoded(image, "TIFF"), channels=1).tolist() == [[100, 255]]


def test_32_bits_hold_16():
    assert pixels(encoded(np.array([[0, 25700, 65535]], np.int32), "TIFF"), channels=1).tolist() == [[0, 100, 255]]


def test_floats_from_0_to_1():
    values = np.array([[0, 0.2, 1]], np.float32)
    assert pixels(encoded(values, "TIFF"), channels=1).tolist() == [[0, 51, 255]]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.array([[0, 65536]], np.int32), "holds numbers that are not values of 16 bits"),
        (np.array([[-1, 5]], np.int32), "holds numbers that are not values of 16 bits"),
        (np.array([[0, 1.5]], np.float32), "holds numbers that are not floats from 0 to 1"),
        (np.array([[0, np.nan]], np.float32), "holds numbers that are not floats from 0 to 1"),
    ],
)
def test_numbers_of_an_unknown_range_are_refused(values, reason):
    with pytest.raises(UnreadableImage, match=f"^{reason}$"):
        decode(encoded(values, "TIFF"), 1)


def test_palette():
    image = Image.fromarray(COLOURS).quantize(6)
    assert image.mode == "P"
    np.testing.assert_array_equal(pixels(encoded(image)), COLOURS)
    assert pixels(encoded(image), channels=1)[0].tolist() == [76, 150, 29]


@pytest.mark.parametrize(
    ("form", "transparency", "third"),
    [("GIF", 0, BLUE), ("PNG", 0, BLUE), ("PNG", bytes([0, 255, 128]), [127, 127, 255])],
    ids=["GIF", "PNG", "PNG with an alpha for each colour"],
)
def test_palette_with_transparency(form, transparency, third):
    image = grey([[0, 1, 2]])
    image.putpalette([*RED, *GREEN, *BLUE])
    assert pixels(encoded(image, form, transparency=transparency)).tolist() == [[WHITE, GREEN, third]]


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_alpha_is_on_white(form):
    rgba = np.array([[[*RED, 255], [*RED, 0], [0, 0, 0, 128]]], np.uint8)
    keywords = {"lossless": True, "exact": True} if form == "WEBP" else {}
    data = encoded(rgba, form, **keywords)
    assert pixels(data).tolist() == [[RED, WHITE, [127] * 3]]
    assert pixels(data, channels=1).tolist() == [[76, 255, 127]]


def test_grey_with_alpha():
    image = Image.merge("LA", [grey([[7, 7, 0]]), grey([[255, 0, 128]])])
    assert pixels(encoded(image), channels=1).tolist() == [[7, 255, 127]]
    assert pixels(encoded(image))[0].tolist() == [[7] * 3, WHITE, [127] * 3]


def test_a_transparent_colour():
    assert pixels(encoded(COLOURS, transparency=(0, 0, 0)))[1].tolist() == [WHITE, WHITE, [10, 20, 30]]
    assert pixels(encoded(np.array([[5, 6]], np.uint8), transparency=5), channels=1).tolist() == [[255, 6]]


def test_cmyk():
    image = Image.new("CMYK", (16, 16), (255, 0, 0, 55))  # cyan takes the red, black takes from all
    for data in (encoded(image, "TIFF"), encoded(image, "JPEG", quality=100)):
        assert np.abs(pixels(data)[0, 0].astype(int) - [0, 200, 200]).max() <= 2
        assert abs(int(pixels(data, channels=1)[0, 0]) - 140) <= 2


def test_ycbcr():
    image = Image.new("RGB", (16, 16), (200, 100, 50)).convert("YCbCr")
    assert np.abs(pixels(encoded(image, "TIFF", compression="tiff_lzw")).astype(int) - [200, 100, 50]).max() <= 2


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame(form):
    first, second = (Image.new("RGB", (4, 3), colour) for colour in ("red", "blue"))
    keywords = {"lossless": True} if form == "WEBP" else {}
    data = encoded(first, form, save_all=True, append_images=[second], **keywords)
    assert pixels(data).tolist() == [[RED] * 4] * 3


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_as_exif_says(orientation, form):
    """The stored pixels are those of the upright image, moved as the standard defines each orientation."""
    upright = np.kron(np.arange(0, 240, 40, dtype=np.uint8).reshape(2, 3), np.ones((8, 8), np.uint8))
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    keywords = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100}}.get(form, {})
    data = encoded(np.ascontiguousarray(stored), form, exif=exif, **keywords)
    assert np.abs(pixels(data, channels=1).astype(int) - upright).max() <= 2


def test_broken_exif_leaves_the_image_as_it_is():
    data = encoded(COLOURS, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x05broken")
    np.testing.assert_array_equal(pixels(data), COLOURS)


# ---- Files that cannot be read


def png(width, height):
    """The first bytes of a PNG that claims this size, and an end."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def cut(form, **keywords):
    data = encoded(NOISE, form, **keywords)
    return data[: len(data) // 2]


BROKEN = {
    "empty": (b"", "is empty"),
    "text": (b"no image\n", "is not a valid PNG, JPEG, WebP, BMP, GIF or TIFF image"),
    "zeros": (bytes(5000), "is not a valid PNG, JPEG, WebP, BMP, GIF or TIFF image"),
    "html": (b"<html><body>404</body></html>", "is not a valid PNG"),
    "another format": (encoded(COLOURS, "PPM"), "is not a valid PNG"),
    "cut png": (cut("PNG"), "is truncated"),
    "cut jpeg": (cut("JPEG"), "is truncated"),
    "cut bmp": (cut("BMP"), "is truncated"),
    "cut gif": (cut("GIF"), "is truncated"),
    "cut tiff": (cut("TIFF"), "is truncated"),
    "cut webp": (cut("WEBP"), "cannot be decoded"),
    "cut compressed tiff": (
        cut("TIFF", compression="tiff_lzw"),
        "is not a valid PNG|cannot be decoded",
    ),  # its directory is at the end
    "a few bytes of a png": (encoded(COLOURS)[:20], "is truncated"),
    "many pixels": (png(8001, 8000), "has 64,008,000 pixels, and the limit is 64,000,000"),
    "more than Pillow warns of": (png(10000, 10000), "has 100,000,000 pixels, and the limit is 64,000,000"),
    "more than Pillow takes": (png(20000, 20000), "has 400,000,000 pixels, and the limit is 64,000,000"),
    "no pixels": (png(5, 0), "is not a valid PNG"),
    "a wrong checksum": (encoded(COLOURS).replace(b"IDAT", b"IDAU"), "is not a valid PNG"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file(kind):
    data, reason = BROKEN[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UnreadableImage, match=f"^({reason})") as refusal:
            decode(data, 3)
    assert "\n" not in str(refusal.value)


@settings(max_examples=150, deadline=None)
@given(
    form=st.sampled_from(images.FORMATS),
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8),
    length=st.integers(0, 10**6),
)
def test_any_damage_is_an_image_or_one_error(form, changes, length):
    data = bytearray(encoded(NOISE[:16, :16], form))
    for place, value in changes:
        data[place % len(data)] = value
    with contextlib.suppress(UnreadableImage):
        assert decode(bytes(data[: length % len(data) + 1]), 3).mode == "RGB"


def test_paths_that_cannot_be_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # which would wait for a writer
    for name, reason in [
        ("nothing", "cannot be opened: no such file or directory"),
        (".", "is a folder"),
        ("pipe", "is not a regular file"),
        ("a\0b", "cannot be decoded|cannot be opened"),
    ]:
        with pytest.raises(UnreadableImage, match=f"^({reason})"):
            decode(os.path.join(tmp_path, name), 3)


def test_a_file_that_may_not_be_read(monkeypatch):
    def refused(*arguments):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("builtins.open", refused)
    with pytest.raises(UnreadableImage, match=r"^cannot be opened: permission denied$"):
        decode(__file__, 3)


def test_no_warning_of_a_thread_leaks():
    """Broken EXIF data makes Pillow warn, here in all threads at once."""
    data = encoded(COLOURS, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x05broken")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = list(warnings.filters)
        with ThreadPoolExecutor(8) as pool:
            assert all((pixels == COLOURS).all() for pixels in pool.map(pixels, [data] * 200))
        assert warnings.filters == before


# ---- Fit


@pytest.mark.parametrize(
    ("rows", "size", "how", "expected"),
    [
        ([[1, 2, 3, 4]], (1, 2), "crop", [[2, 3]]),
        ([[1, 2, 3, 4, 5]], (1, 2), "crop", [[2, 3]]),  # of three too many, the odd one goes at the right
        ([[1], [2], [3]], (1, 1), "crop", [[2]]),
        ([[9]], (2, 3), "crop", [[9, 9, 9], [9, 9, 9]]),
        ([[9, 9]], (2, 2), "pad", [[9, 9], [0, 0]]),
        ([[1, 2]], (3, 2), "pad", [[0, 0], [1, 2], [0, 0]]),
        ([[1], [2]], (2, 4), "pad", [[0, 1, 0, 0], [0, 2, 0, 0]]),
        ([[9, 9]], (4, 4), "pad", [[0] * 4, [9] * 4, [9] * 4, [0] * 4]),
        ([[50] * 8] * 8, (3, 5), "stretch", [[50] * 5] * 3),
    ],
)
def test_by_hand(rows, size, how, expected):
    fitted = fit(grey(rows), size, how)
    assert (fitted.shape, fitted.dtype) == ((*size, 1), np.uint8)
    assert fitted[..., 0].tolist() == expected


def test_shrinking_averages():
    """A fine checkerboard becomes grey, not black or white."""
    board = np.indices((64, 64)).sum(axis=0) % 2 * 255
    for how in ("stretch", "crop", "pad"):
        assert np.abs(fit(grey(board), (8, 8), how).astype(int) - 127).max() <= 2


def test_crop_keeps_the_middle_and_pad_the_whole():
    stripes = grey(np.repeat([[0] * 20 + [200] * 20 + [100] * 20], 20, axis=0))
    assert np.abs(fit(stripes, (10, 10), "crop")[:, 1:-1].astype(int) - 200).max() <= 3  # bicubic, near the edges
    padded = fit(stripes, (12, 12), "pad")[..., 0]
    assert (padded[:4] == 0).all()
    assert (padded[8:] == 0).all()
    assert np.abs(padded[5, [1, 5, 10]].astype(int) - [0, 200, 100]).max() <= 3


@settings(max_examples=100, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3])),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    how=st.sampled_from(["stretch", "crop", "pad"]),
    value=st.integers(0, 255),
)
def test_any_size(shape, size, how, value):
    array = np.full(shape, value, np.uint8)
    fitted = fit(Image.fromarray(array.squeeze(-1) if shape[-1] == 1 else array), size, how)
    assert (fitted.shape, fitted.dtype) == ((*size, shape[-1]), np.uint8)
    assert set(np.unique(fitted)) <= ({value, 0} if how == "pad" else {value})
    if how == "pad":  # black on both sides, evenly
        for axis in (0, 1):
            inside = np.flatnonzero(fitted.any(axis=(1 - axis, 2))) if value else []
            if len(inside):
                assert 0 <= size[axis] - 1 - inside[-1] - inside[0] <= 1
                assert (np.diff(inside) == 1).all()


@settings(max_examples=30, deadline=None)
@given(size=st.tuples(st.integers(1, 20), st.integers(1, 20)), how=st.sampled_from(["stretch", "crop", "pad"]))
def test_an_image_of_the_right_size_stays_as_it_is(size, how):
    array = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    np.testing.assert_array_equal(fit(Image.fromarray(array), size, how), array)
    np.testing.assert_array_equal(read(encoded(array), size, 3, how), array)


@pytest.mark.parametrize("shape", [(1, 1), (1, 20000), (20000, 1), (1, 5_000_000)])
@pytest.mark.parametrize("how", ["stretch", "crop", "pad"])
def test_extreme_proportions(shape, how):
    fitted = fit(Image.new("L", shape[::-1], 77), (64, 48), how)
    assert fitted.shape == (64, 48, 1)
    assert fitted.max() == 77


def test_a_large_jpeg_is_decoded_at_a_smaller_scale():
    smooth = np.indices((1000, 1500)).sum(axis=0) // 10
    data = encoded(smooth.astype(np.uint8), "JPEG", quality=95)
    assert decode(data, 1, enough=256).size == (750, 500)
    assert decode(data, 1, enough=1200).size == (1500, 1000)
    for how in ("stretch", "crop", "pad"):
        whole = fit(decode(data, 1), (64, 48), how).astype(int)
        assert np.abs(read(data, (64, 48), 1, how) - whole).max() <= 2
