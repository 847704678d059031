"""Batches of small colour images that are in memory, with full augmentation, loader alone: the
usual way, torchvision's transforms image by image in a DataLoader with two worker processes,
against this package's, whole batches on the device.
"""

from collections.abc import Iterator
from contextlib import contextmanager
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
# Everything that is common for such images, at common strengths.
PAD, DEGREES, JITTER, HUE, ERASE = 4, 15.0, 0.2, 0.05, 0.25
CHANGES = Augment(
    flip="random", crop=PAD, rotate=DEGREES, brightness=JITTER, contrast=JITTER,
    saturation=JITTER, hue=HUE, erase=ERASE,
)  # fmt: skip


def images() -> ImageSet:
    """The images of an epoch."""
    return noise(NUM_IMAGES, CHANNELS, SIDE, classes=10)


class OneByOne(Dataset[tuple[Tensor, int]]):
    """Each image changed by itself."""

    def __init__(self) -> None:
        pixels = images().images
        assert isinstance(pixels, np.ndarray)
        self.pixels = torch.from_numpy(pixels)
        self.change = v2.Compose([
            v2.RandomCrop(SIDE, padding=PAD),
            v2.RandomHorizontalFlip(),
            v2.RandomRotation(DEGREES, interpolation=v2.InterpolationMode.BILINEAR),
            v2.ColorJitter(JITTER, JITTER, JITTER, HUE),
            v2.RandomErasing(ERASE),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.change(self.pixels[index]), 0


class Usual:
    """The usual loader, an epoch at a time, whose workers live on."""

    def __init__(self) -> None:
        self.batches = DataLoader(
            OneByOne(), BATCH_SIZE, shuffle=True, num_workers=NUM_WORKERS, persistent_workers=True
        )

    def epoch(self) -> None:
        """Take every batch from the workers."""
        for _ in self.batches:
            pass


class Ours:
    """The package's own loader, an epoch at a time."""

    def __init__(self) -> None:
        pixels = images()
        preprocess = make_preprocess(Data(name="noise", mean=MEAN, std=STD), pixels)
        self.source = source(pixels, preprocess, torch.device("cpu"))
        self.epochs = count()

    def epoch(self) -> None:
        """Make every batch of the next epoch."""
        number = next(self.epochs)
        permutation = order(0, number, NUM_IMAGES)
        groups = torch.arange(NUM_IMAGES)
        slices = batch_slices(NUM_IMAGES, BATCH_SIZE, drop_last=False)
        parameters = draw(CHANGES, 0, number, NUM_IMAGES)
        batches = epoch_batches(
            self.source, permutation, (groups[part] for part in slices), CHANGES, parameters
        )
        for _ in batches:
            pass


@contextmanager
def usual() -> Iterator[Usual]:
    """The usual loader, in a process that torch has set up."""
    yield Usual()


@contextmanager
def ours() -> Iterator[Ours]:
    """The package's own loader, in a process that is set up as for training."""
    Policy("cpu", "fp32", "contiguous", available_threads()).apply()
    yield Ours()


def compare(rounds: int) -> dict[str, Any]:
    """Take turns at an epoch; images per second of both, their ratio, and the share of the limit,
    which is writing each image once.
    """
    with side(usual) as before, side(ours) as after:
        sides = {"torchvision": before, "deepcnn": after}
        turns = {name: partial(each.ask, "epoch") for name, each in sides.items()}
        seconds = clock.alternate(turns, rounds, "loading")
    copied = limits.measured_copy()
    rates = clock.rates(seconds, NUM_IMAGES)
    gigabytes = CHANNELS * SIDE**2 * 4 / 1e9
    return {
        "num_images": NUM_IMAGES,
        "batch_size": BATCH_SIZE,
        "images_per_second": rates,
        "limit_gigabytes_per_second": copied,
        "share_of_limit": {
            name: rate["median"] * gigabytes / copied for name, rate in rates.items()
        },
        "ratio": clock.compared(seconds["torchvision"], seconds["deepcnn"]),
    }
