"""What a training step keeps in memory, from moment to moment, without running it whole.

Two steps with a few images are made while every storage is followed from its first to its last
moment. Each has a fixed size and a size for each image, so two steps tell of any batch. (Torch's
fake tensors would tell of one batch at a time, of networks all of whose operations have a fake.)
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from deepcnn.device import Policy
from deepcnn.forecast.storages import Event, Recorder, recording

FEW, MORE = 2, 4  # images of the two steps: batch statistics need two
KINDS = ("parameters", "optimiser state", "gradients", "activations", "temporary")

Images = Callable[[int], tuple[Tensor, Tensor]]  # so many: N C H W in fp32, and labels N


class Peak(NamedTuple):
    """The most bytes at any moment, by kind, and that moment."""

    size: int
    parts: Mapping[str, int]
    event: Event


@dataclass(frozen=True)
class Block:
    """A storage of `fixed` + N * `per_image` bytes for N images, of a kind among `KINDS`.

    It is there from event number `born` to the one before number `died`.
    """

    kind: str
    born: int
    died: int
    fixed: float
    per_image: float = 0.0


@dataclass(frozen=True)
class Timeline:
    """The operations of a step in order, and all that is in memory meanwhile."""

    events: tuple[Event, ...]
    blocks: tuple[Block, ...]

    def live(self, batch: int, pieces: int = 1) -> dict[str, NDArray[np.int64]]:
        """Bytes in memory by kind, at each event, of a batch that is computed in pieces.

        What is shown is a later piece: the sum of the gradients of those before is there.
        """
        last, size = len(self.events), -(-batch // pieces)
        changes = {kind: np.zeros(last + 1) for kind in KINDS}
        for block in self.blocks:
            change, count = changes[block.kind], block.fixed + block.per_image * size
            born, died = block.born, block.died
            if pieces > 1 and block.kind == "gradients":
                change[0] += count
                died = born + 1  # by then it has been added to the sum
            change[born] += count
            change[died] -= count
        return {
            kind: np.cumsum(change)[:last].round().astype(np.int64)
            for kind, change in changes.items()
        }

    def peak(self, batch: int, pieces: int = 1) -> Peak:
        """The moment with the most bytes."""
        live = self.live(batch, pieces)
        total = np.sum([*live.values()], axis=0)
        at = int(total.argmax())
        parts = {kind: int(values[at]) for kind, values in live.items()}
        return Peak(int(total[at]), parts, self.events[at])


def training_timeline(
    model: nn.Module, images: Images, policy: Policy, optimizer: torch.optim.Optimizer
) -> Timeline:
    """The timeline of an update of a model on its device, which is left as it was.

    Raises ValueError for a network whose operations are not the same for every batch.
    """

    def step(recorder: Recorder, number: int) -> None:
        pixels, labels = images(number)
        recorder.phase = "forward"
        with policy.autocast():
            outputs = model(policy.arrange(pixels))
        answers = outputs if isinstance(outputs, tuple) else (outputs,)
        losses = [F.cross_entropy(logits.float(), labels) for logits in answers]
        recorder.phase = "backward"
        torch.stack(losses).sum().backward()

    images(FEW)  # what is made once and kept, such as the weights of a resize, is made by now
    with _left_as_it_was(model):
        model.train()
        few, more = (_recorded(model, step, number) for number in (FEW, MORE))
    events = (*few.events, Event("update", "", type(optimizer).__name__))
    last = len(events)
    tensors = [*model.parameters(), *model.buffers()]
    blocks = [
        Block("parameters", 0, last, size_of(tensors)),
        Block("optimiser state", 0, last, state_bytes(optimizer)),
        Block("temporary", last - 1, last, update_bytes(optimizer)),
    ]
    # What outlives the backward pass is there in the update, too.
    met = (
        replace(block, died=last) if block.died == last - 1 else block
        for block in _blocks(few, more)
    )
    return Timeline(events, (*blocks, *met))


def evaluation_timeline(model: nn.Module, images: Images, policy: Policy) -> Timeline:
    """The timeline of a batch that is only answered, likewise."""

    def step(recorder: Recorder, number: int) -> None:
        pixels, _ = images(number)
        recorder.phase = "forward"
        with policy.autocast():
            model(policy.arrange(pixels))

    images(FEW)
    with _left_as_it_was(model), torch.no_grad():
        model.eval()
        few, more = (_recorded(model, step, number) for number in (FEW, MORE))
    tensors = [*model.parameters(), *model.buffers()]
    kept = Block("parameters", 0, len(few.events), size_of(tensors))
    return Timeline(tuple(few.events), (kept, *_blocks(few, more)))


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """What the state of an optimiser takes, with what its first update will add."""
    there = [value for state in optimizer.state.values() for value in state.values()]
    size = size_of(value for value in there if isinstance(value, Tensor))
    if isinstance(optimizer, torch.optim.AdamW):  # two moments of each parameter that trains
        fresh = (p for group in optimizer.param_groups for p in group["params"])
        size += 2 * size_of(p for p in fresh if p.requires_grad and p not in optimizer.state)
    return size


def update_bytes(optimizer: torch.optim.Optimizer) -> int:
    """What an update takes besides. Fused kernels need nothing; Muon works on copies of a filter
    bank, one bank after another: the look ahead, its quotient by the norm, and their product.
    """
    banks = [p for group in optimizer.param_groups if "inertia" in group for p in group["params"]]
    return 3 * max(map(_bytes, banks), default=0)


def _recorded(model: nn.Module, step: Callable[[Recorder, int], None], number: int) -> Recorder:
    """What a step with that many images does."""
    with recording(model) as recorder:
        step(recorder, number)
    recorder.close(p.grad for p in model.parameters() if p.grad is not None)
    for parameter in model.parameters():
        parameter.grad = None
    return recorder


def _blocks(few: Recorder, more: Recorder) -> Iterator[Block]:
    """Each storage of both steps, as a function of the number of images."""
    is_same = few.events == more.events and all(
        (a.born, a.died) == (b.born, b.died)
        for a, b in zip(few.storages, more.storages, strict=True)
    )
    if not is_same:
        raise ValueError("its operations are not the same for every batch")
    backward = next(
        (at for at, event in enumerate(few.events) if event.phase == "backward"), len(few.events)
    )
    for met, again in zip(few.storages, more.storages, strict=True):
        per_image = (again.size - met.size) / (MORE - FEW)
        is_kept = met.born < backward < met.died
        kind = "gradients" if met.is_gradient else "activations" if is_kept else "temporary"
        yield Block(kind, met.born, met.died, met.size - FEW * per_image, per_image)


@contextmanager
def _left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Give a model its mode and buffers back, and random numbers to who comes next."""
    was_training, buffers = model.training, [buffer.clone() for buffer in model.buffers()]
    device = next(model.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
    with torch.no_grad():
        for buffer, before in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(before)
    model.train(was_training)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def size_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors."""
    return sum(map(_bytes, tensors))
