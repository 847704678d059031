"""Views of an image: a network's answers to several are averaged when it is tested and used."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

View = Callable[[Tensor], Tensor]  # images N C H W to others of the same shape


def mean_logits(network: Callable[[Tensor], Tensor], images: Tensor, views: str) -> Tensor:
    """The weighted mean of a network's logits N K over the named views of images N C H W."""
    weighted = [weight * network(view(images)) for weight, view in VIEWS[views]]
    return torch.stack(weighted).sum(dim=0)


def itself(images: Tensor) -> Tensor:
    """The images as they are."""
    return images


def mirrored(images: Tensor) -> Tensor:
    """Left and right exchanged."""
    return images.flip(3)


def shifted(by: int) -> View:
    """Moved down and right by a pixel, or up and left by -1; the edge is reflected."""

    def shift(images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
        return padded[:, :, 1 - by : 1 - by + height, 1 - by : 1 - by + width]

    return shift


def both(first: View, second: View) -> View:
    """One after the other."""
    return lambda images: second(first(images))


# The name in `data.views`: each view with its weight.
VIEWS: dict[str, tuple[tuple[float, View], ...]] = {
    "plain": ((1.0, itself),),
    "flip": ((0.5, itself), (0.5, mirrored)),
    # Jordan 2024, arXiv:2404.00498, section 3.5: half the weight on images that are not moved.
    "flip_shift": (
        (0.25, itself),
        (0.25, mirrored),
        *(
            (0.125, view)
            for by in (-1, 1)
            for view in (shifted(by), both(shifted(by), mirrored))
        ),
    ),
}  # fmt: skip
