"""AlexNet without the split over two GPUs, in three published teaching versions.

Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep Convolutional Neural
Networks", 2012. All three drop the paper's local response normalisation and grouped convolutions
and do not pad the first convolution, so its map is 54x54 where the paper has 55x55.

Where a pool follows, ReLU comes after it: the maximum commutes with ReLU, so value and gradient
are those of the usual order, on a quarter of the elements.

Shapes in comments: N images, C channels, H rows, W columns.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class AlexNetD2L(nn.Module):
    """AlexNet of "Dive into Deep Learning", 2019: 1x224x224, 46,764,746 parameters, 10 classes.

    Sides 195 to 226 leave the 5x5 map the first dense layer needs.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 96, kernel_size=11, stride=4)
        self.pool1 = nn.MaxPool2d(kernel_size=3, stride=2)
        self.conv2 = nn.Conv2d(96, 256, kernel_size=5, padding=2)
        self.pool2 = nn.MaxPool2d(kernel_size=3, stride=2)
        self.conv3 = nn.Conv2d(256, 384, kernel_size=3, padding=1)
        self.conv4 = nn.Conv2d(384, 384, kernel_size=3, padding=1)
        self.conv5 = nn.Conv2d(384, 256, kernel_size=3, padding=1)
        self.pool5 = nn.MaxPool2d(kernel_size=3, stride=2)
        self.dense6 = nn.Linear(256 * 5 * 5, 4096)
        self.dropout6: nn.Module = nn.Dropout(0.5)
        self.dense7 = nn.Linear(4096, 4096)
        self.dropout7: nn.Module = nn.Dropout(0.5)
        self.dense8 = nn.Linear(4096, num_classes)

    def forward(self, images: Tensor) -> Tensor:  # N C 224 224
        """Return the logits."""
        x = F.relu(self.pool1(self.conv1(images)))  # N 96 26 26
        x = F.relu(self.pool2(self.conv2(x)))  # N 256 12 12
        x = F.relu(self.conv3(x))  # N 384 12 12
        x = F.relu(self.conv4(x))  # N 384 12 12
        x = F.relu(self.pool5(self.conv5(x))).flatten(1)  # N 6400
        x = self.dropout6(F.relu(self.dense6(x)))  # N 4096
        x = self.dropout7(F.relu(self.dense7(x)))  # N 4096
        logits: Tensor = self.dense8(x)
        return logits  # N num_classes


class AlexNetGluon(nn.Module):
    """AlexNet of "The Straight Dope", 2017: 3x224x224, 21,247,306 parameters, 10 classes.

    No padding anywhere, 192 maps in the second convolution, no dropout. Sides 195 to 226 leave
    the 1x1 map the first dense layer needs.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 96, kernel_size=11, stride=4)
        self.pool1 = nn.MaxPool2d(kernel_size=3, stride=2)
        self.conv2 = nn.Conv2d(96, 192, kernel_size=5)
        self.pool2 = nn.MaxPool2d(kernel_size=3, stride=2)
        self.conv3 = nn.Conv2d(192, 384, kernel_size=3)
        self.conv4 = nn.Conv2d(384, 384, kernel_size=3)
        self.conv5 = nn.Conv2d(384, 256, kernel_size=3)
        self.pool5 = nn.MaxPool2d(kernel_size=3, stride=2)
        self.dense6 = nn.Linear(256, 4096)
        self.dense7 = nn.Linear(4096, 4096)
        self.dense8 = nn.Linear(4096, num_classes)

    def forward(self, images: Tensor) -> Tensor:  # N C 224 224
        """Return the logits."""
        x = F.relu(self.pool1(self.conv1(images)))  # N 96 26 26
        x = F.relu(self.pool2(self.conv2(x)))  # N 192 10 10
        x = F.relu(self.conv3(x))  # N 384 8 8
        x = F.relu(self.conv4(x))  # N 384 6 6
        x = F.relu(self.pool5(self.conv5(x))).flatten(1)  # N 256
        x = F.relu(self.dense6(x))  # N 4096
        x = F.relu(self.dense7(x))  # N 4096
        logits: Tensor = self.dense8(x)
        return logits  # N num_classes


class AlexNetSlides(AlexNetD2L):
    """AlexNet of a lecture's slides: `AlexNetD2L` without dropout.

    1x224x224, 46,764,746 parameters for 10 classes; sides 195 to 226.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__(num_classes, in_channels)
        self.dropout6 = nn.Identity()
        self.dropout7 = nn.Identity()
