"""The glance at a data set before training: what it sees, and that good data show nothing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deepcnn.config import Data
from deepcnn.data import catalog, pictures
from deepcnn.data.glance import glance
from deepcnn.data.images import ImageSet
from picture_files import blocks, encoded, write_pictures

CLASSES = tuple("abcd")


def arrays(seed: int, labels: list[int]) -> ImageSet:
    images = np.random.default_rng(seed).integers(0, 256, (len(labels), 3, 6, 6), np.uint8)
    return ImageSet("drawn", images, np.array(labels), CLASSES)


@pytest.fixture
def sets() -> dict[str, ImageSet]:
    """Of 40, 8 and 12 images, all different."""
    return {
        split: arrays(seed, list(range(4)) * number)
        for seed, (split, number) in enumerate((("train", 10), ("validation", 2), ("test", 3)))
    }


def test_nothing_is_said_of_good_data(sets: dict[str, ImageSet]) -> None:
    assert glance(sets, "drawn") == []
    assert glance({"train": sets["train"], "test": sets["test"]}, "drawn") == []


def test_nothing_is_said_of_fashion_mnist() -> None:
    """The official files hold 70,000 different images."""
    sets = {split: catalog.load("fashion-mnist", split, "") for split in ("train", "test")}
    assert glance(sets, "fashion-mnist") == []


def test_copies_in_other_splits_are_counted(sets: dict[str, ImageSet]) -> None:
    train, test = sets["train"], sets["test"]
    assert isinstance(train.images, np.ndarray)
    assert isinstance(test.images, np.ndarray)
    leaking = test.images.copy()
    leaking[[1, 5, 6]] = train.images[[1, 5, 9 + 1]]  # of the same classes
    leaking[7] = leaking[3]  # twice in the test set, which is no leak
    assert glance({**sets, "test": replace(test, images=leaking)}, "photos") == [
        "warning: test images that are training images too: 3 of 12; what is measured on them is "
        "memory",
        "`deepcnn data check photos` shows which, and looks for more",
    ]


def test_images_of_several_labels_are_counted(sets: dict[str, ImageSet]) -> None:
    train = sets["train"]
    assert isinstance(train.images, np.ndarray)
    images = train.images.copy()
    images[[1, 2, 7]] = images[0]  # of three further classes
    images[24] = images[20]  # of the same
    images[25] = images[20 + 2]
    lines = glance({**sets, "train": replace(train, images=images)}, "photos")
    assert lines[0] == "warning: images with several labels: 2"
    assert len(lines) == 2


def test_missing_and_rare_classes_are_named(sets: dict[str, ImageSet]) -> None:
    train = arrays(5, [0] * 30 + [1] * 3 + [2] * 4 + [3] * 2)
    test = arrays(6, [0, 0, 3])
    assert glance({"train": train, "test": test}, "photos")[:-1] == [
        "warning: there are no test images of 'b', 'c'",
        "warning: there are at least 10 times as many training images of 'a' as of 'b', 'd'",
    ]


def test_many_classes_are_not_all_named() -> None:
    train = replace(arrays(5, [0, 1]), classes=tuple(map(str, range(9))))
    assert glance({"train": train}, "x")[0].endswith("images of '2', '3', '4', '5', '6' and 2 more")


def test_equal_files_are_copies(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for split, number in (("train", 9), ("test", 6)):
        for label in ("a", "b"):
            write_pictures(folder / split / label, number)
    content = encoded(blocks(50, 40, 77), "PNG")
    for split, label in (("train", "a"), ("test", "a"), ("test", "b")):
        (folder / split / label / "copy.png").write_bytes(content)
    data = Data(name=str(folder), validation=0)
    leaks, contradictions, _ = glance(pictures.load_parts(data, 0, pytest.fail), str(folder))
    assert leaks.startswith("warning: test images that are training images too: 14 of 14")
    assert contradictions == "warning: images with several labels: 10"  # 9 that each class has
