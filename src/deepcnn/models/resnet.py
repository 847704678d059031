"""ResNet, blocks that learn what to add to their input.

He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", 2015.
Layers have torchvision's names, and a seed draws the weights it draws there.
Shapes in comments: N images, C channels, H rows, W columns; sides as for 224x224 images.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepcnn.models.stem import stem_stride

Shortcut = Literal["A", "B", "C"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(
        self, in_channels: int, channels: int, stride: int, downsample: nn.Module | None, norm: bool
    ) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, channels, 3, stride, norm)
        self.bn1 = norm_layer(channels, norm)
        self.relu = nn.ReLU()
        self.conv2 = conv(channels, channels, 3, 1, norm)
        self.bn2 = norm_layer(channels, norm)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:  # N C H W
        """Return maps of the shortcut's shape."""
        residual = self.relu(self.bn1(self.conv1(x)))
        residual = self.bn2(self.conv2(residual))
        shortcut = x if self.downsample is None else self.downsample(x)
        out: Tensor = self.relu(residual + shortcut)
        return out


class Bottleneck(nn.Module):
    """A 1x1 convolution to fewer channels, a 3x3 one, a 1x1 one to more, and a shortcut.

    The 3x3 convolution has the stride, which is called version 1.5.
    """

    expansion = 4
    stride_first = False

    def __init__(
        self, in_channels: int, channels: int, stride: int, downsample: nn.Module | None, norm: bool
    ) -> None:
        super().__init__()
        first, second = (stride, 1) if self.stride_first else (1, stride)
        out_channels = channels * self.expansion
        self.conv1 = conv(in_channels, channels, 1, first, norm)
        self.bn1 = norm_layer(channels, norm)
        self.conv2 = conv(channels, channels, 3, second, norm)
        self.bn2 = norm_layer(channels, norm)
        self.conv3 = conv(channels, out_channels, 1, 1, norm)
        self.bn3 = norm_layer(out_channels, norm)
        self.relu = nn.ReLU()
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:  # N C H W
        """Return maps of the shortcut's shape."""
        residual = self.relu(self.bn1(self.conv1(x)))
        residual = self.relu(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        shortcut = x if self.downsample is None else self.downsample(x)
        out: Tensor = self.relu(residual + shortcut)
        return out


class BottleneckV1(Bottleneck):
    """As published: the first 1x1 convolution has the stride, and drops three pixels of four."""

    stride_first = True


class PaddedIdentity(nn.Module):
    """Shortcut A: every stride-th pixel, and maps of zeros for the channels that are missing."""

    def __init__(self, stride: int, missing: int) -> None:
        super().__init__()
        self.stride, self.missing = stride, missing

    def forward(self, x: Tensor) -> Tensor:  # N C H W
        """Return maps with `missing` more channels."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.missing))


@dataclass(frozen=True)
class Plan:
    """What tells the members of the family from each other."""

    block: type[BasicBlock | Bottleneck]
    depths: tuple[int, int, int, int]  # blocks in each stage
    shortcut: Shortcut = "B"  # zeros for new channels; a projection there; projections everywhere
    norm: bool = True  # batch normalisation after every convolution


class ResNet(nn.Module):
    """A stem, four stages of blocks, the mean of each map and a linear layer.

    The stem is a 7x7 convolution of stride 2 and a pool; for sides up to 80 a 3x3 convolution of
    stride 1 and the pool; up to 40 that convolution alone. Any side from 1 will do, but up to 8
    (up to 32 in one built for 224) the last map is 1x1, on which batch normalisation refuses to
    train with one image.
    """

    def __init__(
        self, plan: Plan, num_classes: int = 1000, in_channels: int = 3, side: int = 224
    ) -> None:
        super().__init__()
        stride = stem_stride(side)
        kernel_size, conv_stride = (7, 2) if stride == 4 else (3, 1)
        expansion = plan.block.expansion
        self.conv1 = conv(in_channels, 64, kernel_size, conv_stride, plan.norm)
        self.bn1 = norm_layer(64, plan.norm)
        self.relu = nn.ReLU()
        self.maxpool = nn.Identity() if stride == 1 else nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = stage(plan, 0, 64, 64)
        self.layer2 = stage(plan, 1, 64 * expansion, 128)
        self.layer3 = stage(plan, 2, 128 * expansion, 256)
        self.layer4 = stage(plan, 3, 256 * expansion, 512)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(512 * expansion, num_classes)
        if plan.norm:
            draw(self)
        else:
            draw_without_norm(self, sum(plan.depths))

    def forward(self, images: Tensor) -> Tensor:  # N C 224 224
        """Return the logits."""
        x = self.relu(self.bn1(self.conv1(images)))  # N 64 112 112
        x = self.maxpool(x)  # N 64 56 56
        x = self.layer1(x)  # N 64 56 56, or 256 channels
        x = self.layer2(x)  # N 128 28 28, or 512
        x = self.layer3(x)  # N 256 14 14, or 1024
        x = self.layer4(x)  # N 512 7 7, or 2048
        x = self.avgpool(x).flatten(1)  # N 512, or 2048
        logits: Tensor = self.fc(x)
        return logits  # N num_classes


def stage(plan: Plan, index: int, in_channels: int, channels: int) -> nn.Sequential:
    """Blocks of which the first halves the side, except in the first stage."""
    out_channels = channels * plan.block.expansion
    blocks = nn.Sequential()
    for block in range(plan.depths[index]):
        stride = 2 if index > 0 and block == 0 else 1
        downsample = shortcut(plan, in_channels, out_channels, stride)
        blocks.append(plan.block(in_channels, channels, stride, downsample, plan.norm))
        in_channels = out_channels
    return blocks


def shortcut(plan: Plan, in_channels: int, out_channels: int, stride: int) -> nn.Module | None:
    """What brings a block's input to the shape of its output; None where that is the identity."""
    if plan.shortcut != "C" and stride == 1 and in_channels == out_channels:
        return None
    if plan.shortcut == "A":
        return PaddedIdentity(stride, out_channels - in_channels)
    projection = conv(in_channels, out_channels, 1, stride, plan.norm)
    return nn.Sequential(projection, norm_layer(out_channels, plan.norm))


def conv(
    in_channels: int, out_channels: int, kernel_size: int, stride: int, norm: bool
) -> nn.Conv2d:
    """A convolution that keeps the side, or divides it by the stride and rounds up."""
    return nn.Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride,
        padding=kernel_size // 2,
        bias=not norm,  # batch normalisation would subtract it again
    )


def norm_layer(channels: int, norm: bool) -> nn.Module:
    """Batch normalisation, or nothing under its name."""
    return nn.BatchNorm2d(channels) if norm else nn.Identity()


def draw(model: nn.Module) -> None:
    """He et al. 2015 for convolutions, normal with variance 2 / fan_out, as torchvision.

    The linear layer keeps PyTorch's default.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


def draw_without_norm(model: nn.Module, num_blocks: int) -> None:
    """He et al. 2015 with 2 / fan_in, biases 0; divided by num_blocks where a block ends.

    The first keeps the size of the maps, which nothing else does here; the second keeps the blocks'
    contributions from doubling their variance with every block.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    with torch.no_grad():
        for block in model.modules():
            if isinstance(block, BasicBlock | Bottleneck):
                last = block.conv2 if isinstance(block, BasicBlock) else block.conv3
                last.weight /= num_blocks


RESNET18 = Plan(BasicBlock, (2, 2, 2, 2))
RESNET34 = Plan(BasicBlock, (3, 4, 6, 3))
RESNET50 = Plan(Bottleneck, (3, 4, 6, 3))
RESNET101 = Plan(Bottleneck, (3, 4, 23, 3))
RESNET152 = Plan(Bottleneck, (3, 8, 36, 3))


def resnet18(num_classes: int = 1000, in_channels: int = 3, side: int = 224) -> ResNet:
    """ResNet-18: 3x224x224, 11,689,512 parameters for 1000 classes."""
    return ResNet(RESNET18, num_classes, in_channels, side)


def resnet34(num_classes: int = 1000, in_channels: int = 3, side: int = 224) -> ResNet:
    """ResNet-34: 3x224x224, 21,797,672 parameters for 1000 classes."""
    return ResNet(RESNET34, num_classes, in_channels, side)


def resnet50(num_classes: int = 1000, in_channels: int = 3, side: int = 224) -> ResNet:
    """ResNet-50, version 1.5: 3x224x224, 25,557,032 parameters for 1000 classes."""
    return ResNet(RESNET50, num_classes, in_channels, side)


def resnet101(num_classes: int = 1000, in_channels: int = 3, side: int = 224) -> ResNet:
    """ResNet-101, version 1.5: 3x224x224, 44,549,160 parameters for 1000 classes."""
    return ResNet(RESNET101, num_classes, in_channels, side)


def resnet152(num_classes: int = 1000, in_channels: int = 3, side: int = 224) -> ResNet:
    """ResNet-152, version 1.5: 3x224x224, 60,192,808 parameters for 1000 classes."""
    return ResNet(RESNET152, num_classes, in_channels, side)


def resnet50_v1(num_classes: int = 1000, in_channels: int = 3, side: int = 224) -> ResNet:
    """ResNet-50 as published: 3x224x224, 25,557,032 parameters for 1000 classes."""
    return ResNet(replace(RESNET50, block=BottleneckV1), num_classes, in_channels, side)


def resnet101_v1(num_classes: int = 1000, in_channels: int = 3, side: int = 224) -> ResNet:
    """ResNet-101 as published: 3x224x224, 44,549,160 parameters for 1000 classes."""
    return ResNet(replace(RESNET101, block=BottleneckV1), num_classes, in_channels, side)


def resnet152_v1(num_classes: int = 1000, in_channels: int = 3, side: int = 224) -> ResNet:
    """ResNet-152 as published: 3x224x224, 60,192,808 parameters for 1000 classes."""
    return ResNet(replace(RESNET152, block=BottleneckV1), num_classes, in_channels, side)


def resnet34_a(num_classes: int = 1000, in_channels: int = 3, side: int = 224) -> ResNet:
    """ResNet-34, no projections: 3x224x224, 21,623,848 parameters for 1000 classes."""
    return ResNet(replace(RESNET34, shortcut="A"), num_classes, in_channels, side)


def resnet34_c(num_classes: int = 1000, in_channels: int = 3, side: int = 224) -> ResNet:
    """ResNet-34, all shortcuts projections: 3x224x224, 22,716,840 parameters for 1000 classes."""
    return ResNet(replace(RESNET34, shortcut="C"), num_classes, in_channels, side)


def resnet18_nobn(num_classes: int = 1000, in_channels: int = 3, side: int = 224) -> ResNet:
    """ResNet-18 without batch normalisation: 3x224x224, 11,684,712 parameters for 1000 classes."""
    return ResNet(replace(RESNET18, norm=False), num_classes, in_channels, side)


def resnet34_nobn(num_classes: int = 1000, in_channels: int = 3, side: int = 224) -> ResNet:
    """ResNet-34 without batch normalisation: 3x224x224, 21,789,160 parameters for 1000 classes."""
    return ResNet(replace(RESNET34, norm=False), num_classes, in_channels, side)
