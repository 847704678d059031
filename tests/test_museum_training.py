"""Networks of the table through the command: trained, measured, used, and begun with weights."""

import io
import json
import shutil
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
from PIL import Image

from deepcnn.cli import main
from faults import signals_restored, torch_restored, write_images

OPTIONS = (
    "--data.validation", 12, "--train.batch_size", 28, "--device", "cpu", "--precision", "fp32",
    "--hardware.layout", "contiguous", "--hardware.threads", 1, "--json",
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("museum") / "toy")


def command(*arguments: object) -> tuple[int, str]:
    """Exit code, and what was printed."""
    output = io.StringIO()
    with signals_restored(), torch_restored(), redirect_stdout(output):
        torch.set_num_threads(1)
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
    return int(stop.value.code or 0), output.getvalue()


def epochs(run: Path) -> list[dict[str, float]]:
    events = map(json.loads, (run / "events.jsonl").read_text().splitlines())
    return [event for event in events if event["event"] == "epoch"]


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("googlenet", ("--data.size", 16, "--train.accumulate", 2, "--train.label_smoothing", 0.1)),
        ("lenet5", ("--data.size", 32)),
        ("mlp", ("--model.init", "unit-variance")),
        ("resnet20", ("--model.init", "unit-variance", "--train.ema", 0.5)),
        ("resnet18-nobn", ("--train.batch_size", 83)),  # of 84: a last batch of one
        ("timm/resnet10t", ()),
        ("torchvision/shufflenet_v2_x0_5", ("--data.size", 32)),
    ],
)
def test_whole_way(name: str, more: tuple[object, ...], data: Path, tmp_path: Path) -> None:
    run, picture = tmp_path / "run", tmp_path / "picture.png"
    code, said = command(
        "train", "--data", data, "--model.name", name, "--out", run, *OPTIONS,
        "--train.epochs", 1, "--optim.lr", 0.01, *more,
    )  # fmt: skip
    assert code == 0
    facts = json.loads(said)
    assert facts["test"]["num_images"] == 24
    code, said = command("evaluate", run, "--json")
    assert code == 0
    assert json.loads(said)["accuracy"] == facts["test"]["accuracy"]
    Image.new("L", (12, 12), 60).save(picture)
    code, said = command("predict", run, picture, "--json", "--top", 3)
    assert code == 0
    shares = json.loads(said)["classes"]
    assert len(shares) == 3


def test_the_rubbish_class_takes_no_part_in_accuracy(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, _ = command(
        "train", "--data", data, "--model.name", "lenet5", "--data.size", 32, "--out", run,
        *OPTIONS, "--train.epochs", 12, "--optim.lr", 0.02,
    )  # fmt: skip
    assert code == 0
    last = epochs(run)[-1]
    assert last["train_accuracy"] > 0.9
    assert last["validation_accuracy"] > 0.9


def test_weights_of_a_run_begin_another(data: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    common = ("train", "--data", data, "--model.name", "compact", *OPTIONS)
    assert command(*common, "--out", first, "--train.epochs", 8, "--optim.lr", 0.05)[0] == 0
    weights = first / "model" / "weights.safetensors"
    slow = ("--train.epochs", 1, "--optim.lr", 1e-6, "--train.ema", 0.5, "--model.weights", weights)
    assert command(*common, "--out", second, *slow)[0] == 0
    assert epochs(first)[-1]["validation_accuracy"] > 0.9
    assert epochs(second)[0]["validation_accuracy"] > 0.9

    # Unfinished again, it goes on without the file, but cannot begin again without it.
    model = (second / "model" / "weights.safetensors").read_bytes()
    shutil.rmtree(second / "model")
    weights.unlink()
    assert command(*common, "--out", second, *slow)[0] == 0
    assert (second / "model" / "weights.safetensors").read_bytes() == model
    shutil.rmtree(second / "model")
    shutil.rmtree(second / "checkpoints")
    assert command(*common, "--out", second, *slow)[0] == 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--model.weights", "nowhere.safetensors"), "model.weights: nowhere.safetensors is no"),
        (("--model.name", "timm/resnet18x"), "unknown model 'timm/resnet18x'; did you mean"),
        (("--model.name", "tims/resnet18"), "unknown library 'tims'; did you mean timm?"),
        (
            ("--model.name", "mlp", "--optim.name", "muon"),
            "muon is for convolutions, and mlp has n",
        ),
        (("--model.name", "alexnet"), "alexnet cannot take 12x12 images; it takes images of at"),
    ],
)
def test_bad_requests_are_one_line_and_leave_nothing(
    more: tuple[str, ...], message: str, data: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    run = tmp_path / "run"
    code, said = command("train", "--data", data, "--out", run, *OPTIONS, *more)
    assert (code, said) == (2, "")
    last = capsys.readouterr().err.splitlines()[-1]
    assert message in last
    assert not run.exists()
