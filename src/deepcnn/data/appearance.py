"""What every picture looks like, measured once for all questions about light, detail and copies.

N pictures, C channels, H rows, W columns.
"""

import hashlib
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from deepcnn import interrupt
from deepcnn.data.decode import FORMATS
from deepcnn.data.duplicates import SIDE
from deepcnn.data.images import ImageSet
from deepcnn.data.photos import WHOLE_FILE, Photos, Spots
from deepcnn.data.preprocess import resize
from deepcnn.data.threads import in_threads
from deepcnn.errors import ImageError
from deepcnn.progress import reported

if TYPE_CHECKING:
    from PIL.Image import Image

LARGEST = 128  # side at which detail is measured, about what networks see of it
PORTION = 128  # pictures of one task
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601
ORIENTATION, UPRIGHT = 0x0112, 1  # EXIF
HAS_ORIENTATION = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}
KINDS = {"1": "1 bit", "P": "palette", "PA": "palette", "CMYK": "CMYK", "YCbCr": "YCbCr"}


@dataclass(frozen=True)
class Appearance:
    """Measures of N pictures, all 0 where one could not be read."""

    digests: NDArray[np.uint64]  # N, of size and pixels
    spread: NDArray[np.uint8]  # N, between the darkest and brightest pixel of a channel
    small: NDArray[np.uint8]  # N 16 16, grey
    detail: NDArray[np.float64]  # N, variance of the Laplacian as a share of that of grey
    problems: dict[int, str]


class Header(NamedTuple):
    """What a picture file says of itself; sizes before it is turned."""

    format: str
    kind: str  # of its pixels where it is neither grey nor RGB with 8 bits, else ""
    width: int
    height: int
    is_turned: bool  # by its EXIF data
    named_otherwise: bool  # as a picture of another format


def look_at(images: ImageSet, side: int, threads: int) -> Appearance:
    """Measure all pictures of a set, detail at `side` x `side` pixels."""

    def measure(rows: range) -> Appearance:
        pixels = images.images
        return (
            _of_photos(pixels, rows, side)
            if isinstance(pixels, Photos)
            else _of_array(pixels[rows.start : rows.stop], side)
        )

    tasks = [range(s, min(s + PORTION, len(images))) for s in range(0, len(images), PORTION)]
    groups = (tasks[start : start + threads] for start in range(0, len(tasks), threads))
    found = [_of_array(np.zeros((0, 1, 1, 1), np.uint8), side)]
    all_measures = in_threads(measure, groups, threads, ahead=1)
    num_groups = -(-len(tasks) // threads)
    for group in reported(all_measures, num_groups, f"looking at {images.name}"):
        interrupt.check()
        found += group
    return joined(found)


def joined(parts: Sequence[Appearance]) -> Appearance:
    """The measures of several sets of pictures, one after another."""
    starts = np.cumsum([0] + [len(part.digests) for part in parts]).tolist()
    problems = {
        start + row: problem
        for start, part in zip(starts, parts, strict=False)
        for row, problem in part.problems.items()
    }
    return Appearance(
        np.concatenate([part.digests for part in parts]),
        np.concatenate([part.spread for part in parts]),
        np.concatenate([part.small for part in parts]),
        np.concatenate([part.detail for part in parts]),
        problems,
    )


def _of_array(images: NDArray[np.uint8], side: int) -> Appearance:
    """Measures of images N C H W."""
    pixels = torch.from_numpy(np.array(images))  # a copy, for a mapped file cannot be written to
    return _measured([_digest(image) for image in images], _spread(images), _grey(pixels, side), {})


def _of_photos(photos: Photos, rows: range, side: int) -> Appearance:
    """Measures of some pictures of different sizes."""
    digests, views, problems = [0] * len(rows), torch.zeros(len(rows), side, side), {}
    spread = np.zeros(len(rows), np.uint8)
    for place, row in enumerate(rows):
        try:
            picture = photos.pixels(row)
        except ImageError as error:  # it was there when the set was listed
            problems[place] = str(error)
            continue
        pixels = picture.numpy()
        digests[place], spread[place] = _digest(pixels), _spread(pixels[None])[0]
        views[place] = _grey(picture[None], side)[0]
    return _measured(digests, spread, views, problems)


def _digest(image: NDArray[np.uint8]) -> int:
    """A hash of the pixels C H W that depends on the size, not on how they lie in memory."""
    content = hashlib.blake2b(repr(image.shape).encode(), digest_size=8)
    content.update(np.ascontiguousarray(image.transpose(1, 2, 0)).data)
    return int.from_bytes(content.digest())


def _spread(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The largest difference within a channel: N of N C H W."""
    spread: NDArray[np.uint8] = (images.max(axis=(2, 3)) - images.min(axis=(2, 3))).max(axis=1)
    return spread


def _grey(images: Tensor, side: int) -> Tensor:
    """Grey levels N side side of uint8 N C H W, whatever their shape, reduced with averaging."""
    if images.shape[2:] != (side, side):
        images = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
    channels = images.shape[1]
    weights = torch.tensor(LUMA if channels == len(LUMA) else [1 / channels] * channels)
    return (images.float() * weights[:, None, None]).sum(dim=1)


def _measured(
    digests: Sequence[int], spread: NDArray[np.uint8], grey: Tensor, problems: dict[int, str]
) -> Appearance:
    small = resize(grey[:, None], SIDE)[:, 0].round().clamp(0, 255).to(torch.uint8)
    edged = F.pad(grey[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    neighbours = edged[:, 1:-1, :-2] + edged[:, 1:-1, 2:] + edged[:, :-2, 1:-1] + edged[:, 2:, 1:-1]
    detail = _variance(neighbours - 4 * grey) / _variance(grey).clamp(min=1)
    return Appearance(np.array(digests, np.uint64), spread, small.numpy(), detail.numpy(), problems)


def _variance(images: Tensor) -> Tensor:
    values = images.flatten(1).double()
    return (values - values.mean(dim=1, keepdim=True)).square().mean(dim=1)


def read_headers(photos: Photos, threads: int) -> list[Header | None]:
    """What the file of each picture says of itself; None for what cannot be read so."""
    warnings.filterwarnings("ignore", module="PIL")  # of metadata; not `catch_warnings` in threads
    spots, rows = photos.scan.spots, photos.rows.tolist()
    tasks = [rows[start : start + PORTION] for start in range(0, len(rows), PORTION)]

    def read(some: list[int]) -> list[Header | None]:
        return [_header(spots, row) for row in some]

    groups = (tasks[start : start + threads] for start in range(0, len(tasks), threads))
    read_so = in_threads(read, groups, threads, ahead=1)
    return [header for group in read_so for some in group for header in some]


def _header(spots: Spots, row: int) -> Header | None:
    from PIL import Image

    try:
        whole = spots.size[row] == WHOLE_FILE
        source = spots.files[spots.file[row]] if whole else io.BytesIO(spots.read(row))
        with Image.open(source, formats=FORMATS) as picture:
            name = _known_as(picture.format)
            suffix = Path(spots.files[spots.file[row]]).suffix.lower() if whole else ""
            expected = _known_as(Image.registered_extensions().get(suffix)) or name
            return Header(
                name, _kind(picture), *picture.size, _is_turned(picture), expected != name
            )
    except Exception:  # a damaged file makes the readers raise almost anything
        return None


def _known_as(format: str | None) -> str:  # noqa: A002
    return "JPEG" if format == "MPO" else format or ""  # which is a JPEG with further pictures


def _kind(picture: "Image") -> str:
    bits = "16 bits" if picture.mode.startswith("I;16") else KINDS.get(picture.mode, "")
    transparent = "transparent parts" if picture.has_transparency_data else ""
    return ", ".join(filter(None, (bits, transparent)))


def _is_turned(picture: "Image") -> bool:
    # Asked for only where there is something: a PNG would be decoded to look for it at its end.
    if picture.format != "TIFF" and not picture.info.keys() & HAS_ORIENTATION:
        return False
    return bool(picture.getexif().get(ORIENTATION, UPRIGHT) != UPRIGHT)
