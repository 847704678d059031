import math

import pytest
import torch
from torch import Tensor, nn

from deepcnn.errors import ConfigError
from deepcnn.models import INITIALIZERS, MODELS, build, initialize
from deepcnn.models.init import unit_variance

# fan_in and fan_out counted by hand: the convolution's are 16 * 3 * 3 and 32 * 3 * 3.
CONV_FANS = (144, 288)
LINEAR_FANS = (512, 256)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 32, 3)
        self.norm = nn.BatchNorm2d(32)
        self.linear = nn.Linear(512, 256)


def initialized(name: str) -> Small:
    torch.manual_seed(0)
    model = Small()
    INITIALIZERS[name](model)
    return model.requires_grad_(False)


def bias_of(layer: nn.Conv2d | nn.Linear) -> Tensor:
    assert layer.bias is not None
    return layer.bias


def assert_uniform(weight: Tensor, bound: float) -> None:
    """4,608 numbers or more: their extremes and variance are those of U(-bound, bound)."""
    assert float(weight.abs().max()) <= bound * (1 + 1e-6)
    assert float(weight.abs().max()) >= 0.99 * bound
    assert float(weight.mean()) == pytest.approx(0, abs=0.05 * bound)
    assert float(weight.var()) == pytest.approx(bound**2 / 3, rel=0.05)


@pytest.mark.parametrize(
    ("name", "magnitude"), [("xavier", 3.0), ("xavier-2.24", 2.24), ("glorot", 3.0)]
)
def test_xavier_bound_is_the_published_formula(name: str, magnitude: float) -> None:
    model = initialized(name)
    for layer, (fan_in, fan_out) in ((model.conv, CONV_FANS), (model.linear, LINEAR_FANS)):
        assert_uniform(layer.weight, math.sqrt(magnitude / ((fan_in + fan_out) / 2)))
        assert not bias_of(layer).any()


def test_xavier_is_torch_xavier_uniform_bit_for_bit() -> None:
    torch.manual_seed(1)
    model = Small()
    generator_state = torch.get_rng_state()
    INITIALIZERS["xavier"](model)

    torch.set_rng_state(generator_state)
    for layer in (model.conv, model.linear):
        assert torch.equal(layer.weight, nn.init.xavier_uniform_(torch.empty(layer.weight.shape)))


def test_he_is_normal_with_variance_two_over_fan_in() -> None:
    model = initialized("he")
    for layer, (fan_in, _) in ((model.conv, CONV_FANS), (model.linear, LINEAR_FANS)):
        deviation = math.sqrt(2 / fan_in)
        assert float(layer.weight.mean()) == pytest.approx(0, abs=0.05 * deviation)
        assert float(layer.weight.var()) == pytest.approx(deviation**2, rel=0.06)
        # A normal variable is further than two deviations from its mean 4.55 % of the time.
        beyond = float((layer.weight.abs() > 2 * deviation).float().mean())
        assert beyond == pytest.approx(0.0455, abs=0.01)
        assert not bias_of(layer).any()


def test_he_keeps_the_scale_through_many_relu_layers() -> None:
    torch.manual_seed(2)
    x = torch.randn(256, 128)
    layers = [nn.Linear(128, 128) for _ in range(20)]
    INITIALIZERS["he"](nn.ModuleList(layers))
    with torch.no_grad():
        for layer in layers:
            x = layer(torch.relu(x))
    assert 0.3 < float(x.std()) < 3


def test_default_changes_nothing_and_is_bounded_by_fan_in() -> None:
    model = initialized("default")
    torch.manual_seed(0)
    for kept, fresh in zip(model.parameters(), Small().parameters(), strict=True):
        assert torch.equal(kept, fresh)
    for layer, (fan_in, _) in ((model.conv, CONV_FANS), (model.linear, LINEAR_FANS)):
        assert_uniform(layer.weight, 1 / math.sqrt(fan_in))
        assert 0 < float(bias_of(layer).abs().max()) <= 1 / math.sqrt(fan_in)


@pytest.mark.parametrize("name", INITIALIZERS)
def test_normalisation_keeps_one_and_zero(name: str) -> None:
    norm = initialized(name).norm
    assert torch.equal(norm.weight, torch.ones(32))
    assert torch.equal(norm.bias, torch.zeros(32))


def test_glorot_normal_has_variance_two_over_the_sum_of_fans() -> None:
    model = initialized("glorot-normal")
    for layer, (fan_in, fan_out) in ((model.conv, CONV_FANS), (model.linear, LINEAR_FANS)):
        assert float(layer.weight.var()) == pytest.approx(2 / (fan_in + fan_out), rel=0.06)
        assert not bias_of(layer).any()


def test_orthogonal_rows_are_orthonormal() -> None:
    model = initialized("orthogonal")
    for weight in (model.conv.weight.flatten(1), model.linear.weight):
        torch.testing.assert_close(weight @ weight.T, torch.eye(len(weight)), atol=1e-5, rtol=0)


def test_alexnet_biases_are_one_where_the_paper_says() -> None:
    torch.manual_seed(0)
    model = MODELS["alexnet-d2l"].build(10, 1, 224).requires_grad_(False)
    INITIALIZERS["alexnet"](model)
    for name, layer in model.named_children():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bias = 1.0 if name in {"conv2", "conv4", "conv5", "dense6", "dense7"} else 0.0
            assert torch.equal(bias_of(layer), torch.full_like(bias_of(layer), bias)), name
            assert float(layer.weight.std()) == pytest.approx(0.01, rel=0.05), name


def deep(norm: bool) -> nn.Sequential:
    stages: list[nn.Module] = []
    for number in range(19):
        stages += [nn.Conv2d(8 if number else 1, 8, 3, padding=1)]
        stages += [nn.BatchNorm2d(8)] if norm else []
        stages += [nn.Dropout(0.5), nn.ReLU()]
    return nn.Sequential(*stages, nn.Flatten(), nn.Linear(8 * 36, 10))


@pytest.mark.parametrize("norm", [False, True])
def test_unit_variance_holds_for_every_layer_on_the_same_images(norm: bool) -> None:
    torch.manual_seed(4)
    model, images = deep(norm), 50 * torch.rand(16, 1, 6, 6)
    statistics = {key: value.clone() for key, value in model.named_buffers()}
    unit_variance(model, images)
    assert model.training
    for key, value in model.named_buffers():
        assert torch.equal(value, statistics[key]), key
    for module in model:
        if isinstance(module, nn.Dropout):
            module.eval()
    x = images
    with torch.no_grad():
        for layer in model:
            x = layer(x)
            if isinstance(layer, nn.Conv2d | nn.Linear):
                assert float(x.var()) == pytest.approx(1, abs=1e-3)
                assert not bias_of(layer).any()


def test_unit_variance_leaves_a_layer_that_nothing_reaches() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
    unit_variance(model, torch.zeros(4, 1, 5, 5))
    assert model[0].weight.isfinite().all()


def test_unknown_initialiser_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean unit-variance"):
        initialize(nn.Linear(1, 1), "unitvariance", lambda: torch.zeros(1))


@pytest.mark.parametrize("init", [name for name in INITIALIZERS if name != "default"])
@pytest.mark.parametrize("name", ["lenet", "compact"])
def test_every_weight_of_a_network_is_redrawn(name: str, init: str) -> None:
    torch.manual_seed(3)
    before = MODELS[name].build(10, 1, 28)
    torch.manual_seed(3)
    after = build(name, 10, 1, 28)
    initialize(after, init, lambda: torch.rand(4, 1, 32, 32))
    for (key, old), new in zip(before.named_parameters(), after.parameters(), strict=True):
        if old.dim() > 1:
            assert not torch.equal(old, new), key
        elif "norm" not in key:
            assert not new.any(), key
