"""What a network's answer rests on: how much less sure it is when a part of the image is covered.

Zeiler and Fergus 2014, "Visualizing and Understanding Convolutional Networks", section 4.2.
N images, C channels, S pixels a side, K classes.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deepcnn import interrupt
from deepcnn.inspect.heat import beside, rows_of
from deepcnn.inspect.panels import figure_of
from deepcnn.inspect.subject import Subject
from deepcnn.progress import reported

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WINDOWS = 4  # a window is that part of a side
STEPS = 12  # by which it goes over an image
AT_ONCE = 16  # covered images that are computed together


@torch.no_grad()
def draw_occlusion(subject: Subject, images: Sequence[str]) -> "Figure":
    """For each image how far the probability of its likeliest class falls, place by place.

    Raises DataError for an image that there is not.
    """
    seen = subject.seen(images)
    side = seen.inputs.shape[-1]
    window = max(1, side // WINDOWS)
    stride = max(1, (side - window) // STEPS)
    tiles, names = [], []
    for name, image in zip(seen.names, seen.inputs, strict=True):
        shares = subject.probabilities(subject.model(image[None]))[0]
        best = int(shares.argmax())
        fall = occlusion(subject, image, window, stride)[best]
        tiles += beside(subject.shown(image[None])[0], fall[None])
        said = f"{subject.classes[best]} {shares[best]:.0%}, less by up to {max(0, fall.max()):.0%}"
        names += [name, said]
    return figure_of(
        f"Bright: where a square of {window}x{window} in the mean colour lowers the probability "
        f"most, {subject.name}",
        rows_of(tiles, names),
    )


def occlusion(subject: Subject, image: Tensor, window: int, stride: int) -> Tensor:
    """How far the probability of each class falls, K S S, where an image C S S is covered.

    A square of the mean colour goes over the image; a pixel has the mean of the falls by all
    squares that cover it.
    """
    side = image.shape[-1]
    before = subject.probabilities(subject.model(image[None]))[0]
    starts = range(0, side - window + stride, stride)  # the last one may reach over the edge
    corners = [(top, left) for top in starts for left in starts]
    sums = torch.zeros(len(before), side, side)
    counts = torch.zeros(side, side)
    groups = [corners[k : k + AT_ONCE] for k in range(0, len(corners), AT_ONCE)]
    for group in reported(groups, len(groups), "covering"):
        interrupt.check()
        covered = image.repeat(len(group), 1, 1, 1)
        for each, (top, left) in zip(covered, group, strict=True):
            each[:, top : top + window, left : left + window] = 0
        falls = before - subject.probabilities(subject.model(covered))
        for fall, (top, left) in zip(falls, group, strict=True):
            sums[:, top : top + window, left : left + window] += fall[:, None, None]
            counts[top : top + window, left : left + window] += 1
    return sums / counts
