"""What holds for every network of the table, whatever its source."""

import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepcnn.by_heart import attempts, plain, safe_learners
from deepcnn.data import catalog
from deepcnn.data.splits import Splits, make_preprocess
from deepcnn.device import Policy
from deepcnn.errors import ConfigError
from deepcnn.models import MODELS, build, check_input, find, load_weights, num_parameters
from deepcnn.recipes import RECIPES
from deepcnn.settings import override

SMALL_SIDE, TINY_SIDE = 32, 16
BF16 = Policy("cpu", "bf16", "channels_last", 2)
GATE = 12_000_000  # parameters: larger networks are for the soak run
SIZED = [name for name, landmark in MODELS.items() if landmark.takes_side]


def side_of(name: str) -> int:
    """A small one where a network adapts, else the published one."""
    return SMALL_SIDE if MODELS[name].takes_side else MODELS[name].card.input[1]


def small(name: str, classes: int = 10, channels: int = 1) -> nn.Module:
    torch.manual_seed(0)
    return build(name, classes, channels, side_of(name))


def is_large(name: str) -> bool:
    with torch.device("meta"):
        return num_parameters(build(name, 10, 1, side_of(name))) > GATE or side_of(name) > 64


QUICK = {"mlp", "lenet5", "lenet", "lenet-relu-dropout", "compact", "resnet20"}  # to learn
NETWORKS = [
    pytest.param(name, marks=pytest.mark.soak) if is_large(name) else name for name in MODELS
]


def logits_of(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def fashion(number: int, side: int) -> tuple[Tensor, Tensor]:
    """The first real images, standardised and enlarged."""
    images = catalog.load("fashion-mnist", "train", "").subset(range(number), "first")  # type: ignore[arg-type]
    pixels = (torch.from_numpy(images.images).float() / 255 - 0.286) / 0.353
    return F.interpolate(pixels, side, mode="bilinear"), torch.from_numpy(images.labels)


@pytest.mark.parametrize("name", MODELS)
def test_card_and_network_agree(name: str) -> None:
    card = MODELS[name].card
    check_input(name, card.classes, *card.input)
    with torch.device("meta"):
        model = build(name, card.classes, *card.input)
        image = torch.empty(1, card.input[0], card.input[1], card.input[1])
        assert model.eval()(image).shape == (1, card.classes)
    for entry in (card.title, card.paper, *card.reported, *card.training, *card.differences):
        assert entry == entry.strip() != ""
        assert not entry.endswith(".")


@pytest.mark.parametrize("name", SIZED)
def test_sizes_and_channels_people_have(name: str) -> None:
    for side, channels, classes in ((28, 1, 10), (32, 3, 100), (64, 3, 2), (96, 4, 3), (224, 1, 5)):
        with torch.device("meta"):
            model = build(name, classes, channels, side)
            images = torch.empty(2, channels, side, side)
            for logits in logits_of(model.train()(images)):
                assert logits.shape == (2, classes)


@pytest.mark.parametrize("name", SIZED)
def test_too_small_images_are_refused_with_the_smallest_legal_side(name: str) -> None:
    try:
        check_input(name, 10, 3, 1)
    except ConfigError as refusal:
        match = re.search(r"it takes images of at least (\d+)x\1 pixels", str(refusal))
        assert match, refusal
        smallest = int(match[1])
        check_input(name, 10, 3, smallest)
        with pytest.raises(ConfigError, match=rf"cannot take {smallest - 1}x{smallest - 1} "):
            check_input(name, 10, 3, smallest - 1)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_gets_a_finite_gradient(name: str) -> None:
    model = small(name)
    images, labels = fashion(8, side_of(name))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # a unit that is dropped for all images has none
    loss = sum(F.cross_entropy(logits, labels) for logits in logits_of(model(images)))
    assert isinstance(loss, Tensor)
    loss.backward()  # type: ignore[no-untyped-call]
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


@pytest.mark.parametrize("name", NETWORKS)
def test_saved_weights_give_the_same_bits(name: str, tmp_path: Path) -> None:
    model, other = small(name).eval(), small(name)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    safetensors.torch.save_file(model.state_dict(), tmp_path / "w.safetensors")
    assert load_weights(other.eval(), tmp_path / "w.safetensors") == []
    images, _ = fashion(2, side_of(name))
    with torch.no_grad():
        assert torch.equal(model(images), other(images))


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.soak) for name in MODELS],
)
def test_fifty_images_are_learnt_by_heart(name: str) -> None:
    """Text 003: a network that cannot do this has something wrong."""
    side = TINY_SIDE if MODELS[name].takes_side and name not in QUICK else side_of(name)
    settings = {"model.name": name, "data.size": side}
    config = plain(override(RECIPES["fashion-mnist"](), settings, "test"), 50)
    images = catalog.load("fashion-mnist", "train", "").subset(np.arange(50), "first")
    splits = Splits(images, None, images, make_preprocess(config.data, images))
    tried = list(attempts(safe_learners(config), splits, BF16))
    assert tried[-1].is_whole, [each.in_words() for each in tried]


def test_the_table_is_the_only_registry() -> None:
    for name, landmark in MODELS.items():
        assert find(name) is landmark
        assert name == name.lower()
        assert "/" not in name


@pytest.mark.parametrize(("classes", "channels", "what"), [(0, 1, "classes"), (2, 0, "input cha")])
def test_there_is_at_least_one_class_and_channel(classes: int, channels: int, what: str) -> None:
    with pytest.raises(ConfigError, match=f"the number of {what}.* is 0, expected at least 1"):
        build("lenet", classes, channels, 32)
