"""Training steps: a network in a plain loop against the same network in this package's loop.

The plain loop is what the best flags of common training scripts amount to: bf16 autocast where the
chip has it, channels last, fused SGD, images normalised on the device. Both get the same bytes,
and each has a process of its own.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from deepcnn import models, runlog
from deepcnn.begin import begin_state, choice_for
from deepcnn.bench import clock, limits
from deepcnn.bench.noise import noise
from deepcnn.bench.sides import side
from deepcnn.config import Config, Data, Hardware, Model, Optim, Train
from deepcnn.data.images import ImageSet
from deepcnn.data.splits import Splits, make_preprocess
from deepcnn.device import Policy, find_device, has_bf16
from deepcnn.phases import Stopwatch
from deepcnn.progress import Display
from deepcnn.run import Run
from deepcnn.train import train_epoch

LR, MOMENTUM, DECAY = 0.001, 0.9, 5e-4
SECONDS = 2.0  # that a turn is to take, in whole updates
UPDATES = 4  # of an epoch of large images
SMALL, IMAGES = 64, 10_000  # pixels up to which images are small, of which an epoch has so many
LENGTH = 100_000  # updates of the run that the epochs are to be part of


class Work(NamedTuple):
    """A network with the images of an update, and the classes it tells apart."""

    network: str
    channels: int
    side: int
    batch_size: int
    classes: int


WORK = {
    work.network: work
    for work in (
        Work("alexnet-d2l", 1, 224, 128, 10),
        Work("resnet18", 3, 224, 64, 1_000),
        Work("vgg11-bn", 3, 224, 32, 1_000),
        Work("googlenet-bn", 3, 224, 64, 1_000),
        Work("lenet", 1, 32, 128, 10),
        Work("resnet20", 3, 32, 128, 10),
    )
}


def images_of(work: Work) -> ImageSet:
    """The images of an epoch."""
    number = max(UPDATES, IMAGES // work.batch_size * (work.side <= SMALL)) * work.batch_size
    return noise(number, work.channels, work.side, work.classes)


class Plain:
    """The plain loop."""

    def __init__(self, work: Work, device: str) -> None:
        images = images_of(work)
        self.work, self.device = work, torch.device(device)
        assert isinstance(images.images, np.ndarray)
        self.pixels = torch.from_numpy(images.images).to(self.device)
        self.labels = torch.from_numpy(images.labels).to(self.device)
        model = models.build(work.network, work.classes, work.channels, work.side)
        self.model: nn.Module = model.to(  # type: ignore[call-overload]
            device=self.device, memory_format=torch.channels_last
        )
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY, fused=True
        )
        self.mean = torch.full((1, work.channels, 1, 1), 127.5, device=self.device)

    def train(self, num_updates: int) -> None:
        """Make updates."""
        is_16_bit = has_bf16(self.device.type)
        for _ in range(num_updates):
            indices = torch.randperm(len(self.pixels))[: self.work.batch_size].to(self.device)
            images = self.pixels[indices].contiguous(memory_format=torch.channels_last)
            images = images.float().sub_(self.mean).div_(self.mean)
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=is_16_bit):
                outputs = self.model(images)
            # GoogLeNet's further classifiers take part here as there.
            answers = outputs if isinstance(outputs, tuple) else (outputs,)
            losses = [F.cross_entropy(each.float(), self.labels[indices]) for each in answers]
            self.optimizer.zero_grad(set_to_none=True)
            torch.stack(losses).sum().backward()
            self.optimizer.step()


class Ours:
    """The package's own loop, as `deepcnn train` runs it."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.images = run.source(run.splits.train)
        self.slices = run.slices(0)

    def train(self, num_updates: int) -> float:
        """Make updates, in epochs over the same images; the moving average of the loss."""
        # A run says once what limits it, and tries that for a second: no turn becomes so old.
        self.run.watch = Stopwatch()
        with redirect_stderr(io.StringIO()), self.run.display.following(0, num_updates):
            for made in range(0, num_updates, len(self.slices)):
                # What is left of an epoch is what is asked for: the loop is the package's own.
                part = self.slices[: num_updates - made]
                self.run.state.step = self.run.state.epoch = 0
                self.run.slices = lambda _, part=part: part  # type: ignore[method-assign,misc]
                train_epoch(self.run, self.images, LENGTH)
        return self.run.state.moving_loss or 0.0

    def save(self) -> None:
        """Write a checkpoint, as a run does every minute."""
        self.run.save()

    def policy(self) -> Policy:
        """How it computes."""
        return self.run.policy


@contextmanager
def plain(work: Work, device: str) -> Iterator[Plain]:
    """The plain loop, with threads as torch sets them."""
    yield Plain(work, device)


@contextmanager
def ours(work: Work, config: Config, cache: Path) -> Iterator[Ours]:
    """A run on noise, in a folder that goes with it."""
    images = images_of(work)
    splits = Splits(images, None, images, make_preprocess(config.data, images))
    with TemporaryDirectory() as place:
        folder, display = Path(place), Display(epochs=1)
        policy = choice_for(config, splits, cache, display).policy
        policy.apply()
        state = begin_state(config, splits, policy)
        log = runlog.EventLog(folder, state.events)
        yield Ours(Run(folder, config, policy, splits, state, display, log))


def settings(work: Work, hardware: Hardware) -> Config:
    """What the plain loop does, as a configuration; no checkpoints by the clock."""
    return Config(
        data=Data(name="noise", mean=(0.5,) * work.channels, std=(0.5,) * work.channels),
        model=Model(name=work.network),
        optim=Optim(lr=LR, momentum=MOMENTUM, weight_decay=DECAY),
        train=Train(epochs=1, batch_size=work.batch_size, checkpoint_seconds=1e9),
        hardware=hardware,
    )


def gflop_per_image(work: Work) -> float:
    """Counted arithmetic of forward and backward pass; on the meta device nothing is computed."""
    with torch.device("meta"):
        network = models.build(work.network, work.classes, work.channels, work.side)
        images = torch.empty(2, work.channels, work.side, work.side)
        labels = torch.empty(2, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        outputs = network(images)
        answers = outputs if isinstance(outputs, tuple) else (outputs,)
        losses = [F.cross_entropy(each[:, : work.classes], labels) for each in answers]
        torch.stack(losses).sum().backward()
    return float(counter.get_total_flops() / 2e9)


def compare(work: Work, hardware: Hardware, rounds: int, cache: Path) -> dict[str, Any]:
    """Take turns; images per second of both, their ratio, and the share of the limit."""
    device = find_device(hardware.device)
    limit = limits.measured_peak(device)
    with (
        side(plain, work, device) as before,
        side(ours, work, settings(work, hardware), cache) as after,
    ):
        sides = {"plain": before, "deepcnn": after}
        after.ask("train", 1)  # the first one is slow
        updates = max(1, round(SECONDS / clock.timed(partial(after.ask, "train", 1))))
        turns = {name: partial(each.ask, "train", updates) for name, each in sides.items()}
        seconds = clock.alternate(turns, rounds, work.network)
        policy = asdict(after.ask("policy"))
    # A limit that a neighbour has lowered would make every share of it look better.
    limit = limits.higher(limit, limits.measured_peak(device))
    gflop, rates = gflop_per_image(work), clock.rates(seconds, updates * work.batch_size)
    best = limit["bf16" if has_bf16(device) else "fp32"]["convolution"]
    return {
        **work._asdict(),
        "policy": policy,
        "limit_gflops": limit,
        "gflop_per_image": gflop,
        "images_per_second": rates,
        "share_of_limit": {name: gflop * rate["median"] / best for name, rate in rates.items()},
        "ratio": clock.compared(seconds["plain"], seconds["deepcnn"]),
    }
