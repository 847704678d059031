"""What one image costs a network, layer by layer, before anything is computed."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

BYTES = 4  # of a number in fp32


@dataclass(frozen=True)
class Layer:
    """One call of one layer, for one image."""

    name: str  # as in the state dict
    kind: str
    output: tuple[int, ...]  # without the batch: C H W, or features
    parameters: int  # trained ones; 0 where a layer is called again
    multiply_adds: int  # of products with weights; sums, norms and activations are free

    @property
    def activations(self) -> int:
        """How many numbers it puts out."""
        return torch.Size(self.output).numel()

    @property
    def activation_bytes(self) -> int:
        """What training keeps of them in fp32."""
        return BYTES * self.activations


def layers(model: nn.Module, shape: tuple[int, int, int]) -> list[Layer]:
    """The layers of a model in the order in which a C x H x W image meets them.

    The model is run as it is used: in evaluation mode, so without auxiliary heads. On the meta
    device nothing is computed, but torch loads its compiler there, which takes two seconds.
    """
    model.eval()
    device = next(model.parameters()).device
    with torch.device(device), torch.no_grad(), _recorded(model) as found:
        model(torch.zeros(1, *shape))
    return found


def multiply_adds(table: list[Layer]) -> int:
    """Of the whole network, for one image, forward."""
    return sum(layer.multiply_adds for layer in table)


def neurons(table: list[Layer]) -> int:
    """Outputs of the layers that have weights to multiply with, as AlexNet's paper counts."""
    return sum(layer.activations for layer in table if layer.multiply_adds)


def work(layer: nn.Module, output: Tensor) -> int:
    """Multiply-adds of one call of a layer, from the output that it gave.

    A convolution multiplies a kernel with every window, a dense layer a row with every input; other
    layers with products of their own say how many in a method of this name.
    """
    if isinstance(layer, nn.Conv2d):
        return output.numel() * layer.weight[0].numel()
    if isinstance(layer, nn.Linear):
        return output.numel() * layer.in_features
    return layer.multiply_adds(output) if isinstance(layer, HasWork) else 0


@runtime_checkable
class HasWork(Protocol):
    """A layer that knows its multiply-adds."""

    def multiply_adds(self, output: Tensor) -> int:
        """How many a call took that gave this output."""


@contextmanager
def _recorded(model: nn.Module) -> Iterator[list[Layer]]:
    """Collect a `Layer` for every call of a leaf while the block runs."""
    found: list[Layer] = []
    seen: set[nn.Module] = set()

    def record(name: str, module: nn.Module, output: Any) -> None:
        if not isinstance(output, Tensor) or isinstance(module, nn.Identity):
            return
        own = 0 if module in seen else sum(p.numel() for p in module.parameters(recurse=False))
        seen.add(module)
        shape = tuple(output.shape[1:])
        found.append(Layer(name, type(module).__name__, shape, own, work(module, output)))

    handles = [
        module.register_forward_hook(lambda m, _, output, name=name: record(name, m, output))
        for name, module in leaves(model)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def leaves(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules without children, and those with parameters of their own besides their children's."""
    for name, module in model.named_modules():
        if not list(module.children()) or list(module.parameters(recurse=False)):
            yield name, module
