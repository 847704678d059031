from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deepcnn.data.images import ImageSet, split_off
from deepcnn.errors import DataError

seeds = st.integers(0, 2**63 - 1)


def image_set(labels: list[int], num_classes: int = 6) -> ImageSet:
    """Images of two pixels that spell their own index, so that each can be told from the others."""
    index = np.arange(len(labels))
    pixels = np.stack([index // 256, index % 256], axis=1).astype(np.uint8)
    classes = tuple(f"class {k}" for k in range(num_classes))
    return ImageSet("toy", pixels.reshape(-1, 1, 1, 2), np.array(labels, dtype=np.int64), classes)


def indices(images: ImageSet) -> list[int]:
    return (images.images.reshape(-1, 2).astype(int) @ [256, 1]).tolist()  # type: ignore[no-any-return]


@st.composite
def splittable(draw: st.DrawFn) -> tuple[ImageSet, int]:
    labels = draw(st.lists(st.integers(0, 5), min_size=2, max_size=300))
    return image_set(labels), draw(st.integers(1, len(labels) - 1))


@settings(deadline=None)
@given(splittable(), seeds)
def test_a_split_leaves_every_image_on_one_side(
    whole_and_number: tuple[ImageSet, int], seed: int
) -> None:
    whole, number = whole_and_number
    kept, held_out = split_off(whole, number, seed)
    assert len(held_out) == number
    assert sorted(indices(kept) + indices(held_out)) == indices(whole)
    for part in (kept, held_out):
        assert indices(part) == sorted(indices(part))
        assert part.labels.tolist() == whole.labels[indices(part)].tolist()
        assert part.classes == whole.classes
    assert "toy" in kept.name
    assert "toy" in held_out.name
    assert len({whole.name, kept.name, held_out.name}) == 3


@settings(deadline=None)
@given(splittable(), seeds)
def test_each_class_is_held_out_in_proportion(
    whole_and_number: tuple[ImageSet, int], seed: int
) -> None:
    whole, number = whole_and_number
    held_out = Counter(split_off(whole, number, seed)[1].labels.tolist())
    for label, count in Counter(whole.labels.tolist()).items():
        assert abs(held_out[label] - Fraction(count * number, len(whole))) < 1


@settings(deadline=None, max_examples=30)
@given(seeds)
def test_the_seed_alone_decides_the_split(seed: int) -> None:
    whole = image_set([0, 1, 2] * 40)
    held_out = indices(split_off(whole, 30, seed)[1])
    assert indices(split_off(whole, 30, seed)[1]) == held_out
    assert indices(split_off(whole, 30, seed ^ 1)[1]) != held_out  # alike once in 10^27 times


def test_every_image_is_held_out_as_often_as_any_other() -> None:
    whole = image_set([0] * 10 + [1] * 30)
    counts = Counter(i for seed in range(400) for i in indices(split_off(whole, 10, seed)[1]))
    # Held out a quarter of the time: 100 of 400 times, give or take 8.7; 40 images, 4.5 deviations.
    assert set(counts) == set(range(40))
    assert all(61 <= count <= 139 for count in counts.values())


@pytest.mark.parametrize("number", [-1, 0, 4, 5])
def test_an_impossible_split_is_refused(number: int) -> None:
    message = f"cannot hold out {number} of 4 images: choose data.validation between 1"
    with pytest.raises(DataError, match=message):
        split_off(image_set([0, 1, 0, 1]), number, 0)


@settings(deadline=None)
@given(st.integers(0, 23), st.integers(1, 255))
def test_the_fingerprint_shows_a_change_of_any_pixel(position: int, change: int) -> None:
    images = image_set([0] * 12)
    changed = images.images.copy()
    changed.reshape(-1)[position] ^= np.uint8(change)
    assert replace(images, images=changed).fingerprint != images.fingerprint


@settings(deadline=None)
@given(st.integers(0, 11), st.integers(1, 5))
def test_the_fingerprint_shows_a_change_of_any_label(position: int, label: int) -> None:
    images = image_set([0] * 12)
    changed = images.labels.copy()
    changed[position] = label
    assert replace(images, labels=changed).fingerprint != images.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        lambda images: replace(images, classes=("class 0", "class 2", "class 1")),
        lambda images: replace(images, classes=("class 0class 1", "class 2")),
        lambda images: replace(images, classes=(*images.classes, "class 3")),
        lambda images: replace(images, images=images.images.reshape(4, 1, 2, 1)),
        lambda images: replace(images, images=images.images.reshape(4, 2, 1, 1)),
        lambda images: images.subset(np.array([1, 0, 2, 3]), "toy"),
        lambda images: images.subset(np.array([0, 1, 2]), "toy"),
    ],
)
def test_the_fingerprint_shows_other_changes(change: Callable[[ImageSet], ImageSet]) -> None:
    images = image_set([0, 1, 2, 0], num_classes=3)
    assert change(images).fingerprint != images.fingerprint


def test_the_fingerprint_is_that_of_the_data_however_it_lies_in_memory() -> None:
    images = image_set([0, 1, 2, 0])
    doubled = np.repeat(images.images, 2, axis=0)
    assert replace(images, name="other", images=doubled[::2]).fingerprint == images.fingerprint


def test_counts_and_sides() -> None:
    images = image_set([3, 0, 3, 5])
    assert images.class_counts().tolist() == [1, 0, 0, 2, 0, 1]
    photos = ImageSet("", np.zeros((2, 3, 8, 8), dtype=np.uint8), images.labels[:2], ("a",) * 6)
    assert (len(photos), photos.num_channels, photos.size) == (2, 3, 8)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((2, 1, 4, 4), dtype=np.float32), np.zeros(2, dtype=np.int64)),
        (np.zeros((2, 4, 4), dtype=np.uint8), np.zeros(2, dtype=np.int64)),
        (np.zeros((2, 1, 4, 4), dtype=np.uint8), np.zeros(3, dtype=np.int64)),
        (np.zeros((2, 1, 4, 4), dtype=np.uint8), np.zeros((2, 1), dtype=np.int64)),
        (np.zeros((2, 1, 4, 4), dtype=np.uint8), np.zeros(2, dtype=np.uint8)),
    ],
)
def test_arrays_of_another_kind_are_refused(images: NDArray[Any], labels: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match=r"must be (uint8 N C H W|int64 with shape \(2,\)), not"):
        ImageSet("toy", images, labels, ("a",))
