"""One picture file as pixels: any format and size, decided by content, never by name."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from deepcnn.errors import ImageError

if TYPE_CHECKING:
    from PIL.Image import Image

# Others either start foreign programs or are no pictures.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
PIXEL_LIMIT = 64_000_000  # a small file can unfold to gigabytes; refused before it does
SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N", "I")


def decode(path: Path, channels: int) -> Tensor:
    """Read a picture as uint8 C H W, grey for one channel, RGB for three.

    Turned upright as its EXIF data says, transparent parts on white, 16-bit grey scaled to 8 bits,
    the first frame of an animation. Raises ImageError.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings(), Image.open(path, formats=FORMATS) as picture:
            warnings.simplefilter("ignore")  # of metadata that is out of order, which is not used
            _require_reasonable(path, picture.size)
            upright = ImageOps.exif_transpose(picture)
            pixels = np.asarray(_flattened(upright).convert("L" if channels == 1 else "RGB"))
    except UnidentifiedImageError:
        raise ImageError(f"{path} is not a picture; expected {', '.join(FORMATS)}") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path} cannot be read: {_reason(error)}") from error
    planes = pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(planes))


def _require_reasonable(path: Path, size: tuple[int, int]) -> None:
    if size[0] * size[1] > PIXEL_LIMIT:
        raise ImageError(
            f"{path} has {size[0]} x {size[1]} pixels; at most {PIXEL_LIMIT:,} are read: reduce it"
        )


def _flattened(picture: "Image") -> "Image":
    """The picture without transparency and with at most 8 bits a channel."""
    from PIL import Image

    if picture.mode in SIXTEEN_BIT:
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.has_transparency_data:
        coloured = picture.convert("RGBA")
        paper = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(paper, coloured)
    return picture


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
