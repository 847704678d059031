"""Which images an epoch visits: all, or mostly those that cost most when they were last seen.

Jiang et al. 2019, "Accelerating Deep Learning by Focusing on the Biggest Losers",
arXiv:1910.00762, where losses of an earlier epoch are named Stale-SB.
"""

import torch
from torch import Tensor

from deepcnn.device import generator

AT_RANDOM = 0.2  # share of what is visited that is drawn from the easier images, lest they be lost
NEVER_SEEN = 1e6  # a loss above all others: such images come first


def num_visited(num_images: int, share: float, epoch: int) -> int:
    """How many images an epoch (from 0) visits: the first one all."""
    return num_images if epoch == 0 else round(share * num_images)


def hardest(losses: Tensor, number: int, seed: int, epoch: int) -> Tensor:
    """Whether each image is visited, bool N, `number` in all: those of the highest `losses` (N),
    and some of the others at random.
    """
    shuffled = torch.randperm(len(losses), generator=generator(seed, "hardest", epoch))
    ranked = shuffled[losses[shuffled].argsort(descending=True, stable=True)]
    num_hard = number - round(AT_RANDOM * number)
    chosen = torch.zeros(len(losses), dtype=torch.bool)
    chosen[ranked[:num_hard]] = True
    others = shuffled[~chosen[shuffled]]
    chosen[others[: number - num_hard]] = True
    return chosen
