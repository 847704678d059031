"""Augmentation of whole batches on the device, as a pure function of (seed, epoch, sample).

`draw` makes the parameters of an epoch at once, one row per sample of the whole training set;
`augment` applies the rows of a batch. So the same picture comes out whatever the batch size, and
a run continued in the middle of an epoch sees what the uninterrupted run sees.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from deepcnn.config import Augment
from deepcnn.device import generator

Parameters = dict[str, Tensor]


def draw(settings: Augment, seed: int, epoch: int, num_images: int) -> Parameters:
    """Draw `flip` (bool N) and `shift` (int64 N 2: rows, columns) as far as they are in use."""
    parameters: Parameters = {}
    if settings.flip == "random":
        parameters["flip"] = _coin(num_images, generator(seed, "flip", epoch))
    if settings.flip == "alternating":
        # Each image is seen mirrored in every other epoch (Jordan 2024, arXiv:2404.00498, 3.6).
        first = _coin(num_images, generator(seed, "flip", 0))
        parameters["flip"] = first ^ bool(epoch % 2)
    if settings.crop:
        parameters["shift"] = torch.randint(
            2 * settings.crop + 1, (num_images, 2), generator=generator(seed, "crop", epoch)
        )
    return parameters


def pick(parameters: Parameters, indices: Tensor) -> Parameters:
    """The rows of a batch."""
    return {name: rows[indices] for name, rows in parameters.items()}


def augment(images: Tensor, settings: Augment, parameters: Parameters) -> Tensor:
    """Apply one row of `parameters` to each image of uint8 N C H W."""
    if "flip" in parameters:
        mirrored = parameters["flip"].to(images.device)[:, None, None, None]
        images = torch.where(mirrored, images.flip(-1), images)
    if "shift" in parameters:
        images = _shifted_crop(images, settings.crop, parameters["shift"].to(images.device))
    return images


def _coin(num_images: int, source: torch.Generator) -> Tensor:
    return torch.randint(2, (num_images,), generator=source).bool()


def _shifted_crop(images: Tensor, margin: int, shift: Tensor) -> Tensor:
    """Put a black margin around each image and cut out the window at its own offset."""
    height, width = images.shape[-2:]
    padded = F.pad(images, (margin,) * 4)
    rows = shift[:, 0, None] + torch.arange(height, device=images.device)  # N H
    columns = shift[:, 1, None] + torch.arange(width, device=images.device)  # N W
    image = torch.arange(len(images), device=images.device)[:, None, None, None]
    channel = torch.arange(images.shape[1], device=images.device)[None, :, None, None]
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]
