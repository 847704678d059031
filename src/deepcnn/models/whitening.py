"""A first layer of fixed filters under which an image's patches are uncorrelated.

Page 2019, "How to train your ResNet 8: Bag of tricks"; Jordan 2024, arXiv:2404.00498, section 3.1.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PatchWhitening(nn.Conv2d):
    """Fixed filters that make patches uncorrelated: each principal direction, and its negative.

    The initialiser `whitened` sets them from images; before that they are a convolution's. Only
    the bias is trained, if there is one: without, no gradient need come back to this layer.

    `directions`: how many are kept, those of the highest variance; None: all. `least_variance` is
    added to that of each before its root divides: what is little more than noise is to stay small.
    """

    def __init__(
        self,
        in_channels: int,
        side: int,
        stride: int = 1,
        bias: bool = True,
        directions: int | None = None,
        least_variance: float = 5e-4,
    ) -> None:
        self.directions = directions or in_channels * side**2
        super().__init__(
            in_channels, 2 * self.directions, side, stride, padding=(side - 1) // 2, bias=bias
        )
        self.least_variance = least_variance
        drawn = self.weight.detach()
        del self.weight
        self.register_buffer("weight", drawn)

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """Set the filters from images N C H W as the network gets them."""
        patches = F.unfold(images.double(), self.kernel_size).transpose(1, 2).flatten(0, 1)
        covariance = torch.cov(patches.T)
        variances, directions = torch.linalg.eigh(covariance)
        filters = directions.T / (variances + self.least_variance).sqrt()[:, None]
        filters = filters[-self.directions :]  # variances ascend
        self.weight.copy_(torch.cat([filters, -filters]).reshape(self.weight.shape))


def whitening_layer(model: nn.Module) -> PatchWhitening | None:
    """The first one of a network, if it has any."""
    layers = (layer for layer in model.modules() if isinstance(layer, PatchWhitening))
    return next(layers, None)
