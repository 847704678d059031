import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from deepcnn.config import Optim
from deepcnn.optim import l1_norm, lr_factor, make_optimizer, set_lr, tensors, update_average

Array = NDArray[np.float64]
shares = st.floats(0, 1)
warmups = st.floats(0.001, 0.99)


class SgdByHand:
    """SGD with momentum as Sutskever et al. 2013 write it, one parameter, in NumPy."""

    def __init__(self, options: Optim) -> None:
        self.options, self.velocity = options, np.zeros(())

    def step(self, weight: Array, gradient: Array) -> Array:
        gradient = gradient + self.options.weight_decay * weight
        self.velocity = self.options.momentum * self.velocity + gradient
        ahead = gradient + self.options.momentum * self.velocity
        return weight - self.options.lr * (ahead if self.options.nesterov else self.velocity)


class AdamWByHand:
    """AdamW, algorithm 2 of Loshchilov and Hutter 2019, with the usual constants."""

    def __init__(self, options: Optim) -> None:
        self.options, self.updates = options, 0
        self.first, self.second = np.zeros(()), np.zeros(())

    def step(self, weight: Array, gradient: Array) -> Array:
        self.updates += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        first = self.first / (1 - 0.9**self.updates)
        second = self.second / (1 - 0.999**self.updates)
        decayed = weight * (1 - self.options.lr * self.options.weight_decay)
        moved: Array = decayed - self.options.lr * first / (np.sqrt(second) + 1e-8)
        return moved


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 4))
    return model.double()


def is_decayed(name: str) -> bool:
    return name in ("0.weight", "3.weight")  # the convolution's and the linear layer's


@settings(deadline=None, max_examples=40)
@given(
    st.builds(
        Optim,
        name=st.sampled_from(["sgd", "adamw"]),
        lr=st.floats(1e-4, 1),
        momentum=st.floats(0.01, 0.99),
        nesterov=st.booleans(),
        weight_decay=st.floats(0, 0.5),
    ),
    st.integers(0, 2**32 - 1),
)
def test_updates_equal_the_published_formulas(options: Optim, seed: int) -> None:
    assert_updates_agree(options, seed)


def test_updates_without_momentum() -> None:
    assert_updates_agree(Optim(lr=0.01, momentum=0.0), seed=1)


def assert_updates_agree(options: Optim, seed: int) -> None:
    model, rng = network(), np.random.default_rng(seed)
    optimizer = make_optimizer(options, model)
    by_hand: type[SgdByHand | AdamWByHand] = SgdByHand if options.name == "sgd" else AdamWByHand
    expected = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    rules = {
        name: by_hand(options if is_decayed(name) else replace(options, weight_decay=0.0))
        for name in expected
    }
    for _ in range(3):
        for name, parameter in model.named_parameters():
            gradient = rng.normal(size=parameter.shape)
            expected[name] = rules[name].step(expected[name], gradient)
            parameter.grad = torch.from_numpy(gradient)
        optimizer.step()
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(parameter.detach().numpy(), expected[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon"])
def test_frozen_parameters_rest_until_they_train(name: str) -> None:
    model, before = network(), tensors(network())
    optimizer = make_optimizer(Optim(name=name, weight_decay=0.5), model)
    for is_frozen in (True, False):
        model[0].requires_grad_(not is_frozen)
        optimizer.zero_grad(set_to_none=True)
        model.eval()(torch.randn(5, 2, 4, 4).double()).square().mean().backward()
        optimizer.step()
        for key, parameter in model.named_parameters():
            rests = is_frozen and key.startswith("0.")
            assert torch.equal(parameter, before[key]) == rests, key


def test_set_lr_holds_for_every_parameter() -> None:
    model = network()
    before = tensors(model)
    optimizer = make_optimizer(Optim(lr=123.0, momentum=0.0), model)
    set_lr(optimizer, 0.5)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] - 0.5)


@settings(deadline=None)
@given(shares)
def test_a_constant_rate_is_constant(progress: float) -> None:
    assert lr_factor(Optim(), progress) == 1


@settings(deadline=None)
@given(shares, st.just(0.0) | warmups)
def test_the_rate_falls_along_the_curve_of_its_name(part: float, warmup: float) -> None:
    """`part` of what is left after warm-up is done."""
    progress = warmup + part * (1 - warmup)
    triangular = Optim(schedule="triangular", warmup=warmup)
    assert lr_factor(triangular, progress) == pytest.approx(1 - part, abs=1e-9)
    cosine = Optim(schedule="cosine", warmup=warmup)
    assert lr_factor(cosine, progress) == pytest.approx(math.cos(math.pi / 2 * part) ** 2, abs=1e-9)


def test_a_few_points_of_the_curves() -> None:
    cosine = Optim(schedule="cosine")
    triangular = Optim(schedule="triangular", warmup=0.2)
    quarters = (0, 0.25, 0.5, 0.75, 1)
    expected = [1, (1 + 1 / math.sqrt(2)) / 2, 0.5, (1 - 1 / math.sqrt(2)) / 2, 0]
    assert [lr_factor(cosine, p) for p in quarters] == pytest.approx(expected)
    points = (0, 0.1, 0.2, 0.6, 1)
    assert [lr_factor(triangular, p) for p in points] == pytest.approx([0, 0.5, 1, 0.5, 0])


schedules = st.sampled_from(["constant", "step", "cosine", "triangular"])


@settings(deadline=None)
@given(schedules, warmups, shares)
def test_the_rate_rises_in_a_line_to_its_peak(name: str, warmup: float, part: float) -> None:
    options = Optim(schedule=name, warmup=warmup)
    assert lr_factor(options, 0) == 0
    assert lr_factor(options, warmup) == 1
    assert lr_factor(options, part * warmup) == pytest.approx(part)


@settings(deadline=None)
@given(st.sampled_from(["cosine", "triangular"]), st.just(0.0) | warmups, shares, shares)
def test_the_rate_never_jumps(name: str, warmup: float, one: float, other: float) -> None:
    options = Optim(schedule=name, warmup=warmup)
    steepest = max(1 / warmup if warmup else 0, math.pi / 2 / (1 - warmup))
    rise = lr_factor(options, one) - lr_factor(options, other)
    assert abs(rise) <= steepest * abs(one - other) + 1e-9
    assert 0 <= lr_factor(options, one) <= 1
    assert lr_factor(options, 1) == 0


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 0.99), max_size=4), shares)
def test_milestones_divide_the_rate_by_ten(milestones: list[float], progress: float) -> None:
    options = Optim(schedule="step", milestones=tuple(milestones))
    passed = len([milestone for milestone in milestones if milestone <= progress])
    assert lr_factor(options, progress) == pytest.approx(1 / 10**passed)


def test_milestones_of_a_known_run() -> None:
    options = Optim(schedule="step", milestones=(0.5, 0.75), warmup=0.1)
    points = (0.05, 0.1, 0.49, 0.5, 0.74, 0.75, 1)
    expected = [0.5, 1, 1, 0.1, 0.1, 0.01, 0.01]
    assert [lr_factor(options, p) for p in points] == pytest.approx(expected)


# Rates by stage


class Stages(nn.Sequential):
    """Three stages: 0 with the norm 1, 2, and 4, the last layer."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(2, 3, 3),
            nn.BatchNorm2d(3),
            nn.Conv2d(3, 3, 2),
            nn.Flatten(),
            nn.Linear(27, 4),
        )


PLACES = {"0": 2, "1": 2, "2": 1, "4": 0}  # stages up to the last one


@settings(max_examples=30)
@given(st.sampled_from(["sgd", "adamw", "muon"]), st.floats(0.05, 0.99), st.floats(1e-6, 10))
def test_rates_fall_from_stage_to_stage(name: str, decay: float, lr: float) -> None:
    model = Stages()
    optimizer = make_optimizer(Optim(name=name, weight_decay=0.3), model, decay)
    set_lr(optimizer, lr)
    found = {p: group for group in optimizer.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(found) == 8
    for key, parameter in model.named_parameters():
        expected = lr * decay ** PLACES[key.partition(".")[0]]
        assert found[parameter]["lr"] == pytest.approx(expected, rel=1e-12)
        is_decayed = parameter.ndim == 2 or (parameter.ndim > 2 and name != "muon")
        assert found[parameter]["weight_decay"] == (0.3 if is_decayed else 0)
    assert optimizer.param_groups[-1]["lr"] == lr  # the last layer's


@settings(max_examples=30)
@given(st.sampled_from(["sgd", "adamw"]), st.floats(0.01, 100), st.floats(0.01, 100))
def test_biases_and_the_last_layer_have_rates_of_their_own(
    name: str, of_biases: float, of_head: float
) -> None:
    model = Stages()
    options = Optim(name=name, bias_factor=of_biases, head_factor=of_head)
    optimizer = make_optimizer(options, model, 0.5)
    set_lr(optimizer, 3.0)
    rates = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for key, parameter in model.named_parameters():
        stage = key.partition(".")[0]
        factor = of_biases if parameter.ndim == 1 else of_head if stage == "4" else 1
        assert rates[parameter] == pytest.approx(3 * factor * 0.5 ** PLACES[stage], rel=1e-12)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_updates_are_as_long_as_the_rates_say(name: str) -> None:
    options = Optim(name=name, momentum=0.0)
    moved = []
    for decay in (1.0, 0.5):
        torch.manual_seed(0)
        model = Stages().double()
        before = tensors(model)
        optimizer = make_optimizer(options, model, decay)
        set_lr(optimizer, 0.01)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        moved.append({key: p.detach() - before[key] for key, p in model.named_parameters()})
    for key, step in moved[0].items():
        torch.testing.assert_close(moved[1][key], step * 0.5 ** PLACES[key.partition(".")[0]])


def plain(options: Optim, model: nn.Module) -> torch.optim.Optimizer:
    """Two groups and one rate."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]
    if options.name == "adamw":
        return torch.optim.AdamW(groups, lr=options.lr, fused=True)
    return torch.optim.SGD(groups, lr=options.lr, momentum=options.momentum, fused=True)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_equal_rates_are_plain_updates_bit_for_bit(name: str) -> None:
    options = Optim(name=name, lr=0.03, weight_decay=0.1)
    results = []
    for make in (plain, make_optimizer):
        torch.manual_seed(0)
        model = Stages()
        optimizer = make(options, model)
        for step in range(1, 6):
            for group in optimizer.param_groups:
                group["lr"] = 0.03 / step
            if make is make_optimizer:
                set_lr(optimizer, 0.03 / step)
            optimizer.zero_grad()
            model(torch.randn(6, 2, 6, 6)).square().mean().backward()
            optimizer.step()
        results.append(tensors(model))
    assert len(optimizer.param_groups) == 2
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])


def test_l1_norm_sums_weights_without_norms_and_biases() -> None:
    model = network()
    weights = {name: p for name, p in model.named_parameters() if is_decayed(name)}
    expected = sum(np.abs(p.detach().numpy()).sum() for p in weights.values())
    norm = l1_norm(model)
    assert norm.item() == pytest.approx(expected)

    norm.backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        assert (gradient is not None) == is_decayed(name)
        assert gradient is None or torch.equal(gradient, parameter.detach().sign())


def test_copies_do_not_follow_the_model() -> None:
    model = network()
    copies = tensors(model)
    assert set(copies) == {
        "0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias",
        "1.running_mean", "1.running_var", "1.num_batches_tracked",
    }  # fmt: skip
    before = {name: copy.clone() for name, copy in copies.items()}
    for tensor in model.state_dict().values():
        tensor.add_(1)
    assert all(torch.equal(copies[name], before[name]) for name in before)


@pytest.mark.parametrize("decay", [0.05, 0.5, 0.999])
def test_averaged_weights_equal_numpy_buffers_included(decay: float) -> None:
    model, rng = network(), np.random.default_rng(0)
    average = tensors(model)
    expected: dict[str, Any] = {name: tensor.numpy().copy() for name, tensor in average.items()}
    for step in range(12):
        for name, tensor in model.state_dict().items():
            value = rng.normal(size=tensor.shape) if tensor.is_floating_point() else step + 1
            tensor.copy_(torch.as_tensor(value))
            kept = min(decay, (1 + step) / (10 + step))
            mixed = kept * expected[name] + (1 - kept) * value
            expected[name] = mixed if tensor.is_floating_point() else value
        update_average(average, model, decay, step)
    for name, tensor in average.items():
        np.testing.assert_allclose(tensor.numpy(), expected[name], rtol=1e-12, atol=1e-12)
