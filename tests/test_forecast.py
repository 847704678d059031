"""What a step keeps in memory, against bytes counted by hand and against torch's own tensors."""

from itertools import accumulate

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from deepcnn import models
from deepcnn.config import Optim
from deepcnn.device import Policy
from deepcnn.forecast.memory import (
    evaluation_timeline,
    state_bytes,
    training_timeline,
)
from deepcnn.optim import make_optimizer

FP32 = Policy("cpu", "fp32", "contiguous", 1)


class TwoLayers(nn.Module):
    """Small enough to be counted by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 5)
        self.second = nn.Linear(5, 3)

    def forward(self, images: Tensor) -> Tensor:  # N 1 2 3
        logits: Tensor = self.second(torch.relu(self.first(images.flatten(1))))
        return logits  # N 3


def noise(channels: int, height: int, width: int):  # type: ignore[no-untyped-def]
    def images(number: int) -> tuple[Tensor, Tensor]:
        labels = torch.zeros(number, dtype=torch.int64)
        return torch.ones(number, channels, height, width), labels

    return images


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return make_optimizer(Optim(name="sgd", lr=0.1), model)


def test_bytes_of_a_small_step_are_those_counted_by_hand() -> None:
    model = TwoLayers()
    timeline = training_timeline(model, noise(1, 2, 3), FP32, sgd(model))
    number = 7
    live = timeline.live(number)
    weights = 4 * (6 * 5 + 5 + 5 * 3 + 3)
    assert set(live["parameters"]) == set(live["optimiser state"]) == {weights}
    backward = [event.phase for event in timeline.events].index("backward")
    # When backward begins there are images, labels, both layers' outputs, log-probabilities, and
    # the loss with the sum of the weights it is divided by. The first output is gone: ReLU's is
    # all that its gradient needs.
    kept = (4 * 6 + 8 + 4 * 5 + 4 * 3 + 4 * 3) * number + 4 + 4
    assert live["activations"][backward] == kept
    assert live["gradients"][backward] == 0
    assert live["gradients"][-1] == weights
    assert live["activations"][-1] == (4 * 6 + 8 + 4 * 3) * number + 4  # what the loop still holds


def test_pieces_divide_activations_and_keep_the_sum_of_gradients() -> None:
    model = TwoLayers()
    timeline = training_timeline(model, noise(1, 2, 3), FP32, sgd(model))
    whole, pieces = timeline.live(12), timeline.live(12, pieces=4)
    assert (pieces["activations"][:-1] == timeline.live(3)["activations"][:-1]).all()
    assert pieces["gradients"].min() == whole["gradients"][-1]
    largest = 4 * 6 * 5
    assert pieces["gradients"].max() == whole["gradients"][-1] + largest


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("resnet20", FP32),
        ("resnet20", Policy("cpu", "bf16", "channels_last", 1)),
        ("speedy", Policy("cpu", "bf16", "channels_last", 1)),
    ],
)
@pytest.mark.filterwarnings("ignore")  # of the profiler, about a GPU that is not there
def test_the_peak_is_what_torchs_allocator_says_of_a_whole_step(name: str, policy: Policy) -> None:
    model = policy.place(models.build(name, 10, 3, 32))
    optimizer, images, number = sgd(model), noise(3, 32, 32), 16
    peak = training_timeline(model, images, policy, optimizer).peak(number)
    constant = peak.parts["parameters"] + peak.parts["optimiser state"]

    def step() -> None:
        optimizer.zero_grad()
        pixels, labels = images(number)
        with policy.autocast():
            logits = model(policy.arrange(pixels))
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    step()
    optimizer.zero_grad()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    changes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    # Kernels have small needs of their own for as long as they run, which are no tensors.
    most = max(accumulate(changes))
    assert 0.9 * most <= peak.size - constant <= most


def test_a_model_is_left_as_it_was() -> None:
    model = models.build("resnet20", 10, 3, 32).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    training_timeline(model, noise(3, 32, 32), FP32, sgd(model))
    evaluation_timeline(model, noise(3, 32, 32), FP32)
    assert torch.equal(torch.rand(1), expected)
    assert not model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(layer._forward_hooks for layer in model.modules())


def test_the_state_of_an_optimiser_is_what_a_real_update_makes() -> None:
    for name in ("sgd", "adamw", "muon"):
        model = models.build("compact", 10, 1, 28)
        optimizer = make_optimizer(Optim(name=name, lr=0.1), model)
        foretold = state_bytes(optimizer)
        model(torch.rand(4, 1, 28, 28)).sum().backward()
        optimizer.step()
        values = [value for state in optimizer.state.values() for value in state.values()]
        tensors = [value for value in values if isinstance(value, Tensor) and value.ndim]
        assert foretold == sum(tensor.numel() * tensor.element_size() for tensor in tensors)
