"""Grad-CAM: which part of an image speaks for a class, by the gradients in the last maps.

Selvaraju and others 2017, arXiv:1610.02391, equations 1 and 2. N images, C maps of H x W places.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from deepcnn.inspect.heat import beside, rows_of
from deepcnn.inspect.layers import walk, with_maps
from deepcnn.inspect.panels import figure_of
from deepcnn.inspect.subject import Subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLASSES = 3  # the likeliest, of each image


def draw_gradcam(subject: Subject, images: Sequence[str]) -> "Figure":
    """For each image and its likeliest classes, what speaks for them in the last maps.

    Raises DataError for an image that there is not, ConfigError for a network without maps.
    """
    seen = subject.seen(images)
    tiles, names = [], []
    for name, image in zip(seen.names, seen.inputs, strict=True):
        stage, logits, heats = gradcam(subject.model, image[None], len(subject.classes))
        shares = subject.probabilities(logits)
        tiles += beside(subject.shown(image[None])[0], torch.stack(list(heats.values())))
        names += [name, *(f"{subject.classes[k]} {shares[k]:.0%}" for k in heats)]
    columns = len(tiles) // len(seen.names)
    title = f"Grad-CAM in the maps of {stage}, {subject.name}"
    return figure_of(title, rows_of(tiles, names, columns))


def gradcam(
    model: nn.Module, image: Tensor, num_classes: int
) -> tuple[str, Tensor, dict[int, Tensor]]:
    """Of an image 1 C S S the stage of the last maps, the logits K, and for each of the likeliest
    classes what speaks for it in these maps: H W, not negative.
    """
    with torch.enable_grad():
        stages = walk(model, image.clone().requires_grad_())
        stage, maps = with_maps(stages)[-1]
        logits = stages[-1].output[0, :num_classes]
        best = logits.detach().argsort(descending=True, stable=True)[:CLASSES].tolist()
        slopes = {k: torch.autograd.grad(logits[k], maps, retain_graph=True)[0] for k in best}
    heats = {
        k: (slope.mean((2, 3), keepdim=True) * maps.detach()).sum(dim=1).relu()[0].cpu()
        for k, slope in slopes.items()
    }
    return stage, logits.detach().cpu(), heats
