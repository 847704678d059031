"""Picture files for the tests, and what a first look at them finds."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deepcnn.data.photos import Decoding, Photos, whole_files
from deepcnn.data.scan import scan

Pixels = NDArray[np.uint8]
SIZES = ((23, 31), (40, 18), (16, 16), (9, 64), (37, 36))  # H W


def blocks(height: int, width: int, seed: int = 0) -> Pixels:
    """A picture H W 3 of coloured blocks: no two parts alike, and a JPEG keeps it well."""
    coarse = np.random.default_rng(seed).integers(
        0, 256, (-(-height // 5), -(-width // 5), 3), dtype=np.uint8
    )
    return coarse.repeat(5, axis=0).repeat(5, axis=1)[:height, :width].copy()


def encoded(pixels: Pixels, kind: str = "PNG", **options: Any) -> bytes:
    """A file of the pixels, H W 3 or H W."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def by_pillow(content: bytes, mode: str = "RGB") -> Pixels:
    """What Pillow reads, H W 3 or H W."""
    with Image.open(io.BytesIO(content)) as picture:
        return np.array(picture.convert(mode))


def write_pictures(folder: Path, number: int = 10) -> list[Path]:
    """PNG and JPEG files of several sizes, each with a picture of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{index:02}{('.png', '.jpg')[index % 2]}" for index in range(number)]
    for index, path in enumerate(paths):
        kind = "JPEG" if path.suffix == ".jpg" else "PNG"
        path.write_bytes(encoded(blocks(*SIZES[index % len(SIZES)], index), kind))
    return paths


def write_classes(folder: Path, counts: Mapping[str, int]) -> Path:
    """Pictures that tell their class, FOLDER/CLASS/NUMBER: a bright band at its own height.

    Every fifth is a large JPEG.
    """
    for label, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            height, width = SIZES[index % len(SIZES)]
            pixels = blocks(height, width, 1_000 * label + index) // 4
            band = height // len(counts)
            pixels[label * band : (label + 1) * band] += 150
            path = folder / name / f"{index:02}.png"
            if index % 5 == 4:
                large = pixels.repeat(4, axis=0).repeat(4, axis=1)
                path.with_suffix(".jpg").write_bytes(encoded(large, "JPEG"))
            else:
                path.write_bytes(encoded(pixels))
    return folder


def looked_at(paths: Sequence[Path], cache: Path, least: int = 0, threads: int = 2) -> Photos:
    """All of the pictures."""
    spots = whole_files(tuple(map(str, paths)))
    found = scan(spots, Decoding(3, least), cache, threads, print)
    return Photos(found, np.arange(len(paths)))
