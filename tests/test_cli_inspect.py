"""`deepcnn inspect` on real runs: what it draws, what it leaves alone, what it answers to bad
requests; and the first layer of each epoch, which runs keep for it.
"""

import hashlib
import json
import re
import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from scipy.stats import binomtest

from deepcnn import begin, files, models
from deepcnn import run as running
from deepcnn.checkpoint import read_filters
from deepcnn.cli import main
from deepcnn.data.splits import load_splits
from deepcnn.device import Policy
from deepcnn.evaluate import evaluate_run
from deepcnn.models.weights import ends
from faults import (
    SMALL,
    checkpoints,
    config_of,
    prepared,
    signals_restored,
    stop_early,
    torch_restored,
    train_here,
    write_images,
)

VIEWS = {
    "filters": ["filters", "run"],
    "evolution": ["filters", "run", "--evolution"],
    "maps": ["maps", "run", "5"],
    "one-layer": ["maps", "run", "dark.png", "--layer", "stage1.conv"],
    "neighbours": ["neighbours", "run", "3", "dark.png", "--sample", "40"],
    "separability": ["separability", "run", "--sample", "60"],
    "occlusion": ["occlusion", "run", "0", "1"],
    "gradcam": ["gradcam", "run"],
    "patches": ["patches", "run", "--sample", "30"],
    "embedding": ["embedding", "run"],
    "tsne": ["embedding", "run", "--method", "tsne"],
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs in several states; no test may change them."""
    folder = tmp_path_factory.mktemp("inspected")
    data = write_images(folder / "toy")
    few = write_images(folder / "few", num_train=9, num_test=1)
    compact = SMALL | {"model.name": "compact", "data.name": str(data), "train.keep": "best"}
    train_here(compact, folder / "run")
    short = {"train.epochs": 1, "data.validation": 0, "train.batch_size": 3, "train.keep": "last"}
    train_here(compact | short | {"model.name": "mlp"}, folder / "mlp")
    train_here(compact | short | {"data.name": str(few)}, folder / "few-run")
    stop_early(SMALL | {"data.name": str(data)}, folder / "unfinished", 12)
    for name in ("damaged", "other-schema", "no-checkpoints", "moved"):
        shutil.copytree(folder / "run", folder / name)
    (folder / "damaged/model/weights.safetensors").write_bytes(b"?")
    contents = files.read_folder(folder / "other-schema/model")
    meta = json.loads(contents["meta.json"]) | {"schema": 99}
    change = contents | {"meta.json": json.dumps(meta).encode()}
    files.replace_folder(folder / "other-schema/model", change)
    shutil.rmtree(folder / "no-checkpoints/checkpoints")
    contents = files.read_folder(folder / "moved/model")
    moved = contents["meta.json"].decode().replace(str(data), str(folder / "gone"))
    files.replace_folder(folder / "moved/model", contents | {"meta.json": moved.encode()})
    Image.fromarray(np.full((30, 17), 40, np.uint8)).save(folder / "dark.png")
    (folder / "text.png").write_text("no picture")
    return folder


@pytest.fixture
def inside(world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(world)
    monkeypatch.setattr("deepcnn.device.available_threads", lambda: 1)
    monkeypatch.setattr("deepcnn.progress.LINE_SECONDS", 1e9)
    monkeypatch.setattr("deepcnn.progress.FIRST_LINE_SECONDS", 1e9)
    return world


def call(*arguments: object) -> int:
    with signals_restored(), torch_restored(), pytest.raises(SystemExit) as stop:
        main(["inspect", *map(str, arguments)])
    assert isinstance(stop.value.code, int)
    return stop.value.code


def fingerprint(folder: Path) -> dict[str, tuple[int, str]]:
    """Every file below a folder: when it was changed, and SHA-256 of what is in it."""
    return {
        str(path): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("view", VIEWS)
def test_views_are_pictures_and_change_nothing(
    view: str, inside: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, path = fingerprint(inside), tmp_path / "picture.png"
    assert call(*VIEWS[view], "--out", path) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(path)
    with Image.open(path) as picture:
        assert min(picture.size) > 150
        assert len(picture.convert("RGB").getcolors(1 << 24) or ()) > 20  # not blank
    assert call(*VIEWS[view], "--out", tmp_path / "again.png") == 0
    assert (tmp_path / "again.png").read_bytes() == path.read_bytes()
    assert fingerprint(inside) == before


def test_pictures_can_be_svg_and_have_names_by_default(
    inside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("filters", inside / "run", "--out", "filters.svg") == 0
    assert ElementTree.parse(tmp_path / "filters.svg").getroot().tag.endswith("svg")
    assert call("maps", inside / "run") == 0
    assert call("filters", inside / "run" / "model") == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"filters.svg", "run-maps.png", "model-filters.png"}


def test_separability_in_json(
    inside: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.png"
    assert call("separability", "run", "--sample", 0, "--json", "--out", out) == 0
    rows = json.loads(capsys.readouterr().out)
    names = ["pixels", "HOG", "stage1", "stage2", "stage3", "conv4", "the network"]
    assert [row["features"] for row in rows] == names
    for row in rows:
        right = round(row["accuracy"] * 24)
        interval = binomtest(right, 24).proportion_ci(method="wilson")
        np.testing.assert_allclose(row["interval"], (interval.low, interval.high))
        assert row["num_images"] == 24
    assert rows[0]["numbers"] == 12 * 12
    assert rows[0]["accuracy"] == 1  # the height of a bright band tells the class
    with torch_restored():
        network = evaluate_run(Path("run"), "test", "cpu")
    assert rows[-1]["accuracy"] == network["accuracy"]


def test_neighbours_in_json(
    inside: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("neighbours", "run", "--json", "--out", tmp_path / "x.png") == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found) == 6
    for row in found:
        distances = [each["distance"] for each in row["neighbours"]]
        assert distances == sorted(distances)
        assert {each["class"] for each in row["neighbours"]} <= {"0", "1", "2"}


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        ("skimage.feature", "separability run", "left out: HOG features need scikit-image"),
        ("sklearn.manifold", "embedding run --method tsne", "deepcnn: t-SNE needs scikit-learn"),
    ],
)
@pytest.mark.usefixtures("inside")
def test_what_is_not_installed_is_named(
    module: str,
    arguments: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    code = call(*arguments.split(), "--out", tmp_path / "x.png")
    out, err = capsys.readouterr()
    assert (code, "HOG" in out) == (2 if "tsne" in arguments else 0, False)
    assert err.startswith(message)
    assert err.endswith("pip install 'deepcnn[inspect]'\n")
    assert err.count("\n") == 1


BAD_REQUESTS = [
    ("filters nowhere", r"nowhere does not exist; expected a run folder"),
    ("filters unfinished", r"unfinished holds no finished model.* Finish the run with"),
    ("maps unfinished", r"unfinished holds no finished model"),
    ("separability damaged", r"damaged/model is damaged: weights\.safetensors"),
    ("filters other-schema", r"other-schema/model has schema 99, this version reads 1"),
    ("filters run --out filters.jpg", r"--out is filters\.jpg, expected a name that ends in \.png"),
    ("filters run --out nowhere/x.png", r"cannot write nowhere/x\.png: No such file"),
    ("filters no-checkpoints --evolution", r"no-checkpoints holds no checkpoint with the first"),
    ("filters mlp", r"mlp has no convolution, so there are no filters"),
    ("filters mlp --evolution", r"mlp has no convolution, so there are no filters"),
    ("maps mlp", r"this network makes no maps of an image"),
    ("gradcam mlp", r"this network makes no maps of an image"),
    ("patches mlp", r"this network makes no maps of an image"),
    ("maps run 24", r"there is no image 24: .* has 24 images, 0 to 23"),
    ("maps run -- -1", r"-1 cannot be read: No such file.*; give a picture, or the place of a"),
    ("gradcam run nowhere.png", r"nowhere\.png cannot be read: No such file"),
    ("occlusion run text.png", r"text\.png is not a picture"),
    ("maps run --layer stage1.con", r"unknown layer 'stage1\.con'; did you mean stage1\.conv\?"),
    ("maps run --layer output", r"layer output puts out no maps"),
    ("patches run --layer stage9", r"unknown layer 'stage9'; did you mean stage\d\?"),
    ("maps moved", r"gone.* is not a folder"),
    ("neighbours run --sample -1", r"--sample is -1, expected at least 1, or 0 for all"),
    ("patches run --sample 0", r"--sample is 0, expected at least 1"),
    ("embedding run --method umap", r"umap.*pca.*tsne"),
    ("embedding few-run", r"1 test images make no map; it takes at least 3"),
    ("separability few-run", r"few/train has 9 images.*; a classifier needs at least 10"),
    ("separability run --sample 5", r"has 5 images of 5 asked for; a classifier needs at least 10"),
]


@pytest.mark.parametrize(("line", "message"), BAD_REQUESTS)
def test_bad_requests(
    line: str, message: str, inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = fingerprint(inside)
    assert call(*line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(message, err), err
    assert err.startswith("deepcnn: ")
    assert err.count("\n") == 1
    assert fingerprint(inside) == before


def test_views_of_a_single_image(inside: Path, tmp_path: Path) -> None:
    """One test image, and nine to learn from."""
    for view in ("neighbours", "maps", "occlusion", "gradcam", "patches"):
        assert call(view, "few-run", "--out", tmp_path / f"{view}.png") == 0


# The first layer over the epochs of a run


def kept(run: Path) -> dict[int, torch.Tensor]:
    return read_filters(run / "checkpoints")


def test_filters_are_those_of_the_checkpoints(world: Path) -> None:
    """The newest two are still there, of the last two epochs."""
    found = kept(world / "run")
    assert list(found) == [0, 1, 2, 3]
    for epoch, place in zip((2, 3), checkpoints(world / "run")[-2:], strict=True):
        weights = safetensors.torch.load(files.read_folder(place)["weights.safetensors"])
        assert torch.equal(found[epoch], weights["stage1.conv.weight"])
    assert not torch.equal(found[0], found[1])


def test_before_training_they_are_as_drawn(tmp_path: Path) -> None:
    settings = SMALL | {"data.name": str(write_images(tmp_path / "toy")), "train.epochs": 1}
    train_here(settings, tmp_path / "run")
    config = config_of(settings)
    with prepared(), torch_restored():
        splits = load_splits(config.data, config.train.seed, print)
        state = begin.begin_state(config, splits, Policy("cpu", "fp32", "contiguous", 1))
    assert torch.equal(kept(tmp_path / "run")[0], state.model.get_parameter("conv1.weight"))


@pytest.mark.parametrize("updates", [1, 8, 11])
def test_a_continued_run_keeps_the_same(updates: int, tmp_path: Path) -> None:
    settings = SMALL | {"data.name": str(write_images(tmp_path / "toy")), "train.ema": 0.9}
    train_here(settings, tmp_path / "whole")
    stop_early(settings, tmp_path / "stopped", updates)
    train_here(settings, tmp_path / "stopped")
    whole, stopped = kept(tmp_path / "whole"), kept(tmp_path / "stopped")
    assert list(whole) == list(stopped) == [0, 1, 2, 3]
    assert all(torch.equal(whole[epoch], stopped[epoch]) for epoch in whole)
    final = files.read_folder(tmp_path / "whole/model")["weights.safetensors"]
    assert torch.equal(whole[3], safetensors.torch.load(final)["conv1.weight"])  # the average


def test_of_long_runs_few_epochs_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "MOST_EPOCHS", 3)
    monkeypatch.setattr(running, "MOST_FILTERS", 2)
    settings = SMALL | {"data.name": str(write_images(tmp_path / "toy")), "train.epochs": 8}
    train_here(settings, tmp_path / "run")
    found = kept(tmp_path / "run")
    assert list(found) == [0, 3, 6, 8]
    assert {len(weight) for weight in found.values()} == {2}


def test_what_cannot_be_read_is_passed_over(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "run", tmp_path / "run")
    newest = checkpoints(tmp_path / "run")[-1]
    (newest / "state.safetensors").write_bytes(b"")
    assert list(kept(tmp_path / "run")) == [0, 1, 2]


def test_a_run_without_epochs_has_no_evolution(tmp_path: Path) -> None:
    settings = SMALL | {"data.name": str(write_images(tmp_path / "toy")), "train.epochs": 0}
    train_here(settings, tmp_path / "run")
    assert kept(tmp_path / "run") == {}


def test_networks_without_convolutions_keep_nothing(world: Path) -> None:
    assert kept(world / "mlp") == {}
    assert ends(models.build("mlp", 3, 1, 12))[0] == ""
