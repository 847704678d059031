"""Response normalisation: large responses nearby make a response smaller.

Krizhevsky, Sutskever and Hinton 2012, section 3.3: b = a / (k + alpha * sum of a'^2)^beta, where
a' runs over the `size` responses around a, itself in the middle, those beyond the ends counting 0.
`LocalResponseNorm` looks at neighbouring maps in one place, `MapResponseNorm` at neighbouring
places in one map.

Both take alpha as the formula prints it, a factor of the sum. cuda-convnet, the code behind the
paper, and `torch.nn.LocalResponseNorm` take it as a factor of the mean:
LocalResponseNorm(5, alpha) here is nn.LocalResponseNorm(5, 5 * alpha) there.

Shapes in comments: N images, C channels, H rows, W columns, G groups.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LocalResponseNorm(nn.Module):
    """Normalisation across maps, within each of `groups` equal parts of the channels.

    Computes in float32 at least: squares of 16-bit responses overflow from 256 on in float16.
    """

    def __init__(self, size: int, alpha: float, beta: float, k: float, groups: int = 1) -> None:
        super().__init__()
        check_odd(size)
        self.size, self.alpha, self.beta, self.k, self.groups = size, alpha, beta, k, groups

    def forward(self, x: Tensor) -> Tensor:  # N C H W
        """Return the normalised responses, in the type of `x`."""
        squares = widened(x).square()
        grouped = squares.reshape(len(x), self.groups, -1, *x.shape[2:])  # N G C/G H W
        sums = windowed_sum(grouped, self.size, axis=2).flatten(1, 2)  # N C H W
        return (x * (self.k + self.alpha * sums).pow(-self.beta)).to(x.dtype)

    def extra_repr(self) -> str:
        """The constants, for the printed module."""
        return f"{self.size}, {self.alpha}, {self.beta}, {self.k}, groups={self.groups}"


class MapResponseNorm(nn.Module):
    """Normalisation within each map, over windows of `size` rows and `size` columns."""

    def __init__(self, size: int, alpha: float, beta: float, k: float) -> None:
        super().__init__()
        check_odd(size)
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, x: Tensor) -> Tensor:  # N C H W
        """Return the normalised responses, in the type of `x`."""
        columns = windowed_sum(widened(x).square(), self.size, axis=2)
        sums = windowed_sum(columns, self.size, axis=3)  # N C H W
        return (x * (self.k + self.alpha * sums).pow(-self.beta)).to(x.dtype)

    def extra_repr(self) -> str:
        """The constants, for the printed module."""
        return f"{self.size}, {self.alpha}, {self.beta}, {self.k}"


def check_odd(size: int) -> None:
    """Raise ValueError for a window that has no middle."""
    if size < 1 or size % 2 == 0:
        raise ValueError(f"size is {size}, but a window around a response is 1, 3, 5, ... wide")


def widened(x: Tensor) -> Tensor:
    """The same numbers, in float32 if they were narrower."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def windowed_sum(x: Tensor, size: int, axis: int) -> Tensor:
    """For each element the sum of the `size` elements around it along `axis`, 0 beyond the ends."""
    # Sums of shifted copies: PyTorch's pools over neighbours are slower on a CPU, and the one that
    # nn.LocalResponseNorm uses, avg_pool3d, is not deterministic on CUDA.
    length = x.shape[axis]
    padded = F.pad(x, [0, 0] * (x.ndim - 1 - axis) + [size // 2, size // 2])
    total = padded.narrow(axis, 0, length)
    for start in range(1, size):
        total = total + padded.narrow(axis, start, length)
    return total
