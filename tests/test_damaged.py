"""Damaged picture files by the thousand: the first look at them neither crashes nor hangs, keeps to
its memory, and takes or refuses each as Pillow does; what is left of a set can be read to its end.
"""

import io
import json
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Set
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.random import Generator
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from deepcnn.config import Data
from deepcnn.data import scan as module
from deepcnn.data.decode import START_OF_SCAN, decode_bytes
from deepcnn.data.images import ImageSet
from deepcnn.data.loader import in_order, source
from deepcnn.data.photos import Kept, Photos, Scan
from deepcnn.data.pictures import load_parts
from deepcnn.data.preprocess import FRAMES, Preprocess
from deepcnn.errors import ImageError
from picture_files import Pixels, blocks, encoded
from test_photos import START_OF_FRAME, many_scans
from test_pictures import photos_of
from test_scan import linux, no_reading

# The memory is that of this program alone: what getrusage says begins with what its parent had
# taken. One thread: so it is a matter of the files, and not of how many cores there are.
PROGRAM = """
import json, os, re, sys
from pathlib import Path
from unittest import mock
from deepcnn.config import Data
from deepcnn.data import pictures, scan
{sabotage}
said = []
with mock.patch.object(pictures, "available_threads", return_value=1):
    sets = pictures.load_parts(Data(name=sys.argv[1], on_bad="skip"), 0, said.append)
found = sets["train"].images.scan
refused = [found.spots.files[row] for row in found.problems]
(memory,) = re.findall(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print(json.dumps({{"refused": refused, "said": said, "memory": 1024 * int(memory)}}))
"""
MEMORY = 2**30  # bytes that a look may take, with all that it imports
SECONDS = 120  # for a thousand files; a look that takes longer hangs
CLASSES = ("one", "other")
LINE = 200  # letters of a problem, besides the name of the file
FORMATS = {"PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF"}
MOST_PIXELS, MOST_SIDE = 64_000_000, 65_535
MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "I;16", "I;16B"}
REFUSED, ACCEPTED, BY_PILLOW = "refused", "accepted", "as by Pillow"

ORIENTATION = 0x0112  # EXIF
START, LENGTH, LONG = 273, 279, 4  # TIFF: tags, and a type

# What sound files are made with: the format, and options of which one is drawn.
FILES: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "JPEG": ("JPEG", [{}, {"quality": 95, "subsampling": 0}, {"restart_marker_blocks": 2}]),
    "progressive JPEG": ("JPEG", [{"progressive": True}]),
    "PNG": ("PNG", [{}]),
    "WebP": ("WEBP", [{}, {"lossless": True}]),
    "GIF": ("GIF", [{"optimize": True, "interlace": interlace} for interlace in (0, 1)]),
    "BMP": ("BMP", [{}]),
    "TIFF": ("TIFF", [{"compression": how} for how in (None, "tiff_lzw", "tiff_deflate", "jpeg")]),
}

# Where a header has the width and the height, how they are written, and the most that can be. In a
# JPEG the places count from a marker.
HEADERS: dict[str, tuple[int, int, str, int]] = {
    "JPEG": (7, 5, ">H", 2**16 - 1),
    "PNG": (16, 20, ">I", 2**31 - 1),
    "WebP": (26, 28, "<H", 2**14 - 1),
    "GIF": (6, 8, "<H", 2**16 - 1),
    "BMP": (18, 22, "<I", 2**31 - 1),
    "TIFF": (18, 30, "<I", 2**32 - 1),
}


def one_of(rng: Generator, choices: Any) -> Any:
    return list(choices)[int(rng.integers(len(choices)))]


def picture(rng: Generator) -> Pixels:
    height, width, seed = (int(number) for number in rng.integers((16, 16, 0), (64, 64, 2**31)))
    return blocks(height, width, seed)


def sound(name: str, rng: Generator) -> bytes:
    """A picture without fault, in colour or grey."""
    kind, options = FILES[name]
    pixels = picture(rng)
    return encoded(one_of(rng, (pixels, pixels, pixels[..., 0])), kind, **one_of(rng, options))


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """A file of what is no array of colours."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def tiff_tags(content: bytes) -> dict[int, int]:
    """The numbers that the first page of a TIFF gives, by tag."""
    (page,) = struct.unpack_from("<I", content, 4)
    (number,) = struct.unpack_from("<H", content, page)
    entries = struct.iter_unpack("<HHII", content[page + 2 : page + 2 + 12 * number])
    return {tag: value for tag, _, _, value in entries}


def data_of(name: str, content: bytes) -> tuple[int, int]:
    """Where the data of the pixels begins and ends; before and behind are headers."""
    start, stop = content.find(START_OF_SCAN) + 10, len(content) - 2
    if name == "PNG":
        start, stop = content.index(b"IDAT") + 4, len(content) - 16
    elif name == "WebP":
        start, stop = 30, len(content)
    elif name == "GIF":
        start = content.index(b",\0\0\0\0") + 10
    elif name == "BMP":
        start, stop = int.from_bytes(content[10:14], "little"), len(content)
    elif name == "TIFF":
        tags = tiff_tags(content)
        start, stop = tags[START], tags[START] + tags[LENGTH]
    return start, stop


def flipped(name: str, rng: Generator) -> bytes:
    """One to eight bits of the pixels' data are others."""
    content = bytearray(sound(name, rng))
    for place in rng.integers(*data_of(name, bytes(content)), rng.integers(1, 9)):
        content[place] ^= 1 << int(rng.integers(8))
    return bytes(content)


def overwritten(name: str, rng: Generator) -> bytes:
    """One to eight bytes of the headers are random."""
    content = bytearray(sound(name, rng))
    start, stop = data_of(name, bytes(content))
    for place in rng.choice([*range(start), *range(stop, len(content))], rng.integers(1, 9)):
        content[place] = rng.integers(256)
    return bytes(content)


def cut(name: str, rng: Generator) -> bytes:
    return ended(sound(name, rng), rng)


def ended(content: bytes, rng: Generator) -> bytes:
    """Its beginning, half the time all but the last few bytes."""
    most = one_of(rng, (20, len(content) - 1))
    return content[: -int(rng.integers(1, most, endpoint=True))]


def headers_only(rng: Generator) -> bytes:
    name = one_of(rng, FILES)
    content = sound(name, rng)
    return content[: rng.integers(1, data_of(name, content)[0] + 1)]


def nothing(rng: Generator) -> bytes:
    content: bytes = one_of(rng, (b"", rng.bytes(1), bytes(rng.integers(2, 5_000))))
    return content


def text(rng: Generator) -> bytes:
    beginnings = (
        b"",
        b"<!DOCTYPE html><html><body><img src='a.png'>",
        b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'>",
        b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
    )
    beginning: bytes = one_of(rng, beginnings)
    return beginning + rng.integers(32, 127, 500, dtype=np.uint8).tobytes()


def foreign(rng: Generator) -> bytes:
    """A sound picture of a format that is not read: some would start other programs."""
    pixels = picture(rng)
    height, width, _ = pixels.shape
    kind = one_of(rng, ("EPS", "FITS", "ICO", "JPEG2000", "PCX", "PPM", "PSD", "TGA"))
    if kind == "FITS":
        sizes = {"BITPIX": 8, "NAXIS": 2, "NAXIS1": width, "NAXIS2": height}
        cards = ["SIMPLE  = T", *(f"{key:8}= {value}" for key, value in sizes.items()), "END"]
        return f"{''.join(card.ljust(80) for card in cards):2880}".encode() + bytes(2_880)
    if kind == "PSD":
        header = struct.pack(">4sH6xHIIHH", b"8BPS", 1, 3, height, width, 8, 3)
        return header + bytes(14) + pixels.tobytes()
    return encoded(pixels, kind)


def huge(rng: Generator) -> bytes:
    """A small picture whose header says that it is a large one."""
    name = one_of(rng, HEADERS)
    *places, form, most = HEADERS[name]
    content = bytearray(encoded(picture(rng), FILES[name][0]))
    start = content.index(START_OF_FRAME[0]) if name == "JPEG" else 0
    for place, side in zip(places, rng.integers(8_001, most, 2, endpoint=True), strict=True):
        struct.pack_into(form, content, start + place, side)
    if name == "PNG":
        struct.pack_into(">I", content, 29, zlib.crc32(content[12:29]))
    if name == "TIFF":  # sides are 16-bit numbers otherwise
        content[12] = content[24] = LONG
    return bytes(content)


@cache
def unfolding_png(side: int) -> bytes:
    return saved(Image.new("1", (side, side)), "PNG")


def unfolding(rng: Generator) -> bytes:
    """Some 20 KB that would take gigabytes."""
    return unfolding_png(one_of(rng, (9_000, 11_000, 13_000)))


def painted_often(rng: Generator) -> bytes:
    return many_scans(int(rng.integers(20, 200)), 8_000, int(rng.integers(6_600, 8_000)))


def wrong_sum(rng: Generator) -> bytes:
    """A PNG with a check sum that is another, of its header or of a text."""
    notes = PngInfo()
    notes.add_text("note", "to be summed")
    content = bytearray(encoded(picture(rng), "PNG", pnginfo=notes))
    place = one_of(rng, (29, content.index(b"summed") + len(b"summed")))
    content[place + int(rng.integers(4))] ^= 1 << int(rng.integers(8))
    return bytes(content)


def no_scale(rng: Generator) -> bytes:
    """Pixels that are 32-bit numbers."""
    numbers = picture(rng)[..., 0].astype(one_of(rng, (np.float32, np.int32)))
    return saved(Image.fromarray(numbers), "TIFF")


def polyglot(rng: Generator) -> bytes:
    """A JPEG that is also a ZIP archive, which is found from its end."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("more.bin", rng.bytes(1_000))
    return sound("JPEG", rng) + archive.getvalue()


def glued(rng: Generator) -> bytes:
    """One picture behind another: the first counts."""
    return sound(one_of(rng, FILES), rng) + sound(one_of(rng, FILES), rng)


def sixteen_bits(rng: Generator) -> bytes:
    numbers = rng.integers(0, 2**16, picture(rng).shape[:2], dtype=np.uint16)
    return saved(Image.fromarray(numbers), one_of(rng, ("PNG", "TIFF")))


def inks(rng: Generator) -> bytes:
    return saved(Image.fromarray(picture(rng)).convert("CMYK"), one_of(rng, ("JPEG", "TIFF")))


def transparent(rng: Generator) -> bytes:
    pixels = picture(rng)
    image = Image.fromarray(np.dstack([pixels, pixels[::-1, ::-1, 0]]))
    kind, mode = one_of(
        rng,
        [
            ("PNG", "P"),
            ("GIF", "P"),
            ("PNG", "LA"),
            *((k, "RGBA") for k in ("PNG", "WEBP", "TIFF")),
        ],
    )
    if mode == "P":
        palette = image.convert("RGB").quantize(16)
        return saved(palette, kind, transparency=int(rng.integers(16)))
    return saved(image.convert(mode), kind)


def turned(rng: Generator) -> bytes:
    orientation, image = int(rng.integers(1, 9)), Image.fromarray(picture(rng))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    kind = one_of(rng, ("JPEG", "PNG", "WEBP", "TIFF"))
    key, value = ("tiffinfo", {ORIENTATION: orientation}) if kind == "TIFF" else ("exif", exif)
    return saved(image, kind, **{key: value})


def corrupt_metadata(rng: Generator) -> bytes:
    """EXIF data or a colour profile that is rubbish, or begins well and is rubbish then."""
    key, beginning = one_of(
        rng,
        [("exif", b"Exif\0\0"), ("exif", b"Exif\0\0II*\0\x08\0\0\0\x05\0"), ("icc_profile", b"")],
    )
    rubbish = {key: beginning + rng.bytes(int(rng.integers(1, 500)))}
    return encoded(picture(rng), one_of(rng, ("JPEG", "PNG", "WEBP")), **rubbish)


def many_texts(rng: Generator) -> bytes:
    notes = PngInfo()
    for number in range(int(rng.integers(500, 3_000))):
        notes.add_text(f"note {number}", "to be read")
    return encoded(picture(rng), "PNG", pnginfo=notes)


def thin(rng: Generator) -> bytes:
    height, width = one_of(rng, ((1, 1), (1, 30_000), (30_000, 1)))
    return encoded(blocks(height, width), one_of(rng, ("JPEG", "PNG", "GIF", "BMP", "TIFF")))


def looping(rng: Generator) -> bytes:
    """A TIFF of several pages, the last of which is followed by one of them."""
    pages = [Image.fromarray(picture(rng)) for _ in range(int(rng.integers(1, 4)))]
    content = bytearray(saved(pages[0], "TIFF", save_all=True, append_images=pages[1:]))
    links = [4]  # the places that say where the next page is
    while page := int.from_bytes(content[links[-1] : links[-1] + 4], "little"):
        links.append(page + 2 + 12 * int.from_bytes(content[page : page + 2], "little"))
    back = one_of(rng, links[:-1])
    content[links[-1] : links[-1] + 4] = content[back : back + 4]
    return bytes(content)


def cut_animation(rng: Generator) -> bytes:
    frames = [Image.fromarray(blocks(40, 50, int(seed))) for seed in rng.integers(2**31, size=3)]
    kind = one_of(rng, ("GIF", "WEBP", "PNG"))
    return ended(saved(frames[0], kind, save_all=True, append_images=frames[1:]), rng)


def behind_signature(rng: Generator) -> bytes:
    content = sound(one_of(rng, FILES), rng)
    return content[: rng.integers(12, 60)] + rng.bytes(int(rng.integers(100, 4_000)))


class Kind(NamedTuple):
    """A way to be damaged or strange, and what becomes of all such files."""

    draw: Callable[[Generator], bytes]
    fate: str


KINDS = {
    "empty, one byte or zeros": Kind(nothing, REFUSED),
    "text, HTML, SVG or PDF": Kind(text, REFUSED),
    "another format": Kind(foreign, REFUSED),
    "headers only": Kind(headers_only, REFUSED),
    "huge size in the header": Kind(huge, REFUSED),
    "many pixels in few bytes": Kind(unfolding, REFUSED),
    "JPEG of many scans": Kind(painted_often, REFUSED),
    "PNG with a wrong check sum": Kind(wrong_sum, REFUSED),
    "TIFF of 32-bit numbers": Kind(no_scale, REFUSED),
    "JPEG and ZIP in one": Kind(polyglot, ACCEPTED),
    "two pictures in one": Kind(glued, ACCEPTED),
    "16-bit grey": Kind(sixteen_bits, ACCEPTED),
    "CMYK": Kind(inks, ACCEPTED),
    "transparent": Kind(transparent, ACCEPTED),
    "EXIF orientation": Kind(turned, ACCEPTED),
    "corrupt EXIF or profile": Kind(corrupt_metadata, ACCEPTED),
    "PNG of many texts": Kind(many_texts, ACCEPTED),
    "one pixel, or a line": Kind(thin, ACCEPTED),
    "TIFF whose pages loop": Kind(looping, ACCEPTED),
    "cut JPEG": Kind(partial(cut, "JPEG"), BY_PILLOW),
    "cut progressive JPEG": Kind(partial(cut, "progressive JPEG"), BY_PILLOW),
    "cut PNG": Kind(partial(cut, "PNG"), BY_PILLOW),
    "cut WebP": Kind(partial(cut, "WebP"), BY_PILLOW),
    "cut GIF": Kind(partial(cut, "GIF"), BY_PILLOW),
    "cut BMP": Kind(partial(cut, "BMP"), BY_PILLOW),
    "cut TIFF": Kind(partial(cut, "TIFF"), BY_PILLOW),
    "cut animation": Kind(cut_animation, BY_PILLOW),
    "flipped bits in JPEG": Kind(partial(flipped, "JPEG"), BY_PILLOW),
    "flipped bits in PNG": Kind(partial(flipped, "PNG"), BY_PILLOW),
    "flipped bits in WebP": Kind(partial(flipped, "WebP"), BY_PILLOW),
    "flipped bits in GIF": Kind(partial(flipped, "GIF"), BY_PILLOW),
    "flipped bits in BMP": Kind(partial(flipped, "BMP"), BY_PILLOW),
    "flipped bits in TIFF": Kind(partial(flipped, "TIFF"), BY_PILLOW),
    "damaged header of JPEG": Kind(partial(overwritten, "JPEG"), BY_PILLOW),
    "damaged header of PNG": Kind(partial(overwritten, "PNG"), BY_PILLOW),
    "damaged header of WebP": Kind(partial(overwritten, "WebP"), BY_PILLOW),
    "damaged header of GIF": Kind(partial(overwritten, "GIF"), BY_PILLOW),
    "damaged header of BMP": Kind(partial(overwritten, "BMP"), BY_PILLOW),
    "damaged header of TIFF": Kind(partial(overwritten, "TIFF"), BY_PILLOW),
    "random behind a signature": Kind(behind_signature, BY_PILLOW),
}


def mutant(kind: str, index: int) -> bytes:
    return KINDS[kind].draw(np.random.default_rng([zlib.crc32(kind.encode()), index]))


def write_mutants(folder: Path, number: int) -> dict[str, tuple[str, bytes]]:
    """Files of every kind in two classes: path -> kind, content."""
    written = {}
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
    for kind in KINDS:
        for index in range(number):
            path = folder / CLASSES[index % len(CLASSES)] / f"{kind}-{index:03}.jpg"
            content = mutant(kind, index)
            path.write_bytes(content)
            written[str(path)] = (kind, content)
    return written


def first_look(folder: Path, seconds: float, sabotage: str = "") -> tuple[set[str], list[str]]:
    """What a new process refuses and says, in that time and in little memory."""
    program = PROGRAM.format(sabotage=sabotage)
    command = [sys.executable, "-W", "error", "-c", program, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode == 0, f"crashed: {done.stderr}"
    found = json.loads(done.stdout)
    assert found["memory"] < MEMORY, f"took {found['memory']:,} bytes of memory"
    return set(found["refused"]), found["said"]


def by_pillow_alone(content: bytes) -> tuple[Pixels, int] | None:
    """What Pillow shows of a picture, H W 3, and by how much rounding may change it; None where
    there is nothing to be shown, or no rule for how.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content)) as image:
                width, height = image.size
                small = width * height <= MOST_PIXELS and max(width, height) <= MOST_SIDE
                if not small or image.format not in FORMATS or image.mode not in MODES:
                    return None
                image.load()
                return shown(upright(image))
    except Exception:  # of every kind: that nothing else comes out is what is tested here
        return None


def upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a picture is not lost for what it says of itself
        return image


def shown(image: Image.Image) -> tuple[Pixels, int]:
    if image.mode.startswith("I;16"):
        return np.stack([np.asarray(image) // 256] * 3, axis=2).astype(np.uint8), 0
    if "A" not in image.mode and "transparency" not in image.info:
        return np.asarray(image.convert("RGB")), 0
    coloured = np.asarray(image.convert("RGBA")).astype(float)
    share = coloured[..., 3:] / 255
    return (coloured[..., :3] * share + 255 * (1 - share)).round().astype(np.uint8), 1


def fault(found: Scan, row: int, kind: str, content: bytes) -> str:
    """What is wrong with what was found of a file; "" if nothing."""
    name, problem, fate = found.spots.name(row), found.problems.get(row), KINDS[kind].fate
    expected = None if fate == REFUSED else by_pillow_alone(content)
    assert expected or fate != ACCEPTED, f"Pillow cannot read {kind}, which was thought to be sound"
    if problem is not None and expected:
        return f"refused: {problem}"
    if problem is not None:
        is_line = name in problem and problem.isprintable() and len(problem) < len(name) + LINE
        return "" if is_line else f"not a line that names it: {problem}"
    if expected is None:
        return "accepted"
    pixels = Photos(found, np.array([row])).pixels(0).permute(1, 2, 0).numpy()
    if pixels.shape != expected[0].shape or tuple(found.sizes[row]) != pixels.shape[:2]:
        return f"of size {pixels.shape}, not {expected[0].shape}"
    difference = np.abs(pixels.astype(np.int16) - expected[0]).max()
    return f"other pixels, by {difference}" if difference > expected[1] else ""


def faults(found: Scan, written: Mapping[str, tuple[str, bytes]]) -> dict[str, str]:
    """Names of files that were not told right from wrong, and how."""
    assert set(found.spots.files) == set(written)
    every = {path: fault(found, row, *written[path]) for row, path in enumerate(found.spots.files)}
    return {path: what for path, what in every.items() if what}


def load(folder: Path) -> tuple[dict[str, ImageSet], list[str]]:
    said: list[str] = []
    return load_parts(Data(name=str(folder), on_bad="skip"), 0, said.append), said


def scan_of(sets: Mapping[str, ImageSet]) -> Scan:
    return photos_of(sets["train"]).scan


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPCNN_CACHE", str(tmp_path / "cache"))


def batches(images: ImageSet, geometry: str) -> list[Tensor]:
    """All batches of a set, each picture in them once."""
    preprocess = Preprocess(3, 16, 0, (0.0,) * 3, (1.0,) * 3, geometry)
    found = list(in_order(source(images, preprocess, torch.device("cpu")), 64))
    assert torch.cat([batch.indices for batch in found]).tolist() == list(range(len(images)))
    return [batch.images for batch in found]


def assert_fates(written: Mapping[str, tuple[str, bytes]], refused: set[str]) -> None:
    fates = {fate: Counter[bool]() for fate in (REFUSED, ACCEPTED, BY_PILLOW)}
    for path, (kind, _) in written.items():
        fates[KINDS[kind].fate][path in refused] += 1
    assert set(fates[REFUSED]) == {True}
    assert set(fates[ACCEPTED]) == {False}
    assert min(fates[BY_PILLOW].values()) > fates[BY_PILLOW].total() / 10  # neither is rare


def assert_left(sets: Mapping[str, ImageSet], paths: Set[str]) -> None:
    """The sets have exactly these files, each once, labelled with its folder."""
    labelled = [
        (photos_of(images).name(k), images.classes[label])
        for images in sets.values()
        for k, label in enumerate(images.labels)
    ]
    assert sorted(labelled) == sorted((path, Path(path).parent.name) for path in paths)


def assert_readable(images: ImageSet) -> None:
    """To the end, in every geometry, and the same without kept pixels."""
    for geometry in FRAMES:
        for pixels in batches(images, geometry):
            assert pixels.shape[1:] == (3, 16, 16)
            assert 0 <= pixels.min() <= pixels.max() <= 1
    photos = photos_of(images)
    assert photos.scan.kept.pixels is not None
    anew = Photos(replace(photos.scan, kept=Kept(None)), photos.rows)
    others = batches(replace(images, images=anew), "crop")
    for pixels, other in zip(batches(images, "crop"), others, strict=True):
        assert torch.equal(pixels, other)


@linux
@pytest.mark.parametrize("number", [25, pytest.param(250, marks=pytest.mark.soak)])
def test_damaged_files_are_told_from_good_ones(number: int, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    written = write_mutants(folder, number)
    refused, said = first_look(folder, SECONDS * number / 25)
    with no_reading():  # all of them were decoded in that process, and only there
        sets, said_again = load(folder)
        assert not faults(scan_of(sets), written)
    assert said == said_again
    assert said[0].startswith(f"left out: {len(refused)} of {len(written)} pictures cannot be used")
    assert_fates(written, refused)
    assert_left(sets, written.keys() - refused)
    for images in sets.values():
        assert_readable(images)


def test_the_kinds_are_forty_and_their_files_differ() -> None:
    assert len(KINDS) == 40
    for kind in KINDS:
        contents = [mutant(kind, index) for index in range(20)]
        assert contents == [mutant(kind, index) for index in range(20)]
        assert len(set(contents)) >= 3
        assert max(map(len, contents)) < 150_000


@pytest.mark.parametrize(
    ("kind", "spoil", "complaint"),
    [
        ("CMYK", lambda _, pixels: pixels[:, 1:], "of size"),
        ("flipped bits in BMP", lambda _, pixels: pixels.flip(2), "other pixels"),
        ("EXIF orientation", lambda name, _: f"{name} is bad", "refused"),
        ("headers only", lambda *_: torch.zeros(3, 9, 9, dtype=torch.uint8), "accepted"),
        ("cut WebP", lambda *_: torch.zeros(3, 9, 9, dtype=torch.uint8), "accepted"),
        ("another format", lambda *_: "it is bad", "not a line"),
        ("another format", lambda name, _: f"{name} is\nbad", "not a line"),
    ],
)
def test_a_look_that_errs_is_found_out(
    kind: str,
    spoil: Callable[[str, Tensor | None], Tensor | str],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What goes wrong with one kind of files is said of all those and of no other."""

    def decode(content: bytes, where: object, *options: Any) -> Tensor:
        if f"/{kind}-" not in str(where):
            return decode_bytes(content, where, *options)
        try:
            found = spoil(str(where), decode_bytes(content, where, *options))
        except ImageError:
            found = spoil(str(where), None)
        if isinstance(found, str):
            raise ImageError(found)
        return found

    written = write_mutants(tmp_path / "pictures", len(CLASSES))
    monkeypatch.setattr(module, "decode_bytes", decode)
    found = faults(scan_of(load(tmp_path / "pictures")[0]), written)
    assert set(found) == {path for path, (name, _) in written.items() if name == kind}
    assert all(what.startswith(complaint) for what in found.values())


@linux
@pytest.mark.parametrize(
    ("sabotage", "complaint"),
    [
        ("scan.decode_bytes = lambda *_: os.kill(os.getpid(), 9)", "crashed"),
        ("hoard = b'1' * 2**30", "took 1,.* bytes of memory"),
    ],
)
def test_a_crash_and_a_hoard_are_found_out(sabotage: str, complaint: str, tmp_path: Path) -> None:
    write_mutants(tmp_path / "pictures", len(CLASSES))
    with pytest.raises(AssertionError, match=complaint):
        first_look(tmp_path / "pictures", SECONDS, sabotage)
