"""Views of an image: a network's answers to several are averaged when it is tested and used."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from deepcnn.data.preprocess import Preprocess

Network = Callable[[Tensor], Tensor]  # images N C H W to logits N K
View = Callable[[Tensor], Tensor]  # images N C H W to others
Views = Sequence[tuple[float, View]]  # each with its weight; the weights sum to 1
Averaged = Callable[[Network, Tensor], Tensor]  # network and images to logits N K


def mean_logits(network: Network, images: Tensor, views: Views, sure: float = 1.0) -> Tensor:
    """The weighted mean of a network's logits N K over views of images N C H W.

    With `sure` below 1 the logits of the first view stand where the probability of its answer is at
    least that, and only the other images are looked at further: most of the gain for part of the
    time (hiverge/cifar10-speedrun 2025, by rank within the test set; here by each image alone).
    """
    (first_weight, first), *others = views

    def mean(logits: Tensor, images: Tensor) -> Tensor:
        further = [weight * network(view(images)) for weight, view in others]
        return torch.stack([first_weight * logits, *further]).sum(dim=0)

    logits = network(first(images))
    if sure == 1:
        return mean(logits, images)
    unsure = ~(logits.softmax(dim=1).amax(dim=1) >= sure)
    if not unsure.any():
        return logits
    return logits.index_put((unsure,), mean(logits[unsure], images[unsure]))


def mean_probabilities(network: Network, images: Tensor, views: Views) -> Tensor:
    """The logarithms of the weighted mean of a network's probabilities N K over the views."""
    weighted = [network(view(images)).log_softmax(dim=1) + math.log(w) for w, view in views]
    return torch.stack(weighted).logsumexp(dim=0)


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


def window(top: int, left: int, side: int) -> View:
    """A square of larger images."""
    return lambda images: images[:, :, top : top + side, left : left + side]


def ten_crop(side: int, whole: int) -> Views:
    """The corners and the centre of images of side `whole`, and their mirror images.

    Krizhevsky et al. 2012, section 4.1, where the probabilities of 224 of 256 pixels are averaged.
    """
    far, middle = whole - side, (whole - side) // 2
    corners = [window(top, left, side) for top in (0, far) for left in (0, far)]
    crops = [*corners, window(middle, middle, side)]
    return [(0.1, view) for crop in crops for view in (crop, both(crop, mirrored))]


def multi_scale(sides: Sequence[int]) -> Views:
    """The images resized to each of these sides, antialiased."""

    def scaled(side: int) -> View:
        return lambda images: F.interpolate(images, (side, side), mode="bilinear", antialias=True)

    return [(1 / len(sides), scaled(side)) for side in sides]


# The name in `data.views`: views of the images as the network is trained on them.
VIEWS: dict[str, Views] = {
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


def own_views(preprocess: Preprocess) -> Averaged:
    """How a model's answers come from views where nobody asks for others."""
    return partial(mean_logits, views=VIEWS[preprocess.views], sure=preprocess.sure)
