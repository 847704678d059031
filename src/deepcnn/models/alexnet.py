"""AlexNet, 2012: as the paper prints it, as its code has it, and three networks with one tower.

Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep Convolutional Neural
Networks", 2012; Krizhevsky, "One weird trick for parallelizing convolutional neural networks",
2014. "The code" is cuda-convnet as of 2012, and its network configuration 145.

The two towers of 2012, a GPU each, are groups of channels here: the first half of each map belongs
to one tower. They meet before conv3 and before each dense layer only.

All networks take images of at least 15x15 pixels. Where `stem_stride(side)` is not 4, conv1 is
smaller, 7x7 with stride 2 or 5x5 with stride 1, and keeps the side over the stride; what follows
is as published. Where the last map is not 6x6, means over windows make it so, and the dense layers
keep their shape. At 224x224 neither happens.

Shapes in comments: N images, C channels, H rows, W columns; at 224x224.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from deepcnn.models import init
from deepcnn.models.lrn import LocalResponseNorm, MapResponseNorm
from deepcnn.models.pool import WindowMeans
from deepcnn.models.stem import stem_stride

LAST_SIDE = 6  # of the map that the first dense layer sees


class AlexNet(nn.Module):
    """AlexNet as published in 2012: 3x224x224, 60,965,224 parameters for 1,000 classes.

    Response normalisation has the constants that the paper prints and stays within a tower.
    """

    towers = 2

    def __init__(self, num_classes: int = 1000, in_channels: int = 3, side: int = 224) -> None:
        super().__init__()
        towers = self.towers
        first = OverhangingConv2d(in_channels, 96, kernel_size=11, stride=4)
        self.conv1 = first_convolution(first, side)
        self.norm1 = LocalResponseNorm(size=5, alpha=1e-4, beta=0.75, k=2, groups=towers)
        self.pool1 = nn.MaxPool2d(kernel_size=3, stride=2)
        self.conv2 = nn.Conv2d(96, 256, kernel_size=5, padding=2, groups=towers)
        self.norm2 = LocalResponseNorm(size=5, alpha=1e-4, beta=0.75, k=2, groups=towers)
        self.pool2 = nn.MaxPool2d(kernel_size=3, stride=2)
        self.conv3 = nn.Conv2d(256, 384, kernel_size=3, padding=1)
        self.conv4 = nn.Conv2d(384, 384, kernel_size=3, padding=1, groups=towers)
        self.conv5 = nn.Conv2d(384, 256, kernel_size=3, padding=1, groups=towers)
        self.pool5 = nn.MaxPool2d(kernel_size=3, stride=2)
        self.resize5 = WindowMeans(LAST_SIDE)
        self.dense6 = nn.Linear(256 * LAST_SIDE**2, 4096)
        self.dropout6 = HalvingDropout(0.5)
        self.dense7 = nn.Linear(4096, 4096)
        self.dropout7 = HalvingDropout(0.5)
        self.dense8 = nn.Linear(4096, num_classes)
        init.alexnet(self)

    def forward(self, images: Tensor) -> Tensor:  # N C 224 224
        """Return the logits."""
        x = self.pool1(self.norm1(F.relu(self.conv1(images))))  # N 96 27 27
        x = self.pool2(self.norm2(F.relu(self.conv2(x))))  # N 256 13 13
        x = F.relu(self.conv3(x))  # N 384 13 13
        x = F.relu(self.conv4(x))  # N 384 13 13
        x = self.pool5(F.relu(self.conv5(x)))  # N 256 6 6
        x = self.resize5(x).flatten(1)  # N 9216
        x = self.dropout6(F.relu(self.dense6(x)))  # N 4096
        x = self.dropout7(F.relu(self.dense7(x)))  # N 4096
        logits: Tensor = self.dense8(x)
        return logits  # N num_classes


class AlexNetOneTower(AlexNet):
    """`AlexNet` with every map seen by every kernel: 62,378,344 parameters for 1,000 classes."""

    towers = 1


class AlexNetReleased(nn.Module):
    """AlexNet as its code has it: 3x224x224, 60,965,224 parameters for 1,000 classes.

    Unlike `AlexNet` it normalises conv1 before ReLU, normalises conv2 a second time, within maps,
    divides each alpha by the size of its window and begins with larger weights in conv3 to conv5.
    """

    towers = 2
    widths = (96, 256, 384, 384, 256)  # of both towers together

    def __init__(self, num_classes: int = 1000, in_channels: int = 3, side: int = 224) -> None:
        super().__init__()
        towers, (c1, c2, c3, c4, c5) = self.towers, self.widths
        first = OverhangingConv2d(in_channels, c1, kernel_size=11, stride=4)
        self.conv1 = first_convolution(first, side)
        self.norm1 = LocalResponseNorm(size=5, alpha=1e-4 / 5, beta=0.75, k=2, groups=towers)
        self.pool1 = nn.MaxPool2d(kernel_size=3, stride=2)
        self.conv2 = nn.Conv2d(c1, c2, kernel_size=5, padding=2, groups=towers)
        self.norm2 = LocalResponseNorm(size=5, alpha=1e-4 / 5, beta=0.75, k=2, groups=towers)
        self.map_norm2 = MapResponseNorm(size=5, alpha=1e-3 / 25, beta=0.75, k=1)
        self.pool2 = nn.MaxPool2d(kernel_size=3, stride=2)
        self.conv3 = nn.Conv2d(c2, c3, kernel_size=3, padding=1)
        self.conv4 = nn.Conv2d(c3, c4, kernel_size=3, padding=1, groups=towers)
        self.conv5 = nn.Conv2d(c4, c5, kernel_size=3, padding=1, groups=towers)
        self.pool5 = nn.MaxPool2d(kernel_size=3, stride=2)
        self.resize5 = WindowMeans(LAST_SIDE)
        self.dense6 = nn.Linear(c5 * LAST_SIDE**2, 4096)
        self.dropout6 = HalvingDropout(0.5)
        self.dense7 = nn.Linear(4096, 4096)
        self.dropout7 = HalvingDropout(0.5)
        self.dense8 = nn.Linear(4096, num_classes)
        init.alexnet(self, conv3=0.03, conv4=0.03, conv5=0.03)

    def forward(self, images: Tensor) -> Tensor:  # N C 224 224
        """Return the logits."""
        x = F.relu(self.pool1(self.norm1(self.conv1(images))))  # N 96 27 27
        x = self.norm2(F.relu(self.conv2(x)))  # N 256 27 27
        x = self.pool2(self.map_norm2(x))  # N 256 13 13
        x = F.relu(self.conv3(x))  # N 384 13 13
        x = F.relu(self.conv4(x))  # N 384 13 13
        x = F.relu(self.pool5(self.conv5(x)))  # N 256 6 6
        x = self.resize5(x).flatten(1)  # N 9216
        x = self.dropout6(F.relu(self.dense6(x)))  # N 4096
        x = self.dropout7(F.relu(self.dense7(x)))  # N 4096
        logits: Tensor = self.dense8(x)
        return logits  # N num_classes


class AlexNetHalf(AlexNetReleased):
    """One tower of `AlexNetReleased`, the paper's one-GPU net: 59,798,312 parameters.

    For 1,000 classes. conv5 and the dense layers are as wide as in both towers together, since most
    parameters are there and the comparison was to be between networks of one size.
    """

    towers = 1
    widths = (48, 128, 192, 192, 256)


class AlexNetOWT(nn.Module):
    """AlexNet of "One weird trick", as torchvision has it: 61,100,840 parameters.

    3x224x224, 1,000 classes. One tower, narrower, without response normalisation; names and
    weights are those of torchvision.models.alexnet.
    """

    def __init__(self, num_classes: int = 1000, in_channels: int = 3, side: int = 224) -> None:
        super().__init__()
        first = nn.Conv2d(in_channels, 64, kernel_size=11, stride=4, padding=2)
        self.features = nn.Sequential(
            first_convolution(first, side),  # N 64 55 55
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),  # N 64 27 27
            nn.Conv2d(64, 192, kernel_size=5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),  # N 192 13 13
            nn.Conv2d(192, 384, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),  # N 256 6 6
        )
        self.avgpool = WindowMeans(LAST_SIDE)
        self.classifier = nn.Sequential(
            nn.Dropout(0.5),
            nn.Linear(256 * LAST_SIDE**2, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:  # N C 224 224
        """Return the logits."""
        x = self.avgpool(self.features(images)).flatten(1)  # N 9216
        logits: Tensor = self.classifier(x)
        return logits  # N num_classes


class OverhangingConv2d(nn.Conv2d):
    """A convolution whose last window may hang over the right and lower edge, as in the code.

    The code rounds the side of the map up where PyTorch rounds down. So 224 leaves 55 with an
    11x11 kernel and stride 4: "227" is 224 and three rows and columns of zeros.
    """

    def forward(self, x: Tensor) -> Tensor:  # N C H W
        """Return ceil((H - kernel) / stride) + 1 rows, and columns alike."""
        rows, columns = (stride - 1 for stride in self.stride)
        return super().forward(F.pad(x, (0, columns, 0, rows)))


class HalvingDropout(nn.Dropout):
    """Dropout of 2012: units are dropped while training and scaled down when evaluating.

    Today's dropout scales up what it leaves while training; the outputs are its outputs times
    1 - p in both modes.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Drop, or scale down."""
        return super().forward(x) * (1 - self.p)


def first_convolution(published: nn.Conv2d, side: int) -> nn.Conv2d:
    """The published one, or what stands for it where images of this side are small."""
    stride = stem_stride(side)
    if stride == 4:
        return published
    kernel_size = 7 if stride == 2 else 5
    return nn.Conv2d(
        published.in_channels,
        published.out_channels,
        kernel_size,
        stride,
        padding=kernel_size // 2,
    )
