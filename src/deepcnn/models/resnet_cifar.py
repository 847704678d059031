"""ResNet for CIFAR-10: thin, up to 110 layers deep, shortcuts without parameters.

He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", 2015, section 4.2.
Shapes in comments: N images, C channels, H rows, W columns.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut that is the identity.

    Where the side is halved the shortcut takes every other pixel, and where channels are added
    it has zeros for them (the paper's option A).
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride, self.missing = stride, channels - in_channels

    def forward(self, x: Tensor) -> Tensor:  # N C H W
        """Return maps of 1/stride the side, rounded up."""
        residual = F.relu(self.bn1(self.conv1(x)))
        residual = self.bn2(self.conv2(residual))
        pixels = x[:, :, :: self.stride, :: self.stride]
        return F.relu(residual + F.pad(pixels, (0, 0, 0, 0, 0, self.missing)))


class ResNetCifar(nn.Module):
    """A convolution, three stages of n blocks and a linear layer: 6n + 2 layers with weights.

    Made for 32x32; any side from 1 will do, but up to 4 the last map is 1x1, on which batch
    normalisation refuses to train with one image.
    """

    def __init__(self, n: int, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = stage(n, 16, 16, stride=1)
        self.layer2 = stage(n, 16, 32, stride=2)
        self.layer3 = stage(n, 32, 64, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(64, num_classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):  # He et al. 2015; 2 / fan_out keeps the gradients'
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:  # N C 32 32
        """Return the logits."""
        x = F.relu(self.bn1(self.conv1(images)))  # N 16 32 32
        x = self.layer1(x)  # N 16 32 32
        x = self.layer2(x)  # N 32 16 16
        x = self.layer3(x)  # N 64 8 8
        x = self.avgpool(x).flatten(1)  # N 64
        logits: Tensor = self.fc(x)
        return logits  # N num_classes


def stage(n: int, in_channels: int, channels: int, stride: int) -> nn.Sequential:
    """Blocks on maps of one side; the first has the stride and the new channels."""
    first = Block(in_channels, channels, stride)
    return nn.Sequential(first, *(Block(channels, channels, 1) for _ in range(n - 1)))


def resnet20(num_classes: int = 10, in_channels: int = 3) -> ResNetCifar:
    """ResNet-20: 3x32x32 images, 269,722 parameters for 10 classes."""
    return ResNetCifar(3, num_classes, in_channels)


def resnet32(num_classes: int = 10, in_channels: int = 3) -> ResNetCifar:
    """ResNet-32: 3x32x32 images, 464,154 parameters for 10 classes."""
    return ResNetCifar(5, num_classes, in_channels)


def resnet44(num_classes: int = 10, in_channels: int = 3) -> ResNetCifar:
    """ResNet-44: 3x32x32 images, 658,586 parameters for 10 classes."""
    return ResNetCifar(7, num_classes, in_channels)


def resnet56(num_classes: int = 10, in_channels: int = 3) -> ResNetCifar:
    """ResNet-56: 3x32x32 images, 853,018 parameters for 10 classes."""
    return ResNetCifar(9, num_classes, in_channels)


def resnet110(num_classes: int = 10, in_channels: int = 3) -> ResNetCifar:
    """ResNet-110: 3x32x32 images, 1,727,962 parameters for 10 classes."""
    return ResNetCifar(18, num_classes, in_channels)
