"""Batches of a whole set that lies in memory as bytes: gathered by index, augmented on the device.

Nothing here has a state: sample order is a pure function of (seed, epoch), so a run continues at
any batch by arithmetic.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from deepcnn.config import Augment
from deepcnn.data.augment import Parameters, augment, pick
from deepcnn.data.images import ImageSet
from deepcnn.data.preprocess import Preprocess
from deepcnn.device import generator


class Batch(NamedTuple):
    """What a model and a loop see: `images` float32 N C H W, `labels` N, `indices` N in the set."""

    images: Tensor
    labels: Tensor
    indices: Tensor


class Source(NamedTuple):
    """An image set on a device: uint8 N C H W and int64 N, with the way to turn it into numbers."""

    images: Tensor
    labels: Tensor
    preprocess: Preprocess

    def batch(
        self, indices: Tensor, settings: Augment | None = None, parameters: Parameters | None = None
    ) -> Batch:
        """Gather, augment if asked to, and preprocess the images at `indices`."""
        indices = indices.to(self.images.device)
        images = self.images[indices]
        if settings and parameters:
            images = augment(images, settings, pick(parameters, indices.cpu()))
        return Batch(self.preprocess(images), self.labels[indices], indices)


def source(images: ImageSet, preprocess: Preprocess, device: torch.device) -> Source:
    """Put a whole set on `device` as bytes."""
    return Source(
        torch.from_numpy(images.images).to(device),
        torch.from_numpy(images.labels).to(device),
        preprocess,
    )


def order(seed: int, epoch: int, num_images: int) -> Tensor:
    """The order in which an epoch visits the set: int64 N."""
    return torch.randperm(num_images, generator=generator(seed, "order", epoch))


def batch_slices(num_images: int, batch_size: int, drop_last: bool) -> list[slice]:
    """Cut an epoch into batches. A last batch of one image joins the batch before it, because
    batch statistics need two; nothing is lost.
    """
    starts = list(range(0, num_images, batch_size))
    if drop_last and num_images % batch_size:
        return [slice(start, start + batch_size) for start in starts[:-1]]
    if num_images % batch_size == 1 and len(starts) > 1:
        starts.pop()
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], num_images], strict=True)]


def in_order(images: Source, batch_size: int) -> Iterator[Batch]:
    """Every image once, as stored: for evaluation."""
    for start in range(0, len(images.images), batch_size):
        yield images.batch(torch.arange(start, min(start + batch_size, len(images.images))))
