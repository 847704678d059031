"""AlexNet's plan for 28x28 images, an answer to "simplify AlexNet" (Dive into Deep Learning, 6.7).

The five convolutions, the three overlapping pools and the three dense layers of AlexNet, half as
wide and without its first step, which looks at every fourth pixel of an image of 224.

Shapes in comments: N images, C channels, H rows, W columns.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class AlexNet28(nn.Module):
    """AlexNet for 1x28x28: 2,514,794 parameters for 10 classes, a 19th of `AlexNetD2L`'s.

    Sides 23 to 30 leave the 2x2 map the first dense layer needs.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 48, kernel_size=5, padding=2)
        self.pool1 = nn.MaxPool2d(kernel_size=3, stride=2)
        self.conv2 = nn.Conv2d(48, 128, kernel_size=5, padding=2)
        self.pool2 = nn.MaxPool2d(kernel_size=3, stride=2)
        self.conv3 = nn.Conv2d(128, 192, kernel_size=3, padding=1)
        self.conv4 = nn.Conv2d(192, 192, kernel_size=3, padding=1)
        self.conv5 = nn.Conv2d(192, 128, kernel_size=3, padding=1)
        self.pool5 = nn.MaxPool2d(kernel_size=3, stride=2)
        self.dense6 = nn.Linear(128 * 2 * 2, 1024)
        self.dropout6 = nn.Dropout(0.5)
        self.dense7 = nn.Linear(1024, 1024)
        self.dropout7 = nn.Dropout(0.5)
        self.dense8 = nn.Linear(1024, num_classes)

    def forward(self, images: Tensor) -> Tensor:  # N C 28 28
        """Return the logits."""
        x = F.relu(self.pool1(self.conv1(images)))  # N 48 13 13
        x = F.relu(self.pool2(self.conv2(x)))  # N 128 6 6
        x = F.relu(self.conv3(x))  # N 192 6 6
        x = F.relu(self.conv4(x))  # N 192 6 6
        x = F.relu(self.pool5(self.conv5(x))).flatten(1)  # N 512
        x = self.dropout6(F.relu(self.dense6(x)))  # N 1024
        x = self.dropout7(F.relu(self.dense7(x)))  # N 1024
        logits: Tensor = self.dense8(x)
        return logits  # N num_classes
