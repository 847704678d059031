"""One picture file as pixels: any format and size, decided by content, never by name."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepcnn.errors import ImageError

if TYPE_CHECKING:
    from PIL.Image import Image

# Others either start foreign programs or are no pictures.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
PIXEL_LIMIT = 64_000_000  # a small file can unfold to gigabytes; refused before it does
SIDE_LIMIT = 65_535  # of JPEG; the weights that resize a longer side would fill the memory
LIMITS = f"at most {PIXEL_LIMIT:,} are read, and sides of {SIDE_LIMIT:,}"
EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N")


def decode(path: Path, channels: int) -> Tensor:
    """Read a picture as uint8 C H W, grey for one channel, RGB for three.

    Turned upright as its EXIF data says, transparent parts on white, 16-bit grey scaled to 8 bits,
    the first frame of an animation. Raises ImageError.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        # What Pillow warns of is metadata out of order, which is not used, and sizes checked here.
        with warnings.catch_warnings(action="ignore"):
            pixels = _read(path, "L" if channels == 1 else "RGB")
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{path} is not a picture; expected {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{path} has too many pixels; {LIMITS}: reduce it") from None
    except Exception as error:  # a damaged file makes Pillow's readers raise almost anything
        raise ImageError(f"{path} cannot be read: {_reason(error)}") from error
    planes = pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
    return torch.from_numpy(np.array(planes, order="C"))  # a copy: Pillow's memory is read-only


def _read(path: Path, mode: str) -> NDArray[Any]:
    """The picture as uint8 H W or H W 3, by `mode`."""
    from PIL import Image

    if path.exists() and not path.is_file():
        raise ImageError(f"{path} is not a file; expected a picture")
    with Image.open(path, formats=FORMATS) as picture:
        width, height = picture.size
        if width * height > PIXEL_LIMIT or max(width, height) > SIDE_LIMIT:
            raise ImageError(f"{path} has {width} x {height} pixels; {LIMITS}: reduce it")
        picture.load()
        return np.asarray(_flattened(_upright(picture), path).convert(mode))


def _upright(picture: "Image") -> "Image":
    """The picture turned as its EXIF data says; what cannot be understood there says nothing."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(picture)
    except Exception:
        return picture


def _flattened(picture: "Image", path: Path) -> "Image":
    """The picture without transparency and with at most 8 bits a channel."""
    from PIL import Image

    if picture.mode in SIXTEEN_BIT:
        grey = np.asarray(picture)
        grey = np.where(grey == picture.info.get("transparency", -1), 0xFFFF, grey)
        return Image.fromarray((grey >> 8).astype(np.uint8))
    if picture.mode not in EIGHT_BIT:
        raise ImageError(f"{path} has pixels of kind {picture.mode}; save it with 8 bits a channel")
    if picture.has_transparency_data:
        coloured = picture.convert("RGBA")
        paper = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(paper, coloured)
    return picture


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
