"""A few images learnt by heart: `deepcnn train --overfit`."""

import json
from pathlib import Path

import pytest

from deepcnn import by_heart
from deepcnn.config import Config
from deepcnn.recipes import RECIPES
from faults import SMALL, call, options_of, write_images


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("by-heart") / "toy")


@pytest.mark.parametrize("number", [1, 50])
def test_overfit_says_whether_images_are_learnt(
    number: int, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    given = options_of(SMALL | {"data.name": str(toy)})
    monkeypatch.setenv("DEEPCNN_CACHE", str(tmp_path / "cache"))
    assert call("train", "--overfit", number, "--json", *given) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told["learnt"]
    assert told["tried"][-1]["known"] == told["num_images"] == number
    assert "augment.flip none" in err
    assert "optim.weight_decay 0.0" in err
    assert not (tmp_path / "runs").exists()


def test_overfit_fails_where_images_cannot_be_learnt(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(by_heart, "UPDATES", 2)
    given = options_of(SMALL | {"data.name": str(toy)})
    assert call("train", "--overfit", 50, *given) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "sgd at 0.05", "adamw at 0.001", "adamw at 0.0001", "adamw at 0.01", "not learnt by heart",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("number", "message"), [(0, "give at least 1"), (-3, "at least 1"), (81, "there are only 80")]
)
def test_overfit_wants_a_number_of_training_images(
    number: int, message: str, toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = options_of(SMALL | {"data.name": str(toy)})
    assert call("train", "--overfit", number, *given) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_settings_for_learning_by_heart_leave_nothing_that_regularises() -> None:
    for name, recipe in RECIPES.items():
        config = by_heart.plain(recipe(), 50)
        assert isinstance(config, Config)
        optim, train = config.optim, config.train
        assert (optim.weight_decay, optim.l1, train.label_smoothing, train.ema) == (0,) * 4, name
        assert config.augment == type(config.augment)(), name
