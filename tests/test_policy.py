import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import v2

from deepcnn.config import Augment
from deepcnn.data import policy
from deepcnn.data.augment import draw

MANY = 20_000
THEIRS = {
    "randaugment": v2.RandAugment(interpolation="bilinear"),
    "trivialaugment": v2.TrivialAugmentWide(interpolation="bilinear"),
}
NAMES = list(policy.OPERATIONS)
# Where torchvision cuts fractions of levels off bytes, its result for [0, 1] is compared with.
ROUNDED = ("Brightness", "Color", "Contrast", "Sharpness", "AutoContrast", "ShearX", "ShearY",
           "Rotate")  # fmt: skip


def random_images(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, shape, dtype=torch.uint8, generator=generator)


def magnitude(name: str, operation: str, level: int, height: int, width: int) -> float:
    """What torchvision's own table has for a level of 0 to 30, and the sign."""
    table, signed = THEIRS[name]._AUGMENTATION_SPACE[operation]
    numbers = table(policy.TOP + 1, height, width)
    if numbers is None:
        return 0.0
    if operation == "Solarize":  # 28 / 30 in float32 would miss level 238 by a hair
        return (policy.TOP - abs(level)) / policy.TOP
    # Of 15.999999 pixels, its table's in float32 for 16, torchvision would take 15.
    return round(float(numbers[abs(level)]), 5) * (-1 if signed and level < 0 else 1)


def by_torchvision(name: str, operation: str, level: int, image: Tensor) -> Tensor:
    """One operation in levels: exact, or not rounded."""
    number = magnitude(name, operation, level, *image.shape[-2:])
    scale = 255 if operation in ROUNDED else 1
    image = image.double() / scale if scale > 1 else image
    apply, bilinear = THEIRS[name]._apply_image_or_video_transform, "bilinear"
    result: Tensor = apply(image, operation, number, interpolation=bilinear, fill={})
    return result * scale


def applied(images: Tensor, name: str, operations: Tensor, levels: Tensor) -> Tensor:
    """The result as bytes, which it is."""
    changed = policy.apply(images.float(), name, operations, levels)
    found = changed.to(torch.uint8)
    assert torch.equal(changed, found.float())
    return found


def assert_equal(actual: Tensor, expected: Tensor) -> None:
    if expected.is_floating_point():
        # 0.04 for the luminance of white, which is 254.97 in torchvision.
        assert (actual - expected).abs().max() <= 0.5 + 0.05
    else:
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("name", policy.SPACES)
def test_the_operations_are_torchvisions_in_its_order(name: str) -> None:
    assert list(THEIRS[name]._AUGMENTATION_SPACE) == NAMES


@pytest.mark.parametrize("name", policy.SPACES)
@pytest.mark.parametrize("operation", NAMES)
def test_every_level_of_every_operation_equals_torchvision(name: str, operation: str) -> None:
    levels = list(range(-policy.TOP, policy.TOP + 1))
    images = random_images(len(operation), len(levels), 3, 19, 14)
    numbers = torch.full((len(levels),), NAMES.index(operation))
    actual = applied(images, name, numbers, torch.tensor(levels))
    for image, level, result in zip(images, levels, actual, strict=True):
        assert_equal(result, by_torchvision(name, operation, level, image))


@settings(max_examples=60)
@given(st.sampled_from(list(policy.SPACES)), st.integers(1, 20), st.sampled_from([1, 3]),
       st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))  # fmt: skip
def test_drawn_operations_equal_torchvision(
    name: str, number: int, channels: int, height: int, width: int, seed: int
) -> None:
    images = random_images(seed, number, channels, height, width)
    rows = draw(Augment(policy=name), seed, 0, number)
    for operations, levels in zip(rows["operation"].T, rows["level"].T, strict=True):
        changed = applied(images, name, operations, levels)
        for image, operation, level, result in zip(
            images, operations.tolist(), levels.tolist(), changed, strict=True
        ):
            assert_equal(result, by_torchvision(name, NAMES[operation], level, image))
        images = changed


def test_groups_change_their_images_only() -> None:
    images = random_images(0, 6, 1, 2, 2)
    groups, amounts = torch.tensor([2, 0, 5, 2, 0, 1]), torch.arange(6)
    changed = policy.by_group(
        images,
        groups,
        amounts,
        {0: lambda chosen, amount: chosen * 0 + amount[:, None, None, None].byte(),
         2: lambda chosen, amount: 255 - chosen},
    )  # fmt: skip
    assert torch.equal(changed[[2, 5]], images[[2, 5]])
    assert torch.equal(changed[[0, 3]], 255 - images[[0, 3]])
    assert changed[[1, 4]].flatten(1).tolist() == [[1] * 4, [4] * 4]


def test_randaugment_draws_two_operations_of_level_9() -> None:
    rows = draw(Augment(policy="randaugment"), 0, 0, MANY)
    assert rows["operation"].shape == rows["level"].shape == (MANY, 2)
    pairs = torch.bincount(rows["operation"][:, 0] * 14 + rows["operation"][:, 1], minlength=14**2)
    assert scipy.stats.chisquare(pairs.numpy()).pvalue > 0.001
    assert set(rows["level"].flatten().tolist()) == {-9, 9}
    assert rows["level"].double().mean() == pytest.approx(0, abs=9 * 4 / (2 * MANY) ** 0.5)


def test_trivialaugment_draws_one_operation_of_any_level() -> None:
    rows = draw(Augment(policy="trivialaugment"), 0, 0, MANY)
    assert rows["operation"].shape == rows["level"].shape == (MANY, 1)
    assert scipy.stats.chisquare(torch.bincount(rows["operation"][:, 0])).pvalue > 0.001
    levels = torch.bincount(rows["level"][:, 0] + policy.TOP)
    expected = [1.0] * 30 + [2.0] + [1.0] * 30
    expected = [share * MANY / 62 for share in expected]
    assert scipy.stats.chisquare(levels.numpy(), expected).pvalue > 0.001
