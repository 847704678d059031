from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from deepcnn.config import Data
from deepcnn.data.images import ImageSet
from deepcnn.data.preprocess import Preprocess, resize
from deepcnn.data.splits import make_preprocess

sides = st.integers(1, 40)
seeds = st.integers(0, 2**32 - 1)
UNIT = Preprocess(channels=1, size=5, pad=0, mean=(0.0,), std=(1.0,))


def random_pixels(seed: int, *shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def by_pillow(pixels: NDArray[np.uint8], size: int, mode: str) -> NDArray[np.float64]:
    picture = Image.fromarray(pixels).convert(mode)
    return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR), dtype=np.float64)


@settings(deadline=None)
@given(sides, sides, sides, seeds)
def test_resize_equals_pillow(height: int, width: int, size: int, seed: int) -> None:
    pixels = random_pixels(seed, height, width)
    ours = resize(torch.from_numpy(pixels).float()[None, None], size)[0, 0].numpy()
    # Half a level is lost where Pillow rounds between its two passes, half where it rounds at last.
    assert np.abs(ours - by_pillow(pixels, size, "L")).max() <= 1.001
    np.testing.assert_allclose(ours, by_pillow(pixels, size, "F"), rtol=0, atol=1e-3)


def test_resize_of_an_enlarged_fashion_image_equals_pillow() -> None:
    pixels = random_pixels(0, 28, 28)
    ours = resize(torch.from_numpy(pixels).float()[None, None], 224)[0, 0].numpy()
    assert np.abs(ours - by_pillow(pixels, 224, "L")).max() <= 1.001


@settings(deadline=None, max_examples=50)
@given(sides, sides, sides, st.integers(0, 255))
def test_a_constant_image_stays_constant(height: int, width: int, size: int, level: int) -> None:
    resized = resize(torch.full((1, 1, height, width), float(level)), size)
    torch.testing.assert_close(resized, torch.full((1, 1, size, size), float(level)))


@settings(deadline=None, max_examples=50)
@given(sides, sides, sides, st.sampled_from([[-1], [-2], [-1, -2]]), seeds)
def test_resizing_commutes_with_mirroring(
    height: int, width: int, size: int, axes: list[int], seed: int
) -> None:
    images = torch.from_numpy(random_pixels(seed, 2, 3, height, width)).float()
    mirrored = resize(images, size).flip(axes)
    torch.testing.assert_close(resize(images.flip(axes), size), mirrored, rtol=0, atol=1e-3)


def test_an_image_of_the_right_size_is_not_touched() -> None:
    images = torch.from_numpy(random_pixels(1, 4, 3, 9, 9)).float()
    assert torch.equal(resize(images, 9), images)


@settings(deadline=None)
@given(st.integers(1, 3), st.integers(1, 8), st.integers(0, 4), seeds)
def test_padding_and_scale_equal_numpy(channels: int, side: int, pad: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mean, std = rng.uniform(0, 1, channels), rng.uniform(0.05, 1, channels)
    pixels = random_pixels(seed, 2, channels, side, side)
    preprocess = Preprocess(channels, side, pad, tuple(mean.tolist()), tuple(std.tolist()))

    padded = np.pad(pixels, ((0, 0), (0, 0), (pad, pad), (pad, pad)))  # background: black pixels
    expected = (padded / 255 - mean[:, None, None]) / std[:, None, None]

    numbers = preprocess(torch.from_numpy(pixels))
    assert numbers.dtype == torch.float32
    assert numbers.shape[-1] == preprocess.input_size
    np.testing.assert_allclose(numbers.numpy(), expected, rtol=0, atol=2e-5)


def test_padding_comes_after_resizing() -> None:
    numbers = replace(UNIT, pad=2)(torch.full((1, 1, 3, 3), 255, dtype=torch.uint8))
    assert numbers.shape == (1, 1, 9, 9)
    assert torch.equal(numbers[0, 0, 2:-2, 2:-2].round(decimals=5), torch.ones(5, 5))
    assert numbers.sum() == pytest.approx(25)


def own_images() -> ImageSet:
    pixels = random_pixels(2, 50, 3, 6, 6)
    pixels[:, 1] = pixels[:, 1] // 4 + 9  # a channel of its own mean and deviation
    return ImageSet("own", pixels, np.zeros(50, dtype=np.int64), ("thing",))


@pytest.mark.parametrize(("mode", "white"), [("raw", 255.0), ("unit", 1.0)])
def test_raw_and_unit_pixels(mode: str, white: float) -> None:
    preprocess = make_preprocess(Data(name="./own", pixels=mode), own_images())
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    numbers = replace(preprocess, size=16)(levels)
    expected = np.broadcast_to(np.linspace(0, white, 256).reshape(16, 16), (1, 3, 16, 16))
    np.testing.assert_allclose(numbers.numpy(), expected, rtol=1e-6, atol=0)


def test_standardized_pixels_have_mean_0_and_deviation_1_in_each_channel() -> None:
    images = own_images()
    numbers = make_preprocess(Data(name="./own"), images)(torch.from_numpy(images.images)).double()
    np.testing.assert_allclose(numbers.mean((0, 2, 3)), np.zeros(3), rtol=0, atol=1e-5)
    np.testing.assert_allclose(numbers.std((0, 2, 3), correction=0), np.ones(3), atol=1e-5)


def test_a_constant_channel_is_not_divided_by_zero() -> None:
    images = own_images()
    images.images[:, 2] = 51
    numbers = make_preprocess(Data(name="./own"), images)(torch.from_numpy(images.images))
    assert numbers[:, 2].abs().max() < 1e-6


def test_known_sets_are_scaled_by_their_published_numbers() -> None:
    images = ImageSet("f", random_pixels(3, 9, 1, 28, 28), np.zeros(9, dtype=np.int64), ("thing",))
    preprocess = make_preprocess(Data(name="fashion-mnist"), images)
    assert (preprocess.mean, preprocess.std) == ((0.2860,), (0.3530,))


def test_geometry_is_as_set() -> None:
    images = own_images()
    assert make_preprocess(Data(name="./own", pad=2), images).input_size == 6 + 2 * 2
    assert make_preprocess(Data(name="./own", size=32, pad=3), images).input_size == 32 + 2 * 3
