"""The other side of the comparisons: Fashion-MNIST and AlexNet as text 002 has them.

The text's MXNet Gluon calls stand here as their PyTorch counterparts, written as such a script
commonly is: pictures resized one by one by worker processes, fp32, one plain loop.
"""

import gzip
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import datasets, transforms

from common import REPOSITORY

DATASETS = REPOSITORY / "datasets"
NUM_WORKERS = 2
SIDE = 224


def fashion_mnist() -> Dataset[Any]:
    """The training set as the text loads it: resize, then tensor; nothing is downloaded."""
    steps = transforms.Compose([transforms.Resize(SIDE), transforms.ToTensor()])
    with TemporaryDirectory() as folder:
        raw = Path(folder) / "FashionMNIST" / "raw"  # where torchvision looks
        raw.mkdir(parents=True)
        for packed in (DATASETS / "fashion-mnist").glob("*.gz"):
            with gzip.open(packed) as source, (raw / packed.stem).open("wb") as target:
                shutil.copyfileobj(source, target)
        # It reads everything into memory at once, so the files may go.
        found: Dataset[Any] = datasets.FashionMNIST(
            folder, train=True, transform=steps, download=False
        )
        return found


def loader(images: Dataset[Any], batch_size: int) -> DataLoader[Any]:
    """Shuffled batches from worker processes, which live on from epoch to epoch."""
    return DataLoader(
        images, batch_size, shuffle=True, num_workers=NUM_WORKERS, persistent_workers=True
    )


def alexnet() -> nn.Sequential:
    """The network in the text's order of layers, with its Xavier initialisation."""
    network = nn.Sequential(
        nn.Conv2d(1, 96, kernel_size=11, stride=4), nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.Conv2d(96, 256, kernel_size=5, padding=2), nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.Conv2d(256, 384, kernel_size=3, padding=1), nn.ReLU(),
        nn.Conv2d(384, 384, kernel_size=3, padding=1), nn.ReLU(),
        nn.Conv2d(384, 256, kernel_size=3, padding=1), nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.Flatten(),
        nn.Linear(6400, 4096), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(4096, 10),
    )  # fmt: skip
    for layer in network:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return network


class Training:
    """The text's training loop, to be called for a few updates at a time."""

    def __init__(self, batch_size: int, device: str) -> None:
        self.device = device
        self.network = alexnet().to(device)
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.01)
        self.loss = nn.CrossEntropyLoss()
        self.batches = _endless(loader(fashion_mnist(), batch_size))

    def train(self, num_updates: int) -> tuple[float, float]:
        """Make updates; return mean loss and training accuracy, as the text prints them."""
        loss_sum, correct, seen = 0.0, 0, 0
        for images, labels in islice(self.batches, num_updates):
            images, labels = images.to(self.device), labels.to(self.device)
            logits = self.network(images)
            loss = self.loss(logits, labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            loss_sum += loss.item() * len(labels)
            correct += int((logits.argmax(dim=1) == labels).sum().item())
            seen += len(labels)
        return loss_sum / seen, correct / seen


class Loading:
    """The text's loader alone, an epoch at a time."""

    def __init__(self, num_images: int, batch_size: int) -> None:
        self.batches = loader(Subset(fashion_mnist(), range(num_images)), batch_size)

    def epoch(self) -> None:
        """Take every batch from the worker processes."""
        for _ in self.batches:
            pass


@contextmanager
def training(batch_size: int, device: str, threads: int) -> Iterator[Training]:
    """The text's training with that many threads; 0: as many as torch takes by itself."""
    if threads:
        torch.set_num_threads(threads)
    yield Training(batch_size, device)


@contextmanager
def loading(num_images: int, batch_size: int) -> Iterator[Loading]:
    """The text's loader over the first images of the training set."""
    yield Loading(num_images, batch_size)


def _endless(batches: DataLoader[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield from batches
