"""Sheets show what training does: their squares are those of the functions that training uses."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from deepcnn.cli import main
from deepcnn.config import Augment, Data
from deepcnn.data.images import ImageSet
from deepcnn.data.pictures import load_parts
from deepcnn.data.preprocess import Preprocess
from deepcnn.data.sheets import GAP, TITLE, augment_sheet, geometry_sheet
from deepcnn.data.splits import make_preprocess
from deepcnn.errors import ConfigError, DataError
from picture_files import write_classes

SIDE = 24


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEEPCNN_CACHE", str(tmp_path / "cache"))
    return write_classes(tmp_path / "photos", {"cat": 6, "dog": 5})


def square(sheet: Image.Image, row: int, column: int) -> NDArray[np.uint8]:
    """One of the squares, C H W."""
    left, top = GAP + column * (SIDE + GAP), TITLE + row * (SIDE + GAP)
    return np.asarray(sheet.crop((left, top, left + SIDE, top + SIDE))).transpose(2, 0, 1)


def test_geometries_are_those_of_training(folder: Path) -> None:
    data = Data(name=str(folder), size=SIDE)
    train = load_parts(data, 0, lambda _: None)["train"]
    preprocess = make_preprocess(data, train)
    sheet = geometry_sheet(train, preprocess, number=3)
    for row, index in enumerate(np.linspace(0, len(train) - 1, 3).astype(int)):
        picture = train.images.pixels(int(index))  # type: ignore[union-attr]
        for column, name in enumerate(("letterbox", "crop", "squash")):
            expected = replace(preprocess, geometry=name).frame(picture).numpy()
            assert np.array_equal(square(sheet, row, column), expected)


def test_random_changes_are_those_of_training(folder: Path) -> None:
    data = Data(name=str(folder), size=SIDE)
    train = load_parts(data, 0, lambda _: None)["train"]
    preprocess = make_preprocess(data, train)
    plain = augment_sheet(train, preprocess, Augment(), 0, number=2)
    flipped = augment_sheet(train, preprocess, Augment(flip="alternating"), 0, number=2)
    for row in range(2):
        own = square(plain, row, 0)
        seen = [square(flipped, row, column) for column in range(1, 8)]
        assert all(np.array_equal(square(plain, row, column), own) for column in range(1, 8))
        assert sorted(np.array_equal(image, own) for image in seen) in (
            [False] * 3 + [True] * 4,
            [False] * 4 + [True] * 3,
        )
        assert all(np.array_equal(x, own) or np.array_equal(x, own[..., ::-1]) for x in seen)


def test_mixing_shows_the_partner(folder: Path) -> None:
    data = Data(name=str(folder), size=SIDE)
    train = load_parts(data, 0, lambda _: None)["train"]
    sheet = augment_sheet(train, make_preprocess(data, train), Augment(mixup=1.0), 0, number=1)
    squares = torch.from_numpy(np.stack([square(sheet, 0, column) for column in range(8)]))
    assert len(squares.unique(dim=0)) == 8  # another share in each epoch


def test_what_cannot_be_shown() -> None:
    pixels = np.zeros((2, 1, 8, 8), np.uint8)
    squares = ImageSet("toy", pixels, np.array([0, 1]), ("a", "b"))
    grey = Preprocess(1, squares.size, 0, (0.0,), (1.0,))
    with pytest.raises(DataError, match="equal squares, which need no geometry"):
        geometry_sheet(squares, grey)
    with pytest.raises(ConfigError, match=r"augment\.hue changes colours of RGB images"):
        augment_sheet(squares, grey, Augment(hue=0.1), 0)


@pytest.mark.parametrize("options", [["--geometry"], ["--augment", "--augment.rotate", "15"], []])
def test_the_command_writes_a_picture(folder: Path, options: list[str], tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    with pytest.raises(SystemExit) as stop:
        main(["data", "show", str(folder), *options, "--data.size", str(SIDE), "--out", str(out)])
    assert not stop.value.code
    with Image.open(out) as sheet:
        assert sheet.size[0] > SIDE
