"""Speedy, the design of the fastest published trainings on CIFAR-10.

Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (arXiv:2404.00498), sections 3.1 to
3.3, in the form of the same author's later airbench94 with Muon; it goes back to Page's ResNet-9
(2019) and Balsam's hlb-CIFAR10 (2023).

Shapes in comments: N images, C channels, H rows, W columns.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepcnn.models.whitening import PatchWhitening

WIDTHS = (64, 256, 256)  # maps of the groups


class BiasNorm(nn.BatchNorm2d):
    """Batch normalisation with a trained shift and no scale, whose statistics follow fast."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-12, momentum=0.4, affine=False)
        self.bias = nn.Parameter(torch.zeros(channels))


class Group(nn.Module):
    """Two 3x3 convolutions, each normalised, with 2x2 max pooling after the first."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv1 = partial_identity(in_channels, channels)
        self.pool = nn.MaxPool2d(kernel_size=2)
        self.norm1 = BiasNorm(channels)
        self.conv2 = partial_identity(channels, channels)
        self.norm2 = BiasNorm(channels)

    def forward(self, x: Tensor) -> Tensor:  # N C H W
        """Return maps of half the side."""
        x = F.gelu(self.norm1(self.pool(self.conv1(x))))  # N C H/2 W/2
        return F.gelu(self.norm2(self.conv2(x)))


class Speedy(nn.Module):
    """Six convolutions on whitened patches: 3x32x32 images, 1,971,352 parameters for 10 classes.

    There are 288 more that are fixed. Any side of 9 or more.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        self.whiten = PatchWhitening(in_channels, side=2)
        self.group1 = Group(self.whiten.out_channels, WIDTHS[0])
        self.group2 = Group(WIDTHS[0], WIDTHS[1])
        self.group3 = Group(WIDTHS[1], WIDTHS[2])
        self.head = nn.Linear(WIDTHS[2], num_classes, bias=False)
        with torch.no_grad():
            self.head.weight.div_(self.head.weight.std())

    def forward(self, images: Tensor) -> Tensor:  # N C 32 32
        """Return the logits."""
        x = F.gelu(self.whiten(images))  # N 24 31 31
        x = self.group1(x)  # N 64 15 15
        x = self.group2(x)  # N 256 7 7
        x = self.group3(x)  # N 256 3 3
        x = x.amax((2, 3))  # N 256
        logits: Tensor = self.head(x) / self.head.in_features  # weights have a deviation of 1
        return logits  # N num_classes


def partial_identity(in_channels: int, channels: int) -> nn.Conv2d:
    """A convolution whose first filters pass their input on, the others as PyTorch draws them."""
    conv = nn.Conv2d(in_channels, channels, kernel_size=3, padding=1, bias=False)
    with torch.no_grad():
        nn.init.dirac_(conv.weight[:in_channels])
    return conv
