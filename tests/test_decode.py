"""Picture files against arrays that were built independently: PNG files by hand, byte by byte."""

import io
import os
import struct
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFile

from deepcnn.data.decode import FORMATS, PIXEL_LIMIT, SIDE_LIMIT, decode
from deepcnn.errors import ImageError

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6  # colour types of PNG
ORIENTATION = 0x0112  # EXIF
Pixels = NDArray[np.uint8]

# 5 x 3 pixels, all different, so that no turn or mirroring goes unseen.
SMALL = np.arange(15, dtype=np.uint8).reshape(3, 5) * 17  # H W
COLOURED = np.stack([SMALL, 255 - SMALL, SMALL[::-1]], axis=2)  # H W 3


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(
        ">I", zlib.crc32(kind + content)
    )  # fmt: skip


def png(
    size: tuple[int, int], depth: int, colour: int, rows: Sequence[bytes], *extra: bytes
) -> bytes:
    """A PNG file of `size` (width, height), its rows unfiltered."""
    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)
    content = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", content), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def png_of(pixels: NDArray[Any], *extra: bytes) -> bytes:
    """A PNG file of uint8 or uint16 pixels H W, H W 2, H W 3 or H W 4."""
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    colour = {1: GREY, 2: GREY_ALPHA, 3: RGB, 4: RGBA}[channels]
    rows = [row.astype(pixels.dtype.newbyteorder(">")).tobytes() for row in pixels]
    size = (pixels.shape[1], pixels.shape[0])
    return png(size, 8 * pixels.dtype.itemsize, colour, rows, *extra)


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def written(folder: Path, content: bytes, name: str = "picture") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def rgb(path: Path) -> Pixels:
    """The decoded picture, H W 3."""
    return decode(path, 3).permute(1, 2, 0).numpy()


def grey(path: Path) -> Pixels:
    """The decoded picture, H W."""
    return decode(path, 1)[0].numpy()


def luma(pixels: NDArray[Any]) -> NDArray[np.float64]:
    """Grey of H W 3 by ITU-R BT.601."""
    return pixels @ np.array([0.299, 0.587, 0.114])


def on_white(pixels: NDArray[Any], alpha: NDArray[Any]) -> NDArray[np.float64]:
    """Pixels H W C under an alpha H W, both 0 to 255, on white paper."""
    share = alpha[..., None] / 255
    return pixels * share + 255 * (1 - share)


def assert_shows(path: Path, expected: NDArray[Any], tolerance: float = 0.0) -> None:
    """Decoded in colour and in grey, the file shows `expected` (H W 3)."""
    np.testing.assert_allclose(rgb(path).astype(float), expected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(grey(path).astype(float), luma(expected), rtol=0, atol=tolerance + 1)


def in_colour(pixels: NDArray[Any]) -> NDArray[Any]:
    """Grey H W as H W 3."""
    return np.stack([pixels] * 3, axis=2)


def test_grey_and_colour_are_the_stored_pixels(tmp_path: Path) -> None:
    path = written(tmp_path, png_of(SMALL))
    assert_shows(path, in_colour(SMALL))
    np.testing.assert_array_equal(grey(path), SMALL)
    assert_shows(written(tmp_path, png_of(COLOURED)), COLOURED)


def test_the_tensor_is_ordinary(tmp_path: Path) -> None:
    for content in (png_of(SMALL), png_of(COLOURED)):
        for channels in (1, 3):
            pixels = decode(written(tmp_path, content), channels)
            assert pixels.shape == (channels, 3, 5)
            assert pixels.permute(1, 2, 0).is_contiguous()  # as decoders and resizing have it
            pixels += 1  # in memory of its own


@pytest.mark.parametrize("colour", [GREY, RGB])
def test_16_bits_are_scaled_not_clipped(colour: int, tmp_path: Path) -> None:
    values = np.array([[0, 255, 256, 257, 32_767, 65_279, 65_280, 65_535]], np.uint16)
    expected = np.array([[0, 0, 1, 1, 127, 254, 255, 255]])
    pixels = values if colour == GREY else in_colour(values)
    assert_shows(written(tmp_path, png_of(pixels)), in_colour(expected))


def test_every_8_bit_value_survives_16_bits(tmp_path: Path) -> None:
    values = np.arange(256, dtype=np.uint16).reshape(16, 16)
    path = written(tmp_path, png_of(values * 257))
    np.testing.assert_array_equal(grey(path), values)
    tiff = saved(Image.fromarray(values * 257), "TIFF")
    np.testing.assert_array_equal(grey(written(tmp_path, tiff)), values)


def test_one_bit(tmp_path: Path) -> None:
    path = written(tmp_path, png((10, 2), 1, GREY, [b"\xa5\x40", b"\x00\xc0"]))
    bits = [[1, 0, 1, 0, 0, 1, 0, 1, 0, 1], [0] * 8 + [1, 1]]
    assert_shows(path, in_colour(np.array(bits) * 255))


def test_a_palette(tmp_path: Path) -> None:
    colours = np.array([[255, 0, 0], [0, 255, 0], [10, 20, 30]], np.uint8)
    indices = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
    plte = chunk(b"PLTE", colours.tobytes())
    content = png((3, 2), 8, PALETTE, [row.tobytes() for row in indices], plte)
    assert_shows(written(tmp_path, content), colours[indices])
    alpha = np.array([255, 0, 128], np.uint8)
    trns = chunk(b"tRNS", alpha.tobytes())
    content = png((3, 2), 8, PALETTE, [row.tobytes() for row in indices], plte, trns)
    path = written(tmp_path, content)
    assert_shows(path, on_white(colours[indices], alpha[indices]), tolerance=1)


def test_alpha_is_laid_on_white(tmp_path: Path) -> None:
    alpha = np.linspace(0, 255, 15, dtype=np.uint8).reshape(3, 5)
    path = written(tmp_path, png_of(np.dstack([COLOURED, alpha])))
    assert_shows(path, on_white(COLOURED, alpha), tolerance=1)
    path = written(tmp_path, png_of(np.dstack([SMALL, alpha])))
    assert_shows(path, on_white(in_colour(SMALL), alpha), tolerance=1)


@pytest.mark.parametrize("depth", [8, 16])
def test_what_is_hidden_by_transparency_stays_hidden(depth: int, tmp_path: Path) -> None:
    """One grey value or colour can be declared transparent: a black secret turns white."""
    kind = np.uint8 if depth == 8 else np.uint16
    values = np.array([[0, 34 * 257 if depth == 16 else 34]], kind)
    content = png_of(values, chunk(b"tRNS", struct.pack(">H", 0)))
    assert_shows(written(tmp_path, content), in_colour(np.array([[255, 34]])))
    if depth == 8:
        content = png_of(in_colour(values), chunk(b"tRNS", struct.pack(">HHH", 0, 0, 0)))
        assert_shows(written(tmp_path, content), in_colour(np.array([[255, 34]])))


def test_cmyk(tmp_path: Path) -> None:
    """Against the formula: light that neither ink nor black keeps. Adobe stores it inverted."""
    inks = np.array([(255, 0, 0, 0), (0, 255, 0, 128), (10, 60, 200, 40), (0, 0, 0, 0)])
    for ink in inks:
        expected = 255 * (1 - ink[:3] / 255) * (1 - ink[3] / 255)
        picture = Image.new("CMYK", (8, 8), tuple(int(value) for value in ink))
        for kind in ("JPEG", "TIFF"):
            path = written(tmp_path, saved(picture, kind))
            assert_shows(path, np.broadcast_to(expected, (8, 8, 3)), tolerance=4)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_pictures_are_turned_as_they_say(orientation: int, kind: str, tmp_path: Path) -> None:
    """Stored is what a camera so held writes; the EXIF standard says how to hold it back."""
    upright = COLOURED
    camera = {
        1: upright,
        2: upright[:, ::-1],
        3: np.rot90(upright, 2),
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }
    picture = Image.fromarray(np.ascontiguousarray(camera[orientation]))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    lossless = {"WEBP": {"lossless": True, "exact": True}, "TIFF": {}, "PNG": {}}[kind]
    if kind == "TIFF":
        content = saved(picture, kind, tiffinfo={ORIENTATION: orientation})
    else:
        content = saved(picture, kind, exif=exif, **lossless)
    assert_shows(written(tmp_path, content), upright)


def jpeg(**options: Any) -> bytes:
    """A JPEG of two colours, dark on the left."""
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, 16:] = (200, 100, 50)
    return saved(Image.fromarray(pixels), "JPEG", quality=95, subsampling=0, **options)


def test_jpeg(tmp_path: Path) -> None:
    expected = np.zeros((16, 32, 3))
    expected[:, 16:] = (200, 100, 50)
    assert_shows(written(tmp_path, jpeg()), expected, tolerance=3)
    assert_shows(written(tmp_path, jpeg(progressive=True)), expected, tolerance=3)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    assert_shows(written(tmp_path, jpeg(exif=exif)), np.rot90(expected, -1), tolerance=3)


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0rubbish",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        # An orientation that is text, one that is 9, one that says it has 2**32 - 1 values.
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0abc\0\0\0\0\0",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x09\0\0\0\0\0\0\0",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\xff\xff\xff\xff\x09\0\0\0\0\0\0\0",
    ],
)
def test_corrupt_exif_says_nothing(exif: bytes, tmp_path: Path) -> None:
    path = written(tmp_path, jpeg(exif=exif))
    np.testing.assert_array_equal(rgb(path), rgb(written(tmp_path, jpeg(), "plain")))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_counts(kind: str, tmp_path: Path) -> None:
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    first, *others = (Image.new("RGB", (6, 4), colour) for colour in colours)
    content = saved(first, kind, save_all=True, append_images=others)
    expected = np.broadcast_to(colours[0], (4, 6, 3))
    assert_shows(written(tmp_path, content), expected, tolerance=3)


@pytest.mark.parametrize("kind", FORMATS)
def test_the_name_does_not_matter(kind: str, tmp_path: Path) -> None:
    content = saved(Image.new("RGB", (6, 4), (200, 100, 50)), kind)
    names = ["picture.jpg", "picture.png", "picture.txt", "picture", " ", "-", "ä\n"]
    if sys.platform == "linux":  # elsewhere names are text
        names.append(os.fsdecode(b"\xff"))
    for name in names:
        assert abs(rgb(written(tmp_path, content, name)) - np.array((200, 100, 50.0))).max() <= 6


@pytest.mark.parametrize("size", [(1, 1), (1, 3_000), (3_000, 1)])
def test_extreme_shapes(size: tuple[int, int], tmp_path: Path) -> None:
    width, height = size
    path = written(tmp_path, png(size, 8, GREY, [b"\x07" * width] * height))
    assert decode(path, 1).shape == (1, height, width)


NO_PICTURES = {
    "empty": b"",
    "one byte": b"\x89",
    "text": b"not a picture\n",
    "html": b"<!DOCTYPE html><html><img src='a.png'></html>",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
    "pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
    "ppm": b"P6\n1 1\n255\nabc",
    "ico": saved(Image.new("RGB", (16, 16)), "ICO"),
    "zip": b"PK\x03\x04" + bytes(100),
    "pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07rubbish\x94.",
}


@pytest.mark.parametrize("content", NO_PICTURES.values(), ids=NO_PICTURES)
def test_what_is_no_picture(content: bytes, tmp_path: Path) -> None:
    path = written(tmp_path, content, "picture.png")
    with pytest.raises(ImageError, match=r"picture\.png is not a picture; expected PNG, JPEG"):
        decode(path, 3)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
def test_truncated_files(kind: str, share: float, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    content = saved(Image.fromarray(noise), kind)
    path = written(tmp_path, content[: int(share * len(content))])
    with pytest.raises(ImageError, match=r"picture (cannot be read: |is not a picture)"):
        decode(path, 1)


def test_damage_is_found(tmp_path: Path) -> None:
    content = bytearray(png_of(COLOURED))
    content[content.index(b"IDAT") + 8] ^= 1
    with pytest.raises(ImageError, match="picture cannot be read: "):
        decode(written(tmp_path, bytes(content)), 3)


@pytest.mark.parametrize("mode", ["I", "F", "LAB"])
def test_numbers_without_a_known_scale_are_refused(mode: str, tmp_path: Path) -> None:
    """Rather than clipped, which turns most of such a picture white."""
    path = written(tmp_path, saved(Image.new(mode, (4, 4)), "TIFF"))
    for channels in (1, 3):
        with pytest.raises(ImageError, match=rf"pixels of kind {mode}; save it with 8 bits a chan"):
            decode(path, channels)


@pytest.mark.parametrize(
    "size", [(8_001, 8_000), (10_000, 10_000), (30_000, 30_000), (2**31 - 1, 2**31 - 1)]
)
@pytest.mark.parametrize("depth", [1, 8])
def test_a_bomb_is_refused_before_it_goes_off(
    size: tuple[int, int], depth: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, png(size, depth, GREY, [b""]))
    monkeypatch.setattr(ImageFile.ImageFile, "load", pytest.fail)
    with pytest.raises(ImageError, match=rf"pixels; at most {PIXEL_LIMIT:,} are read.*: reduce it"):
        decode(path, 1)


def test_a_side_beyond_measure_is_refused(tmp_path: Path) -> None:
    longest = png((SIDE_LIMIT, 1), 8, GREY, [bytes(SIDE_LIMIT)])
    assert decode(written(tmp_path, longest), 1).shape == (1, 1, SIDE_LIMIT)
    for size in ((SIDE_LIMIT + 1, 1), (1, SIDE_LIMIT + 1)):
        path = written(tmp_path, png(size, 8, GREY, [bytes(size[0])] * size[1]))
        with pytest.raises(ImageError, match=f"has {size[0]} x {size[1]} pixels; at most"):
            decode(path, 1)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="nowhere cannot be read: No such file or directory"):
        decode(tmp_path / "nowhere", 1)
    with pytest.raises(ImageError, match=f"{tmp_path} is not a file; expected a picture"):
        decode(tmp_path, 1)
    with pytest.raises(ImageError, match="cannot be read: embedded null"):
        decode(tmp_path / "a\0b", 1)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.timeout(60)
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path(os.devnull)):
        with pytest.raises(ImageError, match=f"{path} is not a file"):
            decode(path, 1)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_a_file_closed_to_this_user(tmp_path: Path) -> None:
    path = written(tmp_path, png_of(SMALL))
    path.chmod(0)
    with pytest.raises(ImageError, match="cannot be read: Permission denied"):
        decode(path, 1)


def samples() -> list[bytes]:
    """A small file of every format, and of the modes that have code of their own."""
    wide = Image.fromarray(COLOURED).resize((23, 17))
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    plain = [saved(wide, kind) for kind in FORMATS]
    turned = [saved(wide, kind, exif=exif) for kind in ("PNG", "JPEG", "WEBP")]
    modes = [saved(wide.convert(mode), "PNG") for mode in ("1", "L", "LA", "P", "RGBA")]
    frames = saved(wide, "GIF", save_all=True, append_images=[Image.new("RGB", (23, 17))])
    return [*plain, *turned, *modes, frames, png_of(SMALL.astype(np.uint16) * 257)]


SAMPLES = samples()
edits = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=5)


def decodes_or_says_why(folder: Path, content: bytes) -> None:
    path = written(folder, content)
    for channels in (1, 3):
        try:
            with mock.patch("deepcnn.data.decode.PIXEL_LIMIT", 100_000):  # to save time
                pixels = decode(path, channels)
        except ImageError as error:
            assert str(error).startswith(str(path))
        else:
            assert (pixels.ndim, pixels.shape[0], pixels.dtype.itemsize) == (3, channels, 1)


@settings(deadline=None, max_examples=100)
@given(start=st.sampled_from([b"", *(sample[:30] for sample in SAMPLES)]), rest=st.binary())
def test_any_bytes_decode_or_are_refused(
    start: bytes, rest: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    decodes_or_says_why(tmp_path_factory.getbasetemp(), start + rest)


@settings(deadline=None, max_examples=200)
@given(sample=st.sampled_from(SAMPLES), changes=edits, keep=st.floats(0, 1), cut=st.booleans())
def test_damaged_pictures_decode_or_are_refused(
    sample: bytes,
    changes: list[tuple[int, int]],
    keep: float,
    cut: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    content = bytearray(sample)
    for place, value in changes:
        content[place % len(content)] = value
    length = int(keep * len(content)) if cut else len(content)
    decodes_or_says_why(tmp_path_factory.getbasetemp(), bytes(content[:length]))
