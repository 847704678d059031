"""Muon against PyTorch's own for matrices, and the orthogonalisation against the SVD."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from deepcnn.config import Optim
from deepcnn.muon import COEFFICIENTS, ITERATIONS, orthogonalized
from deepcnn.optim import BESIDE_MUON, make_optimizer

sides = st.integers(1, 24)
seeds = st.integers(0, 2**31)


def matrix(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=100)
@given(sides, sides, seeds, st.floats(1e-3, 1e3))
def test_directions_stay_and_lengths_are_made_alike(
    rows: int, columns: int, seed: int, scale: float
) -> None:
    given_matrix = matrix(rows, columns, seed).double()
    left, lengths, right = torch.linalg.svd(given_matrix, full_matrices=False)
    found = left.T @ orthogonalized(scale * given_matrix) @ right.T
    torch.testing.assert_close(found, torch.diag(found.diagonal()), rtol=0, atol=1e-9)
    # The quintic, by hand, on numbers instead of matrices.
    x, (a, b, c) = lengths / lengths.square().sum().sqrt(), COEFFICIENTS
    for _ in range(ITERATIONS):
        x = a * x + b * x**3 + c * x**5
    torch.testing.assert_close(found.diagonal(), x, rtol=0, atol=1e-9)
    assert x.max() < 1.25


def test_no_direction_stays_no_direction() -> None:
    assert torch.equal(orthogonalized(torch.zeros(3, 5)), torch.zeros(3, 5))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_filters_move_as_pytorch_moves_matrices(memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(6, 2))
    model = model.to(memory_format=memory_format)
    filters = model[0].weight
    theirs = nn.Parameter(filters.detach().flatten(1).clone())
    ours = make_optimizer(Optim(name="muon", lr=0.1, momentum=0.6, weight_decay=0.3), model)
    other = torch.optim.Muon(
        [theirs], lr=0.1, weight_decay=0.0, momentum=0.6, ns_coefficients=COEFFICIENTS,
        ns_steps=ITERATIONS,
    )  # fmt: skip
    for step in range(5):
        gradient = matrix(6, 36, step)
        filters.grad = gradient.reshape(filters.shape).contiguous(memory_format=memory_format)
        theirs.grad = gradient.clone()
        with torch.no_grad():
            theirs.mul_(6**0.5 / theirs.norm())
        ours.step()
        other.step()
    # Theirs computes in bfloat16, whose steps are a 256th.
    torch.testing.assert_close(filters.detach().flatten(1), theirs.detach(), rtol=0, atol=0.02)


def test_what_is_no_filter_moves_as_with_sgd() -> None:
    ends = []
    for name in ("muon", "sgd"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 2))
        options = Optim(name=name, momentum=BESIDE_MUON, nesterov=True, weight_decay=0.1)
        optimizer = make_optimizer(options, model)
        for step in range(4):
            for number, parameter in enumerate(model.parameters()):
                parameter.grad = matrix(1, parameter.numel(), 10 * step + number).view_as(parameter)
            optimizer.step()
        ends.append(dict(model.named_parameters()))
    for key, parameter in ends[0].items():
        assert torch.equal(parameter, ends[1][key]) == (key != "0.weight"), key
