"""The networks by name, and what can be asked of any of them."""

from bisect import bisect_left
from collections.abc import Callable

import torch
from torch import Tensor, nn

from deepcnn.errors import ConfigError, look_up
from deepcnn.models.alexnet import (
    AlexNet,
    AlexNetHalf,
    AlexNetOneTower,
    AlexNetOWT,
    AlexNetReleased,
)
from deepcnn.models.alexnet_texts import AlexNetD2L, AlexNetGluon, AlexNetSlides
from deepcnn.models.card import Card, Landmark
from deepcnn.models.cards import alexnet as alexnet_cards
from deepcnn.models.cards import compact as compact_cards
from deepcnn.models.cards import texts
from deepcnn.models.compact import Compact
from deepcnn.models.init import BY_DATA, INITIALIZERS
from deepcnn.models.lenet import LeNet
from deepcnn.models.weights import load_weights

__all__ = [
    "INITIALIZERS", "MODELS", "Card", "build", "check_initializer", "check_input", "find",
    "initialize", "load_weights", "num_parameters",
]  # fmt: skip

MODELS: dict[str, Landmark] = {
    "lenet": Landmark(LeNet, texts.LENET),
    "alexnet": Landmark(AlexNet, alexnet_cards.ALEXNET, takes_side=True),
    "alexnet-released": Landmark(AlexNetReleased, alexnet_cards.RELEASED, takes_side=True),
    "alexnet-one-tower": Landmark(AlexNetOneTower, alexnet_cards.ONE_TOWER, takes_side=True),
    "alexnet-half": Landmark(AlexNetHalf, alexnet_cards.HALF, takes_side=True),
    "alexnet-owt": Landmark(AlexNetOWT, alexnet_cards.OWT, takes_side=True),
    "alexnet-d2l": Landmark(AlexNetD2L, texts.ALEXNET_D2L),
    "alexnet-gluon": Landmark(AlexNetGluon, texts.ALEXNET_GLUON),
    "alexnet-slides": Landmark(AlexNetSlides, texts.ALEXNET_SLIDES),
    "compact": Landmark(Compact, compact_cards.COMPACT),
}

LARGEST_SIDE = 512  # pixels; sides beyond this are not searched when suggesting one


def find(name: str) -> Landmark:
    """The named network; raises ConfigError with the nearest name for an unknown one."""
    return look_up("model", name, MODELS)


def build(name: str, num_classes: int, in_channels: int, side: int) -> nn.Module:
    """Return the named network for side x side images, weights from torch's global generator.

    Raises ConfigError for an unknown name.
    """
    return find(name).build(num_classes, in_channels, side)


def initialize(model: nn.Module, name: str, images: Callable[[], Tensor]) -> None:
    """Draw first weights anew, as named; `images` gives a batch to those that go by data."""
    check_initializer(name)
    if name in BY_DATA:
        BY_DATA[name](model, images())
    else:
        INITIALIZERS[name](model)


def check_initializer(name: str) -> None:
    """Raise ConfigError with the nearest name for an unknown initialiser."""
    look_up("initialiser", name, {**INITIALIZERS, **BY_DATA})


def check_input(name: str, num_classes: int, in_channels: int, side: int, pad: int = 0) -> None:
    """Raise ConfigError, naming the sides that work, unless the network takes side x side images,
    of which `pad` pixels on every side are background.

    Runs on the meta device, which computes shapes only: no weights are drawn, no memory is used.
    """
    landmark = find(name)

    def legal(side: int) -> bool:
        return accepts(landmark, num_classes, in_channels, side)

    if legal(side):
        return
    smallest, largest = _legal_range(legal)
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


def _legal_range(legal: Callable[[int], bool]) -> tuple[int, int]:
    """The smallest and the largest side up to LARGEST_SIDE that a network takes."""
    sides = range(1, LARGEST_SIDE + 1)
    if legal(LARGEST_SIDE):  # then only too small an image is refused
        return sides[bisect_left(sides, True, key=legal)], LARGEST_SIDE
    found = [side for side in sides if legal(side)]
    return found[0], found[-1]


def num_parameters(model: nn.Module) -> int:
    """How many numbers training adjusts."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def accepts(landmark: Landmark, num_classes: int, in_channels: int, side: int) -> bool:
    """Whether a network can be built for one side x side image and runs on it."""
    with torch.device("meta"), torch.no_grad():
        image = torch.empty(1, in_channels, side, side)
        try:
            landmark.build(num_classes, in_channels, side).eval()(image)
        except RuntimeError:  # torch's answer to a map too small to pool or too large for a layer
            return False
    return True
