import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepcnn.checkpoint import pack
from deepcnn.data import catalog
from deepcnn.errors import ConfigError
from deepcnn.models import accepts, num_parameters
from deepcnn.models.card import Landmark
from deepcnn.models.cards.lenet import LENET5, LENET_RELU_DROPOUT, LENET_SIGMOID
from deepcnn.models.cards.lenet import MLP as MLP_CARD
from deepcnn.models.lenet import (
    RBF,
    RUBBISH,
    TABLE_I,
    LeNet5,
    LeNetReLUDropout,
    LeNetSigmoid,
    SparseConv2d,
    Subsampling,
    codes,
    squash,
)
from deepcnn.models.mlp import MLP
from reference import Array, average_pool2d, conv2d, linear, rbf, subsample2d

ROOT = Path(__file__).parents[1]
LANDMARKS = {
    "lenet5": Landmark(LeNet5, LENET5),
    "lenet-sigmoid": Landmark(LeNetSigmoid, LENET_SIGMOID, takes_side=True),
    "lenet-relu-dropout": Landmark(LeNetReLUDropout, LENET_RELU_DROPOUT, takes_side=True),
    "mlp": Landmark(MLP, MLP_CARD, takes_side=True),
}

# Table I as it is printed: a row for each map of S2, a column for each map of C3.
PRINTED = """
X...XXX..XXXX.XX
XX...XXX..XXXX.X
XXX...XXX..X.XXX
.XXX..XXXX..X.XX
..XXX..XXXX.XX.X
...XXX..XXXX.XXX
"""

SEVEN = """
#######
#######
.....##
....##.
....##.
...##..
...##..
..##...
..##...
.##....
.##....
.##....
"""


def native(name: str) -> nn.Module:
    card = LANDMARKS[name].card
    return LANDMARKS[name].build(card.classes, *card.input)


def numbers(layer: nn.Module) -> tuple[Array, Array]:
    weight, bias = (p.detach().double().numpy() for p in layer.parameters())
    return weight, bias


def double(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def close(actual: Tensor, expected: Array) -> None:
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=1e-11, atol=1e-11)


def reached(layer: nn.Module, *shape: int) -> Tensor:
    """Which outputs change with each of the inputs C H W, one at a time: inputs x outputs."""
    num_inputs = int(np.prod(shape))
    with torch.no_grad():
        alone = layer(torch.eye(num_inputs).reshape(-1, *shape))
        return (alone != layer(torch.zeros(1, *shape))).flatten(1)


def test_c3_is_connected_as_table_i_says() -> None:
    torch.manual_seed(0)
    changes = reached(LeNet5().c3, 6, 14, 14).reshape(6, 14 * 14, 16, 100)
    connected = changes.any(dim=1).any(dim=2)  # maps of S2 x maps of C3
    rows = ["".join("X" if cell else "." for cell in row) for row in connected.tolist()]
    assert rows == PRINTED.split()
    assert connected.sum(dim=0).tolist() == [3] * 6 + [4] * 9 + [6]
    assert connected.sum(dim=1).tolist() == [10] * 6
    assert connected.sum() == len(LeNet5().c3.kernels)


def test_table_i_has_the_order_the_paper_describes() -> None:
    """Six contiguous threes, six contiguous fours, three fours that are not contiguous, all."""

    def is_contiguous(maps: str) -> bool:
        gaps = [(int(right) - int(left)) % 6 for left, right in pairwise(maps + maps[0])]
        return sorted(gaps)[:-1] == [1] * (len(maps) - 1)

    columns = ["".join(sorted(column)) for column in TABLE_I.split()]
    assert len(set(columns)) == 16
    assert [(len(c), is_contiguous(c)) for c in columns] == (
        [(3, True)] * 6 + [(4, True)] * 6 + [(4, False)] * 3 + [(6, True)]
    )


def dense_weight(layer: SparseConv2d) -> Array:
    weight = np.zeros((16, 6, 5, 5))
    for row, column, kernel in zip(layer.rows, layer.columns, layer.kernels, strict=True):
        weight[int(row), int(column)] += kernel.detach().double().numpy()
    return weight


@pytest.mark.parametrize("side", [5, 8])
def test_sparse_convolution_equals_numpy(side: int) -> None:
    layer = LeNet5().c3.double()
    images = double(2, 6, side, side)
    expected = conv2d(images.numpy(), dense_weight(layer), layer.bias.detach().numpy())
    close(layer(images), expected)


@pytest.mark.parametrize("side", [2, 5, 8])
def test_subsampling_equals_numpy(side: int) -> None:
    layer = Subsampling(3).double()
    images = double(2, 3, side, side)
    close(layer(images), subsample2d(images.numpy(), *numbers(layer)))


def test_distances_equal_numpy_and_vanish_at_the_prototypes() -> None:
    prototypes = codes(10)
    layer, answers = RBF(prototypes).double(), double(4, 84)
    close(layer(answers), rbf(answers.numpy(), np.array(prototypes, dtype=np.float64)))
    own = layer(torch.tensor(prototypes, dtype=torch.float64))
    assert torch.equal(own == 0, torch.eye(10, dtype=torch.bool))


def test_gradients_of_the_layers_of_lenet5() -> None:
    torch.manual_seed(1)
    for layer, shape in (
        (Subsampling(2), (2, 2, 4, 4)),
        (SparseConv2d(["01", "2", "012"]), (1, 3, 6, 6)),
        (RBF(codes(10)), (2, 84)),
    ):
        names = [name for name, _ in layer.double().named_parameters()]

        def function(
            x: Tensor, *values: Tensor, layer: nn.Module = layer, names: list[str] = names
        ) -> Tensor:
            arguments = dict(zip(names, values, strict=True))
            output: Tensor = torch.func.functional_call(layer, arguments, (x,))
            return output

        tensors = [double(*shape), *(p.detach() for p in layer.parameters())]
        assert torch.autograd.gradcheck(function, [t.requires_grad_() for t in tensors])


def test_squash_has_the_properties_of_appendix_a() -> None:
    x = torch.linspace(-50, 50, 100_001, dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(squash(x).sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), x)
    x = x.detach()
    assert float(squash(torch.tensor(1.0))) == pytest.approx(1.0, abs=1e-4)
    assert float(squash(torch.tensor(-1.0))) == pytest.approx(-1.0, abs=1e-4)
    assert squash(x)[[0, -1]].tolist() == pytest.approx([-1.7159, 1.7159], abs=1e-4)
    assert abs(float(x[bend.abs().argmax()])) == pytest.approx(1.0, abs=0.02)


def test_prototypes_are_drawings_of_the_digits() -> None:
    prototypes = torch.tensor(codes(10))
    assert prototypes.shape == (10, 84)
    assert prototypes.abs().eq(1).all()
    pictures = prototypes.reshape(10, 12, 7)
    rows = ["".join("#" if pixel > 0 else "." for pixel in row) for row in pictures[7].tolist()]
    assert rows == SEVEN.split()
    for digit in (0, 8):
        assert torch.equal(pictures[digit], pictures[digit].flip(1))
    assert torch.equal(pictures[0], pictures[0].flip(0))
    assert least_distance(prototypes) == 17


def least_distance(prototypes: Tensor) -> int:
    products = prototypes.float() @ prototypes.float().T
    products.fill_diagonal_(-84)
    return int(84 - products.max()) // 2


@pytest.mark.parametrize(
    ("num_classes", "least"), [(2, 42), (11, 42), (84, 42), (85, 32), (1000, 32), (3487, 32)]
)
def test_codes_of_other_numbers_of_classes_are_far_apart(num_classes: int, least: int) -> None:
    state = torch.get_rng_state()
    prototypes = torch.tensor(codes(num_classes))
    assert prototypes.shape == (num_classes, 84)
    assert prototypes.abs().eq(1).all()
    assert least_distance(prototypes) >= least
    assert codes(num_classes) == codes(3487)[:num_classes]
    assert torch.equal(torch.get_rng_state(), state)


def test_there_are_not_codes_without_end() -> None:
    with pytest.raises(ConfigError, match=re.escape("at most, not 3,488")):
        LeNet5(num_classes=3488)


def lenet5_in_numpy(model: LeNet5, images: Array) -> Array:
    """The distances, from the description of the paper."""

    def f(a: Array) -> Array:
        return 1.7159 * np.tanh(2 / 3 * a)

    x = f(conv2d(images, *numbers(model.c1)))
    x = f(subsample2d(x, *numbers(model.s2)))
    x = f(conv2d(x, dense_weight(model.c3), model.c3.bias.detach().double().numpy()))
    x = f(subsample2d(x, *numbers(model.s4)))
    x = f(conv2d(x, *numbers(model.c5)))
    x = f(linear(x.reshape(len(x), 120), *numbers(model.f6)))
    return rbf(x, model.output.prototypes.double().numpy())


# Where j is as large as the first distances are, all terms of the loss weigh.
@pytest.mark.parametrize("j", [RUBBISH, 84.0])
@pytest.mark.parametrize(("side", "num_classes", "channels"), [(32, 10, 1), (35, 7, 2)])
def test_lenet5_and_its_loss_equal_numpy(
    side: int, num_classes: int, channels: int, j: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepcnn.models.lenet.RUBBISH", j)
    torch.manual_seed(2)
    model = LeNet5(num_classes, channels).double()
    with torch.no_grad():  # larger than at first, so that no layer is nearly linear
        for parameter in model.parameters():
            parameter.mul_(4)
    images, labels = double(2, channels, side, side), torch.tensor([3, 1])
    distances = lenet5_in_numpy(model, images.numpy())
    assert distances.std() > 3

    close(model.eval()(images), -distances)
    logits = model.train()(images)
    close(logits[:, :-1], -distances)
    assert logits[:, -1].tolist() == [-j] * 2

    right = distances[np.arange(2), labels.numpy()]
    penalty = np.log(np.exp(-j) + np.exp(-distances).sum(axis=1))
    loss = F.cross_entropy(logits, labels).item()
    assert loss == pytest.approx((right + penalty).mean(), rel=1e-12)


def test_the_rubbish_class_counts_in_the_loss() -> None:
    """A perfect answer costs log(1 + exp(-j)), as everything else is too far away to matter."""
    model = LeNet5()
    assert RUBBISH > 0
    perfect = -model.output(torch.tensor(codes(10), dtype=torch.float32))
    logits = F.pad(perfect, (0, 1), value=-RUBBISH)
    expected = np.log1p(np.exp(-RUBBISH))
    assert F.cross_entropy(logits, torch.arange(10)).item() == pytest.approx(expected)


# Layer, its input, parameters and connections: section II-B.
COUNTS = [
    ("c1", (1, 32, 32), 156, 122_304),
    ("s2", (6, 28, 28), 12, 5_880),
    ("c3", (6, 14, 14), 1_516, 151_600),
    ("s4", (16, 10, 10), 32, 2_000),
    ("c5", (16, 5, 5), 48_120, 48_120),
    ("f6", (120,), 10_164, 10_164),
    ("output", (84,), 0, 840),
]


def test_parameters_and_connections_of_lenet5() -> None:
    torch.manual_seed(3)
    model = LeNet5()
    for name, shape, parameters, connections in COUNTS:
        layer = model.get_submodule(name)
        assert num_parameters(layer) == parameters, name
        changes = reached(layer, *shape)
        num_biases = changes.shape[1] if parameters else 0  # a connection to each unit
        assert int(changes.sum()) + num_biases == connections, name
    assert num_parameters(model) == sum(row[2] for row in COUNTS) == 60_000
    assert sum(row[3] for row in COUNTS) == 340_908
    assert [name for name, _ in model.named_children()] == [row[0] for row in COUNTS]
    for text in (LeNet5.__doc__ or "", LENET5.reported[2]):
        assert "60,000" in text
        assert "340,908" in text


def test_first_weights_are_within_the_bounds_of_appendix_a() -> None:
    torch.manual_seed(4)
    model, many = LeNet5(in_channels=2), Subsampling(1000)
    groups = [(4, [many.coefficient]), (4, [many.bias])]
    for layer, fan_in in ((model.c1, 2 * 25), (model.c5, 16 * 25), (model.f6, 120)):
        groups.append((fan_in, list(layer.parameters())))
    for number in (3, 4, 6):  # maps of S2 that a map of C3 sees: the fan-in of its units
        maps = [k for k in range(16) if int((model.c3.rows == k).sum()) == number]
        seen = torch.isin(model.c3.rows, torch.tensor(maps))
        groups.append((25 * number, [model.c3.kernels[seen], model.c3.bias[maps]]))
    for fan_in, parameters in groups:
        drawn = torch.cat([p.detach().flatten() for p in parameters]) * fan_in / 2.4
        spread = 4 / len(drawn) ** 0.5  # far beyond chance
        assert 1 - spread < drawn.abs().max() <= 1
        assert abs(float(drawn.mean())) < spread
        assert float(drawn.var()) == pytest.approx(1 / 3, abs=spread)


def literal_d2l(pad: int, pool: type[nn.Module], features: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=pad),
        nn.Sigmoid(),
        pool(2, stride=2),
        nn.Conv2d(6, 16, 5),
        nn.Sigmoid(),
        pool(2, stride=2),
        nn.Flatten(),
        nn.Linear(features, 120),
        nn.Sigmoid(),
        nn.Linear(120, 84),
        nn.Sigmoid(),
        nn.Linear(84, 10),
    )


def literal_relu_dropout() -> nn.Sequential:
    layers = [
        nn.ReLU() if isinstance(layer, nn.Sigmoid) else layer
        for layer in literal_d2l(2, nn.AvgPool2d, 400)
    ]
    return nn.Sequential(*layers[:9], nn.Dropout(0.5), *layers[9:11], nn.Dropout(0.5), layers[11])


@pytest.mark.parametrize(
    ("name", "literal"),
    [
        ("lenet-sigmoid", lambda: literal_d2l(2, nn.AvgPool2d, 400)),
        ("lenet-relu-dropout", literal_relu_dropout),
        ("mlp", lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(784, 30), nn.Sigmoid(), nn.Linear(30, 10))),
    ],
)  # fmt: skip
def test_networks_equal_the_published_layer_lists(
    name: str, literal: Callable[[], nn.Sequential]
) -> None:
    """Training mode: with one seed the dropout masks agree as well."""
    torch.manual_seed(5)
    ours, theirs = native(name).double(), literal().double()
    with torch.no_grad():
        for source, target in zip(ours.parameters(), theirs.parameters(), strict=True):
            target.copy_(source)
    images, labels = double(3, 1, 28, 28), torch.tensor([3, 7, 0])
    logits = []
    for model in (ours, theirs):
        torch.manual_seed(6)
        logits.append(model(images))
        F.cross_entropy(logits[-1], labels).backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(*logits, rtol=1e-12, atol=1e-12)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert mine.grad is not None
        assert mine.grad.any()
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("side", [28, 31])
def test_lenet_sigmoid_equals_numpy(side: int) -> None:
    torch.manual_seed(7)
    model, images = LeNetSigmoid(side=side).double(), double(2, 1, side, side)

    def f(a: Array) -> Array:
        return 1 / (1 + np.exp(-a))

    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)))
    x = average_pool2d(f(conv2d(padded, *numbers(model.conv1))), 2)
    x = average_pool2d(f(conv2d(x, *numbers(model.conv2))), 2)
    x = f(linear(x.reshape(2, -1), *numbers(model.dense3)))
    x = f(linear(x, *numbers(model.dense4)))
    close(model(images), linear(x, *numbers(model.dense5)))


def test_lenet_sigmoid_shapes_are_the_printed_ones() -> None:
    seen = {}
    with torch.device("meta"):
        model = native("lenet-sigmoid")
        for name, layer in model.named_children():
            layer.register_forward_hook(
                lambda _m, _i, out, name=name: seen.update({name: tuple(out.shape)})
            )
        model(torch.empty(1, 1, 28, 28))
    assert seen == {
        "conv1": (1, 6, 28, 28),
        "pool1": (1, 6, 14, 14),
        "conv2": (1, 16, 10, 10),
        "pool2": (1, 16, 5, 5),
        "dense3": (1, 120),
        "dense4": (1, 84),
        "dense5": (1, 10),
    }


def test_parameters_of_the_other_networks() -> None:
    with torch.device("meta"):
        models = {name: native(name) for name in LANDMARKS}
        before = literal_d2l(0, nn.MaxPool2d, 256)
    layers = [156, 2_416, 48_120, 10_164, 850]
    for name in ("lenet-sigmoid", "lenet-relu-dropout"):
        counts = [num_parameters(layer) for layer in models[name].children()]
        assert [count for count in counts if count] == layers
        assert "61,706 parameters" in (LANDMARKS[name].network.__doc__ or "")
    assert sum(layers) == 61_706
    assert any(f"{num_parameters(before):,}" in line for line in LENET_SIGMOID.differences)
    assert [num_parameters(layer) for layer in models["mlp"].children()] == [23_550, 310]
    assert "23,860 parameters" in (MLP.__doc__ or "")


def test_the_arithmetic_of_shared_weights_on_the_card() -> None:
    with torch.device("meta"):
        convolution, hidden = nn.Conv2d(1, 20, kernel_size=5), MLP().hidden
    assert f"= {num_parameters(hidden):,} parameters" in MLP_CARD.reported[0]
    assert f"= {num_parameters(convolution)} of" in MLP_CARD.reported[0]


@pytest.mark.parametrize("name", ["lenet-sigmoid", "lenet-relu-dropout"])
def test_first_weights_are_xavier(name: str) -> None:
    """Uniform within sqrt(6 / (fan_in + fan_out)), biases 0."""
    torch.manual_seed(8)
    for layer in native(name).children():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            assert not layer.bias.any()
            kernel = layer.weight[0, 0].numel()
            fans = kernel * sum(layer.weight.shape[:2])
            share = layer.weight.detach() / (6 / fans) ** 0.5
            assert 0.95 < float(share.abs().max()) <= 1
            assert float(share.var()) == pytest.approx(1 / 3, abs=0.08)


@pytest.mark.parametrize(
    ("name", "smallest", "largest"),
    [("lenet5", 32, 35), ("lenet-sigmoid", 12, 60), ("lenet-relu-dropout", 12, 60), ("mlp", 1, 60)],
)
def test_sides(name: str, smallest: int, largest: int) -> None:
    sides = [side for side in range(1, 61) if accepts(LANDMARKS[name], 10, 3, side)]
    assert sides == list(range(smallest, largest + 1))


@pytest.mark.parametrize("name", LANDMARKS)
def test_classes_channels_and_side_are_the_callers(name: str) -> None:
    side = 33
    with torch.device("meta"):
        model = LANDMARKS[name].build(3, 4, side).eval()
        assert model(torch.empty(2, 4, side, side)).shape == (2, 3)


def batch(name: str) -> tuple[Tensor, Tensor]:
    """The first 50 images of Fashion-MNIST as the network takes them, and their classes."""
    if not (ROOT / "datasets" / "fashion-mnist").is_dir():
        pytest.skip("fashion-mnist is not on this machine")
    data = catalog.load("fashion-mnist", "train", ROOT / "datasets", download=False)
    pixels = torch.from_numpy(data.images[:50]).float() / 255
    pad = (LANDMARKS[name].card.input[1] - 28) // 2
    images = (F.pad(pixels, [pad] * 4) - 0.286) / 0.353
    return images, torch.from_numpy(data.labels[:50])


@pytest.mark.parametrize("name", LANDMARKS)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    torch.manual_seed(9)
    model = native(name)
    images, labels = batch(name)
    F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.any(), parameter_name


@pytest.mark.parametrize(
    ("name", "lr", "steps"),
    [
        ("lenet5", 0.003, 90),
        ("lenet-sigmoid", 0.01, 180),
        ("lenet-relu-dropout", 0.01, 180),
        ("mlp", 0.01, 80),
    ],
)
def test_fifty_real_images_can_be_learnt_by_heart(name: str, lr: float, steps: int) -> None:
    torch.manual_seed(0)
    model = native(name)
    images, labels = batch(name)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(steps):
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    logits = model.eval()(images)
    assert torch.equal(logits.argmax(dim=1), labels)
    assert F.cross_entropy(logits, labels).item() < 0.1


@pytest.mark.parametrize("name", LANDMARKS)
def test_saved_weights_give_the_same_bits(name: str) -> None:
    torch.manual_seed(10)
    model = native(name).eval()
    other = native(name).eval()
    images, _ = batch(name)
    assert not torch.equal(other(images), model(images))
    other.load_state_dict(safetensors.torch.load(pack(model.state_dict())))
    assert torch.equal(other(images), model(images))
