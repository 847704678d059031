"""A fully connected network for handwritten digits: what convolutions are measured against.

Nielsen, "Neural Networks and Deep Learning", 2015, chapter 1, as drawn in a crash course.
Shapes in comments: N images, C channels, H rows, W columns.
"""

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """One hidden layer of 30 sigmoid units: 1x28x28 images, 23,860 parameters for 10 classes.

    23,550 of them are the hidden layer's, which sees every pixel; any side will do.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1, side: int = 28) -> None:
        super().__init__()
        self.hidden = nn.Linear(in_channels * side * side, 30)
        self.output = nn.Linear(30, num_classes)

    def forward(self, images: Tensor) -> Tensor:  # N C 28 28
        """Return the logits."""
        x = torch.sigmoid(self.hidden(images.flatten(1)))  # N 30
        logits: Tensor = self.output(x)
        return logits  # N num_classes
