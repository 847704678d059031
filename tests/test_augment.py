from dataclasses import replace
from random import Random
from typing import Any

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
from deepcnn.data.augment import JITTER, Parameters, augment, check, draw, pick, windows
from deepcnn.data.colour import Components, pixel_components
from deepcnn.errors import ConfigError

MANY = 10_000  # a fair coin's share of heads is within 0.02 of a half, 4 deviations
seeds = st.integers(0, 2**63 - 1)
epochs = st.integers(0, 1_000)
augmentations = st.builds(
    Augment, flip=st.sampled_from(["none", "random", "alternating"]), crop=st.integers(0, 4)
)

# Every kind alone, and which rows of all that are drawn with all of them on are its own.
KINDS: dict[str, tuple[Augment, set[str]]] = {
    "flip": (Augment(flip="random"), {"flip"}),
    "flip_vertical": (Augment(flip_vertical=True), {"flip_vertical"}),
    "crop": (Augment(crop=2), {"shift"}),
    "crop_area": (Augment(crop_area=0.08), {"window", "window_place"}),
    "affine": (Augment(rotate=15, zoom=0.1), {"affine"}),
    "policy": (Augment(policy="randaugment"), {"operation", "level"}),
    "jitter": (Augment(brightness=0.4, contrast=0.3, saturation=0.2, hue=0.1), {"jitter", "order"}),
    "pca_noise": (Augment(pca_noise=0.1), {"light"}),
    "erase": (Augment(erase=0.5), {"erase", "erase_area", "erase_place"}),
    "mixing": (Augment(mixup=0.2, cutmix=1), {"share", "cut", "centre"}),
}
EVERYTHING = Augment(
    flip="random", flip_vertical=True, crop=2, crop_area=0.08, rotate=15, zoom=0.1,
    policy="randaugment", brightness=0.4, contrast=0.3, saturation=0.2, hue=0.1, pca_noise=0.1,
    erase=0.5, mixup=0.2, cutmix=1,
)  # fmt: skip
# In the order in which they are applied; mixing is not `augment`'s.
STEPS = ("crop_area", "flip", "flip_vertical", "crop", "affine", "policy", "jitter", "pca_noise",
         "erase")  # fmt: skip
alone_or_all = st.sampled_from(
    [(options, 3) for options, _ in KINDS.values()]
    + [(EVERYTHING, 3), (Augment(policy="trivialaugment"), 3)]
    + [(replace(EVERYTHING, saturation=0.0, hue=0.0), channels) for channels in (1, 2, 4)]
)


def random_images(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, shape, dtype=torch.uint8, generator=generator)


def one(name: str, amount: float) -> Augment:
    values: dict[str, Any] = {name: amount}
    return Augment(**values)


def components(channels: int) -> Components:
    return pixel_components(random_images(5, 4, channels, 6, 6))


def drawn(
    options: Augment, number: int, channels: int = 3, seed: int = 0, epoch: int = 0
) -> Parameters:
    return draw(options, seed, epoch, number, components(channels))


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


@settings(deadline=None, max_examples=150)
@given(alone_or_all, st.integers(1, 20), st.sampled_from([(1, 1), (5, 6), (17, 9)]), seeds, epochs,
       st.randoms(use_true_random=False))  # fmt: skip
def test_a_picture_is_the_same_in_any_batch_and_order(
    kind: tuple[Augment, int],
    number: int,
    shape: tuple[int, int],
    seed: int,
    epoch: int,
    random: Random,
) -> None:
    options, channels = kind
    images = random_images(1, number, channels, *shape)
    parameters = drawn(options, number, channels, seed, epoch)
    whole = augment(images, options, parameters)
    assert whole.dtype == torch.uint8
    assert whole.shape == images.shape
    indices = list(range(number))
    random.shuffle(indices)
    batch_size = random.randint(1, number)
    memory_format = random.choice([torch.contiguous_format, torch.channels_last])
    for start in range(0, number, batch_size):
        part = torch.tensor(indices[start : start + batch_size])
        some = images[part].contiguous(memory_format=memory_format)
        batch = augment(some, options, pick(parameters, part))
        assert torch.equal(batch, whole[part])


@pytest.mark.parametrize("size", [(3, 61, 47), (1, 28, 28)])
def test_neither_threads_nor_the_batch_change_a_larger_picture(size: tuple[int, int, int]) -> None:
    options = EVERYTHING if size[0] == 3 else replace(EVERYTHING, saturation=0.0, hue=0.0)
    images = random_images(2, 40, *size)
    threads, results = torch.get_num_threads(), []
    for number in (1, 2):
        torch.set_num_threads(number)
        parameters = drawn(options, len(images), size[0])
        results.append(augment(images, options, parameters))
        assert torch.equal(results[0], results[-1])
    torch.set_num_threads(threads)
    for index in range(0, 40, 7):
        part = torch.tensor([index])
        single = augment(images[part], options, pick(parameters, part))
        assert torch.equal(single, results[0][part])


def test_the_given_images_and_rows_are_not_changed() -> None:
    images, parameters = random_images(3, 12, 3, 8, 9), drawn(EVERYTHING, 12)
    before = images.clone(), {name: rows.clone() for name, rows in parameters.items()}
    augment(images, EVERYTHING, parameters)
    assert torch.equal(images, before[0])
    assert all(torch.equal(parameters[name], rows) for name, rows in before[1].items())


def test_the_steps_are_taken_in_their_order() -> None:
    images, parameters = random_images(4, 40, 3, 20, 14), drawn(EVERYTHING, 40)
    expected = images
    for name in STEPS:
        own = {key: parameters[key] for key in KINDS[name][1]}
        changed = augment(expected, EVERYTHING, own)
        assert not torch.equal(changed, expected), name
        expected = changed
    assert torch.equal(augment(images, EVERYTHING, parameters), expected)


PLACING = {"window", "window_place", "flip", "flip_vertical"}


def test_images_that_are_cropped_and_mirrored_already_are_not_again() -> None:
    images, parameters = random_images(4, 9, 3, 12, 10), drawn(EVERYTHING, 9)
    assert parameters.keys() > PLACING
    rest = {name: rows for name, rows in parameters.items() if name not in PLACING}
    expected = augment(images, EVERYTHING, rest)
    assert torch.equal(augment(images, EVERYTHING, parameters, is_placed=True), expected)
    assert not torch.equal(augment(images, EVERYTHING, parameters), expected)


def test_a_window_cut_before_is_the_window_cut_here() -> None:
    options = Augment(crop_area=0.08)
    images, parameters = random_images(4, 9, 3, 12, 10), drawn(options, 9)
    found = windows(parameters, torch.full((9,), 12), torch.full((9,), 10))
    assert found is not None
    for image, box, result in zip(
        images, found.long().tolist(), augment(images, options, parameters), strict=True
    ):
        by_reader = torchvision.resized_crop(image, *box, [12, 10], antialias=True)
        assert (result.int() - by_reader.int()).abs().max() <= 1


@settings(deadline=None, max_examples=50)
@given(alone_or_all, st.integers(1, 50), seeds, epochs)
def test_draws_depend_on_their_arguments_only(
    kind: tuple[Augment, int], number: int, seed: int, epoch: int
) -> None:
    options, channels = kind
    before = torch.get_rng_state()
    first = drawn(options, number, channels, seed, epoch)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(7)
    second = drawn(options, number, channels, seed, epoch)
    torch.set_rng_state(before)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_only_what_is_in_use_is_drawn() -> None:
    assert draw(Augment(), 0, 0, 5) == {}
    assert set(draw(Augment(flip="random"), 0, 0, 5)) == {"flip"}
    assert set(draw(Augment(crop=1), 0, 0, 5)) == {"shift"}
    assert torch.equal(flips("random", 3), flips("random", 3, crop=2))
    assert set(drawn(EVERYTHING, 5)) == set().union(*(rows for _, rows in KINDS.values()))


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_is_drawn_alike_with_and_without_the_others(name: str) -> None:
    options, own = KINDS[name]
    alone, among_all = drawn(options, 20), drawn(EVERYTHING, 20)
    assert set(alone) == own
    for key in own:
        assert torch.equal(alone[key], among_all[key])
        assert len(alone[key]) == 20


def test_no_two_kinds_share_their_chances() -> None:
    columns: list[Tensor] = []
    kinds: list[str] = []
    rows = drawn(EVERYTHING, MANY)
    for kind, (_, own) in KINDS.items():
        for key in sorted(own):
            numbers = rows[key].double().reshape(MANY, -1).T
            columns.extend(numbers)
            kinds.extend([kind] * len(numbers))
    correlations = torch.corrcoef(torch.stack(columns)).abs().numpy()
    others = np.array(kinds)[:, None] != np.array(kinds)
    assert correlations[others].max() < 0.055  # 5.5 deviations


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_differs_between_epochs_and_seeds(name: str) -> None:
    options, own = KINDS[name]
    first = drawn(options, 50)
    for other in (drawn(options, 50, epoch=1), drawn(options, 50, seed=1)):
        assert all(not torch.equal(first[key], other[key]) for key in own)


def test_flips_and_shifts_are_those_of_the_first_release() -> None:
    """So that a run of then can be made again."""
    rows = draw(Augment(flip="random", crop=2), 0, 3, 8)
    assert rows["flip"].int().tolist() == [1, 1, 1, 0, 0, 0, 1, 0]
    assert rows["shift"].tolist() == [
        [2, 2], [3, 4], [0, 0], [1, 0], [4, 0], [4, 1], [0, 1], [3, 0]
    ]  # fmt: skip
    assert flips("alternating", 3)[:8].int().tolist() != rows["flip"].int().tolist()
    rows = draw(Augment(flip="alternating"), 0, 3, 8)
    assert rows["flip"].int().tolist() == [1, 1, 0, 1, 0, 1, 1, 0]


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


def test_vertical_flips_mirror_half_top_to_bottom() -> None:
    options, images = Augment(flip_vertical=True), random_images(0, MANY, 1, 2, 1)
    mirrored = draw(options, 0, 0, MANY)["flip_vertical"]
    assert mirrored.double().mean() == pytest.approx(0.5, abs=0.02)
    actual = augment(images, options, {"flip_vertical": mirrored})
    assert torch.equal(actual[mirrored], torchvision.vertical_flip(images[mirrored]))
    assert torch.equal(actual[~mirrored], images[~mirrored])


def test_amounts_of_jitter_are_uniform_and_their_orders_equally_likely() -> None:
    options = Augment(brightness=0.4, contrast=1.5, saturation=0.2, hue=0.1)
    rows = draw(options, 0, 0, MANY)
    ranges = ((0.6, 1.4), (0.0, 2.5), (0.8, 1.2), (-0.1, 0.1))
    for numbers, (low, high) in zip(rows["jitter"].T.numpy(), ranges, strict=True):
        assert scipy.stats.kstest(numbers, "uniform", (low, high - low)).pvalue > 0.001
    _, counts = torch.unique(rows["order"], dim=0, return_counts=True)
    assert len(counts) == 24
    assert scipy.stats.chisquare(counts).pvalue > 0.001


def by_color_jitter(image: Tensor, order: list[int], amounts: list[float]) -> Tensor:
    """One step of torchvision's after another, each rounded to levels as ours are."""
    functions = [torchvision.adjust_brightness, torchvision.adjust_contrast,
                 torchvision.adjust_saturation, torchvision.adjust_hue]  # fmt: skip
    for number in order:
        image = (255 * functions[number](image.float() / 255, amounts[number])).round()
    return image


def test_jitter_equals_torchvisions_steps_in_the_same_order() -> None:
    options = KINDS["jitter"][0]
    images, rows = random_images(0, 64, 3, 9, 7), draw(options, 0, 0, 64)
    actual = augment(images, options, rows)
    for image, order, amounts, result in zip(
        images, rows["order"].tolist(), rows["jitter"].tolist(), actual, strict=True
    ):
        difference = (result - by_color_jitter(image, order, amounts)).abs()
        # Where a step lands between two levels, torchvision's luminance of white, 254.97, may
        # decide; later steps can make that level up to 1.4 * 1.3 * 1.2 levels.
        assert difference.max() <= 3
        assert (difference == 0).double().mean() > 0.9


@pytest.mark.parametrize("name", JITTER)
def test_a_change_of_colour_that_is_not_in_use_changes_nothing(name: str) -> None:
    options = one(name, 0.3)
    images, rows = random_images(0, 30, 3, 5, 4), draw(options, 0, 0, 30)
    number = list(JITTER).index(name)
    expected = JITTER[name](images.float(), rows["jitter"][:, number]).to(torch.uint8)
    assert torch.equal(augment(images, options, rows), expected)
    assert not torch.equal(expected, images)


def test_settings_that_need_colours_are_refused_for_other_images() -> None:
    for name in ("saturation", "hue"):
        options = one(name, 0.1)
        check(options, 3)
        with pytest.raises(ConfigError, match=rf"augment\.{name} .* have 1 channel: set it to 0"):
            check(options, 1)
        with pytest.raises(ConfigError, match=rf"augment\.{name} .* have 4 channels: set it to 0"):
            check(options, 4)
    for channels in (1, 2, 4):
        check(replace(EVERYTHING, saturation=0.0, hue=0.0), channels)


def test_colour_noise_without_components_is_a_mistake() -> None:
    with pytest.raises(AssertionError, match="components"):
        draw(Augment(pca_noise=0.1), 0, 0, 3)
