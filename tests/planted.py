"""Faults planted one at a time: in settings, in data on disk, in networks, in the way to them.

`python tests/planted.py` prints a table of what is found first for each.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from deepcnn import models
from deepcnn.data.loader import Source
from deepcnn.diagnose.diagnosis import Diagnosis, diagnose
from deepcnn.models.card import Card, Landmark
from faults import NUM_CLASSES, SMALL, Mini, Settings, config_of, torch_restored, write_idx

CARD = Card("for tests", 2026, "none", (1, 12), NUM_CLASSES)
NUM_TRAIN, NUM_TEST, SIDE = 720, 150, 12
Images, Labels = NDArray[np.uint8], NDArray[np.uint8]


class Data(NamedTuple):
    """Training and test images N H W or N H W 3, with labels."""

    train: Images
    train_labels: Labels
    test: Images
    test_labels: Labels


def sound(number: int = NUM_TRAIN) -> Data:
    """In noise a bright band, at a height that is the class."""
    generator = np.random.default_rng(0)
    sets: list[Any] = []
    for size in (number, NUM_TEST):
        labels = (np.arange(size) % NUM_CLASSES).astype(np.uint8)
        images = generator.integers(0, 60, (size, SIDE, SIDE), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            start = int(label) * SIDE // NUM_CLASSES
            image[start : start + SIDE // NUM_CLASSES] += 150
        sets += [images, labels]
    return Data(*sets)


def coloured() -> Data:
    """The same in colours: red is brightest, blue darkest, as in most photos."""
    shades = np.array([1.0, 0.8, 0.5])
    data = sound(240)

    def paint(images: Images) -> Images:
        return (images[..., None] * shades).astype(np.uint8)

    return data._replace(train=paint(data.train), test=paint(data.test))


def write(data: Data, folder: Path) -> Path:
    """As IDX files, or as PNG files where images have colours."""
    folder.mkdir(parents=True)
    if data.train.ndim == 3:
        for split, images, labels in (("train", *data[:2]), ("t10k", *data[2:])):
            write_idx(folder / f"{split}-images-idx3-ubyte.gz", images)
            write_idx(folder / f"{split}-labels-idx1-ubyte.gz", labels)
        return folder
    for split, images, labels in (("train", *data[:2]), ("test", *data[2:])):
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            place = folder / split / f"class-{label}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / f"{number}.png")
    return folder


def black() -> Data:
    data = sound()
    return data._replace(train=data.train * 0, test=data.test * 0)


def without_blue() -> Data:
    data = coloured()
    data.train[..., 2] = data.test[..., 2] = 0
    return data


def test_as_bgr() -> Data:
    data = coloured()
    return data._replace(test=data.test[..., ::-1].copy())


def labels_shuffled() -> Data:
    data = sound()
    order = np.random.default_rng(1).permutation(NUM_TRAIN)
    return data._replace(train_labels=data.train_labels[order])


def rare_class() -> Data:
    data = sound()
    kept = (data.train_labels != 2) | (np.arange(NUM_TRAIN) < 60)
    return data._replace(train=data.train[kept], train_labels=data.train_labels[kept])


def test_in_train() -> Data:
    data = sound()
    return data._replace(test=data.train[:NUM_TEST], test_labels=data.train_labels[:NUM_TEST])


def two_labels() -> Data:
    data = sound()
    data.train[1::2] = data.train[::2]
    return data


def missing_class() -> Data:
    data = sound()
    kept = data.test_labels != 2
    return data._replace(test=data.test[kept], test_labels=data.test_labels[kept])


class SoftmaxTwice(Mini):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).softmax(1)


class ReluAtTheEnd(Mini):
    def forward(self, images: Tensor) -> Tensor:
        return F.relu(super().forward(images))


class NormRests(Mini):
    def train(self, mode: bool = True) -> "NormRests":
        super().train(mode)
        self.norm.eval()
        return self


class NormByBatchAlways(Mini):
    def __init__(self, *arguments: int) -> None:
        super().__init__(*arguments)
        self.norm = nn.BatchNorm2d(4, track_running_stats=False)


class DropoutAlways(Mini):
    def forward(self, images: Tensor) -> Tensor:
        self.dropout.train()
        return super().forward(images)


class NormWithoutMomentum(Mini):
    def __init__(self, *arguments: int) -> None:
        super().__init__(*arguments)
        self.norm = nn.BatchNorm2d(4, momentum=0.0)
        self.conv1 = nn.Conv2d(1, 4, kernel_size=3)
        nn.init.constant_(self.conv1.bias, -100.0)  # type: ignore[arg-type]


class Frozen(Mini):
    def __init__(self, *arguments: int) -> None:
        super().__init__(*arguments)
        self.requires_grad_(False)


class Detached(Mini):
    def forward(self, images: Tensor) -> Tensor:
        x = self.conv1(images).detach()
        x = F.relu(self.norm(F.max_pool2d(x, 2)))
        logits: Tensor = self.output(self.conv2(x).amax((2, 3)))
        return logits


class AllZero(Mini):
    def __init__(self, *arguments: int) -> None:
        super().__init__(*arguments)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)


class SureAtFirst(Mini):
    def __init__(self, *arguments: int) -> None:
        super().__init__(*arguments)
        with torch.no_grad():
            self.output.weight *= 500


class DeadUnits(Mini):
    def __init__(self, *arguments: int) -> None:
        super().__init__(*arguments)
        nn.init.constant_(self.norm.bias, -20.0)


class NotANumber(Mini):
    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.norm(F.max_pool2d(self.conv1(images), 2)))
        x = self.conv2(x.log() - x.log()).amax((2, 3))  # of 0 it is minus infinity
        logits: Tensor = self.output(x)
        return logits


class Deep(nn.Module):
    """Ten dense layers, whose first weights have a deviation times that of He's."""

    def __init__(self, factor: float, num_classes: int, in_channels: int) -> None:
        super().__init__()
        widths = [in_channels * SIDE**2, *[32] * 9]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.output = nn.Linear(32, num_classes)
        for layer in (*self.hidden, self.output):
            nn.init.normal_(layer.weight, std=factor * (2 / layer.in_features) ** 0.5)

    def forward(self, images: Tensor) -> Tensor:
        x = images.flatten(1)
        for layer in self.hidden:
            x = F.relu(layer(x))
        logits: Tensor = self.output(x)
        return logits


class DeepSigmoid(Deep):
    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__(0.5, num_classes, in_channels)

    def forward(self, images: Tensor) -> Tensor:
        x = images.flatten(1)
        for layer in self.hidden:
            x = layer(x).sigmoid()
        logits: Tensor = self.output(x)
        return logits


class TooSmall(nn.Module):
    """Sees nothing but the mean of an image."""

    def __init__(self, num_classes: int, _: int) -> None:
        super().__init__()
        self.output = nn.Linear(1, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.output(images.mean((1, 2, 3))[:, None])
        return logits


@contextmanager
def labels_in_images() -> Iterator[None]:
    """Images that get a little brighter with their label, on their way to the network."""
    original = Source.batches

    def batches(source: Source, groups: Iterable[Tensor], *more: Any) -> Iterator[Any]:
        for batch in original(source, groups, *more):
            yield batch._replace(images=batch.images + 3 * batch.labels[:, None, None, None])

    with mock.patch.object(Source, "batches", batches):
        yield


class Fault(NamedTuple):
    """What is planted, and the kind that must be found first."""

    kind: str
    settings: Settings = {}
    data: Callable[[], Data] = sound
    network: Callable[[int, int], nn.Module] = Mini
    while_loading: Callable[[], AbstractContextManager[None]] = nullcontext


FAULTS = {
    "pixels in [0, 255]": Fault("input-scale", {"data.pixels": "raw"}),
    "mean and deviation for [0, 255]": Fault(
        "input-scale", {"data.mean": (73.0,), "data.std": (90.0,)}
    ),
    "all images black": Fault("input-constant", data=black),
    "blue channel never written": Fault("input-constant", data=without_blue),
    "test images written as BGR": Fault("channels-swapped", data=test_as_bgr),
    "all parameters frozen": Fault("frozen", network=Frozen),
    "first layer detached": Fault("cut-off", network=Detached),
    "softmax in the network": Fault("softmax-twice", network=SoftmaxTwice),
    "ReLU behind the last layer": Fault("logits-limited", network=ReluAtTheEnd),
    "batch norm in evaluation mode while training": Fault("norm-in-training", network=NormRests),
    "batch norm by the batch in evaluation": Fault("norm-in-evaluation", network=NormByBatchAlways),
    "dropout in evaluation": Fault("norm-in-evaluation", network=DropoutAlways),
    "running statistics that never move": Fault("norm-statistics", network=NormWithoutMomentum),
    "batches of 4 with batch norm": Fault("small-batch", {"train.batch_size": 4}),
    "batches of 32 in 8 pieces with batch norm": Fault("small-batch", {"train.accumulate": 8}),
    "all first weights 0": Fault("same-answer", network=AllZero),
    "first weights ten times too large": Fault(
        "exploding", network=lambda *sizes: Deep(10, *sizes)
    ),
    "first weights ten times too small": Fault(
        "vanishing", network=lambda *sizes: Deep(0.1, *sizes)
    ),
    "ten layers of sigmoids": Fault("vanishing", network=DeepSigmoid),
    "biases of -20 before ReLU": Fault("dead", network=DeadUnits),
    "last weights 500 times too large": Fault("loss-at-start", network=SureAtFirst),
    "logarithm of 0": Fault("non-finite", network=NotANumber),
    "learning rate 1000": Fault("rate-too-high", {"optim.lr": 1000.0}),
    "learning rate 1e-8": Fault("rate-too-low", {"optim.lr": 1e-8}),
    "weight decay 1": Fault("decay", {"optim.weight_decay": 1.0}),
    "network that sees the mean only": Fault("not-by-heart", network=TooSmall),
    "labels shuffled on disk": Fault("labels-unrelated", data=labels_shuffled),
    "labels that show in the images": Fault("label-leak", while_loading=labels_in_images),
    "a class twelve times rarer": Fault("imbalance", data=rare_class),
    "test images in the training set": Fault("leak", data=test_in_train),
    "each image with two labels": Fault("two-labels", data=two_labels),
    "a class without test images": Fault("missing-class", data=missing_class),
}


def examined(fault: Fault, folder: Path) -> Diagnosis:
    """What is found of a fault that is planted below `folder`."""
    settings: Settings = {"data.name": str(write(fault.data(), folder / "data"))}
    settings |= {"model.name": "planted", "train.batch_size": 32, "data.validation": 0}
    planted = mock.patch.dict(models.MODELS, {"planted": Landmark(fault.network, CARD)})
    with planted, torch_restored(), fault.while_loading():
        return diagnose(config_of(SMALL | settings | fault.settings), folder / "cache")


def main() -> None:
    """Print the table."""
    print("| planted | found first | measured |\n|---|---|---|")
    for name, fault in FAULTS.items():
        with TemporaryDirectory() as folder:
            first = examined(fault, Path(folder)).findings[0].as_dict()
        print(f"| {name} | {first['title']} | {first['measured']} |")


if __name__ == "__main__":
    sys.exit(main())
