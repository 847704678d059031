"""GoogLeNet, the network of Inception modules, as published and as torchvision has it.

Szegedy, Liu, Jia, Sermanet, Reed, Anguelov, Erhan, Vanhoucke and Rabinovich, "Going Deeper with
Convolutions", 2014. All pools but the average ones round up, so that maps of 112, 56, 28 and 14
halve exactly without padding.

Shapes in comments: N images, C channels, H rows, W columns; for 224x224 images.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepcnn.models.lrn import LocalResponseNorm
from deepcnn.models.stem import stem_stride


class Widths(NamedTuple):
    """How many maps each convolution of an Inception module gives."""

    conv1x1: int
    reduce3x3: int
    conv3x3: int
    reduce5x5: int
    conv5x5: int
    project: int


WIDTHS = {  # table 1 of the paper
    "3a": Widths(64, 96, 128, 16, 32, 32),
    "3b": Widths(128, 128, 192, 32, 96, 64),
    "4a": Widths(192, 96, 208, 16, 48, 64),
    "4b": Widths(160, 112, 224, 24, 64, 64),
    "4c": Widths(128, 128, 256, 24, 64, 64),
    "4d": Widths(112, 144, 288, 32, 64, 64),
    "4e": Widths(256, 160, 320, 32, 128, 128),
    "5a": Widths(256, 160, 320, 32, 128, 128),
    "5b": Widths(384, 192, 384, 48, 128, 128),
}


class Inception(nn.Module):
    """Four branches side by side: 1x1, 3x3 and 5x5 convolutions, and a pool."""

    def __init__(self, in_channels: int, widths: Widths) -> None:
        super().__init__()
        self.conv1x1 = nn.Conv2d(in_channels, widths.conv1x1, kernel_size=1)
        self.reduce3x3 = nn.Conv2d(in_channels, widths.reduce3x3, kernel_size=1)
        self.conv3x3 = nn.Conv2d(widths.reduce3x3, widths.conv3x3, kernel_size=3, padding=1)
        self.reduce5x5 = nn.Conv2d(in_channels, widths.reduce5x5, kernel_size=1)
        self.conv5x5 = nn.Conv2d(widths.reduce5x5, widths.conv5x5, kernel_size=5, padding=2)
        self.pool = nn.MaxPool2d(kernel_size=3, stride=1, padding=1)
        self.project = nn.Conv2d(in_channels, widths.project, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:  # N C H W
        """Return the maps of all branches, in the order of table 1."""
        branches = (
            self.conv1x1(x),
            self.conv3x3(F.relu(self.reduce3x3(x))),
            self.conv5x5(F.relu(self.reduce5x5(x))),
            self.project(self.pool(x)),
        )
        return F.relu(torch.cat(branches, dim=1))  # N sum(conv1x1, conv3x3, conv5x5, project) H W


class Head(nn.Module):
    """An auxiliary classifier on maps of a given side.

    Its average pool takes four steps across the maps and sees all of them: on the published 14x14
    that is a 5x5 window moved by 3. Maps below 4x4 are not pooled.
    """

    def __init__(self, in_channels: int, num_classes: int, side: int) -> None:
        super().__init__()
        steps = min(side, 4)
        stride = side // steps
        self.pool = nn.AvgPool2d(kernel_size=side - (steps - 1) * stride, stride=stride)
        self.conv = nn.Conv2d(in_channels, 128, kernel_size=1)
        self.dense = nn.Linear(128 * steps * steps, 1024)
        self.dropout = nn.Dropout(0.7)
        self.output = nn.Linear(1024, num_classes)

    def forward(self, x: Tensor) -> Tensor:  # N C 14 14
        """Return the logits."""
        x = F.relu(self.conv(self.pool(x))).flatten(1)  # N 2048
        x = self.dropout(F.relu(self.dense(x)))  # N 1024
        logits: Tensor = self.output(x)
        return logits  # N num_classes


class GoogLeNet(nn.Module):
    """GoogLeNet as published: 3x224x224 images, 13,378,280 parameters for 1,000 classes.

    6,998,552 parameters without the two auxiliary heads, which training alone uses. Up to 80
    pixels the first convolution has stride 1, up to 40 the first pool is left out as well, so that
    the last maps of a 32x32 image are 4x4. Any side of 8 or more will do.
    """

    auxiliary_weight = 0.3  # of each head's loss

    def __init__(self, num_classes: int = 1000, in_channels: int = 3, side: int = 224) -> None:
        super().__init__()
        stem, side4 = stem_stride(side), side_of_4a(side)
        self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2 if stem == 4 else 1, padding=3)
        self.pool1 = nn.Identity() if stem == 1 else halve()
        self.norm1 = normalise()
        self.reduce2 = nn.Conv2d(64, 64, kernel_size=1)
        self.conv2 = nn.Conv2d(64, 192, kernel_size=3, padding=1)
        self.norm2 = normalise()
        self.pool2 = halve()
        self.inception3a = Inception(192, WIDTHS["3a"])
        self.inception3b = Inception(256, WIDTHS["3b"])
        self.pool3 = halve()
        self.inception4a = Inception(480, WIDTHS["4a"])
        self.inception4b = Inception(512, WIDTHS["4b"])
        self.inception4c = Inception(512, WIDTHS["4c"])
        self.inception4d = Inception(512, WIDTHS["4d"])
        self.inception4e = Inception(528, WIDTHS["4e"])
        self.pool4 = halve()
        self.inception5a = Inception(832, WIDTHS["5a"])
        self.inception5b = Inception(832, WIDTHS["5b"])
        self.average_pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.4)
        self.output = nn.Linear(1024, num_classes)
        self.head4a = Head(512, num_classes, side4)
        self.head4d = Head(528, num_classes, side4)
        draw_as_caffe(self)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor, Tensor]:  # N C 224 224
        """Return the logits; in training also those of the heads on 4a and 4d."""
        x = self.norm1(F.relu(self.pool1(self.conv1(images))))  # N 64 56 56
        x = F.relu(self.conv2(F.relu(self.reduce2(x))))  # N 192 56 56
        x = self.pool2(self.norm2(x))  # N 192 28 28
        x = self.inception3b(self.inception3a(x))  # N 480 28 28
        maps4a = self.inception4a(self.pool3(x))  # N 512 14 14
        maps4d = self.inception4d(self.inception4c(self.inception4b(maps4a)))  # N 528 14 14
        x = self.pool4(self.inception4e(maps4d))  # N 832 7 7
        x = self.inception5b(self.inception5a(x))  # N 1024 7 7
        x = self.average_pool(x).flatten(1)  # N 1024
        logits: Tensor = self.output(self.dropout(x))
        if not self.training:
            return logits  # N num_classes
        return logits, self.head4a(maps4a), self.head4d(maps4d)


def halve() -> nn.MaxPool2d:
    """The pool between stages."""
    return nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)


def normalise() -> LocalResponseNorm:
    """Local response normalisation; the paper does not give its constants, these are Caffe's."""
    return LocalResponseNorm(size=5, alpha=1e-4 / 5, beta=0.75, k=1)


def side_of_4a(side: int) -> int:
    """The side of the maps of module 4a for images of this side, at least 1."""
    stem = stem_stride(side)
    after_conv1 = (side + 1) // 2 if stem == 4 else side
    num_pools = 2 if stem == 1 else 3  # each halves and rounds down: it rounds up (side - 3) / 2
    return max(1, after_conv1 >> num_pools)


def draw_as_caffe(model: GoogLeNet) -> None:
    """Draw the weights as Caffe's replica does, for the paper does not say how.

    Uniform within sqrt(3 / fan_in), which is what Caffe calls Xavier; biases 0.2, but 0 where
    logits leave. PyTorch's own draw has a third of this variance, too little for 22 layers without
    batch normalisation: the logits of 16 photos then differ by 3e-7, with Caffe's draw by 6e-3.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bound = math.sqrt(3 / layer.weight[0].numel())
            nn.init.uniform_(layer.weight, -bound, bound)
            nn.init.constant_(layer.bias, 0.2)  # type: ignore[arg-type]
    for classifier in (model.output, model.head4a.output, model.head4d.output):
        nn.init.zeros_(classifier.bias)


class ConvNorm(nn.Module):
    """A convolution without bias, batch normalisation and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1):
        super().__init__()
        padding = kernel_size // 2
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:  # N C H W
        """Return the convolution's maps, normalised and rectified."""
        return F.relu(self.bn(self.conv(x)))


class InceptionBN(nn.Module):
    """The Inception module of torchvision: 3x3 where the paper has 5x5."""

    def __init__(self, in_channels: int, widths: Widths) -> None:
        super().__init__()
        self.branch1 = ConvNorm(in_channels, widths.conv1x1, 1)
        self.branch2 = nn.Sequential(
            ConvNorm(in_channels, widths.reduce3x3, 1),
            ConvNorm(widths.reduce3x3, widths.conv3x3, 3),
        )
        self.branch3 = nn.Sequential(
            ConvNorm(in_channels, widths.reduce5x5, 1),
            ConvNorm(widths.reduce5x5, widths.conv5x5, 3),
        )
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(kernel_size=3, stride=1, padding=1),
            ConvNorm(in_channels, widths.project, 1),
        )

    def forward(self, x: Tensor) -> Tensor:  # N C H W
        """Return the maps of all branches."""
        branches = (self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x))
        return torch.cat(branches, dim=1)  # N sum(conv1x1, conv3x3, conv5x5, project) H W


class GoogLeNetBN(nn.Module):
    """GoogLeNet of torchvision, which loads its weights: 3x224x224, 6,624,904 parameters.

    That is for 1,000 classes. Batch normalisation instead of biases and local response
    normalisation, and no auxiliary heads. The stem for small images is that of `GoogLeNet`; any
    side of 4 or more will do.
    """

    def __init__(self, num_classes: int = 1000, in_channels: int = 3, side: int = 224) -> None:
        super().__init__()
        stem = stem_stride(side)
        self.conv1 = ConvNorm(in_channels, 64, 7, stride=2 if stem == 4 else 1)
        self.maxpool1 = nn.Identity() if stem == 1 else halve()
        self.conv2 = ConvNorm(64, 64, 1)
        self.conv3 = ConvNorm(64, 192, 3)
        self.maxpool2 = halve()
        self.inception3a = InceptionBN(192, WIDTHS["3a"])
        self.inception3b = InceptionBN(256, WIDTHS["3b"])
        self.maxpool3 = halve()
        self.inception4a = InceptionBN(480, WIDTHS["4a"])
        self.inception4b = InceptionBN(512, WIDTHS["4b"])
        self.inception4c = InceptionBN(512, WIDTHS["4c"])
        self.inception4d = InceptionBN(512, WIDTHS["4d"])
        self.inception4e = InceptionBN(528, WIDTHS["4e"])
        self.maxpool4 = nn.MaxPool2d(kernel_size=2, stride=2, ceil_mode=True)
        self.inception5a = InceptionBN(832, WIDTHS["5a"])
        self.inception5b = InceptionBN(832, WIDTHS["5b"])
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(1024, num_classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.01)

    def forward(self, images: Tensor) -> Tensor:  # N C 224 224
        """Return the logits."""
        x = self.maxpool1(self.conv1(images))  # N 64 56 56
        x = self.maxpool2(self.conv3(self.conv2(x)))  # N 192 28 28
        x = self.maxpool3(self.inception3b(self.inception3a(x)))  # N 480 14 14
        x = self.inception4c(self.inception4b(self.inception4a(x)))  # N 512 14 14
        x = self.maxpool4(self.inception4e(self.inception4d(x)))  # N 832 7 7
        x = self.inception5b(self.inception5a(x))  # N 1024 7 7
        x = self.dropout(self.avgpool(x).flatten(1))  # N 1024
        logits: Tensor = self.fc(x)
        return logits  # N num_classes
