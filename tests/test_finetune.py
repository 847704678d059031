"""Fine-tuning: what trains when, which weights are kept, and the command on a person's pictures."""

import itertools
import json
import shutil
import signal
import tarfile
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from deepcnn import artefact, finetune, finish, interrupt, probe, runlog, train
from deepcnn.begin import begin
from deepcnn.cli import main
from deepcnn.config import Config, Data, Transfer
from deepcnn.data.decode import decode
from deepcnn.data.splits import load_splits
from deepcnn.errors import ConfigError, Interrupted, SaveError
from deepcnn.models.pretrained import find_weights
from deepcnn.optim import lr_factor
from deepcnn.run import Run
from deepcnn.settings import flat
from faults import (
    SMALL,
    Settings,
    at_call,
    checkpoints,
    config_of,
    digest,
    prepared,
    read_events,
    signals_restored,
    torch_restored,
    train_here,
    write_images,
)
from photos import DATA

# `mini` has the stages conv1 (with a norm), conv2 and output: 80 images in batches of 20.
STAGES = {"conv1": 2, "norm": 2, "conv2": 1, "output": 0}  # how many follow
UPDATES, EPOCHS = 4, 3
TUNED: Settings = {
    "train.batch_size": 20, "train.epochs": EPOCHS, "transfer.freeze": "head",
    "transfer.unfreeze_at": 0.5, "transfer.stage_decay": 0.5,
}  # fmt: skip
ADAMW: Settings = {"optim.name": "adamw", "optim.lr": 0.01, "optim.nesterov": False}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "images")


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("deepcnn.device.available_threads", lambda: 1)
    with mock.patch("os.fsync"), torch_restored():
        torch.set_num_threads(1)
        yield


def small(images: Path, *more: Mapping[str, object]) -> Settings:
    settings: Settings = SMALL | {"data.name": str(images)}
    for each in more:
        settings |= each
    return settings


def epochs(run: Path) -> list[dict[str, Any]]:
    return [event for event in read_events(run) if event["event"] == "epoch"]


def weights_in(folder: Path) -> dict[str, Tensor]:
    return safetensors.torch.load_file(folder / "weights.safetensors")


# What trains when


def watched(settings: Settings, run: Path) -> list[dict[str, Tensor]]:
    """All weights and buffers before the first update and after each."""
    states: list[dict[str, Tensor]] = []
    account, step = train.account, train.train_step

    def copy(of: Run) -> None:
        states.append({key: x.clone() for key, x in of.state.model.state_dict().items()})

    def first(of: Run, *rest: Any) -> Any:
        if not states:
            copy(of)
        return step(of, *rest)

    def after(of: Run, *rest: Any) -> None:
        account(of, *rest)
        copy(of)

    with mock.patch.multiple(train, train_step=first, account=after):
        train_here(settings, run)
    return states


@pytest.mark.parametrize("rule", [{}, ADAMW, {"transfer.stage_decay": 1.0}], ids=str)
def test_stages_rest_bit_for_bit_until_their_turn(
    rule: Settings, images: Path, tmp_path: Path
) -> None:
    """The stage before the head trains from a quarter of the run on, the first from its half."""
    states = watched(small(images, TUNED, rule), tmp_path / "run")
    assert len(states) == 1 + UPDATES * EPOCHS
    turns = {2: 6, 1: 3, 0: 0}  # the first update that moves a stage: (6 + 1/2) / 12 > 1/2
    for step, (before, after) in enumerate(itertools.pairwise(states)):
        for key, tensor in after.items():
            turn = turns[STAGES[key.partition(".")[0]]]
            assert torch.equal(tensor, before[key]) == (step < turn), (step, key)


@pytest.mark.parametrize(
    ("freeze", "resting"), [("head", {"conv1", "norm", "conv2"}), ("conv2", {"conv1", "norm"})]
)
def test_what_is_frozen_for_good_stays(
    freeze: str, resting: set[str], images: Path, tmp_path: Path
) -> None:
    more: Settings = {"transfer.unfreeze_at": 0.0, "transfer.freeze": freeze}
    states = watched(small(images, TUNED, more), tmp_path / "run")
    for key, tensor in states[-1].items():
        assert torch.equal(tensor, states[0][key]) == (key.partition(".")[0] in resting), key


def begun(images: Path, folder: Path, *more: Settings) -> Run:
    with prepared(), runlog.opened(folder):
        return begin(config_of(small(images, *more)), folder, folder / "cache", False)


def frozen_after(run: Run, *progress: float) -> set[str]:
    """The stages that rest when a run has been told of these points, one after another."""
    for each in progress:
        run.reach(each)
    return {
        n.partition(".")[0] for n, p in run.state.model.named_parameters() if not p.requires_grad
    }


def test_thawing_depends_on_progress_only(images: Path, tmp_path: Path) -> None:
    run = begun(images, tmp_path / "run", TUNED)
    every = [set(), {"conv1", "norm"}, {"conv1", "norm", "conv2"}]

    @given(st.lists(st.floats(0, 1), max_size=4), st.floats(0, 1), st.floats(0.01, 1))
    def check(others: list[float], progress: float, by: float) -> None:
        options = replace(run.config.transfer, unfreeze_at=by)
        changed = replace(run, config=replace(run.config, transfer=options))
        expected = every[(progress < by / 2) + (progress < by)]
        assert frozen_after(changed, *others, progress) == expected
        assert frozen_after(replace(changed, _frozen=-1), progress) == expected

    check()


def test_the_plan_is_told_and_each_thaw(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_here(small(images, TUNED), tmp_path / "run")
    said = capsys.readouterr().err
    plan = [
        "conv1            44  frozen",
        "conv2           222  frozen",
        "output           21  0.05",
    ]
    assert "\n".join(["stage    parameters  learning rate", *plan, "21 of 287 param"]) in said
    told = ["conv2 trains, and all that follow it", "conv1 trains, and all that follow it"]
    assert [line[14:] for line in said.splitlines() if line.startswith("from now on ")] == [
        line[2:] for line in told
    ]
    facts = json.loads((tmp_path / "run/model/meta.json").read_text())
    assert facts["num_parameters"] == 287


@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_the_rate_that_is_recorded_is_the_last_layers(
    decay: float, images: Path, tmp_path: Path
) -> None:
    settings = small(images, TUNED, {"transfer.stage_decay": decay})
    train_here(settings, tmp_path / "run")
    optim = config_of(settings).optim
    for event in read_events(tmp_path / "run")[:-1]:
        if event["event"] == "step":
            progress = (event["step"] - 0.5) / (UPDATES * EPOCHS)
            assert event["lr"] == pytest.approx(optim.lr * lr_factor(optim, progress))


# Killed, and continued to the same end

EVERYTHING: Settings = TUNED | ADAMW | {
    "transfer.probe": True, "augment.mixup": 0.4, "augment.cutmix": 1.0, "train.batch_size": 21,
    "train.accumulate": 2, "train.ema": 0.5, "train.class_weights": True, "train.keep": "best",
    "train.patience": 1, "train.epochs": 4, "train.checkpoint_seconds": 0,
}  # fmt: skip


def die(*_: object) -> None:
    raise KeyboardInterrupt


def killed(settings: Settings, run: Path, owner: object, name: str, call: int = 1) -> None:
    """Leave a run as a kill at the beginning of that call would."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        at_call(owner, name, call, die, patch.setattr)
        train_here(settings, run)


def one_unit(settings: Settings, run: Path) -> None:
    """Go on with a run by one update, or the end of an epoch or of the run, and die."""
    budget = itertools.count()

    def limited(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments: die() if next(budget) else function(*arguments)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        for name in ("train_step", "end_epoch", "finish"):
            patch.setattr(train, name, limited(getattr(train, name)))
        train_here(settings, run)


@pytest.mark.parametrize(
    "more", [{}, {"optim.name": "sgd", "optim.lr": 1e-6, "transfer.stage_decay": 1.0}], ids=str
)
def test_a_run_that_dies_after_every_unit_ends_in_the_same_bytes(
    more: Settings, images: Path, tmp_path: Path
) -> None:
    settings = small(images, EVERYTHING, more)
    train_here(settings, tmp_path / "twin")
    measured = epochs(tmp_path / "twin")
    if more:  # nothing gets better than the fitted layer, so that patience ends it
        assert len(measured) == 1
    for _ in range(len(measured) * (UPDATES + 1)):
        one_unit(settings, tmp_path / "run")
    train_here(settings, tmp_path / "run")
    assert digest(tmp_path / "run") == digest(tmp_path / "twin")


def test_a_run_that_dies_before_its_first_checkpoint_begins_again(
    images: Path, tmp_path: Path
) -> None:
    settings = small(images, EVERYTHING, {"train.epochs": 1})
    train_here(settings, tmp_path / "twin")
    for place in ((probe, "logistic_regression", 2), (train, "train_step", 1)):
        killed(settings, tmp_path / "run", *place)
        # The fitted layer is a candidate for the best weights, so it is saved once it is measured.
        expected = ["step-000000000"] if place[0] is train else []
        assert [path.name for path in checkpoints(tmp_path / "run")] == expected
    train_here(settings, tmp_path / "run")
    assert digest(tmp_path / "run") == digest(tmp_path / "twin")


@pytest.mark.parametrize("held_out", [16, 0])
def test_the_probe_goes_by_what_is_held_out(
    held_out: int, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more: Settings = {"train.epochs": 0, "transfer.probe": True, "data.validation": held_out}
    with mock.patch.object(probe, "fit_head", wraps=probe.fit_head) as fitted:
        train_here(small(images, more), tmp_path / "run")
    _, train_images, validation, _ = fitted.call_args.args
    assert len(train_images) == 96 - held_out
    assert (len(validation) if validation else 0) == held_out
    assert "of the images left out for it" in capsys.readouterr().err


def test_an_average_begins_with_the_fitted_layer(images: Path, tmp_path: Path) -> None:
    for run, ema in (("plain", 0.0), ("average", 0.9)):
        more: Settings = {"train.epochs": 0, "transfer.probe": True, "train.ema": ema}
        train_here(small(images, more), tmp_path / run)
    plain, average = (weights_in(tmp_path / run / "model") for run in ("plain", "average"))
    assert all(torch.equal(tensor, average[key]) for key, tensor in plain.items())


def test_the_probe_matters_here(images: Path, tmp_path: Path) -> None:
    """The equality above would show little if the run did not depend on it."""
    for run, has_probe in (("with", True), ("without", False)):
        more: Settings = {"train.epochs": 1, "transfer.probe": has_probe}
        train_here(small(images, EVERYTHING, more), tmp_path / run)
    assert digest(tmp_path / "with")["last weights"] != digest(tmp_path / "without")["last weights"]


# The best weights

BEST: Settings = {"train.keep": "best", "train.epochs": 6, "transfer.unfreeze_at": 0.1}


def scripted(settings: Settings, run: Path, *accuracies: float) -> None:
    """A run with these validation accuracies after its epochs."""
    script = iter(accuracies)
    with mock.patch.object(train, "accuracy", lambda *_: next(script)):
        train_here(settings, run)


@pytest.mark.parametrize(
    ("accuracies", "best"),
    [((0.3, 0.8, 0.8, 0.5), 2), ((0.9, 0.1, 0.2, 0.9), 1), ((0, 0, 0, 1), 4)],
)
def test_the_finished_model_is_that_of_the_best_epoch(
    accuracies: tuple[float, ...], best: int, images: Path, tmp_path: Path
) -> None:
    settings = small(images, TUNED, BEST, {"train.epochs": 4})
    scripted(settings, tmp_path / "run", *accuracies)
    train_here(
        small(images, TUNED, BEST, {"train.epochs": 4, "train.keep": "last"}), tmp_path / "last"
    )
    place = tmp_path / "run" / "checkpoints" / f"step-{best * UPDATES:09d}"
    found, kept = weights_in(tmp_path / "run/model"), weights_in(place)
    assert all(torch.equal(tensor, kept[key]) for key, tensor in found.items())
    last = weights_in(tmp_path / "last/model")
    assert all(torch.equal(tensor, last[key]) for key, tensor in found.items()) == (best == 4)
    assert read_events(tmp_path / "run")[-1]["step"] == best * UPDATES
    assert len(epochs(tmp_path / "run")) == 4


def test_its_validation_accuracy_is_the_best(images: Path, tmp_path: Path) -> None:
    with mock.patch("faults.no_picture") as draw:
        train_here(small(images, TUNED, BEST, {"train.ema": 0.3}), tmp_path / "run")
    assert draw.call_args.args[0] == read_events(tmp_path / "run")  # the whole curve
    measured = [event["validation_accuracy"] for event in epochs(tmp_path / "run")]
    result = read_events(tmp_path / "run")[-1]
    assert result["validation"]["accuracy"] == max(measured) > measured[0]
    assert result["step"] == UPDATES * (1 + measured.index(max(measured)))


def test_a_signal_after_the_best_weights_are_back_does_no_harm(
    images: Path, tmp_path: Path
) -> None:
    settings = small(images, TUNED, BEST)
    scripted(settings, tmp_path / "twin", 0.1, 0.9, *[0.5] * 4)
    with signals_restored(), pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        interrupt.install()
        stop = lambda: signal.raise_signal(signal.SIGTERM)  # noqa: E731
        at_call(finish, "predictions", 1, stop, patch.setattr)
        scripted(settings, tmp_path / "run", 0.1, 0.9, *[0.5] * 4)
    with signals_restored():
        interrupt.install()
    train_here(settings, tmp_path / "run")
    assert digest(tmp_path / "run") == digest(tmp_path / "twin")


def spoil(place: Path) -> None:
    path = place / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")


@pytest.mark.parametrize("damage", [spoil, shutil.rmtree], ids=["damaged", "gone"])
def test_best_weights_that_cannot_be_read_are_no_reason_to_take_others(
    damage: Callable[[Path], None], images: Path, tmp_path: Path
) -> None:
    settings, run = small(images, TUNED, BEST), tmp_path / "run"
    with mock.patch.object(train, "finish", die), pytest.raises(KeyboardInterrupt):
        scripted(settings, run, 0.1, 0.9, *[0.5] * 4)
    place = run / "checkpoints" / f"step-{2 * UPDATES:09d}"
    damage(place)
    with pytest.raises(SaveError, match=rf"^the best weights .*{place.name}.* --train.keep last"):
        train_here(settings, run)
    assert not (run / "model").exists()
    train_here(settings | {"train.keep": "last"}, run, accept_change=True)
    last = weights_in(checkpoints(run)[-1])
    assert all(torch.equal(x, last[key]) for key, x in weights_in(run / "model").items())


@pytest.mark.parametrize(
    ("patience", "accuracies"),
    [
        (2, (0.5, 0.6, 0.6, 0.6)),
        (1, (0.5, 0.5)),
        (3, (0.5, 0.4, 0.4, 0.6, 0.6, 0.6)),
        (0, (0.5,) * 6),
    ],
)
def test_patience_ends_a_run_that_gets_no_better(
    patience: int, accuracies: tuple[float, ...], images: Path, tmp_path: Path
) -> None:
    settings = small(images, TUNED, BEST, {"train.patience": patience})
    scripted(settings, tmp_path / "run", *accuracies)
    measured = [event["validation_accuracy"] for event in epochs(tmp_path / "run")]
    assert measured == list(accuracies)
    best = measured.index(max(measured))
    assert read_events(tmp_path / "run")[-1]["step"] == UPDATES * (1 + best)


@pytest.mark.parametrize("more", [{"train.keep": "best"}, {"train.patience": 2}], ids=str)
def test_the_best_of_nothing_is_refused(more: Settings, images: Path, tmp_path: Path) -> None:
    settings = small(images, TUNED, more, {"data.validation": 0})
    with pytest.raises(ConfigError, match=r"none are held out: set --data.validation 0.1"):
        train_here(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# Settings of the data


def test_mean_and_deviation_as_set(images: Path, tmp_path: Path) -> None:
    data = Data(name=str(images), validation=0, mean=(0.25,), std=(0.5,))
    splits = load_splits(data, 0)
    pixels = splits.train.images
    assert isinstance(pixels, np.ndarray)
    found = splits.preprocess(torch.from_numpy(pixels))
    np.testing.assert_allclose(found, (pixels / 255 - 0.25) / 0.5, rtol=1e-5, atol=1e-6)
    with pytest.raises(ConfigError, match=r"mean has 3 numbers, but the images have 1 channel"):
        load_splits(replace(data, mean=(0.1,) * 3, std=(1.0,) * 3), 0)


def test_settings_that_contradict_each_other() -> None:
    with pytest.raises(ConfigError, match=r"data.mean has 3 numbers and data.std 2: give both"):
        Config(data=Data(mean=(0.1, 0.2, 0.3), std=(1.0, 1.0)))
    with pytest.raises(ConfigError, match=r"unfreeze_at needs frozen stages: set transfer.freeze"):
        Config(transfer=Transfer(unfreeze_at=0.5))


# The command

PLAIN = (
    "--data.size", 16, "--hardware.device", "cpu", "--hardware.precision", "fp32",
    "--hardware.layout", "contiguous", "--hardware.threads", 1,
)  # fmt: skip


# Of so few pictures the last layer alone is fitted, unless somebody wants more.
WHOLE = ("--train.epochs", 3)


def coloured(folder: Path, counts: Mapping[str, int]) -> Path:
    """Pictures of several sizes in noise with the colour that their folder is named after."""
    rng = np.random.default_rng(len(counts))
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        colour = np.array([int(name[k : k + 2], 16) for k in (0, 2, 4)])
        for index in range(count):
            height, width = ((20, 26), (33, 22), (24, 24))[index % 3]
            pixels = rng.integers(0, 120, (height, width, 3)) + colour
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{index:02}.png")
    return folder


class World(NamedTuple):
    """Pictures, weights made of others, and a network that was fitted to the pictures."""

    pictures: Path
    weights: Path
    run: Path
    facts: dict[str, Any]


def command(*arguments: object) -> tuple[int, str]:
    """Exit code, and what was printed."""
    output = StringIO()
    with signals_restored(), redirect_stdout(output), pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return int(stop.value.code or 0), output.getvalue()


def tuned(world: World, *more: object) -> tuple[int, str]:
    return command(
        "finetune", world.pictures, "--model", "compact", "--weights", world.weights, *PLAIN, *more
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("finetune")
    others = coloured(folder / "others", dict.fromkeys(("808000", "008080", "800080", "505050"), 8))
    options = ("--model.name", "compact", "--train.batch_size", 8, "--optim.lr", 0.02)
    assert command("train", "--data", others, "--out", folder / "before", *options, *PLAIN)[0] == 0
    pictures = coloured(folder / "pictures", dict.fromkeys(("802010", "108020", "201080"), 16))
    world = World(pictures, folder / "weights.safetensors", folder / "run", {})
    shutil.copy(folder / "before" / "model" / "weights.safetensors", world.weights)
    code, said = tuned(world, "--out", world.run, *WHOLE, "--json")
    assert code == 0
    return world._replace(facts=json.loads(said))


def test_it_learns_and_is_of_use(world: World) -> None:
    assert world.facts["test"]["accuracy"] > 0.9
    assert world.facts["validation"]["accuracy"] > 0.9
    code, said = command("evaluate", world.run, "--json")
    assert code == 0
    found = json.loads(said)
    assert {key: found[key] for key in ("accuracy", "num_images", "per_class")} == {
        key: world.facts["test"][key] for key in ("accuracy", "num_images", "per_class")
    }
    paths = [world.pictures / name / "00.png" for name in found_classes(world)]
    lines = command("predict", world.run, *paths, "--top", 1, "--json")[1].splitlines()
    assert [json.loads(line)["classes"][0]["class"] for line in lines] == found_classes(world)


def found_classes(world: World) -> list[str]:
    return [row["name"] for row in world.facts["test"]["per_class"]]


def test_the_run_says_what_it_began_with(world: World) -> None:
    recorded = json.loads((world.run / "config.json").read_text())
    found = find_weights("compact", str(world.weights))
    assert recorded["model"]["origin"] == f"{found.source}; licence: not known"
    assert str(world.weights) in recorded["model"]["origin"]
    preprocess = artefact.load(world.run).preprocess
    assert (preprocess.mean, preprocess.std) == (found.mean, found.std)
    assert (preprocess.keep, preprocess.size) == (found.crop, 16)


def test_a_printed_configuration_is_a_recipe_for_the_same_weights(
    world: World, tmp_path: Path
) -> None:
    code, said = tuned(world, *WHOLE, "--print-config")
    assert code == 0
    path = tmp_path / "run.toml"
    path.write_text(said)
    assert command("train", "--config", path, "--out", tmp_path / "run")[0] == 0
    files = "config.json", "model/weights.safetensors"
    assert [(tmp_path / "run" / each).read_bytes() for each in files] == [
        (world.run / each).read_bytes() for each in files
    ]


@pytest.mark.parametrize("more", [(), ("--probe-only", *WHOLE[2:])], ids=["by default", "as asked"])
def test_the_probe_alone(more: tuple[object, ...], world: World, tmp_path: Path) -> None:
    code, said = tuned(world, *more, "--out", tmp_path / "run", "--json")
    assert code == 0
    assert json.loads(said)["test"]["accuracy"] > 0.6
    before, after = safetensors.torch.load_file(world.weights), weights_in(tmp_path / "run/model")
    changed = {key for key, x in after.items() if x.shape != before[key].shape}
    assert changed == {"output.weight", "output.bias"}
    assert all(torch.equal(x, before[key]) for key, x in after.items() if key not in changed)
    assert [event["event"] for event in read_events(tmp_path / "run")] == ["result"]
    with Image.open(tmp_path / "run" / "learning-curve.png") as picture:
        picture.load()
    assert tuned(world, *more, "--out", tmp_path / "run")[0] == 2  # it is finished


def test_a_run_continues_without_the_weights_that_it_began_with(
    world: World, tmp_path: Path
) -> None:
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(world.weights.read_bytes())

    def fitted(run: str, *more: object) -> int:
        command_line = ("--model", "compact", "--weights", weights, *PLAIN, "--out", tmp_path / run)
        return command("finetune", world.pictures, *command_line, *more)[0]

    assert fitted("twin", *WHOLE) == 0
    with mock.patch.object(train, "finish", side_effect=SaveError("no room")):
        assert fitted("run", *WHOLE) != 0
    weights.unlink()
    assert fitted("run", *WHOLE, "--seed", 1) == 2  # which is another run
    assert fitted("run") == 0  # as it was begun
    assert digest(tmp_path / "run") == digest(tmp_path / "twin")
    assert fitted("new") == 2


def test_nothing_is_measured_where_nothing_trains(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepcnn.begin.choose_policy", pytest.fail)
    free = [f"--hardware.{name}" for name in ("precision", "layout")]
    more = ("--probe-only", free[0], "auto", free[1], "auto", "--out", tmp_path / "run")
    assert tuned(world, *more)[0] == 0
    found = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert found["policy_origin"] == "nothing to train"
    assert found["policy"]["precision"] == "fp32"


def test_bicubic_from_the_setting_to_the_answer(world: World, tmp_path: Path) -> None:
    more = ("--probe-only", "--data.interpolation", "bicubic", "--out", tmp_path / "run")
    assert tuned(world, *more)[0] == 0
    path = world.pictures / found_classes(world)[0] / "01.png"  # 33x22, kept 7/8 of 22
    found = artefact.load(tmp_path / "run")
    square = v2.functional.resize(
        decode(path, 3), [18], interpolation=v2.InterpolationMode.BICUBIC, antialias=True
    )
    square = v2.functional.center_crop(square, [16, 16])
    numbers = v2.functional.normalize(square / 255, found.preprocess.mean, found.preprocess.std)
    with torch.no_grad():
        shares = found.model.eval()(numbers[None])[0].double().softmax(0)
    answer = json.loads(command("predict", tmp_path / "run", path, "--json", "--top", 3)[1])
    said = {each["class"]: each["probability"] for each in answer["classes"]}
    assert [said[name] for name in found.classes] == pytest.approx(shares.tolist(), abs=1e-5)


def not_finite(world: World, folder: Path) -> Path:
    tensors = safetensors.torch.load_file(world.weights)
    tensors["conv4.weight"][0, 0] = float("nan")
    safetensors.torch.save_file(tensors, folder / "nan.safetensors")
    return folder / "nan.safetensors"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{tmp}/nowhere",), "nowhere is not there; expected a folder"),
        (("{one}",), "one class"),
        (("{data}", "--weights", "{nan}"), "conv4.weight"),
        (("{data}", "--model", "resnet18"), "belongs to another network: 102 missing"),
        (("{data}", "--weights", "{tmp}/none.safetensors"), "none.safetensors is no file"),
        (("{data}", "--freeze", "layer9"), "unknown stage 'layer9'. Choose one of: stage1, stage2"),
        (("{data}", "--model", "compct"), "unknown model 'compct'; did you mean compact?"),
        (("{data}", "--freeze", ""), "transfer.unfreeze_at needs frozen stages"),
        (("{data}", "--model", "lenet5", "--data.size", "32"), "transfer.probe fits the weights"),
        (("{data}", "--train.epochs", "2", "--data.validation", "0"), "none are held out"),
        (("{data}", "--train.epochs", "two"), "train.epochs"),
    ],
)
def test_bad_requests_are_one_line_and_leave_nothing(
    arguments: tuple[str, ...], message: str, world: World, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    places = {
        "tmp": tmp_path, "data": world.pictures, "nan": not_finite(world, tmp_path),
        "one": coloured(tmp_path / "one", {"802010": 8}),
    }  # fmt: skip
    options = ("--model", "compact", "--weights", world.weights, *PLAIN, "--out", tmp_path / "run")
    given = [each.format(**places) for each in arguments]
    pairs = zip(options[::2], options[1::2], strict=True)
    kept = [each for pair in pairs if pair[0] not in given for each in pair]
    capsys.readouterr()
    code, said = command("finetune", *given, *kept)
    error = capsys.readouterr().err.splitlines()
    assert (code, said) == (2, ""), error
    assert error[-1].startswith("deepcnn: ")
    assert message in error[-1]
    assert not (tmp_path / "run").exists()


# The plan


@pytest.mark.parametrize("model", ["torchvision/vgg11", "timm/resnet10t", "compact"])
def test_the_plan_follows_the_weights(model: str, world: World) -> None:
    found = find_weights(model, str(world.weights))
    planned = finetune.plan(str(world.pictures), model, str(world.weights))
    data = planned.data
    assert (data.size, data.keep, data.interpolation) == (
        found.side,
        found.crop,
        found.interpolation,
    )
    assert (data.mean, data.std) == (found.mean, found.std)
    assert planned.model.name == model


@pytest.mark.parametrize(
    ("number", "epochs", "batch_size", "crop_area", "keep", "validation"),
    [
        (5, 0, 3, 0.5, "last", 0.0),
        (499, 0, 32, 0.5, "last", 0.0),
        (500, 5, 32, 0.5, "best", 0.1),
        (2_000, 3, 32, 0.2, "best", 0.1),
    ],
)
def test_the_plan_follows_the_number_of_images(
    number: int, epochs: int, batch_size: int, crop_area: float, keep: str, validation: float,
    world: World,
) -> None:  # fmt: skip
    with mock.patch.object(finetune, "num_images", lambda _: number):
        planned = finetune.plan("photos", "compact", str(world.weights))
    assert (planned.train.epochs, planned.train.batch_size) == (epochs, batch_size)
    assert (planned.train.keep, planned.data.validation) == (keep, validation)
    assert planned.augment.crop_area == crop_area


def test_updates_for_very_few_images_hold_more_of_them_out(world: World) -> None:
    with mock.patch.object(finetune, "num_images", lambda _: 499):
        probe = finetune.plan("photos", "compact", str(world.weights))
    tuned = finetune.with_updates(probe)
    assert (tuned.train.epochs, tuned.train.keep, tuned.data.validation) == (5, "best", 0.2)
    changed = {key for key, value in flat(probe).items() if flat(tuned)[key] != value}
    assert changed == {"train.epochs", "train.keep", "data.validation"}


@pytest.mark.parametrize(
    ("more", "keep"),
    [
        ((), "last"),
        (("--train.epochs", 0), "last"),
        (("--probe-only",), "last"),
        (("--train.epochs", 1), "best"),
        (("--budget", "1m"), "best"),
        (("--train.budget", 60), "best"),
        (("--train.budget", "0.0"), "last"),
    ],
)
def test_who_asks_for_more_than_the_probe_gets_the_better_of_both(
    more: tuple[object, ...], keep: str, world: World
) -> None:
    code, said = tuned(world, *more, "--print-config")
    assert code == 0
    settings = tomllib.loads(said)
    assert settings["train"]["keep"] == keep
    assert (settings["data"]["validation"] > 0) == (keep == "best")


def test_what_is_for_the_test_is_not_learnt_from(world: World, tmp_path: Path) -> None:
    assert finetune.num_images(str(world.pictures)) == 48
    for part, count in (("train", 5), ("val", 2), ("test", 40)):
        coloured(tmp_path / part, dict.fromkeys(("802010", "108020"), count))
    assert finetune.num_images(str(tmp_path)) == 10


def ants_and_bees(folder: Path, counts: Mapping[str, int]) -> Path:
    """Some of the photos; skips where there are none."""
    if not (DATA / "ants-bees.tar").exists():
        pytest.skip(f"{DATA / 'ants-bees.tar'} is not there")
    taken = {(part, name): 0 for part in counts for name in ("ants", "bees")}
    with tarfile.open(DATA / "ants-bees.tar") as archive:
        for member in archive:
            parts = Path(member.name).parts
            key = (parts[-3], parts[-2]) if len(parts) > 2 else ("", "")
            if member.isfile() and key in taken and taken[key] < counts[key[0]]:
                taken[key] += 1
                archive.extract(member, folder, filter="data")
    assert all(count == counts[part] for (part, _), count in taken.items())
    return next(folder.rglob("train")).parent


def test_real_weights_tell_ants_from_bees_after_twenty_photos(tmp_path: Path) -> None:
    photos = ants_and_bees(tmp_path, {"train": 10, "val": 10})
    weights = DATA / "weights" / "mobilenetv2_100-imagenet.safetensors"
    code, said = command(
        "finetune", photos, "--model", "timm/mobilenetv2_100", "--weights", weights, *PLAIN[2:],
        "--probe-only", "--out", tmp_path / "run", "--json",
    )  # fmt: skip
    assert code == 0
    facts = json.loads(said)
    assert (facts["num_train_images"], facts["test"]["num_images"]) == (20, 20)
    assert facts["test"]["accuracy"] > 0.75
