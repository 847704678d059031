"""The networks by name, and what can be asked of any of them."""

from bisect import bisect_left
from collections.abc import Callable

import torch
from torch import Tensor, nn

from deepcnn.errors import ConfigError, look_up
from deepcnn.models import (
    alexnet,
    alexnet28,
    alexnet_texts,
    brisk,
    cards,
    googlenet,
    lenet,
    mlp,
    resnet,
    resnet_cifar,
    speedy,
    sprint,
    vgg,
    zoo,
)
from deepcnn.models.card import Card, Landmark
from deepcnn.models.compact import Compact
from deepcnn.models.init import BY_DATA, INITIALIZERS
from deepcnn.models.weights import load_weights
from deepcnn.models.whitening import whitening_layer

__all__ = [
    "BY_DATA", "INITIALIZERS", "MODELS", "Card", "build", "check_initializer", "check_input",
    "find", "initialize", "load_weights", "num_parameters",
]  # fmt: skip

MODELS: dict[str, Landmark] = {
    "mlp": Landmark(mlp.MLP, cards.lenet.MLP, takes_side=True),
    "lenet5": Landmark(lenet.LeNet5, cards.lenet.LENET5),
    "lenet": Landmark(lenet.LeNet, cards.texts.LENET),
    "lenet-sigmoid": Landmark(lenet.LeNetSigmoid, cards.lenet.LENET_SIGMOID, takes_side=True),
    "lenet-relu-dropout": Landmark(
        lenet.LeNetReLUDropout, cards.lenet.LENET_RELU_DROPOUT, takes_side=True
    ),
    "alexnet": Landmark(alexnet.AlexNet, cards.alexnet.ALEXNET, takes_side=True),
    "alexnet-released": Landmark(alexnet.AlexNetReleased, cards.alexnet.RELEASED, takes_side=True),
    "alexnet-one-tower": Landmark(
        alexnet.AlexNetOneTower, cards.alexnet.ONE_TOWER, takes_side=True
    ),
    "alexnet-half": Landmark(alexnet.AlexNetHalf, cards.alexnet.HALF, takes_side=True),
    "alexnet-owt": Landmark(alexnet.AlexNetOWT, cards.alexnet.OWT, takes_side=True),
    "alexnet-d2l": Landmark(alexnet_texts.AlexNetD2L, cards.texts.ALEXNET_D2L),
    "alexnet-gluon": Landmark(alexnet_texts.AlexNetGluon, cards.texts.ALEXNET_GLUON),
    "alexnet-slides": Landmark(alexnet_texts.AlexNetSlides, cards.texts.ALEXNET_SLIDES),
    "alexnet-28": Landmark(alexnet28.AlexNet28, cards.compact.ALEXNET28),
    "vgg11": Landmark(vgg.vgg11, cards.vgg.VGG11, takes_side=True),
    "vgg13": Landmark(vgg.vgg13, cards.vgg.VGG13, takes_side=True),
    "vgg16": Landmark(vgg.vgg16, cards.vgg.VGG16, takes_side=True),
    "vgg19": Landmark(vgg.vgg19, cards.vgg.VGG19, takes_side=True),
    "vgg11-bn": Landmark(vgg.vgg11_bn, cards.vgg.VGG11_BN, takes_side=True),
    "vgg13-bn": Landmark(vgg.vgg13_bn, cards.vgg.VGG13_BN, takes_side=True),
    "vgg16-bn": Landmark(vgg.vgg16_bn, cards.vgg.VGG16_BN, takes_side=True),
    "vgg19-bn": Landmark(vgg.vgg19_bn, cards.vgg.VGG19_BN, takes_side=True),
    "vgg11-slides": Landmark(vgg.vgg11_slides, cards.vgg.VGG11_SLIDES),
    "googlenet": Landmark(googlenet.GoogLeNet, cards.googlenet.GOOGLENET, takes_side=True),
    "googlenet-bn": Landmark(googlenet.GoogLeNetBN, cards.googlenet.GOOGLENET_BN, takes_side=True),
    "resnet18": Landmark(resnet.resnet18, cards.resnet.RESNET18, takes_side=True),
    "resnet34": Landmark(resnet.resnet34, cards.resnet.RESNET34, takes_side=True),
    "resnet50": Landmark(resnet.resnet50, cards.resnet.RESNET50, takes_side=True),
    "resnet101": Landmark(resnet.resnet101, cards.resnet.RESNET101, takes_side=True),
    "resnet152": Landmark(resnet.resnet152, cards.resnet.RESNET152, takes_side=True),
    "resnet50-v1": Landmark(resnet.resnet50_v1, cards.resnet.RESNET50_V1, takes_side=True),
    "resnet101-v1": Landmark(resnet.resnet101_v1, cards.resnet.RESNET101_V1, takes_side=True),
    "resnet152-v1": Landmark(resnet.resnet152_v1, cards.resnet.RESNET152_V1, takes_side=True),
    "resnet34-a": Landmark(resnet.resnet34_a, cards.resnet.RESNET34_A, takes_side=True),
    "resnet34-c": Landmark(resnet.resnet34_c, cards.resnet.RESNET34_C, takes_side=True),
    "resnet18-nobn": Landmark(resnet.resnet18_nobn, cards.resnet.RESNET18_NOBN, takes_side=True),
    "resnet34-nobn": Landmark(resnet.resnet34_nobn, cards.resnet.RESNET34_NOBN, takes_side=True),
    "resnet20": Landmark(resnet_cifar.resnet20, cards.resnet.RESNET20),
    "resnet32": Landmark(resnet_cifar.resnet32, cards.resnet.RESNET32),
    "resnet44": Landmark(resnet_cifar.resnet44, cards.resnet.RESNET44),
    "resnet56": Landmark(resnet_cifar.resnet56, cards.resnet.RESNET56),
    "resnet110": Landmark(resnet_cifar.resnet110, cards.resnet.RESNET110),
    "compact": Landmark(Compact, cards.compact.COMPACT),
    "speedy": Landmark(speedy.Speedy, cards.compact.SPEEDY),
    "brisk": Landmark(brisk.Brisk, cards.compact.BRISK, takes_side=True),
    "brisk-deep": Landmark(brisk.BriskDeep, cards.compact.BRISK_DEEP, takes_side=True),
    "dash": Landmark(brisk.Dash, cards.compact.DASH, takes_side=True),
    "sprint": Landmark(sprint.Sprint, cards.compact.SPRINT, takes_side=True),
}

LARGEST_SIDE = 512  # pixels; sides beyond this are not searched when suggesting one


def find(name: str) -> Landmark:
    """The named network, of this table or as `torchvision/NAME` or `timm/NAME`; raises ConfigError
    with the nearest name for an unknown one.
    """
    return zoo.landmark(name) if "/" in name else look_up("model", name, MODELS)


def build(name: str, num_classes: int, in_channels: int, side: int) -> nn.Module:
    """Return the named network for side x side images, weights from torch's global generator.

    Raises ConfigError for an unknown name.
    """
    return find(name).build(num_classes, in_channels, side)


def initialize(model: nn.Module, name: str, images: Callable[[], Tensor]) -> None:
    """Draw first weights anew, as named; `images` gives a batch to those that go by data."""
    check_initializer(name, model)
    if name in BY_DATA:
        BY_DATA[name](model, images())
    else:
        INITIALIZERS[name](model)


def check_initializer(name: str, model: nn.Module | None = None) -> None:
    """Raise ConfigError with the nearest name for an unknown initialiser, and for one that a given
    network has no use for.
    """
    look_up("initialiser", name, {**INITIALIZERS, **BY_DATA})
    if name == "whitened" and model is not None and whitening_layer(model) is None:
        raise ConfigError(
            "initialiser whitened is for networks that begin with a whitening layer, such as "
            "brisk: choose another --model.init"
        )


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
    if not found:
        raise ConfigError(f"the network takes no images of up to {LARGEST_SIDE} pixels a side")
    return found[0], found[-1]


def num_parameters(model: nn.Module) -> int:
    """How many numbers training adjusts."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def accepts(landmark: Landmark, num_classes: int, in_channels: int, side: int) -> bool:
    """Whether a network can be built for one side x side image and runs on it."""
    with torch.device("meta"):
        try:
            model = landmark.build(num_classes, in_channels, side)
        except (RuntimeError, AssertionError):
            return False
    return runs_on(model, in_channels, side)


@torch.no_grad()
def runs_on(model: nn.Module, in_channels: int, side: int) -> bool:
    """Whether a network on the meta device takes a side x side image."""
    was_training = model.training
    try:
        with torch.device("meta"):
            model.eval()(torch.empty(1, in_channels, side, side))
    except (RuntimeError, AssertionError):
        # torch's answer to a map too small to pool or too large for a layer, and timm's
        return False
    finally:
        model.train(was_training)
    return True
