import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from torch import Tensor, nn

from deepcnn.errors import ConfigError
from deepcnn.models import MODELS, accepts, build, check_input, num_parameters
from deepcnn.models.lenet import LeNet
from reference import Array, conv2d, linear, max_pool2d

# The image each network is meant for: channels, side.
NATIVE = {
    "lenet": (1, 32),
    "alexnet-d2l": (1, 224),
    "alexnet-gluon": (3, 224),
    "alexnet-slides": (1, 224),
    "alexnet-28": (1, 28),
    "compact": (1, 28),
    "brisk": (1, 28),
    "brisk-deep": (1, 28),
    "dash": (1, 28),
    "sprint": (1, 28),
    "speedy": (3, 32),
}


def layer_counts(model: nn.Module) -> list[int]:
    """Parameters of each layer that has any, in module order."""
    counts = (sum(p.numel() for p in m.parameters(recurse=False)) for m in model.modules())
    return [count for count in counts if count]


# fmt: off
PARAMETERS = {
    "lenet": [156, 2_416, 48_120, 10_164, 850],
    "alexnet-d2l": [
        11_712, 614_656, 885_120, 1_327_488, 884_992, 26_218_496, 16_781_312, 40_970,
    ],
    "alexnet-gluon": [
        34_944, 460_992, 663_936, 1_327_488, 884_992, 1_052_672, 16_781_312, 40_970,
    ],
    "alexnet-slides": [
        11_712, 614_656, 885_120, 1_327_488, 884_992, 26_218_496, 16_781_312, 40_970,
    ],
    "alexnet-28": [
        1_248, 153_728, 221_376, 331_968, 221_312, 525_312, 1_049_600, 10_250,
    ],
    "compact": [288, 64, 18_432, 128, 36_864, 128, 73_728, 256, 1_290],
    "brisk": [13_824, 96, 55_296, 256, 147_456, 256, 11_530],
    "brisk-deep": [
        5_184, 64, 18_432, 128, 36_864, 128, 73_728, 256, 147_456, 256, 294_912, 512, 23_050,
    ],
    "dash": [1_728, 32, 9_216, 128, 5_770],
    "sprint": [400, 32, 7_850],
    "speedy": [
        24, 13_824, 64, 36_864, 64, 147_456, 256, 589_824, 256, 589_824, 256, 589_824, 256, 2_560,
    ],
}
# fmt: on
TOTALS = {
    "lenet": 61_706,
    "alexnet-d2l": 46_764_746,
    "alexnet-gluon": 21_247_306,
    "alexnet-slides": 46_764_746,
    "alexnet-28": 2_514_794,
    "compact": 131_178,
    "brisk": 228_714,
    "brisk-deep": 600_970,
    "dash": 16_874,
    "sprint": 8_282,
    "speedy": 1_971_352,
}


@pytest.mark.parametrize("name", NATIVE)
def test_parameter_counts(name: str) -> None:
    with torch.device("meta"):
        model = build(name, 10, *NATIVE[name])
    assert layer_counts(model) == PARAMETERS[name]
    assert num_parameters(model) == TOTALS[name]


@pytest.mark.parametrize("name", NATIVE)
def test_parameter_total_is_in_the_docstring(name: str) -> None:
    assert f"{TOTALS[name]:,} parameters" in (MODELS[name].network.__doc__ or "")


def test_num_parameters_leaves_out_what_is_frozen() -> None:
    model = LeNet()
    model.c1.requires_grad_(False)
    assert num_parameters(model) == 61_706 - 156


def test_alexnet_d2l_shapes_are_the_printed_ones() -> None:
    printed = {
        "conv1": (1, 96, 54, 54),
        "pool1": (1, 96, 26, 26),
        "conv2": (1, 256, 26, 26),
        "pool2": (1, 256, 12, 12),
        "conv3": (1, 384, 12, 12),
        "conv4": (1, 384, 12, 12),
        "conv5": (1, 256, 12, 12),
        "pool5": (1, 256, 5, 5),
        "dense6": (1, 4096),
        "dropout6": (1, 4096),
        "dense7": (1, 4096),
        "dropout7": (1, 4096),
        "dense8": (1, 10),
    }
    assert_shapes("alexnet-d2l", printed)


def test_alexnet_gluon_shapes() -> None:
    expected = {
        "conv1": (1, 96, 54, 54),
        "pool1": (1, 96, 26, 26),
        "conv2": (1, 192, 22, 22),
        "pool2": (1, 192, 10, 10),
        "conv3": (1, 384, 8, 8),
        "conv4": (1, 384, 6, 6),
        "conv5": (1, 256, 4, 4),
        "pool5": (1, 256, 1, 1),
        "dense6": (1, 4096),
        "dense7": (1, 4096),
        "dense8": (1, 10),
    }
    assert_shapes("alexnet-gluon", expected)


def test_lenet_shapes() -> None:
    expected = {
        "c1": (1, 6, 28, 28),
        "s2": (1, 6, 14, 14),
        "c3": (1, 16, 10, 10),
        "s4": (1, 16, 5, 5),
        "c5": (1, 120, 1, 1),
        "f6": (1, 84),
        "output": (1, 10),
    }
    assert_shapes("lenet", expected)


def assert_shapes(name: str, expected: dict[str, tuple[int, ...]]) -> None:
    channels, side = NATIVE[name]
    with torch.device("meta"):
        model = build(name, 10, channels, side)
        image = torch.empty(1, channels, side, side)
    seen: dict[str, tuple[int, ...]] = {}

    def record(layer_name: str, output: Tensor) -> None:
        seen[layer_name] = tuple(output.shape)

    for layer_name, layer in model.named_children():
        layer.register_forward_hook(lambda _m, _i, out, key=layer_name: record(key, out))
    model(image)
    assert list(seen.items()) == list(expected.items())  # the order of the layers too


def literal_d2l() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 96, 11, stride=4),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(96, 256, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(256, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Flatten(),
        nn.Linear(6400, 4096),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(4096, 4096),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(4096, 10),
    )


def literal_gluon() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 96, 11, stride=4),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(96, 192, 5),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(192, 384, 3),
        nn.ReLU(),
        nn.Conv2d(384, 384, 3),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Flatten(),
        nn.Linear(256, 4096),
        nn.ReLU(),
        nn.Linear(4096, 4096),
        nn.ReLU(),
        nn.Linear(4096, 10),
    )


def literal_slides() -> nn.Sequential:
    return nn.Sequential(*(layer for layer in literal_d2l() if not isinstance(layer, nn.Dropout)))


@pytest.mark.parametrize(
    ("name", "literal"),
    [
        ("alexnet-d2l", literal_d2l),
        ("alexnet-gluon", literal_gluon),
        ("alexnet-slides", literal_slides),
    ],
)
def test_alexnets_equal_the_published_layer_lists(
    name: str, literal: Callable[[], nn.Sequential]
) -> None:
    """Training mode: with one seed the dropout masks agree as well."""
    torch.manual_seed(0)
    channels, side = NATIVE[name]
    ours = build(name, 10, channels, side)
    theirs = literal()
    with torch.no_grad():
        for source, target in zip(ours.parameters(), theirs.parameters(), strict=True):
            target.copy_(source)
    images, labels = torch.randn(2, channels, side, side), torch.tensor([3, 7])

    logits = []
    for model in (ours, theirs):
        torch.manual_seed(1)
        logits.append(model(images))
        F.cross_entropy(logits[-1], labels).backward()  # type: ignore[no-untyped-call]

    assert_relatively_close(logits[0].detach(), logits[1].detach())
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert mine.grad is not None
        assert other.grad is not None
        assert_relatively_close(mine.grad, other.grad)


def assert_relatively_close(actual: Tensor, expected: Tensor) -> None:
    scale = float(expected.abs().max())
    assert scale > 0
    assert float((actual - expected).abs().max()) <= 1e-6 * scale


# Whole numbers in a narrow range: many ties, and windows with nothing positive.
@given(arrays(np.float32, (1, 2, 7, 7), elements=st.integers(-3, 3)))
def test_max_pooling_commutes_with_relu(values: NDArray[np.float32]) -> None:
    before, after = (torch.tensor(values, requires_grad=True) for _ in range(2))
    pooled = F.max_pool2d(F.relu(before), 3, stride=2)
    rectified = F.relu(F.max_pool2d(after, 3, stride=2))
    assert torch.equal(pooled, rectified)

    weights = torch.arange(1.0, pooled.numel() + 1).reshape(pooled.shape)
    (pooled * weights).sum().backward()  # type: ignore[no-untyped-call]
    (rectified * weights).sum().backward()  # type: ignore[no-untyped-call]
    assert before.grad is not None
    assert after.grad is not None
    assert torch.equal(before.grad, after.grad)


@pytest.mark.parametrize("side", [32, 35])
def test_lenet_equals_numpy(side: int) -> None:
    torch.manual_seed(2)
    model = LeNet(num_classes=7, in_channels=2)
    images = torch.randn(2, 2, side, side)

    def numbers(layer: nn.Module) -> tuple[Array, Array]:
        weight, bias = (p.detach().double().numpy() for p in layer.parameters())
        return weight, bias

    x = np.tanh(conv2d(images.double().numpy(), *numbers(model.c1)))  # tanh before the pool
    x = np.tanh(conv2d(max_pool2d(x, 2), *numbers(model.c3)))
    x = np.tanh(conv2d(max_pool2d(x, 2), *numbers(model.c5)))
    x = np.tanh(linear(x.reshape(2, 120), *numbers(model.f6)))
    expected = linear(x, *numbers(model.output))

    actual = model(images).detach().numpy()
    assert actual.shape == (2, 7)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NATIVE)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    torch.manual_seed(3)
    channels, side = NATIVE[name]
    model = build(name, 10, channels, side)
    logits = model(torch.randn(2, channels, side, side))
    F.cross_entropy(logits, torch.tensor([1, 8])).backward()  # type: ignore[no-untyped-call]
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.any(), parameter_name


@pytest.mark.parametrize("name", ["lenet", "compact"])
def test_one_batch_can_be_memorised(name: str) -> None:
    torch.manual_seed(4)
    channels, side = NATIVE[name]
    model = build(name, 10, channels, side)
    images, labels = torch.randn(8, channels, side, side), torch.randint(10, (8,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(40):
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    logits = model(images).detach()
    assert float(F.cross_entropy(logits, labels)) < 0.01
    assert torch.equal(logits.argmax(1), labels)


def test_images_do_not_mix_in_evaluation() -> None:
    torch.manual_seed(5)
    for name in ("lenet", "compact"):
        channels, side = NATIVE[name]
        model = build(name, 10, channels, side).eval()
        images = torch.randn(3, channels, side, side)
        alone = torch.cat([model(image[None]) for image in images])
        torch.testing.assert_close(model(images), alone)


@pytest.mark.parametrize("name", NATIVE)
def test_classes_and_channels_are_the_callers(name: str) -> None:
    with torch.device("meta"):
        side = NATIVE[name][1]
        model = build(name, 3, 4, side)
        assert model(torch.empty(2, 4, side, side)).shape == (2, 3)


def test_same_seed_same_weights() -> None:
    def weights() -> Tensor:
        torch.manual_seed(6)
        return nn.utils.parameters_to_vector(build("compact", 10, 1, 28).parameters())

    assert torch.equal(weights(), weights())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("compct", "unknown model 'compct'; did you mean compact?"),
        ("zzz", "unknown model 'zzz'. Choose one of: mlp, lenet5, lenet, "),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        build(name, 10, 1, 28)


def test_check_input_knows_its_models() -> None:
    with pytest.raises(ConfigError, match="did you mean lenet"):
        check_input("lenett", 10, 1, 32)


@pytest.mark.parametrize("name", NATIVE)
def test_check_input_accepts_the_native_side_and_draws_nothing(name: str) -> None:
    state = torch.get_rng_state()
    channels, side = NATIVE[name]
    check_input(name, 10, channels, side)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("name", "side", "message"),
    [
        (
            "lenet",
            28,
            "lenet cannot take 28x28 images; it takes images from 32x32 to 35x35 pixels. "
            "Resize them with --data.size 32.",
        ),
        (
            "lenet",
            64,
            "lenet cannot take 64x64 images; it takes images from 32x32 to 35x35 pixels. "
            "Resize them with --data.size 35.",
        ),
        (
            "alexnet-d2l",
            32,
            "alexnet-d2l cannot take 32x32 images; it takes images from 195x195 to 226x226 "
            "pixels. Resize them with --data.size 195.",
        ),
        (
            "compact",
            7,
            "compact cannot take 7x7 images; it takes images of at least 8x8 pixels. "
            "Resize them with --data.size 8.",
        ),
    ],
)
def test_check_input_says_which_sides_work(name: str, side: int, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        check_input(name, 10, 1, side)


def test_check_input_agrees_with_running_the_network() -> None:
    model = LeNet().eval()
    for side in (1, 31, 32, 33, 34, 35, 36):
        image = torch.zeros(1, 1, side, side)
        if 32 <= side <= 35:
            check_input("lenet", 10, 1, side)
            assert model(image).shape == (1, 10)
        else:
            with pytest.raises(ConfigError):
                check_input("lenet", 10, 1, side)
            with pytest.raises(RuntimeError):
                model(image)


@pytest.mark.parametrize("name", ["alexnet-d2l", "alexnet-gluon", "alexnet-slides"])
def test_alexnet_range_in_the_docstring_is_the_legal_one(name: str) -> None:
    assert "sides 195 to 226" in (MODELS[name].network.__doc__ or "").lower()
    sides = (1, 194, 195, 226, 227)
    assert [side for side in sides if accepts(MODELS[name], 10, 3, side)] == [195, 226]
