"""LeNet, the convolutional network for handwritten digits: as published, and as texts teach it.

LeCun, Bottou, Bengio and Haffner, "Gradient-Based Learning Applied to Document Recognition", 1998.
Shapes in comments: N images, C channels, H rows, W columns.
"""

from itertools import combinations, islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepcnn.errors import ConfigError
from deepcnn.models.init import xavier

# Table I of the paper, column by column: the maps of S2 that each map of C3 sees. Every three
# neighbours in a circle of six, every four, two and two with a gap between them, and all.
TABLE_I = """
012 123 234 345 450 501
0123 1234 2345 3450 4501 5012
0134 1245 2350
012345
"""

NUM_CODE = 84  # units of F6, for characters drawn on 7 x 12 pixels

# What F6 should answer for the digits 0 to 9, beside each other; the drawing is ours.
DIGITS = """
..###.. ...##.. .#####. .#####. ....##. ####### ..####. ####### .#####. .#####.
.##.##. ..###.. ##...## ##...## ...###. ####### .##.... ####### ##...## ##...##
##...## .####.. ##...## .....## ..####. ##..... ##..... .....## ##...## ##...##
##...## ...##.. .....## .....## .##.##. ##..... ##..... ....##. ##...## ##...##
##...## ...##.. .....## .....## .##.##. ######. ##..... ....##. .##.##. ##...##
##...## ...##.. ....##. ..####. ##..##. ##...## ######. ...##.. ..###.. ##...##
##...## ...##.. ...##.. ..####. ##..##. .....## ##...## ...##.. .##.##. .######
##...## ...##.. ..##... .....## ####### .....## ##...## ..##... ##...## .....##
##...## ...##.. .##.... .....## ####### .....## ##...## ..##... ##...## .....##
##...## ...##.. ##..... .....## ....##. .....## ##...## .##.... ##...## .....##
.##.##. .###### ####### ##...## ....##. ##...## ##...## .##.... ##...## ....##.
..###.. .###### ####### .#####. ....##. .#####. .#####. .##.... .#####. .####..
"""

RUBBISH = 1.0  # j of equation 9; the paper says only that it is positive


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


class Subsampling(nn.Module):
    """The sum of each 2x2 window, times a trained coefficient, plus a trained bias, map by map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.coefficient = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))
        draw(self.coefficient, fan_in=4)
        draw(self.bias, fan_in=4)

    def forward(self, x: Tensor) -> Tensor:  # N C H W
        """Return maps of half the side; an odd last row or column is left out."""
        sums = F.avg_pool2d(x, kernel_size=2, divisor_override=1)
        return sums * self.coefficient[:, None, None] + self.bias[:, None, None]  # N C H/2 W/2

    def multiply_adds(self, output: Tensor) -> int:
        """One coefficient for each output."""
        return output.numel()


class SparseConv2d(nn.Module):
    """A 5x5 convolution with a kernel for each pair of maps that are connected, and no others.

    Map number k sees the maps `sees[k]` of the layer before.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, sees: list[str]) -> None:
        super().__init__()
        pairs = [(row, int(column)) for row, columns in enumerate(sees) for column in columns]
        rows, columns = torch.tensor(pairs).unbind(1)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)
        self.shape = (len(sees), 1 + max(column for _, column in pairs), 5, 5)
        self.kernels = nn.Parameter(torch.empty(len(pairs), 5, 5))
        self.bias = nn.Parameter(torch.empty(len(sees)))
        fan_in = torch.tensor([25 * len(columns) for columns in sees])
        draw(self.kernels, fan_in[rows, None, None])
        draw(self.bias, fan_in)

    def forward(self, x: Tensor) -> Tensor:  # N C H W
        """Return maps of a side smaller by 4."""
        # One convolution with many zeros is faster than one for each group of kernels.
        zeros = self.kernels.new_zeros(self.shape)
        return F.conv2d(x, zeros.index_put((self.rows, self.columns), self.kernels), self.bias)

    def multiply_adds(self, output: Tensor) -> int:
        """Every kernel in every place; the zeros are none of the network's."""
        return self.kernels.numel() * output[0, 0].numel() * len(output)


class RBF(nn.Module):
    """Squared Euclidean distances to fixed prototypes, one for each class: equation 7."""

    prototypes: Tensor

    def __init__(self, prototypes: list[list[int]]) -> None:
        super().__init__()
        self.register_buffer("prototypes", torch.tensor(prototypes, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:  # N 84
        """Return the distances."""
        return (x[:, None] - self.prototypes).square().sum(2)  # N num_classes

    def multiply_adds(self, output: Tensor) -> int:
        """A square for each number of each prototype."""
        return output.numel() * NUM_CODE


def draw(parameter: Tensor, fan_in: Tensor | int) -> None:
    """Appendix A: uniform within 2.4 / fan_in."""
    with torch.no_grad():
        parameter.uniform_(-2.4, 2.4).div_(fan_in)


def squash(x: Tensor) -> Tensor:
    """The sigmoid of equation 6 and appendix A: f(1) = 1, f(-1) = -1, asymptotes +-1.7159."""
    return 1.7159 * torch.tanh(2 / 3 * x)


def codes(num_classes: int) -> list[list[int]]:
    """What F6 should answer for each class: 84 numbers that are 1 or -1.

    For 10 classes the pixels of DIGITS. For another number the rows of a Hadamard matrix of order
    84 = 83 + 1 (Paley 1933), any two of which differ in 42 places, and beyond 84 classes products
    of two rows besides, which differ from all other codes in 32 places or more.
    """
    if num_classes == 10:
        lines = (line.split() for line in DIGITS.strip().splitlines())
        return [[1 if c == "#" else -1 for c in "".join(d)] for d in zip(*lines, strict=True)]
    squares = {x * x % 83 for x in range(83)}
    rows = [[-1, *(1 if (x - row) % 83 in squares else -1 for x in range(83))] for row in range(83)]
    products = ([a * b for a, b in zip(*pair, strict=True)] for pair in combinations(rows, 2))
    found = list(islice(([1] * NUM_CODE, *rows, *products), num_classes))
    if len(found) < num_classes:
        raise ConfigError(
            f"lenet5 has codes for {len(found):,} classes at most, not {num_classes:,}"
        )
    return found


class LeNet5(nn.Module):
    """LeNet-5 of 1998: 1x32x32 images, 60,000 parameters, 340,908 connections for 10 classes.

    Section II-B: trained subsampling (S2, S4), C3 that sees a part of S2 only (table I), the scaled
    tanh after every layer up to F6, and distances to fixed prototypes for output. Logits are the
    distances with a minus sign.

    Section II-C: in training there is one more logit, the constant -j of a rubbish class to which
    no image belongs. Cross entropy over them is the loss of equation 9, the mean over images of
    y_D + log(exp(-j) + sum_i exp(-y_i)), where y_D is the distance to the right prototype.

    Appendix A: weights are uniform within 2.4 / fan_in, and biases here within the same bounds.
    Sides 32 to 35 leave the 1x1 map F6 needs.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(in_channels, 6, kernel_size=5)
        self.s2 = Subsampling(6)
        self.c3 = SparseConv2d(TABLE_I.split())
        self.s4 = Subsampling(16)
        self.c5 = nn.Conv2d(16, 120, kernel_size=5)
        self.f6 = nn.Linear(120, NUM_CODE)
        self.output = RBF(codes(num_classes))
        for layer in (self.c1, self.c5, self.f6):
            for parameter in layer.parameters():
                draw(parameter, fan_in=layer.weight[0].numel())

    def forward(self, images: Tensor) -> Tensor:  # N C 32 32
        """Return the logits, in training with that of the rubbish class at the end."""
        x = squash(self.c1(images))  # N 6 28 28
        x = squash(self.s2(x))  # N 6 14 14
        x = squash(self.c3(x))  # N 16 10 10
        x = squash(self.s4(x))  # N 16 5 5
        x = squash(self.c5(x)).flatten(1)  # N 120
        x = squash(self.f6(x))  # N 84
        logits: Tensor = -self.output(x)  # N num_classes
        return F.pad(logits, (0, 1), value=-RUBBISH) if self.training else logits


class LeNetSigmoid(nn.Module):
    """LeNet of "Dive into Deep Learning", 2019: 1x28x28 images, 61,706 parameters for 10 classes.

    Sigmoid units, padding in the first convolution, and means for pools. The first dense layer is
    as wide as the last map of the given side, which is at least 12.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1, side: int = 28) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 6, kernel_size=5, padding=2)
        self.pool1 = nn.AvgPool2d(kernel_size=2)
        self.conv2 = nn.Conv2d(6, 16, kernel_size=5)
        self.pool2 = nn.AvgPool2d(kernel_size=2)
        self.dense3 = nn.Linear(16 * last_side(side) ** 2, 120)
        self.dense4 = nn.Linear(120, 84)
        self.dense5 = nn.Linear(84, num_classes)
        xavier(self, magnitude=3)

    def forward(self, images: Tensor) -> Tensor:  # N C 28 28
        """Return the logits."""
        x = self.pool1(torch.sigmoid(self.conv1(images)))  # N 6 14 14
        x = self.pool2(torch.sigmoid(self.conv2(x))).flatten(1)  # N 400
        x = torch.sigmoid(self.dense3(x))  # N 120
        x = torch.sigmoid(self.dense4(x))  # N 84
        logits: Tensor = self.dense5(x)
        return logits  # N num_classes


class LeNetReLUDropout(nn.Module):
    """`LeNetSigmoid` with ReLU, and dropout after both hidden dense layers: an exercise there.

    1x28x28 images, 61,706 parameters for 10 classes; sides of 12 or more.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1, side: int = 28) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 6, kernel_size=5, padding=2)
        self.pool1 = nn.AvgPool2d(kernel_size=2)
        self.conv2 = nn.Conv2d(6, 16, kernel_size=5)
        self.pool2 = nn.AvgPool2d(kernel_size=2)
        self.dense3 = nn.Linear(16 * last_side(side) ** 2, 120)
        self.dropout3 = nn.Dropout(0.5)
        self.dense4 = nn.Linear(120, 84)
        self.dropout4 = nn.Dropout(0.5)
        self.dense5 = nn.Linear(84, num_classes)
        xavier(self, magnitude=3)

    def forward(self, images: Tensor) -> Tensor:  # N C 28 28
        """Return the logits."""
        x = self.pool1(F.relu(self.conv1(images)))  # N 6 14 14
        x = self.pool2(F.relu(self.conv2(x))).flatten(1)  # N 400
        x = self.dropout3(F.relu(self.dense3(x)))  # N 120
        x = self.dropout4(F.relu(self.dense4(x)))  # N 84
        logits: Tensor = self.dense5(x)
        return logits  # N num_classes


def last_side(side: int) -> int:
    """Side of the map after two pools and a convolution that takes 4 from it."""
    return max(1, side // 4 - 2)  # below 12 there is none; the pool says so, not a dense layer
