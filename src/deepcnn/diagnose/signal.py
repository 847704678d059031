"""What one batch does in a network: signals forward, gradients backward, layer by layer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from deepcnn.data.loader import Batch
from deepcnn.objective import forward
from deepcnn.run import Run

RELUS = (F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)


@dataclass
class Layer:
    """One call of a layer with weights: the root mean square of what it puts out, and the norm of
    the loss's gradient by that, 0 where none comes.
    """

    name: str
    signal: float
    gradient: float = 0.0


@dataclass
class Signals:
    """What a batch did: `dead` the share of units by the layer before, `began` the first layer with
    values that are not finite, `logits` N K in fp32.
    """

    layers: list[Layer] = field(default_factory=list)
    dead: dict[str, float] = field(default_factory=dict)
    began: str = ""
    logits: Tensor = field(default_factory=lambda: torch.empty(0))

    @property
    def growth(self) -> float:
        """By what factor a layer multiplies gradients on their way back, in the geometric mean: the
        k of text 003.
        """
        return growth([layer.gradient for layer in reversed(self.layers)])


def growth(scales: list[float]) -> float:
    """The factor from one to the next, in the geometric mean; 1 of fewer than two."""
    if len(scales) < 2 or not scales[0] or not scales[-1]:
        return 1.0
    return float((scales[-1] / scales[0]) ** (1 / (len(scales) - 1)))


def measure(run: Run, batch: Batch) -> Signals:
    """Send a batch forward and back through the network in training; its gradients stay there."""
    model, found = run.state.model.train(), Signals()
    model.zero_grad(set_to_none=True)
    with _observed(model, found), _Activations(found):
        objective, logits = forward(run, batch)
        if objective.requires_grad and objective.isfinite():
            objective.backward()
    found.logits = logits.detach()
    return found


class _Activations(TorchFunctionMode):
    """Counts, behind each ReLU, the units that are below 0 for the whole batch."""

    def __init__(self, found: Signals) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(
        self, function: Callable[..., Any], _: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        if function in RELUS and self.found.layers:
            units = arguments[0].detach().transpose(0, 1).flatten(1)
            is_dead = (units.amax(1) <= 0) & (units.amin(1) < 0)  # of weights all 0 none is
            self.found.dead[self.found.layers[-1].name] = float(is_dead.float().mean())
        return function(*arguments, **(options or {}))


@contextmanager
def _observed(model: nn.Module, found: Signals) -> Iterator[None]:
    """Fill in layers, and where values stopped being finite, while the block runs."""

    def observe(name: str, module: nn.Module, output: object) -> None:
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return
        numbers = output.detach().float()
        if not found.began and not numbers.isfinite().all():
            found.began = name
        if any(p.ndim > 1 for p in module.parameters(recurse=False)):
            layer = Layer(name, float(numbers.square().mean().sqrt()))
            found.layers.append(layer)
            if output.requires_grad:
                output.register_hook(lambda gradient: _keep(layer, gradient))

    handles = [
        module.register_forward_hook(lambda m, _, output, name=name: observe(name, m, output))
        for name, module in model.named_modules()
        if not list(module.children()) or list(module.parameters(recurse=False))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _keep(layer: Layer, gradient: Tensor) -> None:
    layer.gradient = float(gradient.float().norm())
