"""Which images an update sees: the order of an epoch, its batches, and each process's part of them.

Order is a pure function of (seed, epoch), so a run continues at any batch by arithmetic.
"""

import numpy as np
import torch
from torch import Tensor

from deepcnn.data.images import ImageSet
from deepcnn.data.photos import Photos
from deepcnn.data.shards import shard_order
from deepcnn.device import generator

BUFFER = 4_096  # pictures of shards that are shuffled together


def order(seed: int, epoch: int, num_images: int) -> Tensor:
    """The order in which an epoch visits the set: int64 N."""
    return torch.randperm(num_images, generator=generator(seed, "order", epoch))


def epoch_order(images: ImageSet, seed: int, epoch: int) -> Tensor:
    """The order in which an epoch visits a set: int64 N. Pictures in shards are not fetched from
    everywhere: shards are in random order, and BUFFER pictures at a time.
    """
    photos = images.images
    if not isinstance(photos, Photos) or not photos.scan.spots.are_shards:
        return order(seed, epoch, len(images))
    rows = shard_order(seed, epoch, photos.scan.spots, photos.rows, BUFFER)
    return torch.from_numpy(np.searchsorted(photos.rows, rows))  # rows of a set ascend


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


def of_rank(update: Tensor, rank: int, ranks: int) -> Tensor:
    """The positions of a batch that one of several processes reads: as many as any other reads, or
    one more or less.

    Given to `epoch_batches`, the processes together see what one of them alone would: the same
    images, changed and mixed alike, in the same batches, however many processes there are.
    """
    return update.tensor_split(ranks)[rank]
