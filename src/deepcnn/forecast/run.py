"""The memory of a whole run: training, checkpoints, evaluation, report, and what that leaves."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from deepcnn.device import peak_memory
from deepcnn.forecast import process
from deepcnn.forecast.memory import (
    Timeline,
    evaluation_timeline,
    size_of,
    state_bytes,
    training_timeline,
)
from deepcnn.models import transfer
from deepcnn.run import Run

# What the process loads once a run is under way, whatever its network: kernels made for its shapes,
# Matplotlib for the learning curve, the page. Measured as the same 35 to 45 MB in all runs.
LATER = 40 * 10**6
# What files of weights take while they are made, as a multiple of their length: of the same four
# AlexNets and VGGs 1.13 after the second checkpoint and up to 1.3 after the last.
FILES = 1.25


class Forecast(NamedTuple):
    """The most bytes that the process (or the device) will have at any moment of a run."""

    size: int
    phase: str  # training, evaluation, checkpoint, finished model or start, when policies are tried
    parts: dict[str, int]
    layer: str  # where the step has its peak

    def as_dict(self) -> dict[str, Any]:
        """For the record."""
        return self._asdict()


@dataclass(frozen=True)
class Memory:
    """What a run takes, as a function of its batch."""

    step: Timeline
    evaluation: Timeline
    other: int  # bytes that are neither of the step nor free
    free: int  # in the heap
    so_far: int  # the most there has been
    constant: int  # bytes that a step finds, and that `other` has: weights, their average, state
    to_come: int  # state that the first update adds
    at_once: int  # images
    is_device: bool  # counted by the allocator of a GPU: nothing but tensors

    def forecast(self, batch: int, pieces: int = 1) -> Forecast:
        """The peak of the run with such batches."""
        peak, answers = self.step.peak(batch, pieces), self.evaluation.peak(self.at_once)
        brief = sum(peak.parts[kind] for kind in ("gradients", "activations", "temporary"))
        gradients = int(self.step.live(1)["gradients"].max())
        weights, kept = peak.parts["parameters"], self.constant + self.to_come
        training = self._with_holes(brief)
        needs = {
            "training": training,
            # The test is for a copy of the model in fp32.
            "evaluation": gradients + weights + self._with_holes(answers.parts["temporary"]),
        }
        if not self.is_device:
            # Files are made in memory and, once they are on the disk, read back to be compared.
            # They are too long for the holes that training and evaluation leave.
            left = max(training, self._with_holes(answers.parts["temporary"]))
            needs["checkpoint"] = left + int(FILES * 2 * kept)
            needs["finished model"] = left + int(FILES * 3 * weights)
        phase = max(needs, key=needs.__getitem__)
        growth = max(needs[phase] + self.to_come - self.free, 0)
        size = self.other + self.free + growth + (0 if self.is_device else LATER)
        parts = {
            "process": self.other - self.constant + (0 if self.is_device else LATER),
            "parameters": peak.parts["parameters"],
            "optimiser state": peak.parts["optimiser state"],
            **{kind: peak.parts[kind] for kind in ("gradients", "activations", "temporary")},
        }
        if self.so_far >= size:
            size, phase = self.so_far, "start"
        # What training leaves in holes, or another phase takes beyond what training takes.
        parts["besides"] = size - sum(parts.values())
        return Forecast(size, phase, parts, peak.event.layer)

    def _with_holes(self, size: int) -> int:
        return size if self.is_device else int(size * process.holes())

    def largest_batch(self, limit: int, most: int) -> int:
        """The largest batch, of at most so many images, that fits; 0 if not even two do."""
        return _largest(lambda batch: self.forecast(batch).size <= limit, 2, most)

    def fewest_pieces(self, batch: int, limit: int) -> int | None:
        """The smallest number of pieces of a batch that fits; None if none does."""
        fitting = (
            pieces
            for pieces in range(1, max(1, batch // 2) + 1)
            if self.forecast(batch, pieces).size <= limit
        )
        return next(fitting, None)


def memory_of(run: Run) -> Memory:
    """Measure a run before its first update, on a few of its images; it is left as it was.

    Raises ValueError for a network whose operations are not the same for every batch.
    """
    state, policy = run.state, run.policy
    images = run.source(run.splits.train)

    def some(number: int) -> tuple[Tensor, Tensor]:
        batch = images.batch(torch.arange(number) % len(images))
        return batch.images, batch.labels

    with _frozen(run):
        step = training_timeline(state.model, some, policy, state.optimizer)
        to_come = state_bytes(state.optimizer)
    evaluation = evaluation_timeline(state.model, some, policy.exact())
    found = (value for each in state.optimizer.state.values() for value in each.values())
    there = size_of(value for value in found if isinstance(value, Tensor))
    weights = size_of(state.model.state_dict().values())
    average = size_of((state.average or {}).values())
    asked = [part for name, part in run.splits.parts().items() if name != "train"]
    is_device = policy.device.startswith("cuda")
    heap = process.heap()
    now = torch.cuda.memory_allocated(policy.device) if is_device else process.resident()
    return Memory(
        step=step,
        evaluation=evaluation,
        other=now - (0 if is_device else heap.free),
        free=0 if is_device else heap.free,
        so_far=peak_memory(policy.device) or 0,
        constant=weights + average + there,
        to_come=to_come - there,
        at_once=min(images.at_once(), max(map(len, asked))),
        is_device=is_device,
    )


@contextmanager
def _frozen(run: Run) -> Iterator[None]:
    """Only what trains to the end of a run trains inside."""
    settings, model = run.config.transfer, run.state.model
    if not settings.freeze or settings.unfreeze_at:
        yield
        return
    transfer.freeze(model, settings.freeze)
    try:
        yield
    finally:
        transfer.freeze(model, 0)


def _largest(fits: Callable[[int], bool], least: int, most: int) -> int:
    """The largest number from `least` to `most` for which it is true, 0 if there is none: found by
    halving, for what fits a number fits each smaller one.
    """
    if not fits(least):
        return 0
    while least < most:
        middle = (least + most + 1) // 2
        least, most = (middle, most) if fits(middle) else (least, middle - 1)
    return least
