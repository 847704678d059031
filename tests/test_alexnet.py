import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.torch import load, save
from torch import Tensor, nn
from torchvision.models import alexnet as torchvision_alexnet

from deepcnn.models import alexnet
from deepcnn.models.alexnet import (
    AlexNet,
    AlexNetHalf,
    AlexNetOneTower,
    AlexNetOWT,
    AlexNetReleased,
    HalvingDropout,
)
from deepcnn.models.card import Card
from deepcnn.models.cards import alexnet as cards
from deepcnn.models.lrn import LocalResponseNorm, MapResponseNorm
from deepcnn.models.pool import WindowMeans
from photos import squeezed
from reference import Array

Network = type[AlexNet] | type[AlexNetReleased] | type[AlexNetOWT]
NETWORKS: dict[str, Network] = {
    "alexnet": AlexNet,
    "alexnet-released": AlexNetReleased,
    "alexnet-one-tower": AlexNetOneTower,
    "alexnet-half": AlexNetHalf,
    "alexnet-owt": AlexNetOWT,
}
CARDS: dict[str, Card] = {
    "alexnet": cards.ALEXNET,
    "alexnet-released": cards.RELEASED,
    "alexnet-one-tower": cards.ONE_TOWER,
    "alexnet-half": cards.HALF,
    "alexnet-owt": cards.OWT,
}
TOTALS = {
    "alexnet": 60_965_224,
    "alexnet-released": 60_965_224,
    "alexnet-one-tower": 62_378_344,
    "alexnet-half": 59_798_312,
    "alexnet-owt": 61_100_840,
}
# fmt: off
PARAMETERS = {
    "alexnet": [
        34_944, 307_456, 885_120, 663_936, 442_624, 37_752_832, 16_781_312, 4_097_000,
    ],
    "alexnet-one-tower": [
        34_944, 614_656, 885_120, 1_327_488, 884_992, 37_752_832, 16_781_312, 4_097_000,
    ],
    "alexnet-half": [
        17_472, 153_728, 221_376, 331_968, 442_624, 37_752_832, 16_781_312, 4_097_000,
    ],
    "alexnet-owt": [
        23_296, 307_392, 663_936, 884_992, 590_080, 37_752_832, 16_781_312, 4_097_000,
    ],
}
PARAMETERS["alexnet-released"] = PARAMETERS["alexnet"]
# fmt: on
MILLION_MULTIPLY_ADDS = {  # at 224
    "alexnet": [105.4, 223.9, 149.5, 112.1, 74.8, 37.7, 16.8, 4.1],
    "alexnet-released": [105.4, 223.9, 149.5, 112.1, 74.8, 37.7, 16.8, 4.1],
}
MAPS = {  # channels and side of what a layer puts out, at 224
    "conv1": (96, 55),
    "norm1": (96, 55),
    "pool1": (96, 27),
    "conv2": (256, 27),
    "norm2": (256, 27),
    "map_norm2": (256, 27),
    "pool2": (256, 13),
    "conv3": (384, 13),
    "conv4": (384, 13),
    "conv5": (256, 13),
    "pool5": (256, 6),
    "resize5": (256, 6),
}
SMALL_STEMS = {28: (5, 1), 32: (5, 1), 40: (5, 1), 41: (7, 2), 64: (7, 2), 80: (7, 2), 81: (11, 4)}


def on_meta(name: str, num_classes: int = 1000, in_channels: int = 3, side: int = 224) -> nn.Module:
    with torch.device("meta"):
        return NETWORKS[name](num_classes, in_channels, side)


def weighted(model: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    return [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]


def outputs(model: nn.Module, side: int = 224) -> dict[nn.Module, tuple[int, ...]]:
    """Shapes without N, of all modules, in the order in which they are called."""
    seen: dict[nn.Module, tuple[int, ...]] = {}

    def record(layer: nn.Module, _: object, output: Tensor) -> None:
        seen[layer] = tuple(output.shape[1:])

    for layer in model.modules():
        layer.register_forward_hook(record)
    model(torch.empty(1, 3, side, side, device="meta"))
    return seen


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_layer_by_layer(name: str) -> None:
    model = on_meta(name)
    counts = [sum(p.numel() for p in layer.parameters()) for layer in weighted(model)]
    assert counts == PARAMETERS[name]
    assert sum(p.numel() for p in model.parameters()) == TOTALS[name]
    assert f"{TOTALS[name]:,} parameters" in (NETWORKS[name].__doc__ or "")


def test_the_footnotes_384_maps_would_give_the_other_count() -> None:
    model = on_meta("alexnet-owt")
    _, _, third, fourth, fifth, *_ = weighted(model)
    more = third.weight.shape[0] * 9 * 128 + 128 + 128 * 9 * fifth.weight.shape[0]
    assert fourth.weight.shape[0] + 128 == 384
    assert TOTALS["alexnet-owt"] + more == 61_838_248
    assert "61,838,248" in cards.OWT.differences[0]


def multiply_adds(name: str) -> list[int]:
    model = on_meta(name)
    shapes = outputs(model)
    places = [np.prod(shapes[layer][1:], dtype=int) for layer in weighted(model)]
    counts = zip(places, weighted(model), strict=True)
    return [int(number) * layer.weight.numel() for number, layer in counts]


@pytest.mark.parametrize("name", MILLION_MULTIPLY_ADDS)
def test_multiply_adds_layer_by_layer(name: str) -> None:
    counts = multiply_adds(name)
    assert [round(count / 1e6, 1) for count in counts] == MILLION_MULTIPLY_ADDS[name]
    assert round(sum(counts) / 1e6, 1) == 724.4


def test_multiply_adds_of_one_tower() -> None:
    assert round(sum(multiply_adds("alexnet-one-tower")) / 1e6) == 1_135


@pytest.mark.parametrize("name", ["alexnet", "alexnet-released"])
def test_maps_and_neurons(name: str) -> None:
    model = on_meta(name)
    names = {layer: key for key, layer in model.named_modules() if key}
    shapes = {names[layer]: shape for layer, shape in outputs(model).items() if layer in names}
    layers = [key for key in MAPS if key != "map_norm2" or name == "alexnet-released"]
    maps = {key: (*shape[:1], *shape[1:2]) for key, shape in shapes.items() if len(shape) == 3}
    assert list(maps.items()) == [(key, MAPS[key]) for key in layers]  # their order, too

    neurons = [int(np.prod(shapes[names[layer]])) for layer in weighted(model)]
    # Figure 2 of the paper, but for its first number, 253,440.
    assert neurons == [290_400, 186_624, 64_896, 64_896, 43_264, 4096, 4096, 1000]
    assert sum(neurons) == 659_272


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("side", SMALL_STEMS)
def test_small_images(name: str, side: int) -> None:
    model = on_meta(name, 10, 1, side)
    first, *others = weighted(model)
    _, *published = weighted(on_meta(name, 10))
    assert isinstance(first, nn.Conv2d)
    kernel_size, stride = SMALL_STEMS[side]
    assert (first.kernel_size, first.stride) == ((kernel_size,) * 2, (stride,) * 2)
    assert [layer.weight.shape for layer in others] == [layer.weight.shape for layer in published]
    assert model(torch.empty(2, 1, side, side, device="meta")).shape == (2, 10)


@pytest.mark.parametrize("name", NETWORKS)
def test_smallest_side_is_the_documented_one(name: str) -> None:
    text = re.search(r"images of at least (\d+)x\1 pixels", alexnet.__doc__ or "")
    assert text is not None
    smallest = int(text[1])
    for side in (smallest, 28, 32, 41, 64, 81, 224, 300):
        assert on_meta(name, 10, 3, side)(torch.empty(1, 3, side, side, device="meta")).numel()
    side = smallest - 1
    with pytest.raises(RuntimeError, match="too small"):
        on_meta(name, 10, 3, side)(torch.empty(1, 3, side, side, device="meta"))


@pytest.mark.parametrize("name", NETWORKS)
def test_cards_fit_the_networks(name: str) -> None:
    card = CARDS[name]
    channels, side = card.input
    model = on_meta(name, card.classes, channels, side)
    assert model(torch.empty(1, channels, side, side, device="meta")).shape == (1, card.classes)
    assert card.year == (2014 if name == "alexnet-owt" else 2012)


# Response normalisation


def normalized_across(a: Array, alpha: float, groups: int) -> Array:
    """Section 3.3 of the paper, n = 5, beta = 0.75, k = 2, in each group of maps."""
    b = np.empty_like(a)
    size = a.shape[1] // groups
    for n, i, row, column in np.ndindex(*a.shape):
        first, last = i // size * size, i // size * size + size - 1
        near = range(max(first, i - 2), min(last, i + 2) + 1)
        total = sum(a[n, j, row, column] ** 2 for j in near)
        b[n, i, row, column] = a[n, i, row, column] / (2 + alpha * total) ** 0.75
    return b


def normalized_within(a: Array, alpha: float) -> Array:
    b = np.empty_like(a)
    for n, i, row, column in np.ndindex(*a.shape):
        window = a[n, i, max(0, row - 2) : row + 3, max(0, column - 2) : column + 3]
        total = sum(value**2 for value in window.flat)
        b[n, i, row, column] = a[n, i, row, column] / (1 + alpha * total) ** 0.75
    return b


RESPONSES = arrays(np.float64, (2, 12, 2, 3), elements=st.floats(-300, 300))


@given(RESPONSES, st.sampled_from([1, 2, 3]))
def test_the_printed_normalisation(values: Array, groups: int) -> None:
    norm = LocalResponseNorm(size=5, alpha=1e-4, beta=0.75, k=2, groups=groups)
    expected = normalized_across(values, 1e-4, groups)
    for layout in (torch.contiguous_format, torch.channels_last):
        actual = norm(torch.tensor(values).contiguous(memory_format=layout))
        np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-12, atol=0)


@given(RESPONSES)
def test_the_codes_normalisation_is_pytorchs(values: Array) -> None:
    ours = LocalResponseNorm(size=5, alpha=1e-4 / 5, beta=0.75, k=2)(torch.tensor(values))
    theirs = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2)(torch.tensor(values))
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-12, atol=0)
    expected = normalized_across(values, 1e-4 / 5, groups=1)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-12, atol=0)


@given(arrays(np.float64, (1, 2, 6, 7), elements=st.floats(-300, 300)))
def test_normalisation_within_maps(values: Array) -> None:
    norm = MapResponseNorm(size=5, alpha=1e-3 / 25, beta=0.75, k=1)
    expected = normalized_within(values, 1e-3 / 25)
    np.testing.assert_allclose(norm(torch.tensor(values)).numpy(), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "norm",
    [
        LocalResponseNorm(size=5, alpha=0.1, beta=0.75, k=2, groups=2),
        LocalResponseNorm(size=3, alpha=0.1, beta=0.5, k=1),
        MapResponseNorm(size=5, alpha=0.1, beta=0.75, k=1),
    ],
)
def test_gradients_of_the_normalisations(norm: nn.Module) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(norm, (x,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_squares_of_16_bit_responses_do_not_overflow(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    x = (3000 * torch.randn(2, 12, 2, 3)).to(dtype)
    values = x.double().numpy()
    norm = LocalResponseNorm(size=5, alpha=1e-4, beta=0.75, k=2)
    map_norm = MapResponseNorm(size=5, alpha=1e-3 / 25, beta=0.75, k=1)
    expected = [normalized_across(values, 1e-4, 1), normalized_within(values, 1e-3 / 25)]
    for actual, wanted in zip([norm(x), map_norm(x)], expected, strict=True):
        assert actual.dtype == dtype
        step = torch.finfo(dtype).eps
        np.testing.assert_allclose(actual.double().numpy(), wanted, rtol=step, atol=0)


@pytest.mark.parametrize("size", [0, 2, 4])
def test_a_window_has_a_middle(size: int) -> None:
    with pytest.raises(ValueError, match=f"size is {size}, but"):
        LocalResponseNorm(size, alpha=1.0, beta=1.0, k=1.0)
    with pytest.raises(ValueError, match=f"size is {size}, but"):
        MapResponseNorm(size, alpha=1.0, beta=1.0, k=1.0)


# Other parts


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 3), (6, 6), (6, 7), (8, 5), (13, 11)])
def test_window_means_are_pytorchs(rows: int, columns: int) -> None:
    torch.manual_seed(2)
    x = torch.randn(2, 3, rows, columns, dtype=torch.float64, requires_grad=True)
    ours, theirs = WindowMeans(6)(x), F.adaptive_avg_pool2d(x, 6)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14)
    weights = torch.randn_like(ours)
    torch.testing.assert_close(
        torch.autograd.grad(ours, x, weights),
        torch.autograd.grad(theirs, x, weights),
        rtol=0,
        atol=1e-13,
    )


def test_dropout_of_2012() -> None:
    torch.manual_seed(3)
    dropout, x = HalvingDropout(0.5), torch.rand(100_000) + 1
    assert torch.equal(dropout.eval()(x), x / 2)
    kept = dropout.train()(x) / x
    assert set(kept.tolist()) == {0.0, 1.0}
    assert float(kept.mean()) == pytest.approx(0.5, abs=5 * 0.5 / 100_000**0.5)


# The networks against others


def raw_images(number: int) -> Tensor:
    """Values as of pixels less their mean, for which response normalisation has an effect."""
    return 60 * torch.randn(number, 3, 224, 224, dtype=torch.float64)


def strong(name: str) -> nn.Module:
    """In float64, with weights and biases that keep all layers at work."""
    model = on_meta(name).double().to_empty(device="cpu").eval()
    # Drawn once and repeated, for speed; a prime period lines up with no row of a matrix.
    pattern = torch.randn(999_983, dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            times = -(-parameter.numel() // len(pattern))
            numbers = pattern.repeat(times)[: parameter.numel()].view_as(parameter)
            fan_in = parameter[0].numel()  # 1 for a bias
            torch.mul(numbers, (2 / fan_in) ** 0.5, out=parameter)
    return model


class TwoTowers:
    """The network of 2012 as two machines would run it, with weights from one that holds both."""

    def __init__(self, model: nn.Module, released: bool) -> None:
        self.parameters, self.released = dict(model.named_parameters()), released

    def half(self, layer: str, tower: int) -> tuple[Tensor, Tensor]:
        """Weight and bias of the kernels that one tower has."""
        weight, bias = self.parameters[f"{layer}.weight"], self.parameters[f"{layer}.bias"]
        return weight.chunk(2)[tower], bias.chunk(2)[tower]

    def norm(self, x: Tensor) -> Tensor:
        return F.local_response_norm(x, 5, 1e-4 if self.released else 5e-4, 0.75, 2.0)

    def lower(self, images: Tensor, tower: int) -> Tensor:
        canvas = torch.zeros(len(images), 3, 227, 227, dtype=images.dtype)
        canvas[:, :, :224, :224] = images
        x = F.conv2d(canvas, *self.half("conv1", tower), stride=4)
        x = F.relu(self.norm(x)) if self.released else self.norm(F.relu(x))
        x = F.max_pool2d(x, 3, 2)
        x = self.norm(F.relu(F.conv2d(x, *self.half("conv2", tower), padding=2)))
        if self.released:
            x = x / (1 + 1e-3 * F.avg_pool2d(x.square(), 5, 1, 2)) ** 0.75
        return F.max_pool2d(x, 3, 2)

    def upper(self, both: Tensor, tower: int) -> Tensor:
        x = F.relu(F.conv2d(both, *self.half("conv3", tower), padding=1))
        x = F.relu(F.conv2d(x, *self.half("conv4", tower), padding=1))
        x = F.relu(F.conv2d(x, *self.half("conv5", tower), padding=1))
        return F.max_pool2d(x, 3, 2).flatten(1)

    def __call__(self, images: Tensor) -> Tensor:
        both = torch.cat([self.lower(images, tower) for tower in (0, 1)], 1)
        x = torch.cat([self.upper(both, tower) for tower in (0, 1)], 1)
        for layer in ("dense6", "dense7"):
            parts = [F.linear(x, *self.half(layer, tower)) for tower in (0, 1)]
            x = F.relu(torch.cat(parts, 1)) * 0.5
        return F.linear(x, self.parameters["dense8.weight"], self.parameters["dense8.bias"])


@pytest.mark.parametrize("name", ["alexnet", "alexnet-released"])
def test_two_towers(name: str) -> None:
    torch.manual_seed(4)
    model = strong(name)
    images = raw_images(1)
    with torch.no_grad():
        assert_relatively_close(
            model(images), TwoTowers(model, name == "alexnet-released")(images), 1e-10
        )


class MapNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / (1 + 1e-3 * F.avg_pool2d(x.square(), 5, 1, 2)) ** 0.75


class Half(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 2


def dense_layers() -> list[nn.Module]:
    return [
        nn.Flatten(),
        nn.Linear(9216, 4096), nn.ReLU(), Half(),
        nn.Linear(4096, 4096), nn.ReLU(), Half(),
        nn.Linear(4096, 1000),
    ]  # fmt: skip


def literal_one_tower() -> nn.Sequential:
    return nn.Sequential(
        nn.ZeroPad2d((0, 3, 0, 3)),
        nn.Conv2d(3, 96, 11, 4), nn.ReLU(), nn.LocalResponseNorm(5, 5e-4, 0.75, 2),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(96, 256, 5, 1, 2), nn.ReLU(), nn.LocalResponseNorm(5, 5e-4, 0.75, 2),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(256, 384, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(384, 384, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(3, 2),
        *dense_layers(),
    )  # fmt: skip


def literal_half() -> nn.Sequential:
    """layers-145-half.cfg from top to bottom."""
    return nn.Sequential(
        nn.ZeroPad2d((0, 3, 0, 3)),
        nn.Conv2d(3, 48, 11, 4), nn.LocalResponseNorm(5, 1e-4, 0.75, 2),
        nn.MaxPool2d(3, 2), nn.ReLU(),
        nn.Conv2d(48, 128, 5, 1, 2), nn.ReLU(), nn.LocalResponseNorm(5, 1e-4, 0.75, 2), MapNorm(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(128, 192, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(192, 192, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(192, 256, 3, 1, 1), nn.MaxPool2d(3, 2), nn.ReLU(),
        *dense_layers(),
    )  # fmt: skip


@pytest.mark.parametrize("name", ["alexnet-one-tower", "alexnet-half"])
def test_one_tower_layer_by_layer(name: str) -> None:
    torch.manual_seed(5)
    model = strong(name)
    with torch.device("meta"):
        literal = literal_half() if name == "alexnet-half" else literal_one_tower()
    names = literal.state_dict()
    numbers = model.state_dict().values()
    literal.load_state_dict(dict(zip(names, numbers, strict=True)), assign=True)
    images = raw_images(1)
    with torch.no_grad():
        assert_relatively_close(model(images), literal(images), 1e-10)


@pytest.fixture(scope="module")
def owt_and_torchvisions() -> tuple[nn.Module, nn.Module]:
    networks = []
    for network in (AlexNetOWT, torchvision_alexnet):
        torch.manual_seed(6)
        networks.append(network())
    return networks[0], networks[1]


def test_owt_begins_as_torchvisions_does(owt_and_torchvisions: tuple[nn.Module, nn.Module]) -> None:
    ours, theirs = owt_and_torchvisions
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_owt_is_torchvisions_on_photos(owt_and_torchvisions: tuple[nn.Module, nn.Module]) -> None:
    """In training mode, so with one seed the dropout masks are one as well."""
    images = squeezed(2)
    ours, theirs = owt_and_torchvisions
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    logits, gradients = [], []
    for model in (ours, theirs):
        torch.manual_seed(7)
        logits.append(model(images))
        loss = F.cross_entropy(logits[-1], torch.arange(2))
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    assert_relatively_close(logits[0].detach(), logits[1].detach(), 1e-5)
    for mine, other in zip(*gradients, strict=True):
        assert_relatively_close(mine, other, 1e-5)


def assert_relatively_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    scale = largest(expected)
    assert scale > 0
    assert largest(actual - expected) <= tolerance * scale


def largest(numbers: Tensor) -> float:
    """The largest absolute value; unlike abs() and max() it needs no memory."""
    return float(torch.linalg.vector_norm(numbers, torch.inf))


# Weights


@pytest.fixture(scope="module", params=NETWORKS)
def drawn(request: pytest.FixtureRequest) -> tuple[str, nn.Module]:
    """Each network, for ten classes, with weights as it draws them."""
    torch.manual_seed(8)
    return request.param, NETWORKS[request.param](10)


def test_first_weights(drawn: tuple[str, nn.Module]) -> None:
    name, model = drawn
    for key, layer in model.named_children():  # there are none of owt: it begins as torchvision's
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        wider = name in ("alexnet-released", "alexnet-half")
        deviation = 0.03 if wider and key in ("conv3", "conv4", "conv5") else 0.01
        weight, number = layer.weight.detach(), layer.weight.numel()
        # Five times what chance gives each of them.
        assert abs(float(weight.mean())) < 5 * deviation / number**0.5, key
        assert float(weight.std()) == pytest.approx(deviation, rel=5 / (2 * number) ** 0.5), key
        some = weight.flatten()[:1_000_000].abs() / deviation
        beyond = int((some > 2).sum()) / len(some)
        assert beyond == pytest.approx(0.0455, abs=5 * (0.0455 / len(some)) ** 0.5), key
        ones = key in ("conv2", "conv4", "conv5", "dense6", "dense7")
        assert layer.bias is not None
        assert torch.equal(layer.bias, torch.full_like(layer.bias, float(ones))), key


def test_every_parameter_gets_a_gradient(drawn: tuple[str, nn.Module]) -> None:
    torch.manual_seed(9)
    _, model = drawn
    logits = model.train()(60 * torch.randn(2, 3, 224, 224))
    loss = F.cross_entropy(logits, torch.tensor([1, 8]))
    names, parameters = zip(*model.named_parameters(), strict=True)
    for name, gradient in zip(names, torch.autograd.grad(loss, parameters), strict=True):
        assert 0 < largest(gradient) < float("inf"), name


def test_saved_and_loaded_it_answers_the_same_bits(drawn: tuple[str, nn.Module]) -> None:
    name, model = drawn
    other = on_meta(name, 10)
    other.load_state_dict(load(save(model.state_dict())), assign=True)
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(model.eval()(images), other.eval()(images))
