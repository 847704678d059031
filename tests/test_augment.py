from random import Random

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as torchvision

from deepcnn.config import Augment
from deepcnn.data.augment import augment, draw, pick

MANY = 10_000  # a fair coin's share of heads is within 0.02 of a half, 4 deviations
seeds = st.integers(0, 2**63 - 1)
epochs = st.integers(0, 1_000)
augmentations = st.builds(
    Augment, flip=st.sampled_from(["none", "random", "alternating"]), crop=st.integers(0, 4)
)


def random_images(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, shape, dtype=torch.uint8, generator=generator)


def flips(flip: str, epoch: int, seed: int = 0, crop: int = 0) -> Tensor:
    return draw(Augment(flip=flip, crop=crop), seed, epoch, MANY)["flip"]


def by_hand(
    image: NDArray[np.uint8], mirrored: bool, top: int, left: int, margin: int
) -> NDArray[np.uint8]:
    """Pixel by pixel: mirror, then look through a window whose corner is at (top, left)."""
    channels, height, width = image.shape
    out = np.zeros_like(image)
    for channel, row, column in np.ndindex(channels, height, width):
        from_row, from_column = row + top - margin, column + left - margin
        if 0 <= from_row < height and 0 <= from_column < width:
            source = width - 1 - from_column if mirrored else from_column
            out[channel, row, column] = image[channel, from_row, source]
    return out


def by_torchvision(image: Tensor, mirrored: bool, top: int, left: int, margin: int) -> Tensor:
    image = torchvision.horizontal_flip(image) if mirrored else image
    height, width = image.shape[-2:]
    padded = torchvision.pad(image, [margin] * 4)
    window: Tensor = torchvision.crop(padded, top, left, height, width)
    return window


@settings(deadline=None, max_examples=50)
@given(augmentations, st.integers(1, 6), st.integers(1, 3), st.integers(1, 7), st.integers(1, 7),
       st.integers(0, 2**32))  # fmt: skip
def test_flips_and_crops_equal_two_other_ways(
    options: Augment, number: int, channels: int, height: int, width: int, seed: int
) -> None:
    images = random_images(seed, number, channels, height, width)
    parameters = draw(options, seed, 1, number)
    actual = augment(images, options, parameters)
    assert actual.dtype == torch.uint8
    mirrored = parameters.get("flip", torch.zeros(number)).tolist()
    shift = parameters.get("shift", torch.zeros(number, 2, dtype=torch.int64)).tolist()
    for image, flip, (top, left), result in zip(images, mirrored, shift, actual, strict=True):
        place = (bool(flip), top, left, options.crop)
        np.testing.assert_array_equal(result.numpy(), by_hand(image.numpy(), *place))
        assert torch.equal(result, by_torchvision(image, *place))


@settings(deadline=None, max_examples=50)
@given(augmentations, st.integers(1, 20), seeds, epochs, st.randoms(use_true_random=False))
def test_a_picture_is_the_same_in_any_batch_and_order(
    options: Augment, number: int, seed: int, epoch: int, random: Random
) -> None:
    images = random_images(1, number, 1, 5, 6)
    parameters = draw(options, seed, epoch, number)
    whole = augment(images, options, parameters)
    indices = list(range(number))
    random.shuffle(indices)
    batch_size = random.randint(1, number)
    for start in range(0, number, batch_size):
        part = torch.tensor(indices[start : start + batch_size])
        batch = augment(images[part], options, pick(parameters, part))
        assert torch.equal(batch, whole[part])


@settings(deadline=None, max_examples=50)
@given(augmentations, st.integers(1, 50), seeds, epochs)
def test_draws_depend_on_their_arguments_only(
    options: Augment, number: int, seed: int, epoch: int
) -> None:
    before = torch.get_rng_state()
    first = draw(options, seed, epoch, number)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(7)
    second = draw(options, seed, epoch, number)
    torch.set_rng_state(before)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_only_what_is_in_use_is_drawn() -> None:
    assert draw(Augment(), 0, 0, 5) == {}
    assert set(draw(Augment(flip="random"), 0, 0, 5)) == {"flip"}
    assert set(draw(Augment(crop=1), 0, 0, 5)) == {"shift"}
    assert torch.equal(flips("random", 3), flips("random", 3, crop=2))


def test_random_flips_mirror_half_and_differ_between_epochs_and_seeds() -> None:
    first = flips("random", 0)
    for other in (flips("random", 1), flips("random", 2), flips("random", 0, seed=1)):
        assert other.double().mean() == pytest.approx(0.5, abs=0.02)
        assert (first == other).double().mean() == pytest.approx(0.5, abs=0.02)


def test_alternating_flips_mirror_each_image_in_every_other_epoch() -> None:
    first = flips("alternating", 0)
    assert first.double().mean() == pytest.approx(0.5, abs=0.02)
    for epoch in range(6):
        assert torch.equal(flips("alternating", epoch), first if epoch % 2 == 0 else ~first)
    assert not torch.equal(first, flips("alternating", 0, seed=1))


def test_every_shift_is_as_likely_as_any_other() -> None:
    shift = draw(Augment(crop=2), 0, 0, MANY)["shift"]
    places, counts = torch.unique(shift, dim=0, return_counts=True)
    assert places.tolist() == [[row, column] for row in range(5) for column in range(5)]
    assert scipy.stats.chisquare(counts).pvalue > 0.001
    assert not torch.equal(shift, draw(Augment(crop=2), 0, 1, MANY)["shift"])
    assert not torch.equal(shift, draw(Augment(crop=2), 1, 0, MANY)["shift"])
