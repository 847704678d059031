"""LeNet, the convolutional network for handwritten digits.

LeCun, Bottou, Bengio and Haffner, "Gradient-Based Learning Applied to Document Recognition", 1998.
Shapes in comments: N images, C channels, H rows, W columns.
"""

import torch
from torch import Tensor, nn


class LeNet(nn.Module):
    """Modern LeNet: 1x32x32 images, 61,706 parameters for 10 classes.

    It differs from 1998 in three places: C3 sees all six maps of S2, pooling has no weights, and
    the output is a linear layer whose softmax lives in the loss. Where descriptions of this
    version name neither the kind of pooling nor the activation, this one takes the maximum and,
    as in 1998, the hyperbolic tangent (unscaled). Sides 32 to 35 leave the 1x1 map F6 needs.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(in_channels, 6, kernel_size=5)
        self.s2 = nn.MaxPool2d(kernel_size=2)
        self.c3 = nn.Conv2d(6, 16, kernel_size=5)
        self.s4 = nn.MaxPool2d(kernel_size=2)
        self.c5 = nn.Conv2d(16, 120, kernel_size=5)
        self.f6 = nn.Linear(120, 84)
        self.output = nn.Linear(84, num_classes)

    def forward(self, images: Tensor) -> Tensor:  # N C 32 32
        """Return the logits."""
        # tanh never decreases, so it commutes with the maximum and is cheaper after it.
        x = torch.tanh(self.s2(self.c1(images)))  # N 6 14 14
        x = torch.tanh(self.s4(self.c3(x)))  # N 16 5 5
        x = torch.tanh(self.c5(x)).flatten(1)  # N 120
        x = torch.tanh(self.f6(x))  # N 84
        logits: Tensor = self.output(x)
        return logits  # N num_classes
