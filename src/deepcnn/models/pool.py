"""A pool that gives maps one side, whatever side they had."""

import torch
from torch import Tensor, nn


class WindowMeans(nn.Module):
    """Means over side x side windows that cover a map, as `nn.AdaptiveAvgPool2d` takes them.

    The gradient of that layer is not deterministic on CUDA, so PyTorch refuses it where runs must
    repeat. A map that has the side already passes unchanged.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:  # N C H W
        """Return N C side side."""
        for axis in (2, 3):
            length = x.shape[axis]
            if length == self.side:
                continue
            starts = [i * length // self.side for i in range(self.side)]
            ends = [-(-(i + 1) * length // self.side) for i in range(self.side)]
            means = [
                x.narrow(axis, start, end - start).mean(axis)
                for start, end in zip(starts, ends, strict=True)
            ]
            x = torch.stack(means, axis)
        return x
