"""Batches of small colour images that are in memory, with augmentation, loader alone: the usual
way, torchvision's transforms image by image in a DataLoader with two worker processes, against this
package's, whole batches on the device.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from deepcnn.bench import clock, limits
from deepcnn.bench.noise import noise
from deepcnn.bench.sides import side
from deepcnn.config import Augment, Data
from deepcnn.data.augment import draw
from deepcnn.data.images import ImageSet
from deepcnn.data.loader import epoch_batches, source
from deepcnn.data.order import batch_slices, order
from deepcnn.data.splits import make_preprocess
from deepcnn.device import Policy, available_threads

NUM_IMAGES, SIDE, CHANNELS = 10_000, 32, 3
BATCH_SIZE = 128
NUM_WORKERS = 2
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of CIFAR-10
# What trainings on such images use, and everything that is common, at common strengths.
USUAL = Augment(flip="random", crop=4, erase=0.25)
CHANGES = {
    "crop, flip, erasing": USUAL,
    "crop, flip, rotation, colours, erasing": replace(
        USUAL, rotate=15.0, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05
    ),
}


def images() -> ImageSet:
    """The images of an epoch."""
    return noise(NUM_IMAGES, CHANNELS, SIDE, classes=10)


class OneByOne(Dataset[tuple[Tensor, int]]):
    """Each image changed by itself."""

    def __init__(self, changes: Augment) -> None:
        pixels = images().images
        assert isinstance(pixels, np.ndarray)
        self.pixels = torch.from_numpy(pixels)
        steps = [v2.RandomCrop(SIDE, padding=changes.crop), v2.RandomHorizontalFlip()]
        if changes.rotate:
            bilinear = v2.InterpolationMode.BILINEAR
            steps.append(v2.RandomRotation(changes.rotate, interpolation=bilinear))
        if changes.hue:
            amounts = (changes.brightness, changes.contrast, changes.saturation, changes.hue)
            steps.append(v2.ColorJitter(*amounts))
        steps += [v2.RandomErasing(changes.erase), v2.ToDtype(torch.float32, scale=True)]
        self.change = v2.Compose([*steps, v2.Normalize(MEAN, STD)])

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.change(self.pixels[index]), 0


class Usual:
    """The usual loader, an epoch at a time, whose workers live on."""

    def __init__(self, changes: Augment) -> None:
        self.batches = DataLoader(
            OneByOne(changes), BATCH_SIZE, shuffle=True, num_workers=NUM_WORKERS,
            persistent_workers=True,
        )  # fmt: skip

    def epoch(self) -> None:
        """Take every batch from the workers."""
        for _ in self.batches:
            pass


class Ours:
    """The package's own loader, an epoch at a time."""

    def __init__(self, changes: Augment) -> None:
        self.changes, pixels = changes, images()
        preprocess = make_preprocess(Data(name="noise", mean=MEAN, std=STD), pixels)
        self.source = source(pixels, preprocess, torch.device("cpu"))
        self.epochs = count()

    def epoch(self) -> None:
        """Make every batch of the next epoch."""
        number = next(self.epochs)
        permutation = order(0, number, NUM_IMAGES)
        groups = torch.arange(NUM_IMAGES)
        slices = batch_slices(NUM_IMAGES, BATCH_SIZE, drop_last=False)
        parameters = draw(self.changes, 0, number, NUM_IMAGES)
        batches = epoch_batches(
            self.source, permutation, (groups[part] for part in slices), self.changes, parameters
        )
        for _ in batches:
            pass


@contextmanager
def usual(changes: Augment) -> Iterator[Usual]:
    """The usual loader, in a process that torch has set up."""
    yield Usual(changes)


@contextmanager
def ours(changes: Augment) -> Iterator[Ours]:
    """The package's own loader, in a process that is set up as for training."""
    Policy("cpu", "fp32", "contiguous", available_threads()).apply()
    yield Ours(changes)


def compare(name: str, rounds: int) -> dict[str, Any]:
    """Take turns at an epoch with the changes of that name; images per second of both, their ratio,
    and the share of the limit, which is writing each image once.
    """
    with side(usual, CHANGES[name]) as before, side(ours, CHANGES[name]) as after:
        sides = {"torchvision": before, "deepcnn": after}
        turns = {who: partial(each.ask, "epoch") for who, each in sides.items()}
        seconds = clock.alternate(turns, rounds, name)
    copied = limits.measured_copy()
    rates = clock.rates(seconds, NUM_IMAGES)
    gigabytes = CHANNELS * SIDE**2 * 4 / 1e9
    return {
        "changes": name,
        "num_images": NUM_IMAGES,
        "batch_size": BATCH_SIZE,
        "images_per_second": rates,
        "limit_gigabytes_per_second": copied,
        "share_of_limit": {who: rate["median"] * gigabytes / copied for who, rate in rates.items()},
        "ratio": clock.compared(seconds["torchvision"], seconds["deepcnn"]),
    }
