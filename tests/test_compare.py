"""Runs side by side: real ones, trained here, by the command."""

import json
import shutil
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch

from deepcnn import artefact, predictions
from deepcnn.cli import main
from deepcnn.compare import compare_runs, over_seeds
from deepcnn.errors import RunError
from deepcnn.evaluate import evaluate_run
from deepcnn.predictions import Predictions
from faults import SMALL, prepared, torch_restored, train_here, write_images


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two recipes with two seeds each, and one on other images."""
    place = tmp_path_factory.mktemp("runs")
    data = {"data.name": str(write_images(place / "toy"))}
    other = {"data.name": str(write_images(place / "other", num_train=60, num_test=12))}
    for seed in (0, 1):
        settings = SMALL | data | {"train.seed": seed}
        train_here(settings, place / f"slow-{seed}")
        train_here(settings | {"train.epochs": 1, "optim.lr": 1e-4}, place / f"poor-{seed}")
    train_here(SMALL | other, place / "elsewhere")
    with prepared(), torch_restored():
        yield place


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with torch_restored(), pytest.raises(SystemExit) as stop:
        main(["compare", *map(str, arguments)])
    assert isinstance(stop.value.code, int)
    return stop.value.code, *capsys.readouterr()


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_run_keeps_what_it_said(runs: Path) -> None:
    kept = predictions.kept(runs / "slow-0")
    assert sorted(kept) == ["test", "validation"]
    facts = artefact.load(runs / "slow-0").meta
    for split, said in kept.items():
        assert said.accuracy() == facts[split]["accuracy"]
        again = evaluate_run(runs / "slow-0", split, "cpu")
        assert again["loss"] == pytest.approx(facts[split]["loss"])
    same, other = (predictions.kept(runs / name)["test"] for name in ("slow-1", "elsewhere"))
    assert kept["test"].images == same.images != other.images


def test_predictions_are_the_bytes_that_were_kept(tmp_path: Path) -> None:
    """Also answers that are no numbers, which a model's file must not hold."""
    said = Predictions(torch.tensor([[1.0, torch.nan]]), torch.tensor([1]), "abc")
    predictions.keep(tmp_path, {"test": said})
    found = predictions.kept(tmp_path)["test"]
    torch.testing.assert_close(found.logits, said.logits, equal_nan=True)
    assert (found.labels.tolist(), found.images) == ([1], "abc")
    (tmp_path / predictions.FILE).write_bytes(b"nothing of the kind")
    with pytest.raises(RunError, match=r"predictions.safetensors, where a finished run keeps"):
        predictions.kept(tmp_path)
    with pytest.raises(safetensors.SafetensorError):
        safetensors.safe_open(tmp_path / predictions.FILE, framework="pt")


def test_runs_on_the_same_images_are_paired(runs: Path) -> None:
    found = compare_runs([runs / "slow-0", runs / "poor-0", runs / "elsewhere"])
    first, second, third = found["runs"]
    pair, unlike = found["on_images"]
    assert pair["mean"] == pytest.approx(second["accuracy"] - first["accuracy"])
    assert pair["only_second"] - pair["only_first"] == round(pair["mean"] * 24)
    assert unlike["not_compared"] == "they were tested on other images"
    assert (third["num_images"], found["over_seeds"]) == (12, [])
    facts = artefact.load(runs / "slow-0").meta
    assert first["parameters"] == facts["num_parameters"]
    assert first["seconds"] == facts["seconds"] > 0
    assert first["multiply_adds"] > first["parameters"]
    assert first["peak_memory"] > 1e7


def test_recipes_are_paired_by_seed(runs: Path) -> None:
    names = ["slow-0", "poor-1", "poor-0", "slow-1"]
    found = compare_runs([runs / name for name in names])
    by_name = dict(zip(names, found["runs"], strict=True))
    (pair,) = found["over_seeds"]
    assert pair["settings"] == {"optim.lr": 1e-4, "train.epochs": 1}
    assert pair["against"] == {"optim.lr": 0.05, "train.epochs": 3}
    differences = [
        by_name[f"poor-{s}"]["accuracy"] - by_name[f"slow-{s}"]["accuracy"] for s in (0, 1)
    ]
    assert pair["mean"] == pytest.approx(sum(differences) / 2)
    assert pair["seeds"] == [0, 1]


def test_one_shared_seed_is_no_pair_of_recipes() -> None:
    def row(lr: float, seed: int) -> dict[str, Any]:
        return {"settings": {"optim.lr": lr}, "seed": seed, "accuracy": 0.5}

    assert over_seeds([row(0.1, 0), row(0.1, 1), row(0.2, 1), row(0.2, 2)]) == []
    assert len(over_seeds([row(0.1, 0), row(0.1, 1), row(0.2, 1), row(0.2, 0)])) == 1


def test_the_command_changes_no_run(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = digests(runs)
    code, out, _ = call(capsys, runs / "slow-0", runs / "poor-0")
    assert code == 0
    assert "on the same 24 images" in out
    code, out, _ = call(capsys, runs / "slow-0", runs / "poor-0", "--json")
    assert code == 0
    assert json.loads(out)["on_images"][0]["n"] == 24
    code, out, _ = call(
        capsys, *(runs / f"{name}-{s}" for name in ("slow", "poor") for s in (0, 1))
    )
    assert "optim.lr 0.0001 instead of 0.05, train.epochs 1 instead of 3, 2 seeds: " in out
    assert digests(runs) == before


def test_a_run_that_kept_no_answers_is_told(runs: Path, tmp_path: Path) -> None:
    old = shutil.copytree(runs / "slow-1", tmp_path / "old")
    (old / predictions.FILE).unlink()
    (pair,) = compare_runs([runs / "slow-0", old])["on_images"]
    assert pair["not_compared"] == f"{old} has kept no answers to its test images"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "compare needs two or more runs, got 0"),
        (["slow-0"], "compare needs two or more runs, got 1"),
        (["slow-0", "nowhere"], "nowhere does not exist"),
        (["slow-0", "toy"], "holds no finished model"),
    ],
)
def test_what_cannot_be_compared(
    runs: Path, names: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(capsys, *(runs / name for name in names))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
