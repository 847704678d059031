"""What a person is shown: lines of text, the picture of a run, the progress of one."""

import io
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from PIL import Image

from deepcnn import progress
from deepcnn.curves import learning_curve
from deepcnn.data.images import ImageSet
from deepcnn.evaluate import details, summary
from deepcnn.forecast.foreseen import off_by
from deepcnn.predictions import Predictions
from deepcnn.progress import Display, duration, reported
from deepcnn.words import (
    classes_in_words,
    epoch_in_words,
    evaluation_in_words,
    result_in_words,
)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0.0 s"),
        (0.04, "0.0 s"),
        (8, "8.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (20.4, "20 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (60, "1 min 0 s"),
        (200, "3 min 20 s"),
        (3_599.4, "59 min 59 s"),
        (3_599.6, "1 h 0 min"),
        (7_500, "2 h 5 min"),
        (360_000, "100 h 0 min"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


EPOCH = {"event": "epoch", "epoch": 3, "step": 9, "loss": 0.31337, "train_accuracy": 0.875}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({}, "epoch 3/10  loss 0.3134  train accuracy 0.8750  12 s"),
        (
            {"test_accuracy": 0.5, "validation_accuracy": 0.25},
            "epoch 3/10  loss 0.3134  train accuracy 0.8750  validation accuracy 0.2500  "
            "test accuracy 0.5000  12 s",
        ),
    ],
)
def test_an_epoch_in_words(more: dict[str, Any], words: str) -> None:
    assert epoch_in_words(EPOCH | more, 10, 12.3) == words


def measured(**more: Any) -> dict[str, Any]:
    return {"accuracy": 0.9179, "interval": [0.9124, 0.9232], "num_images": 10_000, "loss": 0.25,
            **more}  # fmt: skip


@pytest.mark.parametrize(("folder", "quoted"), [("runs/a", "runs/a"), ("my run", "'my run'")])
def test_a_result_in_words(folder: str, quoted: str) -> None:
    facts = {"test": measured(), "seconds": 81.0}
    assert result_in_words(Path(folder), facts).splitlines() == [
        "test accuracy  91.79%  (95 % interval 91.24% to 92.32%, 10,000 images)",
        "training time  1 min 21 s",
        f"run folder     {folder}/",
        f"picture        {folder}/learning-curve.png",
        f"report         {folder}/report.html",
        f"next           deepcnn evaluate {quoted}",
    ]


@pytest.mark.parametrize(
    ("error", "words"), [(0.104, "+10%"), (-0.004, "+0%"), (0.0, "+0%"), (-0.006, "-1%")]
)
def test_how_far_off_a_forecast_was(error: float, words: str) -> None:
    assert off_by(error) == words


def test_what_was_foretold_stands_beside_what_came_true() -> None:
    facts = {"memory": 1_100_000_000, "memory_error": 0.1, "seconds": 90.0,
             "seconds_taken": 100.0, "seconds_error": -0.1}  # fmt: skip
    told = {"test": measured(), "seconds": 81.0, "peak_memory": 10**9, "forecast": facts}
    assert result_in_words(Path("runs/a"), told).splitlines()[2:4] == [
        "most memory    1.00 GB  (1.10 GB foretold, +10%)",
        "all of it      1 min 40 s  (1 min 30 s foretold, -10%)",
    ]


def row(name: str, precision: float | None, recall: float | None) -> dict[str, Any]:
    return {"name": name, "num_images": 1_000, "precision": precision, "recall": recall, "f1": None}


def test_classes_in_words() -> None:
    rows = [row("T-shirt/top", 0.5, 1.0), row("bag", None, 0.0), row("größer", 0.123456, None)]
    assert classes_in_words(rows).splitlines() == [
        "class        images  recall  precision  f1",
        "T-shirt/top   1,000  100.0%      50.0%   -",
        "bag           1,000    0.0%          -   -",
        "größer        1,000       -      12.3%   -",
    ]


def evaluated(**more: Any) -> dict[str, Any]:
    """An evaluation of twelve images of two classes, at another temperature."""
    logits = torch.tensor([[3.0, 0.0], [0.0, 2.0], [1.0, 0.0], [0.0, 0.5]]).repeat(3, 1)
    labels = torch.tensor([0, 1, 1, 1] * 3)
    images = ImageSet("toy", np.zeros((12, 1, 2, 2), np.uint8), labels.numpy(), ("a", "b"))
    result = Predictions(logits, labels)
    facts = {**summary(result, images.classes, 2.0), **details(result, images, 2.0)}
    return {"run": "my run", "data": "toy", "views": "flip", **facts, **more}


def test_an_evaluation_in_words() -> None:
    lines = evaluation_in_words(evaluated()).splitlines()
    assert lines[:2] == [
        "toy: accuracy 75.00% (95 % interval 46.77% to 91.11%), loss 0.4907, 12 images, views flip",
        "mean recall of the classes: 83.33%",
    ]
    assert lines[3].split() == ["class", "images", "recall", "precision", "f1"]
    assert lines[7].startswith("calibration error ")
    assert "at temperature 2.000, which was fitted to held-out images" in lines[7]
    assert lines[8].split() == ["answers", "given", "100%", "100%", "100%", "100%", "75%", "50%"]
    mistake = 1 / (1 + math.exp(-0.5))
    assert lines[-3:] == [f"image {index}: a ({mistake:.1%}), not b" for index in (2, 6, 10)]


def test_a_goal_in_words() -> None:
    """The threshold is rounded down, so that the images it was chosen for pass."""
    goal = {"what": "coverage", "share": 0.9, "threshold": 0.56789, "coverage": 0.88,
            "accuracy": 0.95, "interval": [0.9, 0.97],
            "held_out": {"accuracy": 0.96, "num_images": 90, "coverage": 0.9}}  # fmt: skip
    *_, last = evaluation_in_words(evaluated(goal=goal)).splitlines()
    assert last.endswith("deepcnn predict 'my run' PICTURE --at-least 0.5678")
    nothing = goal | {"accuracy": None, "interval": None}
    *_, last = evaluation_in_words(evaluated(goal=nothing)).splitlines()
    assert last == "here no image gets an answer then"


def step_events(number: int) -> list[dict[str, Any]]:
    return [
        {"event": "step", "step": step, "lr": 0.1, "loss": 3 / step, "moving_loss": 4 / step}
        for step in range(1, number + 1)
    ]


RESULT = {"event": "result", "step": 9, "test": measured()}
EVENTS = {
    "nothing": [],
    "one step": step_events(1),
    "steps only": step_events(200),
    "no step": [EPOCH, RESULT],
    "no epoch": [*step_events(3), RESULT],
    "all": [*step_events(200), EPOCH | {"validation_accuracy": 0.5, "test_accuracy": 0.4}, RESULT],
}


@pytest.mark.parametrize("events", EVENTS.values(), ids=EVENTS)
def test_the_learning_curve_is_drawn(events: list[dict[str, Any]], tmp_path: Path) -> None:
    path = tmp_path / "curve.png"
    learning_curve(events, path)
    with Image.open(path, formats=["PNG"]) as picture:
        assert picture.size == (1_080, 432)
        assert len(picture.getcolors(maxcolors=100_000)) > 10  # not blank
    assert [each.name for each in tmp_path.iterdir()] == ["curve.png"]


@pytest.mark.parametrize(("step", "epoch"), [(0, 0), (9, 3), (15, 3), (18, 4)])
def test_the_result_stands_at_the_weights_that_were_kept(
    step: int, epoch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(Axes, "errorbar", lambda _, *points, **__: drawn.append(points[0]))
    events = [EPOCH, EPOCH | {"epoch": 4, "step": 18}, RESULT | {"step": step}]
    learning_curve(events, tmp_path / "curve.png")
    assert drawn == [[epoch]]


def test_the_same_events_give_the_same_picture(tmp_path: Path) -> None:
    events = {"a.png": EVENTS["all"], "b.png": EVENTS["all"], "c.png": EVENTS["all"][1:]}
    for name in events:
        learning_curve(events[name], tmp_path / name)
    first, again, other = ((tmp_path / name).read_bytes() for name in events)
    assert first == again != other


def test_a_learning_curve_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "curve.png"
    for number in (1, 5):
        learning_curve(step_events(number), path)
        with Image.open(path) as picture:
            picture.load()
    with pytest.raises(OSError, match="No such file"):
        learning_curve([], tmp_path / "nowhere" / "curve.png")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The time, to be set by the test."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    yield now
    monkeypatch.undo()


def test_elsewhere_a_plain_line_every_few_seconds(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    display = Display(epochs=4)
    display.say("[red]as it is[/red] \\[x]")
    with display.following(done=20, total=120):
        for step in range(21, 33):
            clock[0] += 2
            display.step(step, epoch=1, facts="loss 0.5", num_images=500)
    out, err = capsys.readouterr()
    assert out == ""
    # Updates are made every 2 s, of 500 images: a line is due at 6, 12, 18 and 24 s.
    assert err.splitlines() == [
        "[red]as it is[/red] \\[x]",
        "epoch 2/4  step 23/120  loss 0.5  250 images/s  3 min 14 s left",
        "epoch 2/4  step 26/120  loss 0.5  250 images/s  3 min 8 s left",
        "epoch 2/4  step 29/120  loss 0.5  250 images/s  3 min 2 s left",
        "epoch 2/4  step 32/120  loss 0.5  250 images/s  2 min 56 s left",
    ]


@pytest.mark.parametrize(
    ("seconds", "lines"),
    [(0.1, []), (1.5, ["measuring: 20%, 12 s left", "measuring: 60%, 6.0 s left"])],
)
def test_work_that_takes_long_is_reported(
    seconds: float, lines: list[str], clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    for item in reported(range(10), 10, "measuring"):
        assert item == round((clock[0] - 100) / seconds)
        clock[0] += seconds
    out, err = capsys.readouterr()
    assert (out, err.splitlines()) == ("", lines)


def test_without_a_terminal_nothing_is_drawn_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.delenv("TTY_COMPATIBLE", raising=False)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    display = Display(epochs=1)
    assert display.bar is None
    with display.following(0, 1):
        display.say("line")
    assert sys.stderr.getvalue() == "line\n"
