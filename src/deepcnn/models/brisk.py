"""Brisk, this package's own networks for a very good answer on small images in minutes.

Shapes in comments: N images, C channels, H rows, W columns.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from deepcnn.models.whitening import PatchWhitening

LEAST_VARIANCE = 0.05  # of what the first layer does not take for noise
WIDTHS = (48, 128, 128)  # maps of the convolutions
DEEP_WIDTHS = (32, 64, 64, 128, 128, 256)
DASH_WIDTHS = (16, 64)
DASH_DIRECTIONS = 6  # principal directions of patches that its first layer keeps


class Brisk(nn.Module):
    """Three convolutions on whitened patches: 1x28x28 images, 228,714 parameters for 10 classes.

    The fixed first layer halves the side at once, and maxima are taken before the norms, so that
    what is left to compute is small. 512 more weights are fixed. Any side of 8 or more.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1, side: int = 28) -> None:
        super().__init__()
        self.whiten = PatchWhitening(
            in_channels, side=4, stride=2, bias=False, least_variance=LEAST_VARIANCE
        )
        first, second, third = WIDTHS
        self.block1 = Block(self.whiten.out_channels, first, pool=True)
        self.block2 = Block(first, second, pool=True)
        self.block3 = Block(second, third)
        self.head = nn.Linear(third * max(1, side // 8) ** 2, num_classes)

    def forward(self, images: Tensor) -> Tensor:  # N C 28 28
        """Return the logits."""
        x = F.relu(self.whiten(images))  # N 32 14 14
        x = self.block1(x)  # N 48 7 7
        x = self.block2(x)  # N 128 3 3
        x = self.block3(x)  # N 128 3 3
        logits: Tensor = self.head(x.flatten(1))
        return logits  # N num_classes


class BriskDeep(nn.Module):
    """Six convolutions on whitened patches: 1x28x28 images, 600,970 parameters for 10 classes.

    The fixed first layer keeps the side here. Its 162 weights are not counted. Any side of 8 or
    more.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1, side: int = 28) -> None:
        super().__init__()
        self.whiten = PatchWhitening(in_channels, side=3, bias=False, least_variance=LEAST_VARIANCE)
        widths = (self.whiten.out_channels, *DEEP_WIDTHS)
        self.blocks = nn.Sequential(
            Block(widths[0], widths[1], pool=True),  # N 32 14 14
            Block(widths[1], widths[2]),
            Block(widths[2], widths[3], pool=True),  # N 64 7 7
            Block(widths[3], widths[4]),
            Block(widths[4], widths[5], pool=True),  # N 128 3 3
            Block(widths[5], widths[6]),
        )
        self.head = nn.Linear(widths[6] * max(1, side // 8) ** 2, num_classes)

    def forward(self, images: Tensor) -> Tensor:  # N C 28 28
        """Return the logits."""
        x = F.relu(self.whiten(images))  # N 18 28 28
        x = self.blocks(x)  # N 256 3 3
        logits: Tensor = self.head(x.flatten(1))
        return logits  # N num_classes


class Dash(nn.Module):
    """Two convolutions on whitened patches: 1x28x28 images, 16,874 parameters for 10 classes.

    For an answer in a few seconds. 192 more weights are fixed. Any side of 8 or more.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1, side: int = 28) -> None:
        super().__init__()
        self.whiten = PatchWhitening(
            in_channels, side=4, stride=2, bias=False, directions=DASH_DIRECTIONS,
            least_variance=LEAST_VARIANCE,
        )  # fmt: skip
        first, second = DASH_WIDTHS
        self.block1 = Block(self.whiten.out_channels, first, pool=True)
        self.block2 = Block(first, second, pool=True)
        self.head = nn.Linear(second * max(1, side // 8) ** 2, num_classes)

    def forward(self, images: Tensor) -> Tensor:  # N C 28 28
        """Return the logits."""
        x = F.relu(self.whiten(images))  # N 12 14 14
        x = self.block1(x)  # N 16 7 7
        x = self.block2(x)  # N 64 3 3
        logits: Tensor = self.head(x.flatten(1))
        return logits  # N num_classes


class Block(nn.Module):
    """A 3x3 convolution, the largest of 2x2 where asked for, batch norm, ReLU."""

    def __init__(self, in_channels: int, channels: int, pool: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel_size=3, padding=1, bias=False)
        self.pool = nn.MaxPool2d(kernel_size=2) if pool else nn.Identity()
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:  # N C H W
        """Return N channels H W, or half the sides."""
        return F.relu(self.norm(self.pool(self.conv(x))))
