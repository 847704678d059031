"""`Preprocess`: how any picture becomes the numbers a network was trained on. It travels with the
weights and is the one path for training, evaluation and prediction.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Preprocess:
    """Resize to a square of `size`, pad with background, then (pixel / 255 - mean) / std."""

    channels: int
    size: int
    pad: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def input_size(self) -> int:
        """Side in pixels of what the network sees."""
        return self.size + 2 * self.pad

    def __call__(self, images: Tensor) -> Tensor:
        """Map uint8 N C H W to float32 N C S S on the same device."""
        numbers = images.float()
        if self.size > max(images.shape[-2:]) and not self.pad:
            # The same numbers, computed on fewer pixels: the weights of a resize sum to 1.
            return resize(self._normalized(numbers), self.size)
        numbers = resize(numbers, self.size)
        if self.pad:
            numbers = F.pad(numbers, (self.pad,) * 4)
        return self._normalized(numbers)

    def _normalized(self, numbers: Tensor) -> Tensor:
        mean = torch.tensor(self.mean, device=numbers.device)[:, None, None]
        std = torch.tensor(self.std, device=numbers.device)[:, None, None]
        return torch.addcmul(-mean / std, numbers, 1 / (255 * std))


def resize(images: Tensor, size: int) -> Tensor:
    """Resize float N C H W to a square, antialiased triangle filter; equals Pillow's BILINEAR.

    A resize is linear, so it is two matrix products; that is faster than a general interpolation.
    """
    height, width = images.shape[-2:]
    if (height, width) == (size, size):
        return images
    columns = _resize_matrix(width, size).to(images.device)
    rows = _resize_matrix(height, size).to(images.device)
    return rows @ (images @ columns.T)


@lru_cache(maxsize=64)
def _resize_matrix(source: int, target: int) -> Tensor:
    """Weights (target, source) of a triangle filter, each row summing to 1."""
    scale = source / target
    support = max(scale, 1.0)
    centres = (np.arange(target) + 0.5) * scale
    distances = np.abs(np.arange(source) + 0.5 - centres[:, None]) / support
    weights = np.maximum(0.0, 1.0 - distances)
    return torch.from_numpy(weights / weights.sum(axis=1, keepdims=True)).float()
