import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from deepcnn.models import accepts, num_parameters
from deepcnn.models.card import Card, Landmark
from deepcnn.models.cards import vgg as cards
from deepcnn.models.vgg import (
    VGG,
    A,
    VGGSlides,
    vgg11,
    vgg11_bn,
    vgg11_slides,
    vgg13,
    vgg13_bn,
    vgg16,
    vgg16_bn,
    vgg19,
    vgg19_bn,
)
from photos import squeezed

MEMBERS: dict[str, tuple[Callable[..., VGG], Card]] = {
    "vgg11": (vgg11, cards.VGG11),
    "vgg13": (vgg13, cards.VGG13),
    "vgg16": (vgg16, cards.VGG16),
    "vgg19": (vgg19, cards.VGG19),
    "vgg11_bn": (vgg11_bn, cards.VGG11_BN),
    "vgg13_bn": (vgg13_bn, cards.VGG13_BN),
    "vgg16_bn": (vgg16_bn, cards.VGG16_BN),
    "vgg19_bn": (vgg19_bn, cards.VGG19_BN),
}
IN_THE_GATE = ("vgg11", "vgg11_bn")
LARGE = [pytest.param(name, marks=pytest.mark.soak) for name in MEMBERS if name not in IN_THE_GATE]
EACH_CONFIGURATION = ("vgg11", "vgg13_bn", "vgg16", "vgg19_bn")
SMALL_ARCH = ((1, 4), (1, 4), (2, 6), (1, 8), (1, 8))


def on_meta(builder: Callable[..., nn.Module], *arguments: Any, **options: Any) -> nn.Module:
    with torch.device("meta"):
        return builder(*arguments, **options)


def shapes(model: nn.Module) -> list[tuple[str, torch.Size]]:
    return [(name, tensor.shape) for name, tensor in model.state_dict().items()]


def filled(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """A network on the meta device on these weights, without drawing or copying them, but with
    running statistics of its own.
    """
    own = {key: tensor.clone() if is_statistic(key) else tensor for key, tensor in state.items()}
    model.load_state_dict(own, assign=True)
    return model


def is_statistic(key: str) -> bool:
    return key.endswith(("running_mean", "running_var", "num_batches_tracked"))


def assert_relatively_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    actual, expected = actual.detach(), expected.detach()
    scale = float(torch.linalg.vector_norm(expected, math.inf))
    assert scale > 0
    # Without copies of a hundred million gradients.
    assert float(torch.dist(actual, expected, math.inf)) <= tolerance * scale


def differentiate(model: nn.Module, images: Tensor) -> Tensor:
    """Logits, and gradients in the parameters; one seed for the dropout masks of both networks."""
    torch.manual_seed(1)
    logits: Tensor = model(images)
    model.zero_grad()
    F.cross_entropy(logits, torch.arange(3, 3 + len(images))).backward()  # type: ignore[no-untyped-call]
    return logits.detach()


def assert_same(ours: nn.Module, theirs: nn.Module, images: Tensor) -> None:
    assert_relatively_close(differentiate(ours, images), differentiate(theirs, images))
    expected = dict(theirs.named_parameters())
    bias_before_norm = biases_before_norm(ours) if ours.training else set()
    for name, parameter in ours.named_parameters():
        grad, other = parameter.grad, expected[name].grad
        assert grad is not None, name
        assert other is not None, name
        assert grad.isfinite().all(), name
        if name in bias_before_norm:  # it is subtracted again: rounding errors are left
            weight = ours.get_parameter(name.replace("bias", "weight"))
            assert weight.grad is not None
            assert float(grad.abs().max()) < 1e-3 * float(weight.grad.abs().max()), name
        else:
            assert_relatively_close(grad, other)


def biases_before_norm(model: nn.Module) -> set[str]:
    layers = list(model.named_modules())
    return {
        f"{name}.bias"
        for (name, _), (_, after) in pairwise(layers)
        if isinstance(after, nn.BatchNorm2d)
    }


def multiply_adds(model: nn.Module, image: Tensor) -> dict[str, int]:
    """Of each layer: places in the output times weights that meet in one."""
    counts: dict[str, int] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):

            def count(layer: nn.Module, _: object, output: Tensor, name: str = name) -> None:
                assert isinstance(layer.weight, Tensor)
                counts[name] = output.numel() * layer.weight[0].numel()

            layer.register_forward_hook(count)
    model.eval()(image)
    return counts


@pytest.mark.parametrize("name", MEMBERS)
def test_layers_are_torchvisions_by_name_order_and_shape(name: str) -> None:
    ours = on_meta(MEMBERS[name][0])
    theirs = on_meta(torchvision.models.get_model, name)
    assert shapes(ours) == shapes(theirs)
    assert [n for n, _ in ours.named_modules()] == [n for n, _ in theirs.named_modules()]
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())


@pytest.mark.parametrize("name", MEMBERS)
def test_published_sizes(name: str) -> None:
    builder, card = MEMBERS[name]
    published = torchvision.models.get_model_weights(name).DEFAULT.meta
    model = on_meta(builder)
    total = num_parameters(model)
    assert total == published["num_params"]
    assert f"{total:,} parameters" in (builder.__doc__ or "")

    counts = multiply_adds(model, torch.empty(1, 3, 224, 224, device="meta"))
    assert round(sum(counts.values()) / 1e9, 3) == published["_ops"]

    accuracy = published["_metrics"]["ImageNet-1K"]
    expected = f"accuracy {accuracy['acc@1']:.3f} / {accuracy['acc@5']:.3f}"
    assert any(expected in line for line in card.reported)


def test_totals_are_the_papers() -> None:
    """Table 2 gives millions."""
    for builder, millions in ((vgg11, 133), (vgg13, 133), (vgg16, 138), (vgg19, 144)):
        assert round(num_parameters(on_meta(builder)) / 1e6) == millions


def test_multiply_adds_that_he_et_al_give() -> None:
    image = torch.empty(1, 3, 224, 224, device="meta")
    sixteen = multiply_adds(on_meta(vgg16), image)
    convolutions = sum(count for name, count in sixteen.items() if name.startswith("features"))
    assert math.floor(convolutions / 1e8) == 153  # 15.3 billion, without the dense layers
    assert round(sum(sixteen.values()) / 1e8) == 155
    assert round(sum(multiply_adds(on_meta(vgg19), image).values()) / 1e8) == 196


@pytest.mark.parametrize("name", [*IN_THE_GATE, *LARGE])
def test_networks_equal_torchvisions_and_timms_on_a_photo(name: str) -> None:
    images = squeezed(1)
    torch.manual_seed(0)
    ours = MEMBERS[name][0]()
    theirs = filled(on_meta(torchvision.models.get_model, name), ours.state_dict())
    assert_same(ours.train(), theirs.train(), images)
    for key, statistic in ours.state_dict().items():
        if "running" in key:
            assert_relatively_close(statistic, theirs.state_dict()[key])
    with torch.no_grad():
        logits = ours.eval()(images)
        assert_relatively_close(logits, theirs.eval()(images))
        assert 0.01 < float(logits.std()) < 10  # of the first weights: no vanishing, no explosion
    assert_relatively_close(logits, timms(name, ours)(images))


def timms(name: str, ours: nn.Module) -> nn.Module:
    """Timm's network on the same weights; it writes two dense layers as convolutions."""
    timm = pytest.importorskip("timm")
    names = {"0": "pre_logits.fc1", "3": "pre_logits.fc2", "6": "head.fc"}
    theirs = on_meta(timm.create_model, name)
    expected, state = dict(shapes(theirs)), {}
    for key, tensor in ours.state_dict().items():
        part, number, kind = (*key.split("."), "")[:3]
        other = key if part == "features" else f"{names[number]}.{kind}"
        state[other] = tensor.reshape(expected[other])
    return filled(theirs, state).eval()


@pytest.mark.soak
@pytest.mark.parametrize("name", MEMBERS)
def test_a_seed_draws_torchvisions_first_weights(name: str) -> None:
    torch.manual_seed(0)
    ours = MEMBERS[name][0]().state_dict()
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name).state_dict()
    for key, drawn in ours.items():
        assert torch.equal(drawn, theirs[key]), key


@pytest.mark.soak
@pytest.mark.parametrize("name", ["vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"])
def test_evaluation_has_torchvisions_gradients(name: str) -> None:
    images = squeezed(1)
    torch.manual_seed(0)
    ours = MEMBERS[name][0]()
    randomise_biases(ours)
    theirs = filled(on_meta(torchvision.models.get_model, name), ours.state_dict())
    assert_same(ours.eval(), theirs.eval(), images)


def test_first_weights() -> None:
    torch.manual_seed(7)
    model = VGG(((1, 64), (2, 128)), 100, batch_norm=True)
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            dense = isinstance(layer, nn.Linear)
            expected = 0.01 if dense else math.sqrt(2 / (9 * layer.weight.shape[0]))
            weight = layer.weight.detach()
            assert float(weight.std()) == pytest.approx(expected, rel=0.05), name
            assert abs(float(weight.mean())) < 0.1 * expected, name
            assert not layer.bias.any(), name


@pytest.mark.parametrize("name", EACH_CONFIGURATION)
def test_small_images_leave_out_pools_and_keep_names(name: str) -> None:
    builder = MEMBERS[name][0]
    published = on_meta(builder, 10)
    names = [layer for layer, _ in published.named_modules()]
    for side, pools in ((8, 3), (40, 3), (41, 4), (80, 4), (81, 5), (224, 5)):
        model = on_meta(builder, 10, 3, side)
        assert shapes(model) == shapes(published)
        assert [layer for layer, _ in model.named_modules()] == names
        assert sum(isinstance(layer, nn.MaxPool2d) for layer in model.modules()) == pools
        image = torch.empty(2, 3, side, side, device="meta")
        assert model.get_submodule("features")(image).shape[-1] == side // 2**pools
        assert model(image).shape == (2, 10)


@pytest.mark.parametrize("name", EACH_CONFIGURATION)
def test_smallest_legal_sides(name: str) -> None:
    builder, card = MEMBERS[name]
    landmark = Landmark(builder, card, takes_side=True)
    sides = [7, 8, 40, 41, 80, 81, 300]
    assert [side for side in sides if accepts(landmark, 10, 3, side)] == sides[1:]
    fixed = Landmark(lambda classes, channels: builder(classes, channels), card)
    assert [side for side in (31, 32) if accepts(fixed, 10, 3, side)] == [32]


@pytest.mark.parametrize("side", [8, 41, 81])
def test_one_image_trains_with_batch_normalisation(side: int) -> None:
    model = on_meta(vgg11_bn, 10, 3, side).train()
    assert model(torch.empty(1, 3, side, side, device="meta")).shape == (1, 10)


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("side", [20, 70, 100])
def test_small_network_equals_its_formula(side: int, batch_norm: bool) -> None:
    torch.manual_seed(2)
    model = VGG(SMALL_ARCH, 5, 2, side, batch_norm)
    randomise_biases(model)
    images = torch.randn(3, 2, side, side)
    expected = formula(model.state_dict(), images, {20: 2, 70: 1, 100: 0}[side], batch_norm)
    assert_relatively_close(model.eval()(images), expected)


def randomise_biases(model: nn.Module) -> None:
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "bias" in name or "running_mean" in name:
                tensor.normal_(0, 0.1)
            if "running_var" in name:
                tensor.uniform_(0.5, 2)


def formula(state: dict[str, Tensor], x: Tensor, left_out: int, batch_norm: bool) -> Tensor:
    layer = 0
    for block, (num_convs, _) in enumerate(SMALL_ARCH):
        for _ in range(num_convs):
            x = F.conv2d(x, state[f"features.{layer}.weight"], padding=1)
            x = x + state[f"features.{layer}.bias"][:, None, None]
            if batch_norm:
                layer += 1
                mean, variance, scale, offset = (
                    state[f"features.{layer}.{name}"][:, None, None]
                    for name in ("running_mean", "running_var", "weight", "bias")
                )
                x = (x - mean) / (variance + 1e-5).sqrt() * scale + offset
            x = x.clamp(min=0)
            layer += 2
        layer += 1
        if block >= left_out:
            side = x.shape[-1] // 2
            x = x[..., : 2 * side, : 2 * side].unflatten(-1, (side, 2)).amax(-1)
            x = x.unflatten(-2, (side, 2)).amax(-2)
    x = to_seven(to_seven(x).mT).mT.flatten(1)
    for number in (0, 3, 6):
        x = x @ state[f"classifier.{number}.weight"].T + state[f"classifier.{number}.bias"]
        x = x if number == 6 else x.clamp(min=0)
    return x


def to_seven(x: Tensor) -> Tensor:
    """Means over the columns that the i-th of seven equal parts of the width touches."""
    width = x.shape[-1]
    parts = [(i * width // 7, -(-(i + 1) * width // 7)) for i in range(7)]
    return torch.stack([x[..., start:end].mean(-1) for start, end in parts], -1)


def test_saved_weights_give_the_same_bits(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = VGG(SMALL_ARCH, 5, 2, 32, batch_norm=True)
    images = torch.randn(2, 2, 32, 32)
    model(images)  # moves the running statistics
    safetensors.torch.save_file(model.state_dict(), tmp_path / "vgg.safetensors")
    again = VGG(SMALL_ARCH, 5, 2, 32, batch_norm=True)
    again.load_state_dict(safetensors.torch.load_file(tmp_path / "vgg.safetensors"))
    assert torch.equal(again.eval()(images), model.eval()(images))


@pytest.mark.soak
def test_one_batch_can_be_memorised() -> None:
    torch.manual_seed(4)
    model = VGG(((1, 16), (2, 8)), 5, 1, 16).eval()  # without dropout
    images, labels = torch.randn(8, 1, 16, 16), torch.randint(5, (8,))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4)
    for _ in range(20):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert float(loss.detach()) < 0.1


class LiteralBlock(nn.Module):
    """The slides' block, with their way to name and to call layers."""

    def __init__(self, num_convs: int, input_channels: int, output_channels: int) -> None:
        super().__init__()
        self.num_convs = num_convs
        for i in range(num_convs):
            convolution = nn.Conv2d(input_channels, output_channels, kernel_size=3, padding=1)
            self.add_module(f"conv{i}", convolution)
            input_channels = output_channels
            self.add_module(f"relu{i}", nn.ReLU())
        self.max_pool = nn.MaxPool2d(kernel_size=2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        for i in range(self.num_convs):
            x = self.get_submodule(f"conv{i}")(x)
            x = self.get_submodule(f"relu{i}")(x)
        return self.max_pool(x)  # type: ignore[no-any-return]


class Literal(nn.Module):
    """The slides' network."""

    def __init__(self, conv_arch: tuple[tuple[int, int], ...]) -> None:
        super().__init__()
        in_channels = 1
        self.conv_arch = conv_arch
        for i, (num_convs, out_channels) in enumerate(conv_arch):
            block = LiteralBlock(num_convs, in_channels, out_channels)
            self.add_module(f"vgg_block{i}", block)
            in_channels = out_channels
        self.last = nn.Sequential(
            nn.Flatten(),
            nn.Linear(out_channels * 7 * 7, 4096),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(4096, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        for i in range(len(self.conv_arch)):
            x = self.get_submodule(f"vgg_block{i}")(x)
        return self.last(x)  # type: ignore[no-any-return]


def test_slides_print_this_shape() -> None:
    """For torch.rand(16, 1, 224, 224) they print torch.Size([16, 10])."""
    model = on_meta(VGGSlides, ((1, 64), (1, 128), (2, 256), (2, 512), (2, 512)))
    assert str(model(torch.rand(16, 1, 224, 224, device="meta")).size()) == "torch.Size([16, 10])"
    assert shapes(model) == shapes(on_meta(vgg11_slides)) == shapes(on_meta(Literal, A))
    assert f"{num_parameters(model):,} parameters" in (vgg11_slides.__doc__ or "")


@pytest.mark.parametrize("conv_arch", [((1, 4), (1, 8)), ((2, 4), (3, 8), (1, 6))])
def test_slides_network_equals_its_transcription(conv_arch: tuple[tuple[int, int], ...]) -> None:
    torch.manual_seed(5)
    ours = VGGSlides(conv_arch)
    torch.manual_seed(5)
    theirs = Literal(conv_arch)
    side = 7 * 2 ** len(conv_arch)
    assert [n for n, _ in ours.named_modules()] == [n for n, _ in theirs.named_modules()]
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other)  # PyTorch's first weights
    assert_same(ours, theirs, torch.randn(2, 1, side, side))


def test_slides_network_takes_sides_224_to_255() -> None:
    landmark = Landmark(vgg11_slides, cards.VGG11_SLIDES)
    sides = (223, 224, 255, 256)
    assert [side for side in sides if accepts(landmark, 10, 1, side)] == [224, 255]
    assert "sides 224 to 255" in " ".join((VGGSlides.__doc__ or "").split())


def test_slides_network_is_configuration_a_on_one_channel() -> None:
    torch.manual_seed(6)
    slides = VGGSlides(SMALL_ARCH, 5, 2).eval()
    same = VGG(SMALL_ARCH, 5, 2).eval()
    tensors = zip(same.parameters(), slides.parameters(), strict=True)
    with torch.no_grad():
        for target, source in tensors:
            target.copy_(source)
        images = torch.randn(1, 2, 224, 224)
        assert torch.equal(same(images), slides(images))  # the pool to 7x7 changes nothing
