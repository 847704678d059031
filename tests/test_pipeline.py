"""The whole way on a toy folder: train, evaluate, predict; and what is left in the run folder."""

import functools
import io
import json
import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from PIL import Image

from deepcnn import artefact, evaluate, finish, runlog, train
from deepcnn.cli import main
from deepcnn.config import Augment, Config, Data, Hardware, Train
from deepcnn.data import catalog
from deepcnn.data.arrays import read_folder
from deepcnn.data.loader import source
from deepcnn.device import Policy
from deepcnn.recipes import RECIPES
from deepcnn.settings import from_dict
from faults import NUM_CLASSES, signals_restored, torch_restored, write_images

NUM_HELD_OUT, NUM_TEST, EPOCHS, BATCH_SIZE = 12, 24, 6, 16
STEPS_PER_EPOCH = -(-(96 - NUM_HELD_OUT) // BATCH_SIZE)
OPTIONS = (
    "--data.validation", NUM_HELD_OUT, "--train.epochs", EPOCHS, "--train.batch_size", BATCH_SIZE,
    "--optim.lr", 0.02, "--train.ema", 0.8, "--device", "cpu", "--precision", "fp32",
    "--hardware.layout", "contiguous", "--hardware.threads", 1,
)  # fmt: skip
PLAIN = Policy("cpu", "fp32", "contiguous", threads=1)


class Walk(NamedTuple):
    """Two runs of the same command, and what the first one said."""

    data: Path
    run: Path
    twin: Path
    said: dict[str, Any]
    evaluated: list[int]  # numbers of images that networks were measured on, in order
    loaded: list[str]  # splits that were read


def command(*arguments: object) -> str:
    """What a command that succeeds prints."""
    output = io.StringIO()
    with signals_restored(), torch_restored(), redirect_stdout(output):
        torch.set_num_threads(1)
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
    assert stop.value.code == 0
    return output.getvalue()


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Walk:
    folder = tmp_path_factory.mktemp("pipeline")
    data, load = write_images(folder / "toy"), catalog.load
    evaluated: list[int] = []
    loaded: list[str] = []

    def count(model: Any, images: Any, policy: Any) -> Any:
        evaluated.append(len(images.labels))
        return evaluate.predictions(model, images, policy)

    def note(name: Any, split: Any, root: Any) -> Any:
        loaded.append(split)
        return load(name, split, root)

    arguments = ("train", "--data", data, *OPTIONS, "--json", "--out")
    with pytest.MonkeyPatch.context() as patch:
        for module in (train, finish):
            patch.setattr(module, "predictions", count)
        patch.setattr(catalog, "load", note)
        said = json.loads(command(*arguments, folder / "run"))
    command(*arguments, folder / "twin")
    return Walk(data, folder / "run", folder / "twin", said, evaluated, loaded)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("deepcnn.device.available_threads", lambda: 1)
    with torch_restored():
        torch.set_num_threads(1)
        yield


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def same_measurement(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Equal in everything that is counted; the loss is a sum, which depends on its order."""
    exact = ("accuracy", "interval", "num_images", "per_class")
    assert one["loss"] == pytest.approx(other["loss"], abs=1e-6)
    return all(one[key] == other[key] for key in exact)


def test_it_learns(walk: Walk) -> None:
    low, _ = walk.said["test"]["interval"]
    assert low > 2 / NUM_CLASSES
    assert walk.said["validation"]["accuracy"] > 2 / NUM_CLASSES


def test_an_evaluation_says_what_the_training_said(walk: Walk) -> None:
    for split, number in (("test", NUM_TEST), ("validation", NUM_HELD_OUT)):
        result = json.loads(command("evaluate", walk.run, "--split", split, "--json"))
        assert same_measurement(result, walk.said[split])
        assert result["num_images"] == number
    result = json.loads(command("evaluate", walk.run, "--split", "train", "--json"))
    assert result["num_images"] == walk.said["num_train_images"] == 96 - NUM_HELD_OUT


@pytest.mark.parametrize("batch_size", [1, 5, NUM_TEST, 1_000])
def test_batches_are_no_part_of_an_evaluation(
    batch_size: int, walk: Walk, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_batches = functools.partial(evaluate.predictions, batch_size=batch_size)
    monkeypatch.setattr(evaluate, "predictions", in_batches)
    result = evaluate.evaluate_run(walk.run, "test", "cpu")
    assert same_measurement(result, walk.said["test"])


def test_every_test_image_is_predicted_as_it_was_evaluated(walk: Walk, tmp_path: Path) -> None:
    images, found = read_folder(walk.data, "test"), artefact.load(walk.run)
    pixels = source(images, found.preprocess, torch.device("cpu"))
    shares = evaluate.predictions(found.model, pixels, PLAIN).logits.double().softmax(dim=1)
    paths = [tmp_path / f"{index}.png" for index in range(NUM_TEST)]
    for path, image in zip(paths, images.images, strict=True):
        Image.fromarray(image[0]).save(path)
    lines = command("predict", walk.run, *paths, "--top", NUM_CLASSES, "--json").splitlines()
    answers = [json.loads(line)["classes"] for line in lines]
    for answer, row in zip(answers, shares, strict=True):
        found_row = {each["class"]: each["probability"] for each in answer}
        assert found_row == pytest.approx({str(k): float(row[k]) for k in range(3)}, abs=1e-6)
    correct = [
        int(answer[0]["class"]) == label
        for answer, label in zip(answers, images.labels, strict=True)
    ]
    assert sum(correct) / NUM_TEST == walk.said["test"]["accuracy"]


def test_the_test_set_is_read_once(walk: Walk) -> None:
    assert walk.loaded == ["train", "test"]
    assert walk.evaluated == [NUM_HELD_OUT] * EPOCHS + [NUM_HELD_OUT, NUM_TEST]


def test_the_same_command_gives_the_same_bytes(walk: Walk) -> None:
    names = ["model/weights.safetensors", "config.json", "learning-curve.png"]
    names += ["predictions.safetensors"]
    names += [str(p.relative_to(walk.run)) for p in walk.run.glob("checkpoints/*/*.safetensors")]
    assert len(names) == 4 + 2 * len(list((walk.run / "checkpoints").iterdir()))
    for name in names:
        assert (walk.run / name).read_bytes() == (walk.twin / name).read_bytes(), name
    meta, twin = read(walk.run / "model" / "meta.json"), read(walk.twin / "model" / "meta.json")
    measured = dict.fromkeys(runlog.MEASURED_FIELDS, 0)
    assert meta | measured == twin | measured


def test_the_run_folder_says_what_was_done(walk: Walk) -> None:
    assert sorted(path.name for path in walk.run.iterdir()) == [
        "checkpoints", "config.json", "environment.json", "events.jsonl", "learning-curve.png",
        "lock", "model", "predictions.safetensors", "report.html",
    ]  # fmt: skip
    config = read(walk.run / "config.json")
    assert config == walk.said["config"]
    assert from_dict(config, "config.json") == Config(
        data=Data(name=str(walk.data), validation=NUM_HELD_OUT),
        augment=Augment(flip="alternating"),
        optim=replace(RECIPES["fashion-mnist"]().optim, lr=0.02),
        train=Train(epochs=EPOCHS, batch_size=BATCH_SIZE, label_smoothing=0.05, ema=0.8),
        hardware=Hardware(device="cpu", precision="fp32", layout="contiguous", threads=1),
    )
    with Image.open(walk.run / "learning-curve.png") as picture:
        picture.load()


def test_the_environment_is_recorded(walk: Walk) -> None:
    found = read(walk.run / "environment.json")
    assert found["versions"] == {
        name: version(name) for name in ("deepcnn", "torch", "numpy", "safetensors", "pillow")
    }
    assert found["python"] == platform.python_version()
    assert found["machine"]["processor"]
    assert found["machine"]["torch"] == torch.__version__
    assert found["policy"] == walk.said["policy"] == asdict(PLAIN)
    assert found["commit"] is None or re.fullmatch(r"[0-9a-f]{7,40}\+?", found["commit"])
    assert found["data_fingerprint"] == walk.said["data_fingerprint"]
    assert re.fullmatch(r"[0-9a-f]{64}", found["data_fingerprint"])
    assert found["command"]


def test_the_events_tell_the_run(walk: Walk) -> None:
    lines = (walk.run / "events.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    steps = [event for event in events if event["event"] == "step"]
    assert [event["step"] for event in steps] == list(range(1, EPOCHS * STEPS_PER_EPOCH + 1))
    average = steps[0]["loss"]
    for event in steps:  # the moving average of text 000, with its constant of 0.01
        average = 0.99 * average + 0.01 * event["loss"]
        assert event["moving_loss"] == pytest.approx(average)
    epochs = [event for event in events if event["event"] == "epoch"]
    assert [event["epoch"] for event in epochs] == list(range(1, EPOCHS + 1))
    assert epochs[-1]["validation_accuracy"] == walk.said["validation"]["accuracy"]
    assert not any("test_accuracy" in event for event in epochs)
    assert events[-1] == {
        "event": "result",
        "step": EPOCHS * STEPS_PER_EPOCH,
        "test": walk.said["test"],
        "validation": walk.said["validation"],
    }


def test_the_newest_checkpoint_is_the_end(walk: Walk) -> None:
    places = sorted((walk.run / "checkpoints").iterdir())
    assert 2 <= len(places) <= 3  # the newest two, and the best
    assert places[-1].name == f"step-{EPOCHS * STEPS_PER_EPOCH:09d}"
    assert not list(walk.run.rglob(".tmp-*"))
