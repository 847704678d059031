"""A run that is continued, from whatever update, ends with the bits of one that never stopped."""

import dataclasses
import json
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from deepcnn import checkpoint, files, interrupt, runlog
from deepcnn.checkpoint import TrainState
from deepcnn.data.arrays import read_idx
from deepcnn.errors import Interrupted, RunError, UserError
from faults import (
    SMALL,
    Settings,
    at_call,
    checkpoints,
    digest,
    last_step,
    signals_restored,
    train_here,
    write_idx,
    write_images,
)

STEPS, STEPS_PER_EPOCH = 24, 8  # 80 images in batches of 10, three epochs
TORN = b'{"event": "step", "step": 1}\n{"event": "st'  # a record that says too much, cut off

OPTIMISERS: dict[str, Settings] = {
    "sgd": {"optim.name": "sgd", "optim.momentum": 0.9},
    "adamw": {"optim.name": "adamw", "optim.lr": 0.03, "optim.nesterov": False},
    "muon": {
        "optim.name": "muon",
        "optim.lr": 0.1,
        "optim.momentum": 0.6,
        "optim.head_factor": 2.0,
    },
}
CASES: dict[str, Settings] = {
    f"{name}, average {ema}, pieces {pieces}": {
        **OPTIMISERS[name], "train.ema": ema, "train.accumulate": pieces,
    }
    for name, ema, pieces in product(OPTIMISERS, (0, 0.9), (1, 3))
}  # fmt: skip
for optimiser in OPTIMISERS:
    CASES[f"{optimiser}, channels last"] = {
        **OPTIMISERS[optimiser], "train.ema": 0.9, "hardware.layout": "channels_last",
    }  # fmt: skip
for optimiser in ("sgd", "muon"):
    CASES[f"{optimiser}, fp16 with a scaler"] = {
        **OPTIMISERS[optimiser], "hardware.precision": "fp16",
    }  # fmt: skip
CASES["adamw, bf16, clipped"] = {
    **OPTIMISERS["adamw"], "hardware.precision": "bf16", "optim.clip_norm": 0.1,
}  # fmt: skip
CASES["muon, the hardest half"] = {  # 8 updates, then 4 an epoch
    **OPTIMISERS["muon"], "train.hardest": 0.5, "train.epochs": 5,
}  # fmt: skip
CASES["muon, the bias of a whitening layer for a while"] = {
    **OPTIMISERS["muon"], "model.name": "speedy", "optim.whiten_until": 0.4,
}  # fmt: skip
CASES["muon, small images for a while"] = {
    **OPTIMISERS["muon"], "model.name": "speedy", "augment.small_until": 0.4,
}  # fmt: skip


@dataclass(frozen=True)
class Twin:
    """A run that nothing happened to, with a copy of each checkpoint that it ever committed."""

    settings: Settings
    run: Path
    copies: list[Path]
    digest: dict[str, str]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "images")


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    """Nothing waits for the disk, and the large network is a small one."""
    with mock.patch("os.fsync"), mock.patch("deepcnn.models.speedy.WIDTHS", (8, 8, 8)):
        yield


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Callable[[str], Twin]:
    """Look up or make the twin of a case."""
    made: dict[str, Twin] = {}

    def twin(case: str) -> Twin:
        if case not in made:
            settings = SMALL | {"data.name": str(images)} | CASES[case]
            made[case] = make_twin(tmp_path_factory.mktemp("twin"), settings)
        return made[case]

    return twin


def make_twin(folder: Path, settings: Settings) -> Twin:
    """Train with a checkpoint after every update, and copy each before it is replaced."""
    save = checkpoint.save
    copies: list[Path] = []

    def save_and_copy(*arguments: Any) -> Path:
        place = save(*arguments)
        copies.append(folder / "copies" / str(len(copies)) / place.name)
        shutil.copytree(place, copies[-1])
        return place

    with mock.patch.object(checkpoint, "save", save_and_copy):
        train_here(settings | {"train.checkpoint_seconds": 0}, folder / "run")
    return Twin(settings, folder / "run", copies, digest(folder / "run"))


def put_back(twin: Twin, run: Path, place: Path | None) -> None:
    """Make `run` what a kill left after the checkpoint at `place` had been committed."""
    (run / "checkpoints").mkdir(parents=True)
    for name in ("config.json", "environment.json"):
        shutil.copy(twin.run / name, run / name)
    (run / "events.jsonl").write_bytes(TORN)
    if place:
        shutil.copytree(place, run / "checkpoints" / place.name)


def continued(twin: Twin, run: Path, place: Path | None) -> dict[str, str]:
    """Digest of the run that goes on from there."""
    put_back(twin, run, place)
    train_here(twin.settings, run)
    return digest(run)


def copy_at(twin: Twin, step: int) -> Path:
    """The first checkpoint after update number `step`: at the end of an epoch, before it counts."""
    return next(place for place in twin.copies if place.name == f"step-{step:09d}")


@pytest.mark.parametrize("case", CASES)
def test_every_checkpoint_leads_to_the_same_end(
    case: str, twins: Callable[[str], Twin], tmp_path: Path
) -> None:
    twin = twins(case)
    epochs = CASES[case].get("train.epochs", STEPS // STEPS_PER_EPOCH)
    assert len(twin.copies) == STEPS + int(str(epochs))  # each update and each epoch
    for number, place in enumerate([None, *twin.copies]):
        got = continued(twin, tmp_path / str(number), place)
        assert got == twin.digest, f"other bits from checkpoint {number}, {place and place.name}"


def test_dropout_and_augmentation_matter_here(
    twins: Callable[[str], Twin], images: Path, tmp_path: Path
) -> None:
    """The sweep above would show little if the run used no chance."""
    twin = twins("sgd, average 0, pieces 1")
    changes: list[Settings] = [{"train.seed": 1}, {"augment.flip": "none"}, {"augment.crop": 0}]
    for number, change in enumerate(changes):
        train_here(twin.settings | change, tmp_path / str(number))
        assert digest(tmp_path / str(number))["last weights"] != twin.digest["last weights"]
    with mock.patch.object(torch.nn.functional, "dropout", lambda x, *_: x):
        train_here(twin.settings, tmp_path / "dropout")
    assert digest(tmp_path / "dropout")["last weights"] != twin.digest["last weights"]


def stop_after(settings: Settings, run: Path, updates: int) -> None:
    """Train until a signal in update number `updates`, counted from where the run is taken up."""
    with signals_restored(), pytest.MonkeyPatch.context() as patch:
        interrupt.install()
        stop = lambda: signal.raise_signal(signal.SIGTERM)  # noqa: E731
        at_call(torch.Tensor, "backward", updates, stop, patch.setattr)
        with pytest.raises(Interrupted):
            train_here(settings, run)
        interrupt.install()


@pytest.mark.parametrize("case", ["sgd, average 0.9, pieces 1", "adamw, average 0, pieces 1"])
@pytest.mark.parametrize(
    "stops", [(1, 1), (3, 4, 6), (7, 8, 9), (8, 16, 23), (9, 10, 12), (21, 22, 24), range(1, 25)]
)
def test_several_stops(
    case: str, stops: tuple[int, ...], twins: Callable[[str], Twin], tmp_path: Path
) -> None:
    twin, run = twins(case), tmp_path / "run"
    made = 0
    for step in sorted(set(stops)):
        stop_after(twin.settings, run, step - made)
        made = step
        assert last_step(run) == step
    train_here(twin.settings, run)
    assert digest(run) == twin.digest


def test_continuing_from_the_newest_not_from_an_older_one(
    twins: Callable[[str], Twin], tmp_path: Path
) -> None:
    twin, run = twins("sgd, average 0, pieces 1"), tmp_path / "run"
    put_back(twin, run, copy_at(twin, 5))
    shutil.copytree(copy_at(twin, 17), run / "checkpoints" / "step-000000017")
    count = mock.Mock()
    with pytest.MonkeyPatch.context() as patch:
        for call in range(1, STEPS + 1):
            at_call(torch.Tensor, "backward", call, count, patch.setattr)
        train_here(twin.settings, run)
    assert count.call_count == STEPS - 17
    assert digest(run) == twin.digest


# Negative controls: what is saved is needed, and the comparison would notice if it were lost.

# The only number whose loss is not to be noticed is a clock.
# Nor that of `pieces` here, where batches are whole: tests/test_pieces.py.
UNNOTICED = runlog.MEASURED_FIELDS | {"pieces"}
NUMBERS = [name for name in TrainState.NUMBERS if name not in UNNOTICED]
OUTCOME = ("model weights", "model meta", "events")
MIDDLE = 2 * STEPS_PER_EPOCH + 4  # within the last epoch, after the best one


def test_state_has_nothing_that_is_not_saved() -> None:
    as_tensors = {"model", "optimizer", "scaler", "average", "losses", "visits", "filters"}
    saved = as_tensors | set(TrainState.NUMBERS)
    assert {field.name for field in dataclasses.fields(TrainState)} == saved


def rewritten(place: Path, to: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """A checkpoint with other content, sealed again, so that nothing but the content is wrong."""
    contents = files.read_folder(place)
    change(contents)
    to.parent.mkdir(parents=True, exist_ok=True)
    files.commit_folder(to, contents)
    return to


def tensors_in(contents: Mapping[str, bytes], name: str) -> dict[str, Tensor]:
    return safetensors.torch.load(contents[name])


def without_tensor(file: str, name: str) -> Callable[[dict[str, bytes]], None]:
    def change(contents: dict[str, bytes]) -> None:
        tensors = tensors_in(contents, file)
        del tensors[name]
        contents[file] = safetensors.torch.save(tensors)

    return change


def other_tensor(file: str, name: str) -> Callable[[dict[str, bytes]], None]:
    def change(contents: dict[str, bytes]) -> None:
        tensors = tensors_in(contents, file)
        tensors[name] = tensors[name] + 1
        contents[file] = safetensors.torch.save(tensors)

    return change


def other_number(name: str, value: object) -> Callable[[dict[str, bytes]], None]:
    def change(contents: dict[str, bytes]) -> None:
        meta = json.loads(contents["meta.json"])
        assert meta[name] != value
        contents["meta.json"] = json.dumps(meta | {name: value}).encode()

    return change


def alterations(place: Path) -> dict[str, Callable[[dict[str, bytes]], None]]:
    """One for each item that is really in the checkpoint: lost, and different."""
    contents = files.read_folder(place)
    changes = {}
    for file in (name for name in contents if name.endswith(".safetensors")):
        for name in tensors_in(contents, file):
            changes[f"{file} without {name}"] = without_tensor(file, name)
            changes[f"{file} with another {name}"] = other_tensor(file, name)
    meta = json.loads(contents["meta.json"])
    for name in meta.keys() - runlog.MEASURED_FIELDS - {"schema"}:
        if isinstance(meta[name], int | float):
            changes[f"another {name}"] = other_number(name, meta[name] + 1)
    for name in meta["scaler"].keys() & {"scale", "_growth_tracker"}:
        scaler = meta["scaler"] | {name: meta["scaler"][name] * 2}
        changes[f"another scaler {name}"] = other_number("scaler", scaler)
    changes["another event"] = other_number("events", meta["events"][1:])
    return changes


def assert_best_is_behind(twin: Twin) -> None:
    """Or losing what is known of the best epoch would change nothing."""
    meta = json.loads((checkpoints(twin.run)[-1] / "meta.json").read_bytes())
    assert 0 < meta["best_step"] < MIDDLE


def is_noticed(twin: Twin, run: Path, place: Path) -> bool:
    """Whether going on from there fails or ends otherwise."""
    try:
        end = continued(twin, run, place)
    except Exception:
        return True
    # After the last update the checkpoint stays as it is: what follows from it is compared.
    parts = OUTCOME if last_step(run) == int(place.name.removeprefix("step-")) else end.keys()
    return any(end[part] != twin.digest[part] for part in parts)


@pytest.mark.parametrize(
    "case",
    ["sgd, average 0.9, pieces 1", "adamw, average 0.9, pieces 1", "sgd, fp16 with a scaler"],
)
def test_every_item_of_a_checkpoint_is_needed(
    case: str, twins: Callable[[str], Twin], tmp_path: Path
) -> None:
    twin = twins(case)
    assert_best_is_behind(twin)
    # What the first layer was at the very end goes into pictures only: see test_cli_inspect.py.
    for_pictures = f"filters.{SMALL['train.epochs']}"
    unnoticed = {what for what in alterations(twin.copies[-1]) if for_pictures not in what}
    # A copy that every update makes anew is needed after the last update only.
    for place in (copy_at(twin, MIDDLE), twin.copies[-1]):
        for what, change in alterations(place).items():
            folder = tmp_path / f"{what} {place.name}"
            if what in unnoticed and is_noticed(
                twin, folder / "run", rewritten(place, folder / place.name, change)
            ):
                unnoticed.remove(what)
    assert not unnoticed


@pytest.mark.parametrize("name", ["losses", "visits"])
def test_what_is_kept_of_images_is_needed(
    name: str, twins: Callable[[str], Twin], tmp_path: Path
) -> None:
    twin = twins("muon, the hardest half")
    within = copy_at(twin, STEPS - 6)  # the last epoch but one has half of its updates

    def other(contents: dict[str, bytes]) -> None:
        tensors = tensors_in(contents, "state.safetensors")
        tensors[name] = tensors[name].flip(0)
        contents["state.safetensors"] = safetensors.torch.save(tensors)

    for number, change in enumerate((other, without_tensor("state.safetensors", name))):
        folder = tmp_path / str(number)
        place = rewritten(within, folder / within.name, change)
        # Lost visits are found again where nothing of the epoch has changed what they go by.
        assert is_noticed(twin, folder / "run", place), number


def test_control_without_alteration(twins: Callable[[str], Twin], tmp_path: Path) -> None:
    """What is noticed above is the alteration, not that the checkpoint was sealed again."""
    twin = twins("sgd, average 0.9, pieces 1")
    place = rewritten(copy_at(twin, MIDDLE), tmp_path / f"step-{MIDDLE:09d}", lambda contents: None)
    assert not is_noticed(twin, tmp_path / "run", place)


@pytest.mark.parametrize("name", NUMBERS)
def test_forgetting_to_restore_a_number_is_noticed(
    name: str, twins: Callable[[str], Twin], tmp_path: Path
) -> None:
    twin = twins("sgd, average 0.9, pieces 1")
    assert_best_is_behind(twin)
    load = checkpoint.load_newest

    def load_all_but_one(folder: Path, state: TrainState) -> Any:
        before = getattr(state, name)
        result = load(folder, state)
        setattr(state, name, before)
        return result

    with mock.patch.object(checkpoint, "load_newest", load_all_but_one):
        assert is_noticed(twin, tmp_path / "run", copy_at(twin, MIDDLE))


# Other conditions: refused with the difference shown, unless the change is accepted.


def halted(twin: Twin, run: Path) -> Path:
    put_back(twin, run, copy_at(twin, MIDDLE))
    return run


@pytest.mark.parametrize(
    ("setting", "value", "shown"),
    [
        ("optim.lr", 0.04, "optim.lr: 0.05 then, 0.04 now"),
        ("augment.crop", 1, "augment.crop: 2 then, 1 now"),
        ("train.seed", 1, "train.seed: 0 then, 1 now"),
        ("hardware.threads", 2, "hardware.threads: 1 then, 2 now"),
        ("hardware.precision", "bf16", "hardware.precision: fp32 then, bf16 now"),
    ],
)
def test_changed_setting_is_refused_or_accepted(
    setting: str, value: object, shown: str, twins: Callable[[str], Twin], tmp_path: Path
) -> None:
    twin = twins("sgd, average 0.9, pieces 1")
    run = halted(twin, tmp_path / "run")
    with pytest.raises(RunError) as refused:
        train_here(twin.settings | {setting: value}, run)
    assert shown in str(refused.value)
    assert "--accept-change" in str(refused.value)
    assert last_step(run) == MIDDLE
    train_here(twin.settings | {setting: value}, run, accept_change=True)
    assert last_step(run) == STEPS


@pytest.mark.parametrize("setting", sorted(runlog.NEUTRAL_SETTINGS))
def test_setting_without_effect_may_change(
    setting: str, twins: Callable[[str], Twin], tmp_path: Path
) -> None:
    twin = twins("sgd, average 0.9, pieces 1")
    run = halted(twin, tmp_path / "run")
    value: dict[str, object] = {"data.root": str(tmp_path), "train.checkpoint_seconds": 0.001}
    train_here(twin.settings | {setting: value[setting]}, run)
    assert digest(run) == twin.digest


def test_changed_data_is_refused_or_accepted(
    twins: Callable[[str], Twin], images: Path, tmp_path: Path
) -> None:
    twin = twins("sgd, average 0.9, pieces 1")
    folder = shutil.copytree(images, tmp_path / "images")
    settings, run = twin.settings | {"data.name": str(folder)}, tmp_path / "run"
    stop_after(settings, run, MIDDLE)
    path = folder / "train-images-idx3-ubyte.gz"
    pixels = np.array(read_idx(path))
    pixels[40, 6, 6] ^= 1
    write_idx(path, pixels)
    with pytest.raises(RunError, match=r"images: [0-9a-f]+ then, [0-9a-f]+ now.*--accept-change"):
        train_here(settings, run)
    assert last_step(run) == MIDDLE
    train_here(settings, run, accept_change=True)
    assert last_step(run) == STEPS


@pytest.mark.parametrize("fact", ["torch", "cores", "processor"])
def test_other_machine_is_refused_or_accepted(
    fact: str, twins: Callable[[str], Twin], tmp_path: Path
) -> None:
    twin = twins("sgd, average 0.9, pieces 1")
    run = halted(twin, tmp_path / "run")
    record = json.loads((run / "environment.json").read_bytes())
    record["machine"][fact] = "another"
    (run / "environment.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match=rf"{fact}: another then, .* now.*--accept-change"):
        train_here(twin.settings, run)
    train_here(twin.settings, run, accept_change=True)
    assert digest(run)["model weights"] == twin.digest["model weights"]


@pytest.mark.parametrize(
    "change",
    [
        {"train.batch_size": 5},
        {"train.batch_size": 20},
        {"train.hardest": 0.5},
        {"data.validation": 0},
        {"model.name": "compact"},
        {"optim.name": "adamw", "optim.nesterov": False},
    ],
    ids=str,
)
def test_change_that_no_checkpoint_survives_is_refused(
    change: Settings, twins: Callable[[str], Twin], tmp_path: Path
) -> None:
    """Its place in the epoch, or what it holds, means nothing under these settings."""
    twin = twins("sgd, average 0.9, pieces 1")
    run = halted(twin, tmp_path / "run")
    with pytest.raises(RunError, match=f"{next(iter(change))}: .* then, .* now"):
        train_here(twin.settings | change, run, accept_change=True)
    train_here(twin.settings, run)
    assert digest(run) == twin.digest


def test_fewer_epochs_than_were_made_are_refused(
    twins: Callable[[str], Twin], tmp_path: Path
) -> None:
    twin = twins("sgd, average 0.9, pieces 1")
    run = halted(twin, tmp_path / "run")
    with pytest.raises(RunError, match=rf"at update {MIDDLE} already, more than the 8 of"):
        train_here(twin.settings | {"train.epochs": 1}, run, accept_change=True)
    train_here(twin.settings, run)
    assert digest(run) == twin.digest


def test_average_that_is_begun_late_begins_with_the_weights_so_far(
    twins: Callable[[str], Twin], tmp_path: Path
) -> None:
    twin, run = twins("sgd, average 0, pieces 1"), tmp_path / "run"
    put_back(twin, run, twin.copies[-1])
    train_here(twin.settings | {"train.ema": 0.9}, run, accept_change=True)
    assert digest(run)["model weights"] == twin.digest["model weights"]


def test_scaler_that_is_begun_late(twins: Callable[[str], Twin], tmp_path: Path) -> None:
    twin = twins("sgd, average 0.9, pieces 1")
    run = halted(twin, tmp_path / "run")
    train_here(twin.settings | {"hardware.precision": "fp16"}, run, accept_change=True)
    meta = json.loads((checkpoints(run)[-1] / "meta.json").read_bytes())
    assert meta["scaler"]["_growth_tracker"] == STEPS - MIDDLE


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("accept_change", [False, True])
def test_device_that_is_gone_is_named(
    accept_change: bool, twins: Callable[[str], Twin], tmp_path: Path
) -> None:
    twin = twins("sgd, average 0.9, pieces 1")
    run = halted(twin, tmp_path / "run")
    for name, section in (("config.json", "hardware"), ("environment.json", "policy")):
        record = json.loads((run / name).read_bytes())
        record[section]["device"] = "cuda"
        (run / name).write_text(json.dumps(record))
    with pytest.raises(UserError, match="device cuda is not there"):
        train_here(twin.settings | {"hardware.device": "cuda"}, run, accept_change)
    train_here(twin.settings, run, accept_change=True)
    assert digest(run)["model weights"] == twin.digest["model weights"]


def test_finished_run_is_left_alone(twins: Callable[[str], Twin], tmp_path: Path) -> None:
    twin = twins("sgd, average 0.9, pieces 1")
    run = shutil.copytree(twin.run, tmp_path / "run")
    for accept_change in (False, True):
        with pytest.raises(RunError, match="holds a finished run, so nothing was done"):
            train_here(twin.settings, run, accept_change)
        with pytest.raises(RunError, match=r"optim.lr: 0.05 then, 0.04 now"):
            train_here(twin.settings | {"optim.lr": 0.04}, run, accept_change)
    assert digest(run) == twin.digest
