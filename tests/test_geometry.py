import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as torchvision

from deepcnn.config import Augment
from deepcnn.data import geometry
from deepcnn.data.augment import draw, windows

WHITE = 255
MANY = 3_000
sides = st.integers(1, 30)
seeds = st.integers(0, 2**32 - 1)
Box = tuple[int, int, int, int]


def random_images(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, shape, dtype=torch.uint8, generator=generator)


def alike(ours: NDArray[np.float64], theirs: list[int]) -> bool:
    """Whether the numbers may come from one distribution."""
    return bool(scipy.stats.ks_2samp(ours, theirs, method="asymp").pvalue > 0.001)


def by_pillow(plane: NDArray[np.uint8], box: Box, height: int, width: int) -> NDArray[np.float32]:
    """The window in levels that are not rounded."""
    top, left, tall, wide = box
    picture = Image.fromarray(plane.astype(np.float32))
    window = picture.crop((left, top, left + wide, top + tall))
    return np.asarray(window.resize((width, height), Image.Resampling.BILINEAR))


def drawn_windows(area: float, heights: Tensor, widths: Tensor, seed: int = 0) -> Tensor:
    found = windows(draw(Augment(crop_area=area), seed, 0, len(heights)), heights, widths)
    assert found is not None
    return found


def window_by_hand(
    tries: NDArray[np.float32], place: NDArray[np.float32], height: int, width: int
) -> Box:
    """torchvision's rule, one number at a time."""
    for share, ratio in tries.tolist():
        tall = round(math.sqrt(height * width * share / ratio))
        wide = round(math.sqrt(height * width * share * ratio))
        if 0 < wide <= width and 0 < tall <= height:
            down, right = (float(number) for number in place)
            return int(down * (height - tall + 1)), int(right * (width - wide + 1)), tall, wide
    tall, wide = height, width
    if width / height < 3 / 4:
        tall = round(width / (3 / 4))
    elif width / height > 4 / 3:
        wide = round(height * (4 / 3))
    return (height - tall) // 2, (width - wide) // 2, tall, wide


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 400), st.integers(1, 400)), min_size=1, max_size=8),
       st.sampled_from([0.08, 0.5, 0.95, 1.0]), seeds)  # fmt: skip
def test_windows_follow_the_rule(shapes: list[tuple[int, int]], area: float, seed: int) -> None:
    rows = draw(Augment(crop_area=area), seed, 2, len(shapes))
    heights, widths = torch.tensor(shapes).unbind(1)
    found = windows(rows, heights, widths)
    assert found is not None
    assert found.dtype == torch.float64
    expected = [
        window_by_hand(tries, place, height, width)
        for (height, width), tries, place in zip(
            shapes, rows["window"].numpy(), rows["window_place"].numpy(), strict=True
        )
    ]
    assert found.tolist() == [[float(number) for number in box] for box in expected]
    top, left, tall, wide = found.unbind(1)
    assert (torch.stack((top, left, heights - top - tall, widths - left - wide)) >= 0).all()
    assert (torch.stack((tall, wide)) >= 1).all()


@pytest.mark.parametrize(("height", "width"), [(60, 40), (28, 28), (15, 90), (300, 90)])
def test_windows_are_distributed_as_torchvisions(height: int, width: int) -> None:
    ours = drawn_windows(0.08, torch.full((MANY,), height), torch.full((MANY,), width)).numpy()
    torch.manual_seed(1)
    transform, image = v2.RandomResizedCrop(9), torch.empty(1, height, width)
    theirs = [transform.make_params([image]) for _ in range(MANY)]
    for number, key in enumerate(("top", "left", "height", "width")):
        assert alike(ours[:, number], [window[key] for window in theirs]), key


def test_without_a_smallest_area_there_are_no_windows() -> None:
    assert windows({}, torch.tensor([3]), torch.tensor([3])) is None


@settings(max_examples=60)
@given(st.integers(1, 4), st.integers(1, 4), sides, sides, seeds)
def test_an_enlarged_window_is_the_nearest_level_to_pillows(
    number: int, channels: int, height: int, width: int, seed: int
) -> None:
    images = random_images(seed, number, channels, height, width)
    boxes = drawn_windows(0.08, torch.full((number,), height), torch.full((number,), width), seed)
    actual = geometry.enlarge(images, boxes)
    assert actual.dtype == torch.uint8
    for image, box, result in zip(images, boxes.long().tolist(), actual, strict=True):
        # Bytes, because in floating point torchvision copies a column of one pixel's width.
        bytes_of_torchvision = torchvision.resized_crop(
            image, *box, [height, width], antialias=True
        )
        assert (result.int() - bytes_of_torchvision.int()).abs().max() <= 1
        for plane, resized in zip(image.numpy(), result.numpy(), strict=True):
            assert np.abs(resized - by_pillow(plane, box, height, width)).max() <= 0.51


def test_the_whole_image_as_window_is_the_image() -> None:
    images = random_images(0, 3, 2, 31, 17)
    assert torch.equal(geometry.enlarge(images, torch.tensor([[0, 0, 31, 17]] * 3)), images)


@settings(max_examples=60)
@given(st.integers(1, 4), sides, sides, st.floats(0, 180), st.floats(0, 0.9), seeds)
def test_turns_and_zooms_are_the_nearest_level_to_torchvisions(
    number: int, height: int, width: int, rotate: float, zoom: float, seed: int
) -> None:
    images = random_images(seed, number, 2, height, width)
    rows = draw(Augment(rotate=rotate, zoom=zoom), seed, 0, number)
    if "affine" not in rows:
        return
    matrices = rows["affine"]
    actual = geometry.affine(images.float(), torch.nn.functional.pad(matrices, (0, 1)))
    assert torch.equal(actual, actual.round())
    for image, matrix, result in zip(images, matrices, actual, strict=True):
        angle = math.degrees(math.atan2(matrix[0, 1], matrix[0, 0]))
        scale = float(matrix.det()) ** -0.5
        assert abs(angle) <= rotate + 1e-6
        assert 1 - zoom - 1e-6 <= scale <= 1 + zoom + 1e-6
        exact = torchvision.affine(
            image.double(), angle, [0, 0], scale, [0.0, 0.0], torchvision.InterpolationMode.BILINEAR
        )
        assert (result - exact).abs().max() <= 0.51


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_quarter_turns_move_pixels_without_loss(quarters: int) -> None:
    images = random_images(4, 2, 3, 11, 11)
    angle = quarters * math.pi / 2
    cosine, sine = math.cos(angle), math.sin(angle)
    matrices = torch.tensor([[[cosine, -sine, 0], [sine, cosine, 0]]] * 2)
    turned = torch.rot90(images, quarters, (2, 3))
    assert torch.equal(geometry.affine(images.float(), matrices), turned.float())


def test_angles_and_scales_are_uniform() -> None:
    matrices = draw(Augment(rotate=15, zoom=0.2), 0, 0, MANY)["affine"]
    angles = torch.atan2(matrices[:, 0, 1], matrices[:, 0, 0]).rad2deg()
    assert scipy.stats.kstest(angles.numpy(), "uniform", (-15, 30)).pvalue > 0.001
    assert scipy.stats.kstest(matrices.det().numpy() ** -0.5, "uniform", (0.8, 0.4)).pvalue > 0.001
    alone = draw(Augment(zoom=0.2), 0, 0, MANY)["affine"]
    torch.testing.assert_close(alone.det(), matrices.det())  # a turn does not change the zoom
    assert (alone[:, 0, 1] == 0).all()


def rectangle_by_hand(
    tries: NDArray[np.float32], place: NDArray[np.float32], height: int, width: int
) -> Box | None:
    for share, ratio in tries.tolist():
        tall = round(math.sqrt(height * width * share * ratio))
        wide = round(math.sqrt(height * width * share / ratio))
        if tall < height and wide < width:
            down, right = (float(number) for number in place)
            return int(down * (height - tall + 1)), int(right * (width - wide + 1)), tall, wide
    return None


@settings(max_examples=60)
@given(st.integers(1, 8), st.integers(1, 60), st.integers(1, 60), seeds)
def test_erased_rectangles_follow_the_rule_and_equal_torchvisions(
    number: int, height: int, width: int, seed: int
) -> None:
    rows = draw(Augment(erase=1.0), seed, 0, number)
    tries, places = rows["erase_area"], rows["erase_place"]
    images = random_images(seed, number, 2, height, width) | 1
    found = geometry.rectangles_within(tries, places, height, width)
    black = geometry.inside(found, height, width)
    actual = images.masked_fill(black, 0)
    for image, one, place, result in zip(images, tries, places, actual, strict=True):
        box = rectangle_by_hand(one.numpy(), place.numpy(), height, width)
        expected = image if box is None else torchvision.erase(image, *box, torch.zeros(1, 1, 1))
        assert torch.equal(result, expected)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (20, 64)])
def test_erased_rectangles_are_distributed_as_torchvisions(height: int, width: int) -> None:
    rows = draw(Augment(erase=0.3), 0, 0, MANY)
    assert rows["erase"].double().mean() == pytest.approx(0.3, abs=0.035)  # 4 deviations
    ours = geometry.rectangles_within(rows["erase_area"], rows["erase_place"], height, width)
    torch.manual_seed(2)
    transform, image = v2.RandomErasing(), torch.empty(1, height, width)
    theirs = [transform.make_params([image]) for _ in range(MANY)]
    for number, key in enumerate(("i", "j", "h", "w")):
        assert alike(ours[:, number].numpy(), [rectangle[key] for rectangle in theirs]), key
