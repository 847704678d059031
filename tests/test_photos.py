"""Pictures in files one by one: where they lie, and how they are read at a smaller size."""

import io
import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import simplejpeg
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps

from deepcnn.data import decode
from deepcnn.data.decode import BYTES_LIMIT, START_OF_SCAN, decode_bytes
from deepcnn.data.photos import Decoding, Kept, Photos, Spots
from deepcnn.data.scan import scan
from deepcnn.errors import ImageError
from picture_files import Pixels, blocks, by_pillow, encoded, looked_at, write_pictures

NUMBER = 10
ORIENTATION = 0x0112  # EXIF
START_OF_FRAME = (b"\xff\xc0", b"\xff\xc2")  # baseline, progressive
JUNK = b"\xff\xd8 not a picture"

sides = st.integers(1, 70)
seeds = st.integers(0, 2**31)


def read(content: bytes, channels: int = 3, least: int = 0) -> Pixels:
    """Decoded, H W C."""
    return decode_bytes(content, "it", channels, least).permute(1, 2, 0).numpy()


def expected(content: bytes, channels: int = 3) -> Pixels:
    """What Pillow reads, H W C."""
    pixels = by_pillow(content, "L" if channels == 1 else "RGB")
    return pixels.reshape(*pixels.shape[:2], channels)


@st.composite
def jpegs(draw: st.DrawFn) -> bytes:
    """Plain JPEG files of every kind that Pillow writes."""
    pixels = blocks(draw(sides), draw(sides), draw(seeds))
    if draw(st.booleans()):
        pixels = pixels[..., 0].copy()
    kinds: list[dict[str, Any]] = [
        {"keep_rgb": True},
        *({"subsampling": f"4:{ratio}"} for ratio in ("4:4", "2:2", "2:0")),
    ]
    return encoded(
        pixels,
        "JPEG",
        quality=draw(st.integers(1, 100)),
        progressive=draw(st.booleans()),
        optimize=draw(st.booleans()),
        restart_marker_blocks=draw(st.sampled_from([0, 1, 3])),
        **(draw(st.sampled_from(kinds)) if pixels.ndim == 3 else {}),
    )


@settings(max_examples=200)
@given(jpegs(), st.sampled_from([1, 3]))
def test_a_plain_jpeg_has_the_pixels_that_pillow_reads(content: bytes, channels: int) -> None:
    np.testing.assert_array_equal(read(content, channels), expected(content, channels))


@settings(max_examples=50)
@given(jpegs())
def test_a_plain_jpeg_is_read_by_the_fast_library(content: bytes) -> None:
    """Or the test above would compare Pillow with itself."""
    with Image.open(io.BytesIO(content)) as picture:
        channels = len(picture.getbands())
    pixels = expected(content, channels)
    with mock.patch.object(Image, "open", pytest.fail):
        np.testing.assert_array_equal(read(content, channels), pixels)


def segment(kind: int, payload: bytes) -> bytes:
    return bytes((0xFF, kind)) + (len(payload) + 2).to_bytes(2) + payload


@st.composite
def segments(draw: st.DrawFn) -> bytes:
    """One before the first scan that is not needed to decode: of the applications or a comment."""
    exif = Image.Exif()
    exif[ORIENTATION] = draw(st.integers(1, 8))
    thumbnail = encoded(blocks(8, 8, 0), "JPEG")
    payloads = [exif.tobytes(), thumbnail, b"JFXX\0\x10" + thumbnail, START_OF_SCAN, b"Exif", b""]
    payload = draw(st.sampled_from(payloads) | st.binary(max_size=50))
    filling = b"\xff" * draw(st.sampled_from([0, 0, 0, 1, 2]))
    return filling + segment(draw(st.sampled_from([0xE1, 0xE1, 0xE2, 0xED, 0xEF, 0xFE])), payload)


@settings(max_examples=300)
@given(st.lists(segments(), max_size=4))
def test_a_jpeg_is_turned_as_pillow_says_whatever_stands_before_its_pixels(
    before: list[bytes],
) -> None:
    content = encoded(blocks(20, 30, 1), "JPEG")
    content = content[:2] + b"".join(before) + content[2:]
    with Image.open(io.BytesIO(content)) as picture:
        pixels = np.array(ImageOps.exif_transpose(picture))
    np.testing.assert_array_equal(read(content), pixels)


def largest_factor(height: int, width: int, least: int) -> int:
    return max(f for f in (1, 2, 4, 8) if f == 1 or (least and min(height, width) / f >= least))


@settings(max_examples=150)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 120), seeds, st.booleans())
def test_a_reduced_jpeg_is_what_pillow_and_simplejpeg_make_of_it(
    height: int, width: int, least: int, seed: int, progressive: bool
) -> None:
    content = encoded(blocks(height, width, seed), "JPEG", quality=90, progressive=progressive)
    pixels, factor = read(content, least=least), largest_factor(height, width, least)
    assert min(pixels.shape[:2]) >= min(least, height, width)
    assert pixels.shape == (math.ceil(height / factor), math.ceil(width / factor), 3)
    rows, columns = pixels.shape[:2]
    by_other = simplejpeg.decode_jpeg(content, "RGB", min_height=rows, min_width=columns)
    np.testing.assert_array_equal(pixels, by_other)
    with Image.open(io.BytesIO(content)) as picture:
        picture.draft("RGB", (width // factor, height // factor))
        np.testing.assert_array_equal(pixels, np.asarray(picture))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_reduced_jpeg_shows_the_same(channels: int) -> None:
    smooth = np.linspace(0, 255, 160).astype(np.uint8)
    picture = np.stack([smooth[:, None] // 2 + smooth // 2] * 3, axis=2)
    content = encoded(picture, "JPEG", quality=95)
    for least, factor in ((20, 8), (21, 4), (40, 4), (41, 2), (80, 2), (81, 1), (0, 1)):
        small = read(content, channels, least).astype(float)
        area = picture[..., :channels].reshape(160 // factor, factor, 160 // factor, factor, -1)
        assert np.abs(small - area.mean(axis=(1, 3))).max() < 5


def block_means(pixels: Pixels, factor: int) -> NDArray[np.float64]:
    """Means of squares of `factor` pixels, of what there is of them at the lower and right edge."""
    starts = [np.arange(0, side, factor) for side in pixels.shape[:2]]
    sums = np.add.reduceat(np.add.reduceat(pixels.astype(float), starts[0], 0), starts[1], 1)
    numbers = [
        np.minimum(factor, side - first)
        for side, first in zip(pixels.shape[:2], starts, strict=True)
    ]
    means: NDArray[np.float64] = sums / (numbers[0][:, None] * numbers[1])[..., None]
    return means


@settings(max_examples=50)
@given(st.integers(1, 150), st.integers(1, 150), st.integers(0, 60), seeds, st.sampled_from([1, 3]))
def test_other_pictures_are_reduced_by_averaging(
    height: int, width: int, least: int, seed: int, channels: int
) -> None:
    picture = blocks(height, width, seed)
    factor = largest_factor(height, width, least)
    for kind in ("PNG", "BMP"):
        content = encoded(picture, kind)
        means = block_means(expected(content, channels), factor)
        assert np.abs(read(content, channels, least) - means).max() < 1


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_turned_jpeg_is_reduced_too(orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    content = encoded(blocks(65, 127), "JPEG", quality=95, exif=exif)
    for least, factor in ((8, 8), (17, 2), (40, 1)):
        with Image.open(io.BytesIO(content)) as picture:
            picture.draft("RGB", (127 // factor, 65 // factor))
            upright = np.asarray(ImageOps.exif_transpose(picture))
        assert min(upright.shape[:2]) == -(-65 // factor)
        assert np.array_equal(read(content, least=least), upright)


def test_damage_that_pillow_reads_over_gives_the_pixels_of_pillow() -> None:
    content = encoded(blocks(48, 64), "JPEG", quality=80)
    start = content.index(START_OF_SCAN) + 14
    outcomes = {"the same": 0, "fallen back": 0, "refused": 0}
    for place in range(start, len(content) - 2, 3):
        damaged = content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :]
        try:
            pixels = expected(damaged)
        except OSError:
            outcomes["refused"] += 1
            with pytest.raises(ImageError, match="it cannot be read"):
                read(damaged)
            continue
        np.testing.assert_array_equal(read(damaged), pixels)
        try:
            simplejpeg.decode_jpeg(damaged)
            outcomes["the same"] += 1
        except ValueError:
            outcomes["fallen back"] += 1
    assert outcomes["the same"] > 10
    assert outcomes["fallen back"] > 10


def many_scans(number: int, height: int, width: int) -> bytes:
    """A progressive JPEG that says to have that size and paints its last scan again and again."""
    content = encoded(blocks(16, 16), "JPEG", progressive=True)
    frame = next(content.index(marker) for marker in START_OF_FRAME if marker in content)
    size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    content = content[: frame + 5] + size + content[frame + 9 :]
    last = content.rindex(START_OF_SCAN)
    again = number - content.count(START_OF_SCAN)
    return content[:-2] + again * content[last:-2] + content[-2:]


def test_a_jpeg_that_paints_its_pixels_too_often_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = many_scans(1_000, 8_000, 8_000)
    monkeypatch.setattr(ImageFile.ImageFile, "load", pytest.fail)
    monkeypatch.setattr(simplejpeg, "decode_jpeg", pytest.fail)
    began = time.perf_counter()
    for least in (0, 100):
        with pytest.raises(ImageError, match="it paints its 8000 x 8000 pixels too often: save it"):
            read(content, least=least)
    assert time.perf_counter() - began < 1


def test_scans_are_counted_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    content = many_scans(25, 16, 16)
    monkeypatch.setattr(decode, "SCANNED_LIMIT", 25 * 16 * 16)
    np.testing.assert_array_equal(read(content), expected(content))
    monkeypatch.setattr(decode, "SCANNED_LIMIT", 25 * 16 * 16 - 1)
    with pytest.raises(ImageError, match="it paints its 16 x 16 pixels too often"):
        read(content)


def test_a_file_beyond_measure_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "huge.png"
    with path.open("wb") as file:
        file.truncate(BYTES_LIMIT + 1)  # which takes no room
    with monkeypatch.context() as patch:
        patch.setattr(decode, "open", pytest.fail, raising=False)
        with pytest.raises(ImageError, match=r"huge\.png has 512,000,001 bytes, expected at most"):
            decode.decode(path, 3)
    path.write_bytes(encoded(blocks(9, 9)))
    size = path.stat().st_size
    monkeypatch.setattr(decode, "BYTES_LIMIT", size)
    assert decode.decode(path, 3).shape == (3, 9, 9)
    monkeypatch.setattr(decode, "BYTES_LIMIT", size - 1)
    with pytest.raises(ImageError, match=f"has {size} bytes, expected at most {size - 1}"):
        decode.decode(path, 3)


def test_many_threads_at_once() -> None:
    """Also with pictures that Pillow warns of, which is an error here."""
    careless = {"exif": b"Exif\0\0II*\0\x08\0\0\0\xff\xff"}
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("PNG", {}), ("JPEG", {}), ("JPEG", careless), ("JPEG", {"progressive": True})
    ]  # fmt: skip
    contents = [
        encoded(blocks(20 + k, 90 - k, k), kind, **options)
        for k in range(5)
        for kind, options in kinds
    ]
    with pytest.warns(UserWarning, match="Corrupt EXIF data"):
        Image.open(io.BytesIO(contents[2])).getexif()
    alone = [read(content, least=10) for content in contents]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda content: read(content, least=10), 20 * contents))
    for one, other in zip(together, 20 * alone, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Photos:
    folder = tmp_path_factory.mktemp("photos")
    return looked_at(write_pictures(folder / "pictures", NUMBER), folder / "cache")


positions = st.lists(st.integers(0, NUMBER - 1), max_size=20)


@given(positions, st.data())
def test_photos_are_indexed_as_arrays_are(
    photos: Photos, chosen: list[int], data: st.DataObject
) -> None:
    some = photos[np.array(chosen, dtype=np.int64)]
    assert len(some) == len(chosen)
    assert [some.name(k) for k in range(len(some))] == [photos.name(k) for k in chosen]
    np.testing.assert_array_equal(some.sizes, photos.sizes[chosen])
    np.testing.assert_array_equal(some.digests, photos.digests[chosen])
    assume(chosen)
    again = data.draw(st.lists(st.integers(0, len(chosen) - 1), min_size=1, max_size=5))
    few = some[np.array(again)]
    assert [few.name(k) for k in range(len(few))] == [photos.name(chosen[k]) for k in again]
    assert torch.equal(few.pixels(0), photos.pixels(chosen[again[0]]))


def test_a_photo_is_the_picture_in_its_file(photos: Photos) -> None:
    for k in range(NUMBER):
        pixels = photos.pixels(k)
        content = Path(photos.name(k)).read_bytes()
        np.testing.assert_array_equal(pixels.permute(1, 2, 0).numpy(), by_pillow(content))
        assert pixels.shape == (photos.channels, *photos.sizes[k])


@pytest.fixture
def bundled(tmp_path: Path) -> tuple[Spots, list[bytes]]:
    """Pictures one after another in two files, with something else before, between and behind."""
    contents = [path.read_bytes() for path in write_pictures(tmp_path / "single", NUMBER)]
    files, offsets = (tmp_path / "a.bin", tmp_path / "b.bin"), []
    for number, path in enumerate(files):
        with path.open("wb") as file:
            for content in contents[number::2]:
                file.write(JUNK)
                offsets.append(file.tell())
                file.write(content)
            file.write(JUNK)
    order = [*range(0, NUMBER, 2), *range(1, NUMBER, 2)]
    spots = Spots(
        tuple(map(str, files)),
        np.arange(NUMBER, dtype=np.int32) % 2,
        np.array(offsets)[np.argsort(order)],
        np.array([len(content) for content in contents]),
    )
    return spots, contents


def test_pictures_within_files(bundled: tuple[Spots, list[bytes]], tmp_path: Path) -> None:
    spots, contents = bundled
    assert [spots.read(row) for row in range(len(spots))] == contents
    assert spots.name(3) == f"{tmp_path / 'b.bin'} at byte {spots.offset[3]}"
    found = scan(spots, Decoding(3), tmp_path / "cache", 2, print)
    for each in (found, replace(found, kept=Kept(None))):
        photos = Photos(each, np.arange(NUMBER))
        for k, content in enumerate(contents):
            pixels = photos.pixels(k).permute(1, 2, 0).numpy()
            np.testing.assert_array_equal(pixels, by_pillow(content))


@pytest.fixture
def not_kept(tmp_path: Path) -> Photos:
    photos = looked_at(write_pictures(tmp_path / "pictures", NUMBER), tmp_path / "cache")
    return Photos(replace(photos.scan, kept=Kept(None)), photos.rows)


def test_a_picture_that_vanishes(not_kept: Photos) -> None:
    path = Path(not_kept.name(3))
    path.unlink()
    with pytest.raises(ImageError, match=r"03\.jpg cannot be read: No such file or directory"):
        not_kept.pixels(3)
    path.mkdir()
    with pytest.raises(ImageError, match=r"03\.jpg is not a file; expected a picture"):
        not_kept.pixels(3)


@pytest.mark.parametrize("row", [2, 3])
def test_a_picture_that_is_cut_off(row: int, not_kept: Photos) -> None:
    path = Path(not_kept.name(row))
    content = path.read_bytes()
    for share in (0.0, 0.1, 0.3, 0.6):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(ImageError, match=rf"{path} (cannot be read|is not a picture)"):
            not_kept.pixels(row)


def test_a_picture_that_becomes_one_of_another_size(not_kept: Photos) -> None:
    path = Path(not_kept.name(0))
    height, width = not_kept.sizes[0].tolist()
    path.write_bytes(encoded(blocks(height, width, seed=99)))
    np.testing.assert_array_equal(not_kept.pixels(0).permute(1, 2, 0), blocks(height, width, 99))
    for size in ((height - 1, width), (height, width + 1), (width, height)):
        path.write_bytes(encoded(blocks(*size)))
        with pytest.raises(ImageError, match=r"00\.png is another picture than when it was looked"):
            not_kept.pixels(0)


def test_a_file_of_pictures_that_is_cut_off(bundled: tuple[Spots, list[bytes]]) -> None:
    spots, contents = bundled
    last = NUMBER - 1
    path, start = Path(spots.files[1]), int(spots.offset[last])
    whole = path.read_bytes()
    for length in (start, start + 1, start + len(contents[last]) - 1):
        path.write_bytes(whole[:length])
        there = rf"{length - start:,} bytes are there of {len(contents[last]):,}"
        with pytest.raises(ImageError, match=rf"b\.bin at byte {start} is cut off: {there}"):
            spots.read(last)
        assert spots.read(0) == contents[0]
    path.unlink()
    with pytest.raises(ImageError, match=r"b\.bin cannot be read: No such file or directory"):
        spots.read(last)
