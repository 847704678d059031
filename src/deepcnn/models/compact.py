"""Compact, this package's own network for small images.

Shapes in comments: N images, C channels, H rows, W columns.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class Stage(nn.Module):
    """A 3x3 convolution, 2x2 max pooling, batch normalisation and ReLU; halves the side."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        # Batch normalisation subtracts the mean, so a bias before it would have no effect.
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.pool = nn.MaxPool2d(kernel_size=2)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:  # N C H W
        """Return maps of half the side."""
        # Pooled first, a quarter of the elements is left to normalise.
        return F.relu(self.norm(self.pool(self.conv(x))))  # N C H/2 W/2


class Compact(nn.Module):
    """Four convolutions and a linear layer: 1x28x28 images, 131,178 parameters for 10 classes.

    Three pooling stages, one convolution at the last scale, and the mean of each map. Any side of
    8 or more will do; it is meant for 28x28 and 32x32.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        self.stage1 = Stage(in_channels, 32)
        self.stage2 = Stage(32, 64)
        self.stage3 = Stage(64, 64)
        self.conv4 = nn.Conv2d(64, 128, kernel_size=3, padding=1, bias=False)
        self.norm4 = nn.BatchNorm2d(128)
        self.output = nn.Linear(128, num_classes)

    def forward(self, images: Tensor) -> Tensor:  # N C 28 28
        """Return the logits."""
        x = self.stage1(images)  # N 32 14 14
        x = self.stage2(x)  # N 64 7 7
        x = self.stage3(x)  # N 64 3 3
        x = F.relu(self.norm4(self.conv4(x)))  # N 128 3 3
        x = x.mean((2, 3))  # N 128
        logits: Tensor = self.output(x)
        return logits  # N num_classes
