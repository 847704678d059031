"""What one image costs a network, layer by layer, before anything is computed."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

BYTES = 4  # of a number in fp32


@dataclass(frozen=True)
class Layer:
    """One call of one layer, for one image."""

    name: str  # as in the state dict
    kind: str
    output: tuple[int, ...]  # without the batch: C H W, or features
    parameters: int  # trained ones; 0 where a layer is called again
    multiply_adds: int  # of convolutions and matrix products; sums, norms and activations are free

    @property
    def activations(self) -> int:
        """How many numbers it puts out."""
        return torch.Size(self.output).numel()

    @property
    def activation_bytes(self) -> int:
        """What training keeps of them in fp32."""
        return BYTES * self.activations


def layers(model: nn.Module, shape: tuple[int, int, int]) -> list[Layer]:
    """The layers of a model on the meta device in the order in which a C x H x W image meets them.

    The model is run as it is used: in evaluation mode, so without auxiliary heads.
    """
    model.eval()
    with torch.device("meta"), torch.no_grad(), _recorded(model) as found:
        model(torch.empty(1, *shape))
    return found


def multiply_adds(table: list[Layer]) -> int:
    """Of the whole network, for one image, forward."""
    return sum(layer.multiply_adds for layer in table)


def neurons(table: list[Layer]) -> int:
    """Outputs of the layers that have weights to multiply with, as AlexNet's paper counts."""
    return sum(layer.activations for layer in table if layer.multiply_adds)


@contextmanager
def _recorded(model: nn.Module) -> Iterator[list[Layer]]:
    """Collect a `Layer` for every call of a leaf while the block runs."""
    found: list[Layer] = []
    seen: set[nn.Module] = set()
    counter: FlopCounterMode = FlopCounterMode(display=False)
    before: list[int] = []  # of the leaf being called

    def enter(*_: Any) -> None:
        before.append(counter.get_total_flops())

    def leave(name: str, module: nn.Module, output: Any) -> None:
        flops = counter.get_total_flops() - before.pop()
        if not isinstance(output, Tensor) or isinstance(module, nn.Identity):
            return
        own = 0 if module in seen else sum(p.numel() for p in module.parameters(recurse=False))
        seen.add(module)
        found.append(Layer(name, type(module).__name__, tuple(output.shape[1:]), own, flops // 2))

    handles = []
    for name, module in _leaves(model):
        handles.append(module.register_forward_pre_hook(enter))
        handles.append(
            module.register_forward_hook(lambda m, _, out, name=name: leave(name, m, out))
        )
    try:
        with counter:
            yield found
    finally:
        for handle in handles:
            handle.remove()


def _leaves(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules without children, and those with parameters of their own besides their children's."""
    for name, module in model.named_modules():
        if not list(module.children()) or list(module.parameters(recurse=False)):
            yield name, module
