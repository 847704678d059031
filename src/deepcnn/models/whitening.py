"""A first layer of fixed filters under which an image's patches are uncorrelated.

Page 2019, "How to train your ResNet 8: Bag of tricks"; Jordan 2024, arXiv:2404.00498, section 3.1.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH = 2  # side in pixels
LEAST_VARIANCE = 5e-4  # added to that of a direction, which is then divided by its root


class PatchWhitening(nn.Conv2d):
    """Fixed filters that make 2x2 patches uncorrelated: each principal direction, and its negative.

    The initialiser `whitened` sets them from images; before that they are a convolution's. Only
    the bias is trained.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__(in_channels, 2 * in_channels * PATCH**2, kernel_size=PATCH)
        drawn = self.weight.detach()
        del self.weight
        self.register_buffer("weight", drawn)

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """Set the filters from images N C H W as the network gets them."""
        patches = F.unfold(images.double(), PATCH).transpose(1, 2).flatten(0, 1)
        covariance = torch.cov(patches.T)
        variances, directions = torch.linalg.eigh(covariance)
        filters = directions.T / (variances + LEAST_VARIANCE).sqrt()[:, None]
        self.weight.copy_(torch.cat([filters, -filters]).reshape(self.weight.shape))
