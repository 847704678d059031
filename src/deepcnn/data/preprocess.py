"""`Preprocess`: how any picture becomes the numbers a network was trained on. It travels with the
weights and is the one path for training, evaluation and prediction.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

LONGEST = 4  # times the short side: what a central crop looks at of a picture that is longer


@dataclass(frozen=True)
class Preprocess:
    """Bring to a square of `size`, pad with background, then (pixel / 255 - mean) / std.

    Pictures from files go through `frame` first. `geometry` crop: the short side to `size` / `keep`
    and the centre of that; squash: both sides to `size`; letterbox: the long side to `size`, the
    rest filled with the mean colour; none: sets of equal squares, resized to `size` / `keep` here
    and cut to their centre.
    """

    channels: int
    size: int
    pad: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    geometry: str = "none"
    keep: float = 1.0
    interpolation: str = "bilinear"
    views: str = "plain"  # averaged by whoever computes logits: see `data.views`
    sure: float = 1.0  # see `data.sure`
    least: int = 0  # the short side that pictures are decoded for: see `decode_bytes`

    @property
    def input_size(self) -> int:
        """Side in pixels of what the network sees."""
        return self.size + 2 * self.pad

    @property
    def _short_side(self) -> int:
        return math.floor(self.size / self.keep)

    def __call__(self, images: Tensor) -> Tensor:
        """Map uint8 N C H W to float32 N C S S on the same device."""
        numbers = images.float()
        if self.size > max(images.shape[-2:]) and not self.pad:
            # The same numbers, computed on fewer pixels: the weights of a resize sum to 1.
            return self._resized(self._normalized(numbers))
        numbers = self._resized(numbers)
        if self.pad:
            numbers = F.pad(numbers, (self.pad,) * 4)
        return self._normalized(numbers)

    def _resized(self, numbers: Tensor) -> Tensor:
        if self.geometry != "none":  # then `frame` has done it
            return numbers
        side = self._short_side
        start = round((side - self.size) / 2)
        part = slice(start, start + self.size)
        return resize(numbers, side, self.interpolation)[..., part, part]

    def _normalized(self, numbers: Tensor) -> Tensor:
        mean = torch.tensor(self.mean, device=numbers.device)
        std = torch.tensor(self.std, device=numbers.device)
        shift, scale = -mean / std, 1 / (255 * std)
        if numbers.is_contiguous():
            return (numbers * scale[:, None, None]).add_(shift[:, None, None])
        # In memory N H W C: whole rows take a quarter of the time of three numbers after three.
        pixels, width = numbers.permute(0, 2, 3, 1), numbers.shape[3]
        rows = (pixels.flatten(2) * scale.repeat(width)).add_(shift.repeat(width))
        return rows.reshape(pixels.shape).permute(0, 3, 1, 2)

    def frame(self, picture: Tensor) -> Tensor:
        """Map one picture, uint8 C H W, to uint8 C size size as `geometry` says."""
        if self.geometry == "none":
            return picture.contiguous()
        return FRAMES[self.geometry](self, picture)

    def cut(self, picture: Tensor, window: tuple[int, int, int, int]) -> Tensor:
        """A window (top, left, height, width) of one picture, uint8 C H W, at uint8 C size size."""
        top, left, height, width = window
        part = picture[:, top : top + height, left : left + width]
        return self._scaled(part, self.size, self.size)

    def _crop(self, picture: Tensor) -> Tensor:
        picture = _central(picture)
        height, width = picture.shape[1:]
        side, short = self._short_side, min(height, width)
        # Truncated and rounded as torchvision's Resize and CenterCrop do.
        resized = self._scaled(picture, int(side * height / short), int(side * width / short))
        top = round((resized.shape[1] - self.size) / 2)
        left = round((resized.shape[2] - self.size) / 2)
        return resized[:, top : top + self.size, left : left + self.size]

    def _squash(self, picture: Tensor) -> Tensor:
        return self._scaled(picture, self.size, self.size)

    def _letterbox(self, picture: Tensor) -> Tensor:
        height, width = picture.shape[1:]
        scale = self.size / max(height, width)
        rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
        top, left = (self.size - rows) // 2, (self.size - columns) // 2
        colour = (torch.tensor(self.mean) * 255).round().to(torch.uint8)
        paper = colour[:, None, None].repeat(1, self.size, self.size)
        paper[:, top : top + rows, left : left + columns] = self._scaled(picture, rows, columns)
        return paper

    def _scaled(self, picture: Tensor, height: int, width: int) -> Tensor:
        if picture.shape[1:] == (height, width):
            return picture
        # In one piece a window is resized sooner, to the same bits.
        whole = picture[None].contiguous(memory_format=torch.channels_last)
        return F.interpolate(whole, (height, width), mode=self.interpolation, antialias=True)[0]


FRAMES = {
    "crop": Preprocess._crop,
    "squash": Preprocess._squash,
    "letterbox": Preprocess._letterbox,
}


def _central(picture: Tensor) -> Tensor:
    """The middle of a very long picture: its whole length, resized, could fill the memory."""
    height, width = picture.shape[1:]
    longest = LONGEST * min(height, width)
    top, left = max(0, height - longest) // 2, max(0, width - longest) // 2
    return picture[:, top : top + longest, left : left + longest]


def small_side(side: int) -> int:
    """The side of small images beside that of others: they take about half the arithmetic."""
    return math.ceil(0.75 * side)


def resize(images: Tensor, size: int, interpolation: str = "bilinear") -> Tensor:
    """Resize float N C H W to a square, antialiased; equals Pillow's BILINEAR or BICUBIC.

    A resize is linear, so it is two matrix products; that is faster than a general interpolation.
    """
    height, width = images.shape[-2:]
    if (height, width) == (size, size):
        return images
    columns = _resize_matrix(width, size, interpolation).to(images.device)
    rows = _resize_matrix(height, size, interpolation).to(images.device)
    return rows @ (images @ columns.T)


@lru_cache(maxsize=64)
def _resize_matrix(source: int, target: int, interpolation: str) -> Tensor:
    """Weights (target, source) of a filter, each row summing to 1."""
    scale = source / target
    centres = (np.arange(target) + 0.5) * scale
    distances = np.abs(np.arange(source) + 0.5 - centres[:, None]) / max(scale, 1.0)
    weights = FILTERS[interpolation](distances)
    return torch.from_numpy(weights / weights.sum(axis=1, keepdims=True)).float()


def _triangle(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(0.0, 1.0 - x)


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys 1981, "Cubic convolution interpolation", equation 15 (a = -1/2), of distances."""
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((2.5 - 0.5 * x) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


FILTERS = {"bilinear": _triangle, "bicubic": _cubic}
