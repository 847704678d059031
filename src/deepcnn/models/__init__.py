"""The networks by name, and what can be asked of any of them."""

from bisect import bisect_left
from collections.abc import Callable

import torch
from torch import nn

from deepcnn.errors import ConfigError, look_up
from deepcnn.models.alexnet import AlexNetD2L, AlexNetGluon, AlexNetSlides
from deepcnn.models.compact import Compact
from deepcnn.models.init import INITIALIZERS
from deepcnn.models.lenet import LeNet

__all__ = ["INITIALIZERS", "MODELS", "build", "check_input", "num_parameters"]

# name: (num_classes, in_channels) -> network
MODELS: dict[str, Callable[[int, int], nn.Module]] = {
    "lenet": LeNet,
    "alexnet-d2l": AlexNetD2L,
    "alexnet-gluon": AlexNetGluon,
    "alexnet-slides": AlexNetSlides,
    "compact": Compact,
}

LARGEST_SIDE = 512  # pixels; sides beyond this are not searched when suggesting one


def build(name: str, num_classes: int, in_channels: int, init: str = "default") -> nn.Module:
    """Return the named network, its weights drawn from torch's global generator.

    Raises ConfigError for an unknown model or initialiser.
    """
    network = look_up("model", name, MODELS)
    initialize = look_up("initialiser", init, INITIALIZERS)
    model = network(num_classes, in_channels)
    initialize(model)
    return model


def check_input(name: str, num_classes: int, in_channels: int, side: int, pad: int = 0) -> None:
    """Raise ConfigError, naming the sides that work, unless the network takes side x side images,
    of which `pad` pixels on every side are background.

    Runs on the meta device, which computes shapes only: no weights are drawn, no memory is used.
    """
    network = look_up("model", name, MODELS)
    with torch.device("meta"):
        model = network(num_classes, in_channels).eval()
    if accepts(model, in_channels, side):
        return
    smallest, largest = _legal_sides(model, in_channels)
    wanted = (
        f"images of at least {smallest}x{smallest} pixels"
        if largest == LARGEST_SIDE
        else f"images from {smallest}x{smallest} to {largest}x{largest} pixels"
    )
    nearest = min(max(side, smallest), largest)
    padded = f", to which data.pad adds {2 * pad}" if pad else ""
    raise ConfigError(
        f"{name} cannot take {side}x{side} images; it takes {wanted}. "
        f"Resize them with --data.size {nearest - 2 * pad}{padded}."
    )


def _legal_sides(model: nn.Module, in_channels: int) -> tuple[int, int]:
    """The smallest and the largest side up to LARGEST_SIDE that a model takes."""
    sides = range(1, LARGEST_SIDE + 1)
    if accepts(model, in_channels, LARGEST_SIDE):  # then only too small an image is refused
        first = bisect_left(sides, True, key=lambda side: accepts(model, in_channels, side))
        return sides[first], LARGEST_SIDE
    legal = [side for side in sides if accepts(model, in_channels, side)]
    return legal[0], legal[-1]


def num_parameters(model: nn.Module) -> int:
    """How many numbers training adjusts."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def accepts(model: nn.Module, in_channels: int, side: int) -> bool:
    """Whether a model on the meta device runs on one side x side image."""
    image = torch.empty(1, in_channels, side, side, device="meta")
    try:
        with torch.no_grad():
            model(image)
    except RuntimeError:  # torch's answer to a map too small to pool or too large for a dense layer
        return False
    return True
