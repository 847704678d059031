"""Sweeps of real, small runs."""

import json
from hashlib import sha256
from pathlib import Path

import pytest
from PIL import Image

from deepcnn import artefact, sweep
from deepcnn.cli import main
from deepcnn.errors import ConfigError, Interrupted
from deepcnn.paired import mean_interval
from deepcnn.settings import from_dict
from deepcnn.sweep import combinations, folder_name, sweep_recipe
from faults import SMALL, prepared, torch_restored, write_images


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, str]:
    small = {name: str(value) for name, value in SMALL.items()}
    return small | {"data.name": str(write_images(tmp_path / "toy")), "train.epochs": "1"}


def test_a_grid_and_seeds_are_all_run(settings: dict[str, str], tmp_path: Path) -> None:
    grid = ["optim.lr=0.05,0.2", "train.batch_size=10,20"]
    with prepared(), torch_restored():
        found = sweep_recipe("fashion-mnist", settings, 2, grid, tmp_path / "out")
        assert len(found["runs"]) == 8
        for row in found["runs"]:
            facts = artefact.load(Path(row["run"])).meta
            config = from_dict(facts["config"], row["run"])
            assert str(config.optim.lr) == row["values"]["optim.lr"]
            assert str(config.train.batch_size) == row["values"]["train.batch_size"]
            assert config.train.seed == row["seed"]
            assert row["test"] == facts["test"]["accuracy"]
            assert row["validation"] == facts["validation"]["accuracy"]
    for cell in found["cells"]:
        own = [row["test"] for row in found["runs"] if row["values"] == cell["values"]]
        assert cell["test"]["values"] == own
        assert cell["test"]["interval"] == mean_interval(own)
    words = sweep.in_words(found).splitlines()
    assert words[0].split()[:3] == ["optim.lr", "train.batch_size", "seeds"]
    marked = [line for line in words[1:] if line.startswith("* ")]
    assert len(marked) == 2  # the best, and what the mark means
    best = max(found["cells"], key=lambda cell: cell["validation"]["mean"])
    assert marked[0].split()[1:3] == list(best["values"].values())
    with Image.open(found["picture"]) as picture:
        assert len(picture.convert("RGB").getcolors(maxcolors=100_000) or []) > 10


def test_a_sweep_goes_on_where_it_was_stopped(
    settings: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, fit = tmp_path / "out", sweep.fit
    trained: list[Path] = []

    def stopping(config: object, folder: Path, cache: Path) -> object:
        if len(trained) == 1:
            raise Interrupted("stopped by SIGTERM", 15)
        trained.append(folder)
        return fit(config, folder, cache)  # type: ignore[arg-type]

    with prepared(), torch_restored():
        monkeypatch.setattr(sweep, "fit", stopping)
        with pytest.raises(Interrupted):
            sweep_recipe("fashion-mnist", settings, 3, [], out)
        weights = trained[0] / "model" / "weights.safetensors"
        before = (weights.stat().st_mtime_ns, sha256(weights.read_bytes()).hexdigest())
        monkeypatch.setattr(sweep, "fit", fit)
        found = sweep_recipe("fashion-mnist", settings, 3, [], out)
        assert (weights.stat().st_mtime_ns, sha256(weights.read_bytes()).hexdigest()) == before
        assert [row["seed"] for row in found["runs"]] == [0, 1, 2]
        monkeypatch.setattr(sweep, "fit", None)  # nothing is left to do
        assert sweep_recipe("fashion-mnist", settings, 3, [], out) == found


def test_the_command(
    settings: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [text for name, value in settings.items() for text in (f"--{name}", value)]
    place = ["--out", str(tmp_path / "out")]
    with prepared(), torch_restored(), pytest.raises(SystemExit) as stop:
        main(["sweep", "fashion-mnist", *options, "--seeds", "2", *place, "--json"])
    assert stop.value.code == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["cells"][0]["n"] == 2
    assert "run 2 of 2: " in err
    with prepared(), torch_restored(), pytest.raises(SystemExit) as stop:
        main(["sweep", "fashion-mnist", *options, "--train.epochs", "2", *place])
    assert stop.value.code == 2
    assert "holds a run of other settings (train.epochs: 1 then, 2 now)" in capsys.readouterr().err


def test_nothing_is_trained_before_all_is_legal(settings: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"optim.lr"):
        sweep_recipe("fashion-mnist", settings, 1, ["optim.lr=0.1,much"], tmp_path / "out")
    with pytest.raises(ConfigError, match=r"unknown recipe 'fashion-mnits'"):
        sweep_recipe("fashion-mnits", settings, 1, [], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_combinations() -> None:
    assert combinations([]) == [{}]
    assert combinations(["a.b=1, 2", "c.d=x"]) == [
        {"a.b": "1", "c.d": "x"},
        {"a.b": "2", "c.d": "x"},
    ]
    assert (
        folder_name({"model.name": "torchvision/resnet18"}, 3) == "name-torchvision_resnet18-seed-3"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim.lr", r"--grid 'optim.lr' is not SECTION.FIELD=VALUE"),
        ("optim.lr=", r"is not SECTION.FIELD=VALUE"),
        ("train.seed=1,2", r"give --seeds NUMBER"),
    ],
)
def test_a_grid_that_is_none(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        combinations([text])
