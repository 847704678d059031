"""The diagnosis: planted faults are named first, sound runs are left in peace."""

import json
import math
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from deepcnn import preflight
from deepcnn.data import catalog
from deepcnn.device import Policy
from deepcnn.diagnose import start
from deepcnn.diagnose.diagnosis import diagnose
from deepcnn.diagnose.findings import KINDS, Finding, ranked
from deepcnn.diagnose.signal import measure
from deepcnn.diagnose.trials import _shuffled
from deepcnn.recipes import RECIPES
from deepcnn.rehearsal import rehearse
from deepcnn.settings import override
from faults import (
    SMALL,
    Settings,
    call,
    config_of,
    digest,
    options_of,
    prepared,
    torch_restored,
    train_here,
    write_idx,
    write_images,
)
from planted import FAULTS, Fault, coloured, examined

HERE: Settings = {key: value for key, value in SMALL.items() if key.startswith("hardware.")}
POLICY = Policy("cpu", "fp32", "contiguous", 1)
# For networks that take any side: a quarter of the pixels.
SMALLER: Settings = {"data.size": 14, "train.batch_size": 64}
# Recipes as they are but for 1,000 images, and batches that suit so few.
SOUND: dict[str, Settings] = {
    "fashion-mnist": SMALLER,
    "fashion-mnist-sprint": {},
    "fashion-mnist-93": SMALLER,
    "mnist-99": {"train.batch_size": 100},
    "mnist-99 with adamw": {"train.batch_size": 100, "optim.name": "adamw", "optim.lr": 0.005},
    "lenet-mnist": {},
    "lenet-fashion-mnist": {"train.batch_size": 64, "optim.name": "adamw", "optim.lr": 2e-3},
    "lenet-sigmoid": {"train.batch_size": 64},
    "fashion-mnist with mlp": {"model.name": "mlp", "optim.name": "adamw", "optim.lr": 1e-3},
    "fashion-mnist-sprint with adamw": {"optim.name": "adamw", "optim.lr": 0.01},
}
MINUTES = (pytest.mark.soak, pytest.mark.timeout(7_200))
SLOW: dict[str, Settings] = {
    "fashion-mnist": {},
    "fashion-mnist-93": {},
    "fashion-mnist-945": {"train.batch_size": 300},
    "lenet-relu-dropout": {},
    "lenet-sigmoid": {},
    "alexnet28-fashion-mnist": {},
    "alexnet-fashion-mnist": {"train.batch_size": 32},
    "alexnet-slides": {"train.batch_size": 32},
    "fashion-mnist with resnet20": {"model.name": "resnet20", "train.batch_size": 32},
    "fashion-mnist with vgg11": {"model.name": "vgg11", "data.size": 32, "optim.lr": 0.01},
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_named_first(name: str, tmp_path: Path) -> None:
    found = examined(FAULTS[name], tmp_path)
    assert [finding.kind for finding in found.findings][:1] == [FAULTS[name].kind]


def test_there_is_a_planted_fault_of_each_kind() -> None:
    # A class without training images has no place in an IDX file, nor in a folder.
    assert KINDS.keys() - {fault.kind for fault in FAULTS.values()} == {"empty-class"}


def test_nothing_is_found_where_nothing_is_planted(tmp_path: Path) -> None:
    for number, fault in enumerate((Fault("none"), Fault("none", data=coloured))):
        assert examined(fault, tmp_path / str(number)).findings == []


@pytest.fixture(scope="module")
def fashion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first images of Fashion-MNIST."""
    folder = tmp_path_factory.mktemp("fashion")
    for split, prefix, number in (("train", "train", 1000), ("test", "t10k", 300)):
        images = catalog.load("fashion-mnist", split, "")  # type: ignore[arg-type]
        few = images.subset(np.arange(number), split)
        assert isinstance(few.images, np.ndarray)
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", few.images[:, 0])
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", few.labels.astype(np.uint8))
    return folder


@pytest.mark.parametrize(
    ("name", "more"),
    [*SOUND.items(), *(pytest.param(*each, marks=MINUTES) for each in SLOW.items())],
)
def test_sound_recipes_are_left_in_peace(
    name: str, more: Settings, fashion: Path, tmp_path: Path
) -> None:
    settings = HERE | {"data.name": str(fashion), "data.validation": 0}
    config = override(RECIPES[name.partition(" ")[0]](), settings | more, "test")
    with torch_restored():
        found = diagnose(config, tmp_path)
        splits = preflight.load(config)
        state = rehearse(config, splits, POLICY).state
        assert start.first_look(state.model, splits, POLICY) == ""
    assert found.findings == []
    assert not found.is_short


def test_the_first_loss_of_equal_logits_is_the_logarithm_of_their_number() -> None:
    for classes in (2, 10, 1000):
        labels = torch.arange(classes)
        assert not list(start.check_logits(torch.randn(classes, classes) / 100, labels))
        far = torch.zeros(classes, classes) - 30 * torch.eye(classes)
        kinds = {finding.kind for finding in start.check_logits(far, labels)}
        assert "loss-at-start" in kinds
        measured = next(f.measured for f in start.check_logits(far, labels))
        assert f"ln {classes} is {math.log(classes):.2f}" in measured


class Chain(nn.Module):
    """Linear maps that multiply by known numbers."""

    def __init__(self, factors: list[float]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(3, 3, bias=False) for _ in factors))
        for layer, factor in zip(self.layers, factors, strict=True):
            layer.weight.data = factor * torch.eye(3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(images.flatten(1)[:, :3])
        return logits


def test_signals_and_gradients_of_a_chain_of_known_factors(tmp_path: Path) -> None:
    """Text 003: layers that multiply by k bring gradients back multiplied by k each."""
    config = config_of(SMALL | {"data.name": str(write_images(tmp_path / "toy"))})
    with prepared():
        run = rehearse(config, preflight.load(config), POLICY)
    run.state.model = Chain([3.0, 0.5, 0.5, 0.5])
    batch = run.source(run.splits.train).batch(torch.arange(40))
    found = measure(run, batch)
    size = float(batch.images.flatten(1)[:, :3].square().mean().sqrt())
    assert [layer.signal for layer in found.layers] == pytest.approx(
        [3 * size, 1.5 * size, 0.75 * size, 0.375 * size], rel=1e-5
    )
    gradients = [layer.gradient for layer in found.layers]
    assert [a / b for a, b in pairwise(gradients)] == pytest.approx([0.5] * 3)
    assert found.growth == pytest.approx(0.5)


def test_dead_units_are_those_below_zero_for_every_image(tmp_path: Path) -> None:
    config = config_of(SMALL | {"data.name": str(write_images(tmp_path / "toy"))})
    with prepared():
        run = rehearse(config, preflight.load(config), POLICY)
    dense = nn.Linear(144, 8)
    for relu in (nn.ReLU(), nn.ReLU(inplace=True)):
        with torch.no_grad():
            dense.bias.copy_(torch.tensor([-1e4] * 3 + [1e4] * 5))
        run.state.model = nn.Sequential(nn.Flatten(), dense, relu, nn.Linear(8, 3))
        batch = run.source(run.splits.train).batch(torch.arange(40))
        assert measure(run, batch).dead == {"1": 3 / 8}


@given(st.lists(st.integers(0, 4), min_size=8, max_size=300).filter(lambda s: len(set(s)) == 5))
def test_shuffled_labels_are_the_same_ones_and_even_over_classes(labels: list[int]) -> None:
    from deepcnn.data.images import ImageSet

    pixels = np.zeros((len(labels), 1, 1, 1), np.uint8)
    images = ImageSet("drawn", pixels, np.array(labels, np.int64), tuple("abcde"))
    mixed = _shuffled(images).labels
    assert sorted(mixed.tolist()) == sorted(labels)
    for each in range(5):
        rows = images.labels == each
        expected = rows.sum() * images.class_counts() / len(labels)
        # Points of a sequence of low discrepancy: off by few, however many there are.
        assert np.abs(np.bincount(mixed[rows], minlength=5) - expected).max() <= 6


@given(st.lists(st.sampled_from(list(KINDS))))
def test_findings_stand_in_the_order_of_causes(kinds: list[str]) -> None:
    found = ranked(Finding(kind, str(place)) for place, kind in enumerate(kinds))
    assert [f.kind for f in found] == sorted(set(kinds), key=list(KINDS).index)
    assert [int(f.measured) for f in found] == [kinds.index(f.kind) for f in found]


def test_every_kind_says_what_to_do() -> None:
    for kind in KINDS.values():
        for text in kind:
            assert text == text.strip() != ""
            assert text[-1] not in ".:;"


def test_the_first_look_changes_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SMALL | {"data.name": str(write_images(tmp_path / "toy"))}
    train_here(settings, tmp_path / "looked")
    monkeypatch.setattr("deepcnn.begin.first_look", lambda *_: "")
    train_here(settings, tmp_path / "not")
    assert digest(tmp_path / "looked") == digest(tmp_path / "not")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and a finished run."""
    folder = tmp_path_factory.mktemp("world")
    data = write_images(folder / "toy")
    train_here(SMALL | {"data.name": str(data), "train.epochs": 2}, folder / "run")
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_run_is_diagnosed_and_not_changed(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(world)
    picture = tmp_path / "rates.png"
    code = call("diagnose", world / "run", "--plot", picture, "--json")
    assert tree(world) == before
    told = json.loads(capsys.readouterr().out)
    assert code == bool(told["findings"])
    assert told["measured"]["loss_of_chance"] == pytest.approx(math.log(3))
    assert told["measured"]["by_heart"][-1].split(": ")[1].startswith("50 of 50")
    rates = told["learning_rates"]["rates"]
    assert np.diff(np.log10(rates)) == pytest.approx(1 / 6)
    with Image.open(picture) as drawn:
        drawn.load()
        assert drawn.format == "PNG"
        assert len(drawn.getcolors(maxcolors=100_000) or []) > 20


def test_units_that_died_in_a_run_are_seen(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file

    from deepcnn import checkpoint

    run = tmp_path / "run"
    shutil.copytree(world / "run", run)
    config = config_of(SMALL | {"data.name": str(world / "toy")})
    with prepared():
        state = rehearse(config, preflight.load(config), POLICY).state
    place, _ = checkpoint.load_newest(run / "checkpoints", state)
    assert place
    with torch.no_grad():
        state.model.conv2.bias.fill_(-1e4)  # type: ignore[union-attr, operator]
    checkpoint.save(run / "checkpoints", state)
    assert (load_file(place / "weights.safetensors")["conv2.bias"] == -1e4).all()
    assert call("diagnose", run) == 1
    out = capsys.readouterr().out
    assert "1. dead ReLU units" in out
    assert f"100% of the units behind conv2 after {state.step} updates" in out


def test_a_finding_is_told_with_what_to_do(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = SMALL | {"data.name": str(world / "toy"), "data.pixels": "raw"}
    assert call("diagnose", "fashion-mnist", *options_of(settings)) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "fashion-mnist: 1 finding, the most likely cause first"
    assert lines[2] == "1. input that is not normalised"
    words = [line[:16].strip() for line in lines[3 : lines.index("measured:")]]
    assert [w for w in words if w] == ["measured", "normal", "likely cause", "try"]
    assert "--data.pixels standardized" in " ".join(lines)
    assert lines[-1].startswith("No updates were tried")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lenet-minst",), "unknown recipe 'lenet-minst'; did you mean lenet-mnist?"),
        (("{world}",), "is no run folder, it has no config.json: give a folder made by"),
        (("{world}/nowhere",), "is no run folder, it has no config.json"),
        (("fashion-mnist", "--data", "{tmp}/empty"), "empty"),
        (
            ("fashion-mnist", "--data", "{tmp}/single", "--data.validation", "0"),
            "there are only 1 training images",
        ),
        (("{world}/run", "--data", "{tmp}/named"), "has the classes x, y, z; those of"),
        (("fashion-mnist", "--optim.lrr", "1"), "unknown setting optim.lrr"),
    ],
)
def test_bad_requests_are_one_line(
    arguments: tuple[str, ...],
    message: str,
    world: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    write_images(tmp_path / "single", num_train=1, num_test=1)
    shutil.copytree(world / "toy", tmp_path / "named")
    (tmp_path / "named" / "classes.txt").write_text("x\ny\nz\n")
    filled = [each.format(world=world, tmp=tmp_path) for each in arguments]
    assert call("diagnose", *filled) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("deepcnn: ")


def test_training_warns_in_one_line_of_what_it_sees_at_once(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound = SMALL | {"data.name": str(world / "toy"), "train.epochs": 1}
    for settings, number in ((sound, 0), (sound | {"data.pixels": "raw"}, 1)):
        run = tmp_path / f"a run {number}"
        train_here(settings, run)
        warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
        assert len(warnings) == number
        if warnings:
            assert warnings[0].startswith("warning: input that is not normalised: mean 7")
            assert warnings[0].endswith(f"`deepcnn diagnose '{run}'` says what to do")
