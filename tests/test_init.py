import math

import pytest
import torch
from torch import Tensor, nn

from deepcnn.models import INITIALIZERS, MODELS, build

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


@pytest.mark.parametrize(("name", "magnitude"), [("xavier", 3.0), ("xavier-2.24", 2.24)])
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


@pytest.mark.parametrize("init", [name for name in INITIALIZERS if name != "default"])
@pytest.mark.parametrize("name", ["lenet", "compact"])
def test_every_weight_of_a_network_is_redrawn(name: str, init: str) -> None:
    torch.manual_seed(3)
    before = MODELS[name].build(10, 1, 28)
    torch.manual_seed(3)
    after = build(name, 10, 1, 28, init)
    for (key, old), new in zip(before.named_parameters(), after.parameters(), strict=True):
        if old.dim() > 1:
            assert not torch.equal(old, new), key
        elif "norm" not in key:
            assert not new.any(), key
