import functools
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms.v2 import functional as torchvision

from deepcnn.config import Augment
from deepcnn.data import colour
from deepcnn.data.augment import draw

WHITE = 255
MANY = 20_000

sides = st.integers(1, 9)
seeds = st.integers(0, 2**32 - 1)
factors = st.floats(0, 3, width=32)
# Ours, torchvision's, and amounts to try.
BLENDS = {
    "brightness": (colour.brightness, torchvision.adjust_brightness),
    "contrast": (colour.contrast, torchvision.adjust_contrast),
    "saturation": (colour.saturation, torchvision.adjust_saturation),
    "sharpness": (colour.sharpness, torchvision.adjust_sharpness),
}


def random_bytes(seed: int, *shape: int) -> Tensor:
    """The fewer bits the seed leaves, the more pixels are alike."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    return images & (0xFF << seed % 9 & 0xFF) | (seed % 7)


def random_images(seed: int, *shape: int) -> Tensor:
    """Levels in float32."""
    return random_bytes(seed, *shape).float()


def one_by_one(images: Tensor, amounts: list[float], function: Callable[..., Tensor]) -> Tensor:
    """What a function of torchvision makes of [0, 1], in levels that are not rounded."""
    results = [
        function(image / WHITE, amount) for image, amount in zip(images, amounts, strict=True)
    ]
    return WHITE * torch.stack(results)


def assert_nearest_level(actual: Tensor, exact: Tensor, tolerance: float = 0.01) -> None:
    assert actual.dtype == torch.float32
    assert torch.equal(actual, actual.round().clamp(0, WHITE))
    assert actual.shape == exact.shape
    assert (actual - exact).abs().max() <= 0.5 + tolerance


@pytest.mark.parametrize("name", BLENDS)
@settings(max_examples=40)
@given(st.lists(factors, min_size=1, max_size=4), st.sampled_from([1, 3]), sides, sides, seeds)
def test_blends_are_the_nearest_level_to_torchvisions(
    name: str, amounts: list[float], channels: int, height: int, width: int, seed: int
) -> None:
    ours, theirs = BLENDS[name]
    images = random_images(seed, len(amounts), channels, height, width)
    exact = one_by_one(images, amounts, theirs)
    # Its weights of red, green and blue sum to 0.9999, so that its grey of white is 254.97.
    tolerance = 0.01 + 0.04 * max(abs(1 - amount) for amount in amounts)
    assert_nearest_level(ours(images, torch.tensor(amounts)), exact, tolerance)


@settings(max_examples=100)
@given(st.lists(st.floats(-0.5, 0.5, width=32), min_size=1, max_size=4), sides, sides, seeds)
def test_a_turn_of_hue_is_the_nearest_level_to_torchvisions(
    turns: list[float], height: int, width: int, seed: int
) -> None:
    images = random_images(seed, len(turns), 3, height, width)
    exact = one_by_one(images, turns, torchvision.adjust_hue)
    assert_nearest_level(colour.hue(images, torch.tensor(turns)), exact)


def test_hue_goes_round_the_primary_colours() -> None:
    red, green, blue = (torch.zeros(1, 3, 1, 1) for _ in range(3))
    red[0, 0] = green[0, 1] = blue[0, 2] = 200
    for start, turn, end in [(red, 1 / 3, green), (green, 1 / 3, blue), (blue, 1 / 3, red),
                             (red, -1 / 3, blue), (red, 0.0, red)]:  # fmt: skip
        assert torch.equal(colour.hue(start, torch.tensor([turn])), end)


@settings(max_examples=50)
@given(st.integers(1, 3), sides, sides, seeds)
def test_autocontrast_is_the_nearest_level_to_torchvisions(
    channels: int, height: int, width: int, seed: int
) -> None:
    images = random_images(seed, 3, 1 if channels == 2 else channels, height, width)
    exact = WHITE * torchvision.autocontrast(images / WHITE)
    assert_nearest_level(colour.autocontrast(images), exact)


@settings(max_examples=50)
@given(st.integers(1, 4), st.integers(1, 40), st.integers(1, 40), seeds)
def test_equalize_equals_torchvision(channels: int, height: int, width: int, seed: int) -> None:
    images = random_bytes(seed, 3, channels, height, width)
    images[0] //= 5
    assert torch.equal(colour.equalize(images.float()), torchvision.equalize(images).float())


@settings(max_examples=30)
@given(st.lists(st.integers(1, 8), min_size=1, max_size=5), seeds)
def test_posterize_equals_torchvision(bits: list[int], seed: int) -> None:
    images = random_bytes(seed, len(bits), 3, 5, 4)
    expected = [torchvision.posterize(i, b) for i, b in zip(images, bits, strict=True)]
    actual = colour.posterize(images.float(), torch.tensor(bits))
    assert torch.equal(actual, torch.stack(expected).float())


@settings(max_examples=30)
@given(st.lists(st.integers(0, 510).map(lambda n: n / 2), min_size=1, max_size=5), seeds)
def test_solarize_equals_torchvision(thresholds: list[float], seed: int) -> None:
    images = random_bytes(seed, len(thresholds), 2, 5, 4)
    images[0, 0, 0, 0] = int(thresholds[0])
    expected = [torchvision.solarize(i, t) for i, t in zip(images, thresholds, strict=True)]
    actual = colour.solarize(images.float(), torch.tensor(thresholds))
    assert torch.equal(actual, torch.stack(expected).float())


@settings(max_examples=50)
@given(st.integers(1, 4), sides, sides, seeds)
def test_neutral_amounts_change_nothing(channels: int, height: int, width: int, seed: int) -> None:
    images = random_images(seed, 2, channels, height, width)
    for ours, _ in BLENDS.values():
        assert torch.equal(ours(images, torch.ones(2)), images)
    assert torch.equal(colour.posterize(images, torch.full((2,), 8)), images)
    assert torch.equal(colour.solarize(images, torch.full((2,), 256.0)), images)
    assert torch.equal(colour.add(images, torch.zeros(2, channels)), images)
    if channels == 3:
        assert torch.equal(colour.hue(images, torch.zeros(2)), images)


@given(factors, st.floats(-0.5, 0.5, width=32))
@settings(max_examples=50)
def test_grey_in_three_channels_stays_as_it_is(factor: float, turn: float) -> None:
    grey = torch.arange(256.0).expand(1, 3, 1, 256)
    assert torch.equal(colour.saturation(grey, torch.tensor([factor])), grey)
    assert torch.equal(colour.hue(grey, torch.tensor([turn])), grey)


@settings(max_examples=30)
@given(factors, st.sampled_from([1, 2, 4, 5]), seeds)
def test_other_channels_than_rgb_blend_with_their_mean(
    factor: float, channels: int, seed: int
) -> None:
    images = random_images(seed, 1, channels, 4, 3)
    levels = images.numpy().astype(np.float64)
    for ours, other in (
        (colour.contrast, levels.mean()),
        (colour.saturation, levels.mean(axis=1, keepdims=True)),
    ):
        exact = np.clip(levels * factor + other * (1 - factor), 0, WHITE)
        assert_nearest_level(ours(images, torch.tensor([factor])), torch.from_numpy(exact))


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 2), (7, 2)])
def test_small_images_have_no_inside_to_sharpen(shape: tuple[int, int]) -> None:
    images = random_images(9, 2, 3, *shape)
    assert torch.equal(colour.sharpness(images, torch.tensor([0.0, 3.0])), images)


@pytest.mark.parametrize(("number", "channels"), [(3, 3), (300, 3), (2, 1), (600, 4)])
def test_components_equal_those_of_numpys_covariance(number: int, channels: int) -> None:
    images = random_bytes(0, number, channels, 5, 7)
    images[:, -1] //= 3
    images[:, 0] = images[:, 0] // 2 + images[:, -1]
    values, vectors = colour.pixel_components(images)
    pixels = images.numpy().transpose(1, 0, 2, 3).reshape(channels, -1) / WHITE
    covariance = np.atleast_2d(np.cov(pixels, bias=True))
    expected_values, expected_vectors = np.linalg.eigh(covariance)
    np.testing.assert_allclose(values, expected_values, rtol=1e-9)
    # A direction has no sign.
    np.testing.assert_allclose(
        abs(vectors.numpy().T @ expected_vectors), np.eye(channels), atol=1e-7
    )
    np.testing.assert_allclose(vectors * values @ vectors.T, covariance, rtol=0, atol=1e-12)


def test_components_of_one_colour_have_no_variance() -> None:
    assert (colour.pixel_components(torch.full((3, 3, 4, 4), 77).byte()).values >= 0).all()
    assert colour.pixel_components(torch.full((3, 3, 4, 4), 77).byte()).values.max() < 1e-9


@functools.cache
def components() -> colour.Components:
    images = random_bytes(0, 40, 3, 8, 8)
    images[:, 1] = images[:, 0] // 2 + images[:, 1] // 4
    return colour.pixel_components(images)


def test_colour_noise_is_normal_along_the_components_times_their_values() -> None:
    """The paper's sum over k of p_k alpha_k lambda_k, in levels."""
    values, vectors = (part.numpy() for part in components())
    light = draw(Augment(pca_noise=0.1), 3, 4, MANY, components())["light"]
    assert light.shape == (MANY, 3)
    normal = (light.double().numpy() / WHITE) @ vectors / values  # alpha
    for numbers in normal.T:
        assert scipy.stats.kstest(numbers, "norm", (0, 0.1)).pvalue > 0.001
    np.testing.assert_allclose(np.corrcoef(normal.T), np.eye(3), atol=0.03)


def test_colour_noise_is_added_to_every_pixel_of_a_channel() -> None:
    images = random_images(0, 3, 2, 4, 5)
    levels = torch.tensor([[0.4, -0.6], [-300.0, 300.0], [7.5, 100.2]])
    exact = images.numpy() + levels.numpy().astype(np.float64)[:, :, None, None]
    assert_nearest_level(colour.add(images, levels), torch.from_numpy(np.clip(exact, 0, WHITE)))
