import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock as TheirBasicBlock
from torchvision.models.resnet import Bottleneck as TheirBottleneck

from deepcnn.models import accepts, num_parameters, resnet_cifar
from deepcnn.models.card import Card, Landmark
from deepcnn.models.cards import resnet as cards
from deepcnn.models.resnet import (
    RESNET18,
    RESNET34,
    BasicBlock,
    Bottleneck,
    BottleneckV1,
    PaddedIdentity,
    Plan,
    ResNet,
    resnet18,
    resnet18_nobn,
    resnet34,
    resnet34_a,
    resnet34_c,
    resnet34_nobn,
    resnet50,
    resnet50_v1,
    resnet101,
    resnet101_v1,
    resnet152,
    resnet152_v1,
)
from photos import squeezed

STANDARD: dict[str, tuple[Callable[..., ResNet], Card]] = {
    "resnet18": (resnet18, cards.RESNET18),
    "resnet34": (resnet34, cards.RESNET34),
    "resnet50": (resnet50, cards.RESNET50),
    "resnet101": (resnet101, cards.RESNET101),
    "resnet152": (resnet152, cards.RESNET152),
}
VARIANTS: dict[str, tuple[Callable[..., ResNet], Card]] = {
    "resnet50-v1": (resnet50_v1, cards.RESNET50_V1),
    "resnet101-v1": (resnet101_v1, cards.RESNET101_V1),
    "resnet152-v1": (resnet152_v1, cards.RESNET152_V1),
    "resnet34-a": (resnet34_a, cards.RESNET34_A),
    "resnet34-c": (resnet34_c, cards.RESNET34_C),
    "resnet18-nobn": (resnet18_nobn, cards.RESNET18_NOBN),
    "resnet34-nobn": (resnet34_nobn, cards.RESNET34_NOBN),
}
ALL = STANDARD | VARIANTS
# The number of blocks in a stage, what the paper reports in table 6, and the card.
CIFAR: dict[str, tuple[Callable[..., resnet_cifar.ResNetCifar], int, str, Card]] = {
    "resnet20": (resnet_cifar.resnet20, 3, "0.27", cards.RESNET20),
    "resnet32": (resnet_cifar.resnet32, 5, "0.46", cards.RESNET32),
    "resnet44": (resnet_cifar.resnet44, 7, "0.66", cards.RESNET44),
    "resnet56": (resnet_cifar.resnet56, 9, "0.85", cards.RESNET56),
    "resnet110": (resnet_cifar.resnet110, 18, "1.7", cards.RESNET110),
}
SMALL = Plan(BasicBlock, (1, 1, 1, 1))
IN_THE_GATE = ("resnet18", "resnet50")
LARGE = [pytest.param(name, marks=pytest.mark.soak) for name in STANDARD if name not in IN_THE_GATE]


def on_meta(builder: Callable[..., nn.Module], *arguments: Any, **options: Any) -> nn.Module:
    with torch.device("meta"):
        return builder(*arguments, **options)


def shapes(model: nn.Module) -> list[tuple[str, torch.Size]]:
    return [(name, tensor.shape) for name, tensor in model.state_dict().items()]


def assert_relatively_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    actual, expected = actual.detach(), expected.detach()
    scale = float(expected.abs().max())
    assert scale > 0
    assert float((actual - expected).abs().max()) <= tolerance * scale


def randomise(model: nn.Module) -> nn.Module:
    """Scales, shifts and running statistics that would show if they were mistaken."""
    with torch.no_grad():
        for name, layer in model.named_modules():
            if isinstance(layer, nn.BatchNorm2d):
                assert layer.running_mean is not None
                assert layer.running_var is not None
                # A block's branch stays small against its shortcut, or maps grow with depth.
                last = re.search(r"layer\d\.\d+\.bn[23]$", name) is not None
                layer.weight.uniform_(0.2, 0.4) if last else layer.weight.uniform_(0.7, 1.3)
                layer.bias.normal_(0, 0.1)
                layer.running_mean.normal_(0, 0.1)
                layer.running_var.uniform_(0.7, 1.3)
            elif isinstance(layer, nn.Conv2d) and layer.bias is not None:
                layer.bias.normal_(0, 0.1)
    return model


def differentiate(model: nn.Module, images: Tensor) -> Tensor:
    """Logits, and gradients in the parameters."""
    logits: Tensor = model(images)
    model.zero_grad()
    F.cross_entropy(logits, torch.arange(3, 3 + len(images))).backward()  # type: ignore[no-untyped-call]
    return logits.detach()


def assert_same(
    ours: nn.Module, theirs: nn.Module, images: Tensor, rename: Callable[[str], str] = str
) -> None:
    """Logits and gradients, and the running statistics after them."""
    assert_relatively_close(differentiate(ours, images), differentiate(theirs, images))
    expected = dict(theirs.named_parameters())
    assert len(expected) == len(list(ours.parameters()))
    for name, parameter in ours.named_parameters():
        other = expected[rename(name)].grad
        assert parameter.grad is not None, name
        assert other is not None, name
        assert parameter.grad.isfinite().all(), name
        assert_relatively_close(parameter.grad, other)
    statistics = theirs.state_dict()
    for name, tensor in ours.state_dict().items():
        if "running" in name or "tracked" in name:
            assert_relatively_close(tensor.double(), statistics[rename(name)].double())


def assert_same_in_both_modes(ours: nn.Module, theirs: nn.Module, images: Tensor) -> None:
    theirs.load_state_dict(ours.state_dict())
    assert_same(ours.train(), theirs.train(), images)
    assert_same(ours.eval(), theirs.eval(), images)


def multiply_adds(model: nn.Module, side: int) -> int:
    """Places in the output of each layer times weights that meet in one."""
    counts: list[int] = []

    def count(layer: nn.Module, _: object, output: Tensor) -> None:
        assert isinstance(layer.weight, Tensor)
        counts.append(output.numel() * layer.weight[0].numel())

    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    model.eval()(torch.empty(1, 3, side, side, device="meta"))
    return sum(counts)


# ImageNet networks


@pytest.mark.parametrize("name", STANDARD)
def test_layers_are_torchvisions_by_name_order_and_shape(name: str) -> None:
    ours = on_meta(STANDARD[name][0])
    theirs = on_meta(torchvision.models.get_model, name)
    assert shapes(ours) == shapes(theirs)
    assert [n for n, _ in ours.named_modules()] == [n for n, _ in theirs.named_modules()]
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())


@pytest.mark.parametrize("name", STANDARD)
def test_published_sizes(name: str) -> None:
    builder, card = STANDARD[name]
    weights = torchvision.models.get_model_weights(name)
    model = on_meta(builder)
    assert num_parameters(model) == weights.DEFAULT.meta["num_params"]
    assert f"{num_parameters(model):,} parameters" in (builder.__doc__ or "")
    assert round(multiply_adds(model, 224) / 1e9, 3) == weights.DEFAULT.meta["_ops"]
    for edition in weights:
        accuracy = edition.meta["_metrics"]["ImageNet-1K"]
        expected = f"{accuracy['acc@1']:.3f} / {accuracy['acc@5']:.3f}"
        assert any("torchvision" in line and expected in line for line in card.reported)


@pytest.mark.parametrize("name", VARIANTS)
def test_parameter_total_is_in_the_docstring(name: str) -> None:
    builder = VARIANTS[name][0]
    assert f"{num_parameters(on_meta(builder)):,} parameters" in (builder.__doc__ or "")


@pytest.mark.parametrize(
    ("builder", "billions"),
    [
        (resnet18, 1.8),
        (resnet34, 3.6),
        (resnet50_v1, 3.8),
        (resnet101_v1, 7.6),
        (resnet152_v1, 11.3),
    ],
)
def test_multiply_adds_of_the_paper(builder: Callable[..., nn.Module], billions: float) -> None:
    """Table 1, where some figures are rounded, others cut off; version 1.5 has 0.2 more."""
    assert abs(multiply_adds(on_meta(builder), 224) / 1e9 - billions) < 0.07


def test_totals_of_the_shortcuts() -> None:
    """Three projections in option B, sixteen in C: thirteen more, as the paper counts."""

    def projection(channels: int, out_channels: int) -> int:
        return channels * out_channels + 2 * out_channels

    b = num_parameters(on_meta(resnet34))
    changing = sum(projection(c, 2 * c) for c in (64, 128, 256))
    assert num_parameters(on_meta(resnet34_a)) == b - changing
    same = (3 * [64], 3 * [128], 5 * [256], 2 * [512])
    kept = [channels for stage in same for channels in stage]
    assert len(kept) == 13
    assert num_parameters(on_meta(resnet34_c)) == b + sum(projection(c, c) for c in kept)


@pytest.mark.parametrize("name", [*IN_THE_GATE, *LARGE])
def test_networks_equal_torchvisions_and_timms_on_photos(name: str) -> None:
    images = squeezed(1 if name == "resnet50" else 2)
    torch.manual_seed(0)
    ours = STANDARD[name][0]()
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name)
    for key, drawn in ours.state_dict().items():
        assert torch.equal(drawn, theirs.state_dict()[key]), key  # the first weights of a seed

    assert_same_in_both_modes(randomise(ours), theirs, images)
    timm = pytest.importorskip("timm")
    theirs = timm.create_model(name)
    theirs.load_state_dict(ours.state_dict())
    with torch.no_grad():
        assert_relatively_close(ours(images), theirs.eval()(images))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_timms_layers_have_the_same_names(name: str) -> None:
    timm = pytest.importorskip("timm")
    assert shapes(on_meta(STANDARD[name][0])) == shapes(on_meta(timm.create_model, name))


def strides(model: nn.Module) -> dict[str, int]:
    """Of each layer that shrinks its maps, by how much, from the maps themselves."""
    found: dict[str, int] = {}

    def look(name: str) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            if inputs[0].shape[-1] != output.shape[-1]:
                found[name] = inputs[0].shape[-1] // output.shape[-1]

        return hook

    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d | PaddedIdentity):
            layer.register_forward_hook(look(name))
    model.eval()(torch.empty(1, 3, 224, 224, device="meta"))
    return found


@pytest.mark.parametrize(
    ("builder", "expected"),
    [
        (resnet34, ["conv1", "downsample.0"]),
        (resnet34_a, ["conv1", "downsample"]),
        (resnet34_c, ["conv1", "downsample.0"]),
        (resnet50, ["conv2", "downsample.0"]),
        (resnet50_v1, ["conv1", "downsample.0"]),
        (resnet152, ["conv2", "downsample.0"]),
        (resnet152_v1, ["conv1", "downsample.0"]),
    ],
)
def test_where_the_strides_are(builder: Callable[..., nn.Module], expected: list[str]) -> None:
    names = [f"layer{stage}.0.{layer}" for stage in (2, 3, 4) for layer in expected]
    assert strides(on_meta(builder)) == dict.fromkeys(["conv1", "maxpool", *names], 2)


def test_version_1_equals_torchvisions_with_its_strides_exchanged() -> None:
    torch.manual_seed(1)
    plan = Plan(BottleneckV1, (1, 2, 1, 1))
    ours = randomise(ResNet(plan, 7))
    theirs = torchvision.models.ResNet(TheirBottleneck, [1, 2, 1, 1], num_classes=7)
    for block in theirs.modules():
        if isinstance(block, TheirBottleneck):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    images = torch.randn(2, 3, 96, 96)
    assert_same_in_both_modes(ours, theirs, images)
    version_1_5 = ResNet(replace(plan, block=Bottleneck), 7).eval()
    version_1_5.load_state_dict(ours.state_dict())  # the same layers, another network
    assert not torch.allclose(version_1_5(images), ours(images), rtol=0.01)


class TorchShortcut(nn.Module):
    """Option A as Facebook's Torch wrote it: a pool over single pixels beside a map of zeros."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(1, stride)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(x)
        return torch.cat([x, 0 * x], dim=1)


def test_shortcuts_a_equal_torchvisions_blocks_with_the_shortcut_of_facebooks_torch() -> None:
    torch.manual_seed(2)
    ours = randomise(ResNet(Plan(BasicBlock, (1, 2, 1, 1), shortcut="A"), 7))
    theirs = torchvision.models.ResNet(TheirBasicBlock, [1, 2, 1, 1], num_classes=7)
    for name, block in theirs.named_modules():
        if isinstance(block, TheirBasicBlock) and block.downsample is not None:
            block.downsample = TorchShortcut(2)
            assert name in ("layer2.0", "layer3.0", "layer4.0")
    assert_same_in_both_modes(ours, theirs, torch.randn(2, 3, 100, 100))


def test_shortcuts_c_equal_torchvisions_with_more_projections() -> None:
    torch.manual_seed(3)
    ours = randomise(ResNet(Plan(BasicBlock, (1, 2, 1, 1), shortcut="C"), 7))
    theirs = torchvision.models.ResNet(TheirBasicBlock, [1, 2, 1, 1], num_classes=7)
    for block in theirs.modules():
        if isinstance(block, TheirBasicBlock) and block.downsample is None:
            channels = block.conv1.in_channels
            block.downsample = nn.Sequential(
                nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels)
            )
    assert_same_in_both_modes(ours, theirs, torch.randn(2, 3, 96, 96))


@pytest.mark.parametrize(
    ("stride", "missing", "side"), [(2, 3, 7), (2, 3, 8), (1, 5, 4), (2, 1, 1)]
)
def test_padded_identity_equals_numpy(stride: int, missing: int, side: int) -> None:
    torch.manual_seed(4)
    maps = torch.randn(2, 3, side, side)
    small = -(-side // stride)
    expected = np.zeros((2, 3 + missing, small, small), np.float32)
    for n, c, row, column in np.ndindex(2, 3, small, small):
        expected[n, c, row, column] = maps[n, c, stride * row, stride * column]
    assert np.array_equal(PaddedIdentity(stride, missing)(maps).numpy(), expected)


class Bias(nn.Module):
    """What stands in torchvision's network for batch normalisation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias[:, None, None]


def as_bias_layer(name: str) -> str:
    """Where torchvision's network with `Bias` keeps the bias of our convolution."""
    name = re.sub(r"downsample\.0\.bias", "downsample.1.bias", name)
    return re.sub(r"conv(\d)\.bias", r"bn\1.bias", name)


@pytest.mark.parametrize(
    ("block", "their_block"), [(BasicBlock, TheirBasicBlock), (Bottleneck, TheirBottleneck)]
)
def test_without_batch_norm_convolutions_have_biases(
    block: type[BasicBlock | Bottleneck], their_block: type[TheirBasicBlock | TheirBottleneck]
) -> None:
    torch.manual_seed(5)
    ours = randomise(ResNet(Plan(block, (1, 2, 1, 1), norm=False), 7))
    theirs = torchvision.models.ResNet(their_block, [1, 2, 1, 1], num_classes=7, norm_layer=Bias)
    theirs.load_state_dict({as_bias_layer(k): v for k, v in ours.state_dict().items()})
    assert_same(ours, theirs, torch.randn(2, 3, 96, 96), as_bias_layer)


@pytest.mark.parametrize("builder", [resnet18_nobn, resnet34_nobn])
def test_without_batch_norm_maps_keep_their_size(builder: Callable[..., ResNet]) -> None:
    torch.manual_seed(6)
    model = builder(10, 3, 40)
    sizes: list[float] = []
    for name in ("conv1", "layer1", "layer2", "layer3", "layer4"):
        model.get_submodule(name).register_forward_hook(
            lambda _m, _i, output: sizes.append(float(output.pow(2).mean().sqrt()))
        )
    with torch.no_grad():
        model(torch.randn(2, 3, 40, 40))
    assert len(sizes) == 5
    assert all(0.5 < size < 3 for size in sizes), sizes


def test_without_batch_norm_ends_of_blocks_start_small() -> None:
    torch.manual_seed(7)
    for plan, last in ((RESNET18, "conv2"), (Plan(Bottleneck, (2, 2, 2, 2)), "conv3")):
        model = ResNet(replace(plan, norm=False), 10)
        for name, layer in model.named_modules():
            if isinstance(layer, nn.Conv2d):
                expected = math.sqrt(2 / layer.weight[0].numel())
                expected /= 8 if name.endswith(last) else 1
                weight = layer.weight.detach()
                assert float(weight.std()) == pytest.approx(expected, rel=0.05), name
                assert layer.bias is not None
                assert not layer.bias.any(), name


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50", "resnet34-a", "resnet34-c", "resnet18-nobn"]
)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    torch.manual_seed(8)
    model = ALL[name][0](10, 3, 24)
    differentiate(model, torch.randn(2, 3, 24, 24))
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.any(), parameter_name


@pytest.mark.parametrize(
    ("side", "kernel", "maps"),
    [
        (224, (7, 7), [112, 56, 56, 28, 14, 7]),
        (81, (7, 7), [41, 21, 21, 11, 6, 3]),
        (80, (3, 3), [80, 40, 40, 20, 10, 5]),
        (64, (3, 3), [64, 32, 32, 16, 8, 4]),
        (41, (3, 3), [41, 21, 21, 11, 6, 3]),
        (40, (3, 3), [40, 40, 40, 20, 10, 5]),
        (32, (3, 3), [32, 32, 32, 16, 8, 4]),
        (8, (3, 3), [8, 8, 8, 4, 2, 1]),
        (1, (3, 3), [1, 1, 1, 1, 1, 1]),
    ],
)
def test_stem_for_small_images(side: int, kernel: tuple[int, int], maps: list[int]) -> None:
    model = on_meta(resnet18, 10, 3, side)
    sides: list[int] = []
    for name in ("conv1", "maxpool", "layer1", "layer2", "layer3", "layer4"):
        model.get_submodule(name).register_forward_hook(
            lambda _m, _i, output: sides.append(output.shape[-1])
        )
    assert model(torch.empty(2, 3, side, side, device="meta")).shape == (2, 10)
    assert sides == maps
    assert model.get_submodule("conv1").kernel_size == kernel
    published = [name for name, _ in on_meta(resnet18).named_modules()]
    assert [name for name, _ in model.named_modules()] == published


@pytest.mark.parametrize("name", ["resnet18-nobn", "resnet34-a"])
def test_any_side_will_do(name: str) -> None:
    builder, card = ALL[name]
    landmark = Landmark(builder, card, takes_side=True)
    fixed = Landmark(lambda classes, channels: builder(classes, channels), card)
    for side in (1, 2, 40, 41, 80, 81):
        assert accepts(landmark, 10, 3, side)
    assert accepts(fixed, 10, 3, 1)


def trains_on_one_image(model: nn.Module, side: int) -> bool:
    try:
        model.train()(torch.empty(1, 3, side, side, device="meta"))
    except ValueError as error:
        assert "more than 1 value per channel" in str(error)
        return False
    return True


def test_one_image_trains_where_the_last_map_is_larger_than_one_pixel() -> None:
    sides = (1, 4, 8, 9, 40, 41, 80, 81, 224)
    refused = [
        side for side in sides if not trains_on_one_image(on_meta(resnet18, 10, 3, side), side)
    ]
    assert refused == [1, 4, 8]
    assert not [
        side for side in sides if not trains_on_one_image(on_meta(resnet18_nobn, 10, 3, side), side)
    ]
    published = on_meta(resnet18)
    assert [side for side in (32, 33) if trains_on_one_image(published, side)] == [33]
    pair = torch.empty(2, 3, 1, 1, device="meta")
    assert on_meta(resnet18, 10, 3, 1).train()(pair).shape == (2, 10)


def test_small_stems_equal_torchvisions_with_other_stems() -> None:
    torch.manual_seed(9)
    for side, pooled in ((20, False), (44, True)):
        ours = randomise(ResNet(SMALL, 7, 2, side))
        theirs = torchvision.models.ResNet(TheirBasicBlock, [1, 1, 1, 1], num_classes=7)
        theirs.conv1 = nn.Conv2d(2, 64, 3, padding=1, bias=False)
        if not pooled:
            theirs.maxpool = nn.Identity()
        assert_same_in_both_modes(ours, theirs, torch.randn(2, 2, side, side))


@pytest.mark.parametrize("plan", [SMALL, replace(SMALL, norm=False), replace(SMALL, shortcut="A")])
def test_saved_weights_give_the_same_bits(plan: Plan, tmp_path: Path) -> None:
    torch.manual_seed(10)
    model = ResNet(plan, 5, 3, 16)
    images = torch.randn(2, 3, 16, 16)
    model(images)  # moves the running statistics
    safetensors.torch.save_file(model.state_dict(), tmp_path / "resnet.safetensors")
    again = ResNet(plan, 5, 3, 16)
    again.load_state_dict(safetensors.torch.load_file(tmp_path / "resnet.safetensors"))
    assert torch.equal(again.eval()(images), model.eval()(images))


@pytest.mark.parametrize("name", ["resnet18-nobn", "resnet20"])
def test_one_batch_can_be_memorised(name: str) -> None:
    torch.manual_seed(11)
    model = CIFAR[name][0](5, 1) if name in CIFAR else ALL[name][0](5, 1, 12)
    images, labels = torch.randn(8, 1, 12, 12), torch.randint(5, (8,))
    learning_rate = 0.005 if "nobn" in name else 0.05
    optimizer = torch.optim.SGD(model.parameters(), learning_rate, momentum=0.9)
    for _ in range(25):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert float(loss.detach()) < 0.05


def test_text_counts_eighteen_layers() -> None:
    """One stem, four modules of two blocks of two convolutions, one linear layer."""
    for builder, depth in (
        (resnet18, 1 + 4 * 2 * 2 + 1),
        (resnet34, 34),
        (resnet50, 50),
        (resnet101, 101),
    ):
        assert depth == sum(
            isinstance(layer, nn.Conv2d | nn.Linear) and "downsample" not in name
            for name, layer in on_meta(builder).named_modules()
        )


def test_cards_tell_the_two_versions_from_each_other() -> None:
    for name in ("resnet50", "resnet101", "resnet152"):
        assert any("version 1.5" in line for line in STANDARD[name][1].differences)
        assert any("version 1:" in line for line in VARIANTS[f"{name}-v1"][1].differences)
    assert RESNET34.shortcut == "B"


# CIFAR networks


@pytest.mark.parametrize("name", CIFAR)
def test_cifar_sizes(name: str) -> None:
    builder, n, millions, _ = CIFAR[name]
    model = on_meta(builder)
    total = num_parameters(model)
    assert f"{total:,} parameters" in (builder.__doc__ or "")
    digits = len(millions.partition(".")[2])
    assert f"{total / 1e6:.{digits}f}" == millions
    # By hand: each 3x3 convolution with two numbers a channel for its normalisation.
    stages = [(2 * n, 16, 16), (1, 16, 32), (2 * n - 1, 32, 32), (1, 32, 64), (2 * n - 1, 64, 64)]
    by_hand = sum(count * (9 * i * o + 2 * o) for count, i, o in [(1, 3, 16), *stages])
    assert total == by_hand + 64 * 10 + 10
    weighted = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(weighted) == 6 * n + 2 == int(name.removeprefix("resnet"))


class LiteralCifar(nn.Sequential):
    """Out of torchvision's blocks and the shortcut of Facebook's Torch."""

    def __init__(self, n: int) -> None:
        super().__init__(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.extend(TheirBasicBlock(16, 16) for _ in range(n))
        for channels in (32, 64):
            self.append(TheirBasicBlock(channels // 2, channels, 2, TorchShortcut(2)))
            self.extend(TheirBasicBlock(channels, channels) for _ in range(n - 1))
        self.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)])


@pytest.mark.parametrize("name", ["resnet20", "resnet32"])
def test_cifar_networks_equal_their_transcription(name: str) -> None:
    torch.manual_seed(12)
    builder, n, _, _ = CIFAR[name]
    ours, theirs = randomise(builder()), LiteralCifar(n)
    renamed = dict(zip(ours.state_dict(), theirs.state_dict(), strict=True))
    theirs.load_state_dict({renamed[key]: value for key, value in ours.state_dict().items()})
    images = F.interpolate(squeezed(2), (32, 32), mode="area")
    assert_same(ours.train(), theirs.train(), images, renamed.__getitem__)
    assert_same(ours.eval(), theirs.eval(), images, renamed.__getitem__)


def test_cifar_block_equals_numpy_on_its_shortcut() -> None:
    torch.manual_seed(13)
    block = resnet_cifar.Block(4, 6, 2).eval()
    nn.init.zeros_(block.bn2.weight)  # leaves the shortcut, of which ReLU keeps what is positive
    maps = torch.randn(2, 4, 5, 5)
    expected = np.zeros((2, 6, 3, 3), np.float32)
    for n, c, row, column in np.ndindex(2, 4, 3, 3):
        expected[n, c, row, column] = max(float(maps[n, c, 2 * row, 2 * column]), 0)
    assert np.array_equal(block(maps).detach().numpy(), expected)


def test_cifar_first_weights() -> None:
    torch.manual_seed(14)
    model = resnet_cifar.resnet56()
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):
            weight = layer.weight.detach()
            expected = math.sqrt(2 / (9 * layer.out_channels))
            assert float(weight.std()) == pytest.approx(expected, rel=0.15), name
            assert layer.bias is None


@pytest.mark.parametrize("name", ["resnet20", "resnet56"])
def test_cifar_parameters_get_gradients(name: str) -> None:
    torch.manual_seed(15)
    model = CIFAR[name][0]()
    differentiate(model, torch.randn(2, 3, 32, 32))
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.any(), parameter_name


def test_cifar_networks_take_any_side() -> None:
    landmark = Landmark(resnet_cifar.resnet20, cards.RESNET20)
    sides = (1, 2, 4, 5, 28, 32, 224)
    assert all(accepts(landmark, 10, 3, side) for side in sides)
    model = on_meta(resnet_cifar.resnet20)
    assert [side for side in sides if not trains_on_one_image(model, side)] == [1, 2, 4]


def test_cifar_saved_weights_give_the_same_bits(tmp_path: Path) -> None:
    torch.manual_seed(16)
    model = resnet_cifar.resnet20()
    images = torch.randn(2, 3, 32, 32)
    model(images)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "resnet20.safetensors")
    again = resnet_cifar.resnet20()
    again.load_state_dict(safetensors.torch.load_file(tmp_path / "resnet20.safetensors"))
    assert torch.equal(again.eval()(images), model.eval()(images))
