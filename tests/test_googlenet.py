import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from deepcnn.models import accepts, num_parameters
from deepcnn.models.card import Landmark
from deepcnn.models.cards.googlenet import GOOGLENET, GOOGLENET_BN
from deepcnn.models.googlenet import GoogLeNet, GoogLeNetBN, Head, side_of_4a
from photos import squeezed

NETWORKS = {
    "googlenet": Landmark(GoogLeNet, GOOGLENET, takes_side=True),
    "googlenet-bn": Landmark(GoogLeNetBN, GOOGLENET_BN, takes_side=True),
}
MODULES = ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")

# Table 1 of the paper: parameters in units of 1,024, operations in millions.
TABLE = {
    "conv1": (2.7, 34),
    "conv2": (112, 360),
    "3a": (159, 128),
    "3b": (380, 304),
    "4a": (364, 73),
    "4b": (437, 88),
    "4c": (463, 100),
    "4d": (580, 119),
    "4e": (840, 170),
    "5a": (1072, 54),
    "5b": (1388, 71),
    "linear": (1000, 1),
}


@pytest.fixture(scope="module")
def photos() -> Tensor:  # 4 3 224 224
    return squeezed(4)


def parts(model: GoogLeNet) -> dict[str, list[nn.Module]]:
    rows: dict[str, list[nn.Module]] = {
        "conv1": [model.conv1],
        "conv2": [model.reduce2, model.conv2],
    }
    rows |= {name: [model.get_submodule(f"inception{name}")] for name in MODULES}
    return rows | {"linear": [model.output]}


def count(modules: list[nn.Module]) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def without_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    return model


def assert_relatively_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    scale = float(expected.abs().max())
    assert scale > 0
    assert float((actual - expected).abs().max()) <= tolerance * scale


def cross_entropy(logits: Tensor) -> Tensor:
    return F.cross_entropy(logits, torch.arange(len(logits)) * 3)


def assert_same_gradients(ours: nn.Module, theirs: nn.Module, tolerance: float = 1e-5) -> None:
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert mine.grad is not None
        assert other.grad is not None
        assert_relatively_close(mine.grad, other.grad, tolerance)


# Counts and shapes


def test_parameter_totals() -> None:
    with torch.device("meta"):
        model = GoogLeNet()
        assert num_parameters(model) == 13_378_280
        assert num_parameters(model) - count([model.head4a, model.head4d]) == 6_998_552
        assert num_parameters(GoogLeNetBN()) == 6_624_904
    for total in ("13,378,280", "6,998,552"):
        assert f"{total} parameters" in (GoogLeNet.__doc__ or "")
        assert total in " ".join(GOOGLENET.differences)
    assert "6,624,904 parameters" in (GoogLeNetBN.__doc__ or "")


def test_the_papers_parameters_module_by_module() -> None:
    with torch.device("meta"):
        rows = parts(GoogLeNet())
    ratio = {name: count(rows[name]) / 1024 / TABLE[name][0] for name in TABLE}
    close = {name for name in TABLE if abs(ratio[name] - 1) < 0.01}
    assert close == {"conv2", "3a", "3b", "4a", "4b", "4e", "linear"}
    # The others, in the paper's unit and by the widths of its own table; the card lists them.
    assert {name: round(ratio[name], 2) for name in TABLE if name not in close} == {
        "conv1": 3.43,
        "4c": 1.08,
        "4d": 1.02,
        "5a": 0.95,
        "5b": 1.02,
    }
    assert sum(printed for printed, _ in TABLE.values()) == pytest.approx(6_800, abs=5)
    for name in ("4c", "4d", "5a", "5b"):
        figures = f"{name} ({TABLE[name][0]}, {round(count(rows[name]) / 1024)})"
        assert any(figures in line for line in GOOGLENET.differences)


def test_the_papers_operations_module_by_module() -> None:
    with torch.device("meta"):
        model = GoogLeNet().eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, 224, 224))
    flops = {name: sum(found.values()) for name, found in counter.get_flop_counts().items()}
    macs = {
        "conv1": flops["GoogLeNet.conv1"] / 2,
        "conv2": (flops["GoogLeNet.reduce2"] + flops["GoogLeNet.conv2"]) / 2,
        "linear": flops["GoogLeNet.output"] / 2,
    } | {name: flops[f"GoogLeNet.inception{name}"] / 2 for name in MODULES}
    assert sum(macs.values()) == counter.get_total_flops() / 2
    assert sum(macs.values()) == pytest.approx(1.58e9, abs=5e6)

    far = {name: round(macs[name] / 1e6) for name in TABLE if off(macs[name] / 1e6, TABLE[name][1])}
    assert far == {"conv1": 118, "5a": 51}
    assert sum(printed for _, printed in TABLE.values()) == pytest.approx(1_502, abs=0.5)


def off(actual: float, printed: float) -> bool:
    """More than 1 % away, and not by rounding to whole millions or cutting what follows."""
    return abs(actual - printed) > max(1.0, 0.01 * printed)


SHAPES = {
    "conv1": (64, 112),
    "pool1": (64, 56),
    "norm1": (64, 56),
    "reduce2": (64, 56),
    "conv2": (192, 56),
    "norm2": (192, 56),
    "pool2": (192, 28),
    "inception3a": (256, 28),
    "inception3b": (480, 28),
    "pool3": (480, 14),
    "inception4a": (512, 14),
    "inception4b": (512, 14),
    "inception4c": (512, 14),
    "inception4d": (528, 14),
    "inception4e": (832, 14),
    "pool4": (832, 7),
    "inception5a": (832, 7),
    "inception5b": (1024, 7),
    "average_pool": (1024, 1),
    "head4a.pool": (512, 4),
    "head4a.conv": (128, 4),
    "head4d.pool": (528, 4),
    "head4d.conv": (128, 4),
}
TORCHVISION_NAMES = {
    "conv1": "conv1",
    "pool1": "maxpool1",
    "reduce2": "conv2",
    "conv2": "conv3",
    "pool2": "maxpool2",
    "pool3": "maxpool3",
    "pool4": "maxpool4",
    "average_pool": "avgpool",
}


def shapes_of(model: nn.Module, image: Tensor) -> dict[str, tuple[int, ...]]:
    """Channels and side after every layer, in the order in which they ran."""
    seen: dict[str, tuple[int, ...]] = {}

    def record(name: str, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            seen[name] = (output.shape[1], output.shape[3])

    for name, layer in model.named_modules():
        layer.register_forward_hook(lambda _m, _i, out, name=name: record(name, out))
    model(image)
    return seen


def test_shapes_of_table_1() -> None:
    with torch.device("meta"):
        seen = shapes_of(GoogLeNet(), torch.empty(2, 3, 224, 224))
    assert {name: seen[name] for name in seen if name in SHAPES} == SHAPES
    assert [name for name in seen if name in SHAPES] == list(SHAPES)  # the order too


def test_shapes_of_table_1_with_batch_normalisation() -> None:
    with torch.device("meta"):
        seen = shapes_of(GoogLeNetBN(), torch.empty(2, 3, 224, 224))
    for name, shape in SHAPES.items():
        if not name.startswith(("head", "norm")):
            assert seen[TORCHVISION_NAMES.get(name, name)] == shape


# Against independent implementations


def literal_norm(x: Tensor) -> Tensor:
    """The formula of AlexNet's section 3.3, map by map, with Caffe's constants."""
    maps = x.unbind(1)
    squares = [m * m for m in maps]
    scales = [
        1.0 + (1e-4 / 5) * sum(squares[max(0, i - 2) : i + 3], torch.zeros_like(maps[0]))
        for i in range(len(maps))
    ]
    return torch.stack([m / s**0.75 for m, s in zip(maps, scales, strict=True)], 1)


class Literal(nn.Module):
    """Figure 3 and table 1 of the paper, written out."""

    def __init__(self) -> None:
        super().__init__()
        rows = (
            (192, 64, 96, 128, 16, 32, 32),
            (256, 128, 128, 192, 32, 96, 64),
            (480, 192, 96, 208, 16, 48, 64),
            (512, 160, 112, 224, 24, 64, 64),
            (512, 128, 128, 256, 24, 64, 64),
            (512, 112, 144, 288, 32, 64, 64),
            (528, 256, 160, 320, 32, 128, 128),
            (832, 256, 160, 320, 32, 128, 128),
            (832, 384, 192, 384, 48, 128, 128),
        )
        self.stem1 = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True)
        )
        self.stem2 = nn.Sequential(
            nn.Conv2d(64, 64, 1), nn.ReLU(), nn.Conv2d(64, 192, 3, 1, 1), nn.ReLU()
        )
        self.blocks = nn.ModuleList(self.block(*row) for row in rows)
        self.linear = nn.Linear(1024, 10)
        self.heads = nn.ModuleList(self.head(channels) for channels in (512, 528))

    def block(self, c: int, c1: int, r3: int, c3: int, r5: int, c5: int, p: int) -> nn.ModuleList:
        return nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(c, c1, 1), nn.ReLU()),
                nn.Sequential(
                    nn.Conv2d(c, r3, 1), nn.ReLU(), nn.Conv2d(r3, c3, 3, 1, 1), nn.ReLU()
                ),
                nn.Sequential(
                    nn.Conv2d(c, r5, 1), nn.ReLU(), nn.Conv2d(r5, c5, 5, 1, 2), nn.ReLU()
                ),
                nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(c, p, 1), nn.ReLU()),
            ]
        )

    def head(self, channels: int) -> nn.Sequential:
        return nn.Sequential(
            nn.AvgPool2d(5, 3),
            nn.Conv2d(channels, 128, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2048, 1024),
            nn.ReLU(),
            nn.Linear(1024, 10),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x = self.stem2(literal_norm(self.stem1(images)))
        x = F.max_pool2d(literal_norm(x), 3, 2, ceil_mode=True)
        auxiliary = []
        for number, block in enumerate(self.blocks):
            if number in (2, 7):  # before 4a and 5a
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
            x = torch.cat([branch(x) for branch in block], 1)  # type: ignore[union-attr]
            if number in (2, 5):
                auxiliary.append(self.heads[len(auxiliary)](x))
        return self.linear(F.avg_pool2d(x, 7).flatten(1)), *auxiliary


def test_googlenet_equals_a_literal_transcription(photos: Tensor) -> None:
    torch.manual_seed(0)
    # In float64: rounding decides now and then which of two pixels is the largest in a window.
    ours, theirs = without_dropout(GoogLeNet(10).double()), Literal().double()
    photos = photos.double()
    with torch.no_grad():
        for source, target in zip(ours.parameters(), theirs.parameters(), strict=True):
            source.mul_(1.4)  # else what the images have in common outweighs all else
            target.copy_(source)
    outputs = [model(photos[:2]) for model in (ours, theirs)]
    for mine, other in zip(*outputs, strict=True):
        assert_relatively_close(mine.detach(), other.detach(), 1e-9)
        assert float((mine[0] - mine[1]).detach().abs().max()) > 0.01 * float(mine.detach().std())
    for logits, first, second in outputs:
        (cross_entropy(logits) + 0.3 * (cross_entropy(first) + cross_entropy(second))).backward()  # type: ignore[no-untyped-call]
    assert_same_gradients(ours, theirs, 1e-9)
    with torch.no_grad():
        assert_relatively_close(ours.eval()(photos[2:3]), theirs(photos[2:3])[0], 1e-9)


def test_batch_normalised_googlenet_equals_torchvisions(photos: Tensor) -> None:
    torch.manual_seed(1)
    ours = without_dropout(GoogLeNetBN(10))
    for module in ours.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # running statistics become those of the photos at once
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    photos = photos[:2]
    ours(photos)
    theirs = torchvision.models.googlenet(num_classes=10, aux_logits=False, init_weights=True)
    theirs.load_state_dict(ours.state_dict())
    without_dropout(theirs)

    with torch.no_grad():
        logits = ours.eval()(photos)
        assert_relatively_close(logits, theirs.eval()(photos))
    assert float(logits.std(0).mean()) > 0.01 * float(logits.std())
    for model in (without_dropout(ours.train()), without_dropout(theirs.train())):
        cross_entropy(model(photos)).backward()  # type: ignore[no-untyped-call]
    assert_same_gradients(ours, theirs)


def test_state_dict_is_torchvisions_both_ways() -> None:
    def described(model: nn.Module) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}

    with torch.device("meta"):
        ours = GoogLeNetBN()
        plain = torchvision.models.googlenet(aux_logits=False, init_weights=True)
        headed = torchvision.models.googlenet(init_weights=True)
        assert list(described(ours).items()) == list(described(plain).items())
        plain.load_state_dict(ours.state_dict())
        ours.load_state_dict(plain.state_dict())
        extra = set(described(headed)) - set(described(ours))
        assert {name.partition(".")[0] for name in extra} == {"aux1", "aux2"}
        missing = ours.load_state_dict(headed.state_dict(), strict=False)
        assert set(missing.unexpected_keys) == extra
        assert not missing.missing_keys


def test_same_seed_same_weights_as_torchvision() -> None:
    torch.manual_seed(2)
    ours = GoogLeNetBN(10).state_dict()
    torch.manual_seed(2)
    theirs = torchvision.models.googlenet(num_classes=10, aux_logits=False, init_weights=True)
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(ours[name], tensor), name


# First weights


def test_first_weights_are_caffes() -> None:
    torch.manual_seed(3)
    model = GoogLeNet(100)
    classifiers = {"output", "head4a.output", "head4d.output"}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bound = math.sqrt(3 / math.prod(layer.weight.shape[1:]))
            assert layer.bias is not None
            assert float(layer.weight.detach().abs().max()) <= bound
            variance = float(layer.weight.detach().var()) / (bound**2 / 3)
            assert variance == pytest.approx(1, abs=5 / math.sqrt(layer.weight.numel()))
            assert layer.bias.unique().tolist() == pytest.approx(
                [float(name not in classifiers) / 5]
            )
    assert math.prod(model.output.weight.shape) == 102_400  # the loop saw real layers


def test_first_weights_let_the_images_through(photos: Tensor) -> None:
    def spread(model: nn.Module) -> float:
        with torch.no_grad():
            return float(model.eval()(photos).std(0).mean())

    torch.manual_seed(4)
    model = GoogLeNet(10)
    assert spread(model) > 1e-3
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.reset_parameters()
    assert spread(model) < 1e-5  # what PyTorch draws does not


# Heads


def test_heads_answer_in_training_only() -> None:
    model = GoogLeNet(7, side=32)
    assert model.auxiliary_weight == 0.3
    calls: list[str] = []
    for name in ("head4a", "head4d"):
        head = model.get_submodule(name)
        head.register_forward_hook(lambda _m, _i, _o, name=name: calls.append(name))
    images = torch.zeros(2, 3, 32, 32)
    outputs = model(images)
    assert isinstance(outputs, tuple)
    assert [logits.shape for logits in outputs] == [(2, 7)] * 3
    assert calls == ["head4a", "head4d"]
    logits = model.eval()(images)
    assert isinstance(logits, Tensor)
    assert logits.shape == (2, 7)
    assert calls == ["head4a", "head4d"]


def test_the_heads_pool_is_the_papers_at_14_and_sees_all_of_any_map() -> None:
    published = Head(8, 10, 14).pool
    assert (published.kernel_size, published.stride) == (5, 3)
    for side in range(1, 40):
        pool = Head(1, 10, side).pool
        maps = torch.rand(1, 1, side, side, requires_grad=True)
        pooled = pool(maps)
        assert pooled.shape[2:] == (min(side, 4),) * 2
        pooled.sum().backward()
        assert maps.grad is not None
        assert bool((maps.grad > 0).all())


def test_heads_change_the_gradient_of_what_is_below_them_only() -> None:
    torch.manual_seed(5)
    model = without_dropout(GoogLeNet(5, side=32))
    logits, first, second = model(torch.randn(2, 3, 32, 32))
    cross_entropy(first).backward(retain_graph=True)  # type: ignore[no-untyped-call]
    reached = {name.partition(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert reached == {"conv1", "reduce2", "conv2", "inception3a", "inception3b", "inception4a"} | {
        "head4a"
    }
    cross_entropy(second).backward()  # type: ignore[no-untyped-call]
    reached = {name.partition(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert {"head4d", "inception4d"} <= reached
    assert not {"inception4e", "inception5a", "inception5b", "output"} & reached
    assert logits.requires_grad


@pytest.mark.parametrize(
    ("name", "shares"),
    [
        ("googlenet", {"dropout": 0.4, "head4a.dropout": 0.7, "head4d.dropout": 0.7}),
        ("googlenet-bn", {"dropout": 0.2}),
    ],
)
def test_dropout_before_every_classifier(name: str, shares: dict[str, float]) -> None:
    torch.manual_seed(9)
    model = NETWORKS[name].build(10, 3, 32)
    kept: dict[str, float] = {}

    def record(layer: str, given: Tensor, left: Tensor) -> None:
        assert given.shape == (8, 1024)
        kept[layer] = float((left != 0).sum() / (given != 0).sum())

    for layer in shares:
        model.get_submodule(layer).register_forward_hook(
            lambda _m, given, left, layer=layer: record(layer, given[0], left)
        )
    model(torch.randn(8, 3, 32, 32))
    assert kept == pytest.approx({layer: 1 - share for layer, share in shares.items()}, abs=0.04)


# Other images


@pytest.mark.parametrize("side", [28, 32, 64, 96, 224])
@pytest.mark.parametrize("name", NETWORKS)
def test_sides_and_gradients(name: str, side: int) -> None:
    torch.manual_seed(6)
    model = NETWORKS[name].build(10, 1, side)
    outputs = model(torch.randn(2, 1, side, side))
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    assert [logits.shape for logits in outputs] == [(2, 10)] * len(outputs)
    sum(map(cross_entropy, outputs), torch.zeros(())).backward()  # type: ignore[no-untyped-call]
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.any(), parameter_name


# The sides of the maps of modules 3a, 4a and 5a.
@pytest.mark.parametrize(
    ("side", "maps"),
    [
        (28, (14, 7, 3)),
        (32, (16, 8, 4)),
        (64, (16, 8, 4)),
        (96, (12, 6, 3)),
        (224, (28, 14, 7)),
    ],
)
def test_the_stem_adapts_to_small_images(side: int, maps: tuple[int, ...]) -> None:
    for landmark in NETWORKS.values():
        with torch.device("meta"):
            seen = shapes_of(landmark.build(10, 3, side), torch.empty(2, 3, side, side))
        sides = [seen[f"inception{name}"][1] for name in ("3a", "4a", "5a")]
        # torchvision's pool4 is 2x2 and rounds up: 7 becomes 4.
        rounded_up = [-(-maps[1] // 2)] if landmark is NETWORKS["googlenet-bn"] else [maps[2]]
        assert sides == [*maps[:2], *rounded_up]


@pytest.mark.parametrize(("name", "smallest"), [("googlenet", 8), ("googlenet-bn", 4)])
def test_smallest_side_in_the_docstring_is_the_legal_one(name: str, smallest: int) -> None:
    landmark = NETWORKS[name]
    text = " ".join((landmark.network.__doc__ or "").split())
    assert f"side of {smallest} or more" in text
    legal = [side for side in range(1, 12) if accepts(landmark, 10, 3, side)]
    assert legal == list(range(smallest, 12))


def test_side_of_4a_is_what_runs_there() -> None:
    for side in (8, 15, 16, 40, 41, 47, 80, 81, 95, 223, 224, 225, 299):
        with torch.device("meta"):
            seen = shapes_of(GoogLeNet(10, 3, side).eval(), torch.empty(1, 3, side, side))
        assert seen["inception4a"][1] == side_of_4a(side)


@pytest.mark.soak
@pytest.mark.parametrize("name", NETWORKS)
def test_one_batch_can_be_memorised(name: str, photos: Tensor) -> None:
    torch.manual_seed(7)
    images = F.interpolate(photos, (32, 32), mode="bilinear", antialias=True)
    labels = torch.arange(len(images))
    model = without_dropout(NETWORKS[name].build(4, 3, 32))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4)
    for _ in range(50):
        outputs = model(images)
        logits, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
        losses = [F.cross_entropy(other, labels) for other in (logits, *auxiliary)]
        optimizer.zero_grad()
        (losses[0] + 0.3 * sum(losses[1:])).backward()
        optimizer.step()
    assert max(float(loss.detach()) for loss in losses) < 0.05


def test_images_do_not_mix_in_evaluation() -> None:
    torch.manual_seed(8)
    for landmark in NETWORKS.values():
        model = landmark.build(10, 3, 32).eval()
        images = torch.randn(3, 3, 32, 32)
        alone = torch.cat([model(image[None]) for image in images])
        torch.testing.assert_close(model(images), alone)
