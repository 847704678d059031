import json
import math
import os
import signal
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss
from torch import Tensor, nn

from deepcnn import interrupt
from deepcnn.data.images import ImageSet
from deepcnn.data.loader import Source, source
from deepcnn.data.preprocess import Preprocess
from deepcnn.device import Policy
from deepcnn.errors import ConfigError, Interrupted
from deepcnn.evaluate import Goal, details, mistakes, predictions, summary, threshold
from deepcnn.predictions import Predictions

NUM_IMAGES, NUM_CLASSES = 17, 4
PLAIN = Policy("cpu", "fp32", "contiguous", threads=1)


def toy() -> Source:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (NUM_IMAGES, 1, 6, 6), dtype=np.uint8)
    labels = rng.integers(0, NUM_CLASSES, NUM_IMAGES)
    images = ImageSet("toy", pixels, labels, tuple("abcd"))
    unit = Preprocess(channels=1, size=6, pad=0, mean=(0.0,), std=(1.0,))
    return source(images, unit, torch.device("cpu"))


def network() -> nn.Module:
    """With dropout and batch statistics, which must not play a part in an evaluation."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5))
    return nn.Sequential(*layers, nn.Linear(48, NUM_CLASSES))


class Pixels(nn.Module):
    """Answers with the first pixels of an image, and counts the images it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.shown.append(len(images))
        return images.flatten(1)[:, :NUM_CLASSES]


def test_the_batch_size_has_no_effect() -> None:
    model, images = network(), toy()
    whole = predictions(model, images, PLAIN, NUM_IMAGES)
    expected = summary(whole, tuple("abcd"))
    for batch_size in (*range(1, NUM_IMAGES), NUM_IMAGES + 5):
        result = predictions(model, images, PLAIN, batch_size)
        torch.testing.assert_close(result.logits, whole.logits, rtol=0, atol=1e-5)
        report = summary(result, tuple("abcd"))
        for name in ("loss", "calibration_error"):
            assert report[name] == pytest.approx(expected[name], abs=1e-5)
            report[name] = expected[name]
        assert report == expected


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_every_image_is_answered_once_and_in_order(layout: str) -> None:
    model, images = Pixels(), toy()
    result = predictions(model, images, Policy("cpu", "fp32", layout, threads=1), batch_size=5)
    assert model.shown == [5, 5, 5, 2]
    stored = images.images.flatten(1)[:, :NUM_CLASSES] / 255
    torch.testing.assert_close(result.logits, stored)
    assert torch.equal(result.labels, images.labels)


def test_16_bit_answers_are_kept_as_float32() -> None:
    result = predictions(network(), toy(), Policy("cpu", "bf16", "contiguous", threads=1))
    exact = predictions(network(), toy(), PLAIN)
    assert (result.logits.dtype, result.labels.dtype) == (torch.float32, torch.int64)
    assert not torch.equal(result.logits, exact.logits)
    torch.testing.assert_close(result.logits, exact.logits, rtol=0, atol=0.05)


def test_the_model_is_left_as_it_was_but_for_evaluation_mode() -> None:
    model = network().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = predictions(model, toy(), PLAIN, batch_size=8)
    assert not any(module.training for module in model.modules())
    assert not result.logits.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.is_grad_enabled()


def random_result(num_classes: int) -> tuple[Predictions, tuple[str, ...]]:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(50, num_classes, generator=generator)
    labels = torch.randint(num_classes, (50,), generator=generator)
    return Predictions(logits, labels), tuple(f"class {k}" for k in range(num_classes))


KEYS = [
    "accuracy", "balanced_accuracy", "calibrated", "calibration_error", "interval", "loss",
    "num_images", "per_class",
]  # fmt: skip


@pytest.mark.parametrize("num_classes", [2, 9, 10, 12])
def test_summary_says_what_scikit_learn_says(num_classes: int) -> None:
    result, classes = random_result(num_classes)
    report = summary(result, classes)
    labels, shares = result.labels.numpy(), result.logits.double().softmax(1).numpy()
    top5 = [label in row.argsort()[-5:] for label, row in zip(labels, shares, strict=True)]

    assert sorted(report) == sorted([*KEYS, "top5"] if num_classes >= 10 else KEYS)
    assert report["accuracy"] == accuracy_score(labels, shares.argmax(1)) == result.accuracy()
    recalls = [np.mean(shares.argmax(1)[labels == k] == k) for k in np.unique(labels)]
    assert report["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert report["loss"] == pytest.approx(log_loss(labels, shares, labels=range(num_classes)))
    assert report.get("top5", np.mean(top5)) == np.mean(top5)
    assert report["num_images"] == sum(row["num_images"] for row in report["per_class"]) == 50
    assert [row["name"] for row in report["per_class"]] == list(classes)
    low, high = report["interval"]
    assert low < report["accuracy"] < high
    assert json.loads(json.dumps(report)) == report


@pytest.fixture
def signals() -> Iterator[None]:
    """Signals as the command line handles them, for one test."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    interrupt.install()
    yield
    interrupt.install()  # forgets what has been received
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals")
def test_a_signal_stops_between_two_batches() -> None:
    class Killed(Pixels):
        def forward(self, images: Tensor) -> Tensor:
            if len(self.shown) == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().forward(images)

    model = Killed()
    with pytest.raises(Interrupted, match="stopped by SIGTERM") as stop:
        predictions(model, toy(), PLAIN, batch_size=5)
    assert model.shown == [5, 5]
    assert stop.value.exit_code == 143


def drawn(seed: int, number: int = 400) -> Predictions:
    """Answers that are right as often as they are sure."""
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(2 * rng.normal(size=(number, 3))).float()
    shares = logits.double().softmax(dim=1).numpy()
    labels = [rng.choice(3, p=row / row.sum()) for row in shares]
    return Predictions(logits, torch.tensor(labels))


@pytest.mark.parametrize("goal", [Goal("accuracy", 0.9), Goal("coverage", 0.6)])
def test_a_goal_is_reached_by_a_threshold_of_held_out_images(goal: Goal) -> None:
    held_out, result = drawn(0), drawn(1)
    found = threshold(goal, held_out, result, temperature=1.5)
    share = {}
    for name, each in (("held out", held_out), ("here", result)):
        shares = (each.logits.double() / 1.5).softmax(dim=1).numpy()
        sure = shares.max(axis=1) >= found["threshold"]
        right = shares.argmax(axis=1) == each.labels.numpy()
        share[name] = {"coverage": sure.mean(), "accuracy": right[sure].mean()}
    assert found["held_out"][goal.what] == pytest.approx(share["held out"][goal.what])
    assert share["held out"][goal.what] >= goal.share
    assert {name: found[name] for name in ("coverage", "accuracy")} == pytest.approx(share["here"])
    low, high = found["interval"]
    assert low < found["accuracy"] < high


def test_a_goal_that_no_answers_reach_is_refused() -> None:
    result = drawn(0)
    wrong = Predictions(result.logits, (result.logits.argmax(dim=1) + 1) % 3)
    with pytest.raises(ConfigError, match=r"--accuracy 0.5 is more than even the surest of 400"):
        threshold(Goal("accuracy", 0.5), wrong, result, 1.0)


def test_the_surest_mistakes_are_named() -> None:
    logits = torch.tensor([[9.0, 0.0], [5.0, 0.0], [0.0, 7.0], [math.nan, 0.0], [0.0, 5.0]])
    labels = torch.tensor([0, 1, 0, 1, 0])
    images = ImageSet("toy", np.zeros((5, 1, 2, 2), np.uint8), labels.numpy(), ("a", "b"))
    found = mistakes(Predictions(logits, labels), images, 1.0)
    assert [row["image"] for row in found] == [2, 1, 4, 3]  # the first of two that are as sure
    assert [row["answer"] for row in found] == ["b", "a", "b", None]
    assert [row["label"] for row in found] == ["a", "b", "a", "b"]
    sure = [1 / (1 + math.exp(-x)) for x in (7, 5, 5)]
    assert [row["confidence"] for row in found] == pytest.approx([*sure, 0.0])
    report = summary(Predictions(logits, labels), ("a", "b"), 1.0)
    assert (report["unanswered"], report["loss"], report["accuracy"]) == (1, None, 0.2)
    assert json.loads(json.dumps(report, allow_nan=False)) == report


@pytest.mark.parametrize("label", [0, 1])
def test_one_image_is_enough_to_be_measured(label: int) -> None:
    result = Predictions(torch.tensor([[0.0, 2.0]]), torch.tensor([label]))
    images = ImageSet("one", np.zeros((1, 1, 2, 2), np.uint8), np.array([label]), ("a", "b"))
    report = {**summary(result, ("a", "b")), **details(result, images, 1.0)}
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    sure = 1 / (1 + math.exp(-2))
    assert report["accuracy"] == report["balanced_accuracy"] == label
    assert report["calibration_error"] == pytest.approx(abs(label - sure))
    assert [part["num_images"] for part in report["coverage"]] == [1] * len(report["coverage"])
    assert len(report["mistakes"]) == 1 - label
