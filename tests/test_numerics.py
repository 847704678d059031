"""Normalisation layers against the formulas of the papers that brought them, in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from deepcnn.models.compact import Stage
from deepcnn.models.lrn import LocalResponseNorm
from reference import Array, batch_moments, batch_norm2d, local_response_norm


def responses(*shape: int, scale: float = 1.0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, dtype=torch.float64, generator=generator) + 0.3


def close(actual: Tensor, expected: Array) -> None:
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=1e-12, atol=1e-12)


def learnt_norm(channels: int, momentum: float | None = 0.1) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, momentum=momentum, dtype=torch.float64)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-1.5, 2.0, channels))
        norm.bias.copy_(torch.linspace(3.0, -1.0, channels))
    return norm


def parameters(norm: nn.BatchNorm2d) -> tuple[Array, Array, float]:
    return norm.weight.detach().numpy(), norm.bias.detach().numpy(), norm.eps


def running(norm: nn.BatchNorm2d) -> tuple[Array, Array]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean.numpy(), norm.running_var.numpy()


@given(st.integers(1, 4), st.integers(1, 3), st.integers(2, 5), st.integers(0, 1_000))
def test_batch_norm_normalises_by_the_minibatch(
    num_images: int, channels: int, side: int, seed: int
) -> None:
    norm, images = learnt_norm(channels), responses(num_images, channels, side, side, seed=seed)
    numbers = images.numpy()
    close(norm(images), batch_norm2d(numbers, *batch_moments(numbers), *parameters(norm)))


def test_epsilon_is_inside_the_variance() -> None:
    """On responses as small as its root, 1e-2.5, epsilon matters, and so does where it is."""
    norm, images = learnt_norm(3), responses(4, 3, 5, 5, scale=3e-3)
    numbers = images.numpy()
    mean, variance = batch_moments(numbers)
    close(norm(images), batch_norm2d(numbers, mean, variance, *parameters(norm)))
    scale, offset, epsilon = parameters(norm)
    outside = batch_norm2d(numbers, mean, (np.sqrt(variance) + epsilon) ** 2, scale, offset, 0.0)
    assert np.abs(norm(images).detach().numpy() - outside).max() > 0.1


def test_constant_responses_become_the_offset() -> None:
    norm = learnt_norm(2)
    output = norm(torch.full((3, 2, 4, 4), 7.0, dtype=torch.float64))
    torch.testing.assert_close(output, norm.bias[:, None, None].expand(3, 2, 4, 4))


def test_running_statistics_follow_the_minibatches() -> None:
    """The variance is the unbiased one, m / (m - 1); a new minibatch has a weight of 0.1."""
    norm = learnt_norm(3)
    mean, variance = np.zeros(3), np.ones(3)
    for seed in range(5):
        images = responses(4, 3, 2, 2, seed=seed)
        norm(images)
        new_mean, new_variance = batch_moments(images.numpy())
        mean = 0.9 * mean + 0.1 * new_mean
        variance = 0.9 * variance + 0.1 * new_variance * 16 / 15
    np.testing.assert_allclose(running(norm)[0], mean, rtol=1e-12)
    np.testing.assert_allclose(running(norm)[1], variance, rtol=1e-12)

    images = responses(2, 3, 4, 4, seed=9)
    norm.eval()
    close(norm(images), batch_norm2d(images.numpy(), mean, variance, *parameters(norm)))
    np.testing.assert_array_equal(running(norm)[0], running(norm.train())[0])


def test_averaged_statistics_are_those_of_the_paper() -> None:
    """Algorithm 2: means over minibatches of mean and m / (m - 1) variance; so with no momentum."""
    norm = learnt_norm(2, momentum=None)
    moments = []
    for seed in range(4):
        images = responses(3, 2, 3, 3, seed=seed)
        norm(images)
        moments.append(batch_moments(images.numpy()))
    means, variances = (np.array(column) for column in zip(*moments, strict=True))
    np.testing.assert_allclose(running(norm)[0], means.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(running(norm)[1], variances.mean(axis=0) * 27 / 26, rtol=1e-12)


def test_batch_norm_in_a_network_is_this_one() -> None:
    stage = Stage(2, 4).double().train()
    images = responses(3, 2, 6, 6)
    pooled = stage.pool(stage.conv(images)).detach().numpy()
    expected = batch_norm2d(pooled, *batch_moments(pooled), *parameters(stage.norm))
    close(stage(images), np.maximum(expected, 0.0))


@pytest.mark.parametrize("training", [True, False])
def test_gradients_of_batch_norm(training: bool) -> None:
    norm = learnt_norm(2)
    norm(responses(4, 2, 3, 3, seed=1))  # statistics other than 0 and 1
    norm.train(training)

    def function(images: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
        output: Tensor = torch.func.functional_call(
            norm, {"weight": scale, "bias": offset}, (images,)
        )
        return output

    tensors = [responses(3, 2, 2, 3), norm.weight.detach(), norm.bias.detach()]
    assert torch.autograd.gradcheck(function, [t.requires_grad_() for t in tensors])


# The constants of the paper, and ones under which the sum weighs more.
CONSTANTS = [(5, 1e-4, 0.75, 2.0), (5, 0.3, 0.75, 2.0), (3, 0.5, 0.5, 1.0), (1, 1.0, 2.0, 0.5)]


@pytest.mark.parametrize(("size", "alpha", "beta", "k"), CONSTANTS)
@pytest.mark.parametrize("num_maps", [1, 2, 7])
def test_response_norm_is_the_printed_formula(
    size: int, alpha: float, beta: float, k: float, num_maps: int
) -> None:
    images = responses(2, num_maps, 3, 4, scale=10.0)
    expected = local_response_norm(images.numpy(), size, alpha, beta, k)
    close(LocalResponseNorm(size, alpha, beta, k)(images), expected)
    # PyTorch divides alpha by the size of the window, as the paper's own code does.
    close(nn.LocalResponseNorm(size, alpha * size, beta, k)(images), expected)


@given(st.integers(0, 3).map(lambda half: 2 * half + 1), st.integers(1, 9), st.integers(0, 1_000))
def test_both_response_norms_agree_on_any_number_of_maps(
    size: int, num_maps: int, seed: int
) -> None:
    images = responses(2, num_maps, 2, 2, scale=3.0, seed=seed)
    theirs = nn.LocalResponseNorm(size, size * 0.2, 0.75, 2.0)(images)
    close(LocalResponseNorm(size, 0.2, 0.75, 2.0)(images), theirs.numpy())


@pytest.mark.parametrize(("size", "alpha", "beta", "k"), CONSTANTS)
def test_gradients_of_response_norm(size: int, alpha: float, beta: float, k: float) -> None:
    images = responses(2, 6, 2, 2, scale=2.0).requires_grad_()
    assert torch.autograd.gradcheck(LocalResponseNorm(size, alpha, beta, k), [images])
    assert torch.autograd.gradcheck(nn.LocalResponseNorm(size, alpha, beta, k), [images])


def test_response_norm_makes_no_response_larger() -> None:
    """With k of at least 1; and a response alone in its map keeps its sign."""
    images = responses(2, 8, 3, 3, scale=50.0)
    normalised = LocalResponseNorm(5, 1e-4, 0.75, 2.0)(images)
    assert (normalised.abs() < images.abs()).all()
    assert torch.equal(normalised.sign(), images.sign())
