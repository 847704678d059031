"""One picture file as pixels: any format and size, decided by content, never by name."""

import io
import os
import stat
import warnings
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepcnn.errors import ImageError

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

# Others either start foreign programs or are no pictures.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
PIXEL_LIMIT = 64_000_000  # a small file can unfold to gigabytes; refused before it does
SIDE_LIMIT = 65_535  # of JPEG; the weights that resize a longer side would fill the memory
LIMITS = f"at most {PIXEL_LIMIT:,} are read, and sides of {SIDE_LIMIT:,}"
JPEGS = ("JPEG", "MPO")  # MPO: what many phones write, a JPEG followed by others
PILLOW, FILTERING = "PIL", Lock()  # of the list of warnings to ignore
OBSCURE = ("decoder error", "could not create decoder", "codec configuration")  # of Pillow's words
CUT = "truncated"  # what Pillow says of a picture that ends too early
BYTES_LIMIT = 512_000_000  # of a file
START_OF_IMAGE = b"\xff\xd8\xff"  # of every JPEG
TURNING = (b"Exif", b"http://ns.adobe.com/xap")  # what begins a segment that may ask to turn it
SEGMENTS = {*range(0xC0, 0xD0), *range(0xDB, 0xFF)}  # kinds of those that tell their length
JPEG_MODES = {"Gray": "L", "YCbCr": "RGB", "RGB": "RGB"}  # colours as simplejpeg and Pillow say
END_OF_IMAGE = b"\xff\xd9"
START_OF_SCAN = b"\xff\xda"  # a progressive JPEG paints all its pixels once for each of these
SCANNED_LIMIT = 16 * PIXEL_LIMIT  # pixels times scans: some ten seconds
EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N")
ORIENTATION, UPRIGHT = 0x0112, 1  # EXIF


def decode(path: Path, channels: int, least: int = 0) -> Tensor:
    """Read a picture file as `decode_bytes` does. Raises ImageError."""
    return decode_bytes(read_bytes(path), path, channels, least)


def read_bytes(path: str | Path) -> bytes:
    """The content of a regular file of a size that a picture can have; ImageError if it is none."""
    try:
        status = os.stat(path)  # noqa: PTH116
        if not stat.S_ISREG(status.st_mode):  # reading from a pipe would wait for ever
            raise ImageError(f"{path} is not a file; expected a picture")
        if status.st_size > BYTES_LIMIT:
            raise ImageError(
                f"{path} has {status.st_size:,} bytes, expected at most {BYTES_LIMIT:,}"
            )
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123
            return file.read()
    except (OSError, ValueError) as error:
        raise ImageError(f"{path} cannot be read: {_reason(error)}") from error


def decode_bytes(
    content: bytes, where: object, channels: int, least: int = 0, is_cut: bool = False
) -> Tensor:
    """The picture as uint8 C H W (in memory H W C), grey for one channel, RGB for three.

    Turned upright as its EXIF data says, transparent parts on white, 16-bit grey scaled to 8 bits,
    the first frame of an animation. A picture whose shorter side stays at least `least` (0: never)
    at a half, a quarter or an eighth of its size comes at that size: a JPEG is decoded so, which
    takes less time. Of a picture that ends too early there is the part before, if `is_cut`.
    `where` names the picture in messages. Raises ImageError.
    """
    from PIL import Image, UnidentifiedImageError

    _ignore_warnings()
    try:
        return _read(content, where, channels, least, is_cut)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{where} is not a picture; expected {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{where} has too many pixels; {LIMITS}: reduce it") from None
    except Exception as error:  # a damaged file makes the readers raise almost anything
        raise ImageError(f"{where} cannot be read: {_reason(error)}") from error


def _ignore_warnings() -> None:
    """Do not pass on what Pillow warns of: metadata out of order, which is not used, and sizes,
    which are checked here. Not `catch_warnings`, which is not safe in threads.
    """
    with FILTERING:
        if PILLOW not in {
            getattr(module, "pattern", "") for _, _, _, module, _ in warnings.filters
        }:
            warnings.filterwarnings("ignore", module=PILLOW)


def _read(content: bytes, where: object, channels: int, least: int, is_cut: bool) -> Tensor:
    from PIL import Image

    mode = "L" if channels == 1 else "RGB"
    if is_cut and content.startswith(START_OF_IMAGE):
        content += END_OF_IMAGE  # so that the decoder brings what it has to an end
    if (pixels := _plain_jpeg(content, mode, least)) is not None:
        return torch.from_numpy(pixels).permute(2, 0, 1)
    with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
        _require_measure(picture, content, where)
        factor = _reduction(min(picture.size), least)
        if picture.format in JPEGS and factor > 1:
            drafted = picture.draft(mode, (picture.width // factor, picture.height // factor))
            factor = 1 if drafted else factor
        elif picture.format in JPEGS and picture.mode == mode and _is_upright(picture):
            pixels = _decode_jpeg(content, mode)
            if pixels is not None:
                return torch.from_numpy(pixels).permute(2, 0, 1)
        _load(picture, is_cut)
        whole = _flattened(picture if _is_upright(picture) else _upright(picture), where)
        # Each step copies the whole picture, so none is taken that changes nothing.
        whole = whole if whole.mode == mode else whole.convert(mode)
        pixels = np.array(whole.reduce(factor) if factor > 1 else whole)
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)


def _load(picture: "ImageFile", is_cut: bool) -> None:
    """Decode; what there is of a picture that ends too early stays, if `is_cut`."""
    try:
        picture.load()
    except OSError as error:
        if not is_cut or CUT not in str(error).lower():
            raise
        # Not Pillow's own setting for this, which would count for all threads.
        picture.tile = []  # nothing more is to come
        picture.load()


def _plain_jpeg(content: bytes, mode: str, least: int) -> NDArray[np.uint8] | None:
    """A JPEG that needs nothing but decoding, H W C; None for Pillow to look closer.

    Pillow reads the headers in Python, which takes longer than decoding a small picture.
    """
    import simplejpeg

    if not content.startswith(START_OF_IMAGE) or not _has_plain_header(content):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
    except ValueError:
        return None
    is_whole = JPEG_MODES.get(colours) == mode and _reduction(min(height, width), least) == 1
    if not is_whole or _is_too_large(width, height) or _is_painted_often(content, width * height):
        return None
    return _decode_jpeg(content, mode)


def _has_plain_header(content: bytes) -> bool:
    """Whether the segments before a JPEG's first scan are in order, and none asks to turn it."""
    place = 2  # of a segment: 0xFF, its kind, two bytes of length and what the length counts
    while content[place : place + 2] != START_OF_SCAN:
        head = content[place : place + 4]
        is_segment = len(head) == 4 and head[0] == 0xFF and head[1] in SEGMENTS
        if not is_segment or content.startswith(TURNING, place + 4):
            return False
        place += 2 + int.from_bytes(head[2:])
    return True


def _require_measure(picture: "Image", content: bytes, where: object) -> None:
    """Refuse what would fill the memory or take very long, before anything is decoded."""
    width, height = picture.size
    if _is_too_large(width, height):
        raise ImageError(f"{where} has {width} x {height} pixels; {LIMITS}: reduce it")
    if picture.format in JPEGS and _is_painted_often(content, width * height):
        raise ImageError(f"{where} paints its {width} x {height} pixels too often: save it anew")


def _is_too_large(width: int, height: int) -> bool:
    return width * height > PIXEL_LIMIT or max(width, height) > SIDE_LIMIT


def _is_painted_often(content: bytes, pixels: int) -> bool:
    most = SCANNED_LIMIT // pixels  # scans
    # Counting the one byte, in NumPy, is faster, and enough for nearly all.
    second = np.frombuffer(content, np.uint8) == START_OF_SCAN[1]
    return bool(np.count_nonzero(second) > most and content.count(START_OF_SCAN) > most)


def _reduction(side: int, least: int) -> int:
    """By how much a picture may be reduced: 1, 2, 4 or 8."""
    factors = (factor for factor in (8, 4, 2) if least and side >= factor * least)
    return next(factors, 1)


def _decode_jpeg(content: bytes, mode: str) -> NDArray[np.uint8] | None:
    """A plain JPEG as H W C: Pillow's pixels, sooner. None at any fault, for Pillow to judge."""
    import simplejpeg

    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(content, "GRAY" if mode == "L" else mode)
    except ValueError:
        return None
    return pixels


def _is_upright(picture: "Image") -> bool:
    """Whether nothing asks to turn the picture; in doubt not, so that `_upright` looks closer."""
    if picture.format != "TIFF" and not picture.info.keys() & {
        "exif",
        "xmp",
        "XML:com.adobe.xmp",
        "Raw profile type exif",
    }:
        return True
    try:
        return bool(picture.getexif().get(ORIENTATION, UPRIGHT) == UPRIGHT)
    except Exception:
        return False


def _upright(picture: "Image") -> "Image":
    """The picture turned as its EXIF data says; what cannot be understood there says nothing."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(picture)
    except Exception:
        return picture


def _flattened(picture: "Image", where: object) -> "Image":
    """The picture without transparency and with at most 8 bits a channel."""
    from PIL import Image

    if picture.mode in SIXTEEN_BIT:
        grey = np.asarray(picture)
        grey = np.where(grey == picture.info.get("transparency", -1), 0xFFFF, grey)
        return Image.fromarray((grey >> 8).astype(np.uint8))
    if picture.mode not in EIGHT_BIT:
        raise ImageError(
            f"{where} has pixels of kind {picture.mode}; save it with 8 bits a channel"
        )
    if picture.has_transparency_data:
        coloured = picture.convert("RGBA")
        paper = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(paper, coloured)
    return picture


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"damaged or cut off ({text})" if text.startswith(OBSCURE) else text
