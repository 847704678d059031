"""The contact sheet: its pixels against the images, its size, its text with any class names."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from deepcnn.data import catalog
from deepcnn.data.images import ImageSet
from deepcnn.data.show import GAP, MARGIN, NAME_WIDTH, TITLE_HEIGHT, contact_sheet
from deepcnn.errors import DataError

ROOT = Path(__file__).parents[1]
PAPER, EMPTY = 0xFF, 0xF3


def made_up(
    side: int = 28, channels: int = 1, classes: tuple[str, ...] = ("a", "b", "c"), num: int = 30
) -> ImageSet:
    """Dark noise, so that no pixel of a picture looks like paper."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 200, (num, channels, side, side), dtype=np.uint8)
    return ImageSet("made-up", images, np.arange(num) % len(classes), classes)


def pixels(sheet: Image.Image) -> NDArray[np.uint8]:
    assert sheet.mode == "RGB"
    return np.asarray(sheet)  # H W 3


def cells(sheet: Image.Image, row: int, num: int, side: int) -> NDArray[np.uint8]:
    """The pictures of a row of the first column, N H W 3, measured from its right end."""
    top = TITLE_HEIGHT + row * (side + GAP)
    right = sheet.width - MARGIN
    lefts = [right - (num - place) * (side + GAP) + GAP for place in range(num)]
    rows = pixels(sheet)[top : top + side]
    return np.stack([rows[:, left : left + side] for left in lefts])


@pytest.mark.parametrize(("side", "scale"), [(28, 2), (32, 2), (9, 7), (64, 1), (50, 1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_small_pictures_are_repeated_pixel_by_pixel(side: int, scale: int, channels: int) -> None:
    images = made_up(side, channels)
    sheet = contact_sheet(images, per_class=4)
    for label in range(3):
        expected = images.images[images.labels == label][:4].transpose(0, 2, 3, 1)
        expected = expected.repeat(scale, axis=1).repeat(scale, axis=2)
        found = cells(sheet, label, 4, side * scale)
        np.testing.assert_array_equal(found, np.broadcast_to(expected, found.shape))


@pytest.mark.parametrize(("side", "factor"), [(65, 2), (128, 2), (224, 4)])
def test_large_pictures_are_averaged_down(side: int, factor: int) -> None:
    images = made_up(side)
    small = -(-side // factor)
    found = cells(contact_sheet(images, per_class=2), 1, 2, small)[:, :, :, 0].astype(float)
    whole = side // factor
    blocks = images.images[images.labels == 1][:2, 0, : whole * factor, : whole * factor]
    means = blocks.reshape(2, whole, factor, whole, factor).mean(axis=(2, 4))
    assert np.abs(found[:, :whole, :whole] - means).max() <= 1


def test_a_class_with_few_images_leaves_cells_empty() -> None:
    images = made_up(num=5)
    found = cells(contact_sheet(images, per_class=4), 2, 4, 56)
    assert (found[1:] == EMPTY).all()
    assert (found[0] < 200).all()
    none = ImageSet("none", images.images[:0], images.labels[:0], images.classes)
    assert (cells(contact_sheet(none, per_class=4), 0, 4, 56) == EMPTY).all()


def test_labels_are_written_beside_their_rows() -> None:
    plain = pixels(contact_sheet(made_up(classes=("a", "b", "c")), per_class=4))
    other = pixels(contact_sheet(made_up(classes=("a", "d", "c")), per_class=4))
    rows, columns = np.nonzero((plain != other).any(axis=2))
    assert TITLE_HEIGHT + 60 <= rows.min() <= rows.max() < TITLE_HEIGHT + 2 * 60
    assert columns.max() < plain.shape[1] - MARGIN - 4 * 60


names = st.text(max_size=80) | st.sampled_from(
    ["", "\n", "\udc80", "x" * 100_000, "한국어 日本語", "שלום", "e" + "\u0301" * 500, "\u202egnp"]
)


@settings(max_examples=40, deadline=None)
@given(name=names)
def test_any_class_name_fits(name: str) -> None:
    sheet = contact_sheet(made_up(classes=(name, "b", "c")), per_class=2)
    assert sheet.width <= 2 * MARGIN + NAME_WIDTH + MARGIN // 2 + 2 * (56 + GAP)
    gap_before_pictures = pixels(sheet)[TITLE_HEIGHT:, -MARGIN - 2 * 60 : -MARGIN - 2 * 60 + 4]
    assert (gap_before_pictures == PAPER).all(), "no name runs into the pictures"


def test_a_long_name_is_cut_with_an_ellipsis_and_as_wide_as_allowed() -> None:
    first, second = ("w" * 300, "b", "c"), ("w" * 400, "b", "c")
    one, other = (contact_sheet(made_up(classes=classes)) for classes in (first, second))
    np.testing.assert_array_equal(pixels(one), pixels(other))
    assert NAME_WIDTH - 15 <= one.width - 2 * MARGIN - MARGIN // 2 - 10 * 60 + GAP <= NAME_WIDTH


@pytest.mark.parametrize("num_classes", [100, 256])
def test_many_classes_stand_in_several_columns(num_classes: int) -> None:
    classes = tuple(f"class {label}" for label in range(num_classes))
    images = made_up(32, 3, classes, num=num_classes)
    sheet = contact_sheet(images, per_class=3)
    assert sheet.height < 4_000
    shown = (pixels(sheet) < 200).all(axis=2).sum()
    assert shown >= num_classes * 64 * 64, "every picture is there"


@pytest.mark.parametrize(("channels", "per_class"), [(1, 0), (1, -3), (2, 1), (4, 1)])
def test_what_cannot_be_shown_is_refused(channels: int, per_class: int) -> None:
    with pytest.raises(DataError, match="grey or RGB"):
        contact_sheet(made_up(channels=channels), per_class)


def test_fashion_mnist_makes_a_modest_png() -> None:
    if not (ROOT / "datasets" / "fashion-mnist").is_dir():
        pytest.skip("fashion-mnist is not on this machine")
    images = catalog.load("fashion-mnist", "test", ROOT / "datasets", download=False)
    buffer = io.BytesIO()
    contact_sheet(images).save(buffer, "PNG")
    assert len(buffer.getvalue()) < 200_000
    with Image.open(buffer) as sheet:
        assert sheet.width < 1_000
        assert sheet.height < 800
