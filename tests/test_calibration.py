"""Calibration against scikit-learn, scipy and NumPy, and by what must not change it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.calibration import calibration_curve
from torch import Tensor

from deepcnn import calibration
from deepcnn.metrics import mean_loss


def overconfident(number: int = 3_000, factor: float = 3.0) -> tuple[Tensor, Tensor]:
    """Logits that are `factor` times those the labels were drawn by."""
    rng = np.random.default_rng(0)
    true = rng.normal(size=(number, 5))
    labels = [rng.choice(5, p=row) for row in softmax(true, axis=1)]
    return torch.from_numpy(factor * true).float(), torch.tensor(labels)


def ece_by_numpy(logits: Tensor, labels: Tensor, num_bins: int) -> float:
    """With a loop, as the definition reads; for logits without ties."""
    shares = softmax(logits.double().numpy(), axis=1)
    order = np.argsort(shares.max(axis=1))
    error = 0.0
    for rows in np.array_split(order, num_bins):
        hits = shares[rows].argmax(axis=1) == labels.numpy()[rows]
        error += len(rows) / len(order) * abs(hits.mean() - shares[rows].max(axis=1).mean())
    return error


@pytest.mark.parametrize("num_bins", [1, 7, 15])
def test_the_error_is_what_its_definition_says(num_bins: int) -> None:
    logits, labels = overconfident(500)
    bins = calibration.reliability(*calibration.judged(logits, labels), num_bins)
    expected = ece_by_numpy(logits, labels, num_bins)
    assert calibration.calibration_error(bins) == pytest.approx(expected)


def test_the_bins_are_scikit_learns() -> None:
    logits, labels = overconfident(600)
    sure, correct = calibration.judged(logits, labels)
    accuracy, confidence = calibration_curve(correct, sure, n_bins=12, strategy="quantile")
    bins = calibration.reliability(sure, correct, 12)
    assert [each["accuracy"] for each in bins] == pytest.approx(accuracy.tolist())
    assert [each["confidence"] for each in bins] == pytest.approx(confidence.tolist())
    assert {each["num_images"] for each in bins} == {50}


@settings(deadline=None)
@given(st.permutations(range(24)))
def test_the_order_of_the_images_changes_no_bit(order: list[int]) -> None:
    """With many that are equally sure, right and wrong."""
    logits = torch.tensor([[float(k % 3), 0.0] for k in range(24)])
    labels = torch.tensor([k % 2 for k in range(24)])
    shuffled = logits[order], labels[order]
    for one, other in zip(
        calibration.judged(logits, labels), calibration.judged(*shuffled), strict=True
    ):
        assert torch.equal(one, other)
    assert calibration.fit_temperature(logits, labels) == pytest.approx(
        calibration.fit_temperature(*shuffled)
    )


def test_the_temperature_is_the_one_of_least_loss() -> None:
    logits, labels = overconfident()
    raw: NDArray[np.float64] = logits.double().numpy()

    def loss(temperature: float) -> float:
        rows = log_softmax(raw / temperature, axis=1)
        return float(-rows[np.arange(len(rows)), labels.numpy()].mean())

    expected = minimize_scalar(loss, bounds=(0.1, 10), method="bounded", options={"xatol": 1e-9})
    found = calibration.fit_temperature(logits, labels)
    assert found == pytest.approx(expected.x, rel=1e-4)
    assert found == pytest.approx(3.0, rel=0.1)
    before = calibration.reliability(*calibration.judged(logits, labels))
    after = calibration.reliability(*calibration.judged(logits, labels, 3.0))
    assert calibration.calibration_error(after) < calibration.calibration_error(before) / 5
    assert mean_loss(logits / 3.0, labels) < mean_loss(logits, labels)


def test_nothing_is_fitted_to_answers_that_are_all_right_or_missing() -> None:
    logits, labels = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
    assert calibration.fit_temperature(logits, labels) is None
    assert calibration.fit_temperature(logits * math.nan, labels) is None
    one = calibration.fit_temperature(logits[:1], labels[1:])  # wrong, so never sure enough of it
    assert one == pytest.approx(calibration.TEMPERATURES[1])


def test_no_answer_is_not_sure_at_all() -> None:
    logits = torch.tensor([[0.0, math.nan], [0.0, 5.0]])
    assert calibration.confidence(logits).tolist() == [0.0, pytest.approx(1 / (1 + math.exp(-5)))]
    sure, correct = calibration.judged(logits, torch.tensor([1, 1]))
    assert (sure[0].item(), correct.tolist()) == (0.0, [False, True])


@st.composite
def answered(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Confidences with many ties, and whether each answer is right, as `judged` gives them."""
    rows = sorted(
        draw(st.lists(st.tuples(st.sampled_from([0.2, 0.5, 0.6, 0.9]), st.booleans()), min_size=1))
    )
    sure, correct = zip(*rows, strict=True)
    return torch.tensor(sure, dtype=torch.float64), torch.tensor(correct)


@given(answered(), st.floats(0.01, 1))
def test_a_threshold_gives_the_most_answers_that_are_good_enough(
    case: tuple[Tensor, Tensor], wanted: float
) -> None:
    sure, correct = case
    possible = {
        int((sure >= value).sum()): float(correct[sure >= value].double().mean())
        for value in set(sure.tolist())
    }
    enough = [number for number, accuracy in possible.items() if accuracy >= wanted]
    found = calibration.threshold_for_accuracy(sure, correct, wanted)
    if not enough:
        assert found is None
        return
    assert found is not None
    assert found["num_images"] == max(enough) == int((sure >= found["threshold"]).sum())
    assert found["accuracy"] == pytest.approx(possible[max(enough)])
    assert found["coverage"] == found["num_images"] / len(sure)


def test_accuracy_by_coverage() -> None:
    logits, labels = overconfident(1_000)
    parts = calibration.accuracy_by_coverage(*calibration.judged(logits, labels))
    assert [part["num_images"] for part in parts] == [1_000, 950, 900, 800, 700, 500]
    assert parts[0]["accuracy"] == (logits.argmax(1) == labels).double().mean()
    accuracies = [part["accuracy"] for part in parts]
    assert accuracies == sorted(accuracies)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_surest_mistakes(temperature: float) -> None:
    logits, labels = overconfident(400)
    shares = softmax(logits.double().numpy() / temperature, axis=1)
    wrong = np.flatnonzero(shares.argmax(axis=1) != labels.numpy())
    expected = sorted(wrong, key=lambda index: -shares[index].max())[:25]
    images, sure = calibration.surest_mistakes(logits, labels, temperature, 25)
    assert images.tolist() == expected
    assert sure.tolist() == pytest.approx([shares[index].max() for index in expected])
    assert len(calibration.surest_mistakes(logits, labels, temperature, 10_000)[0]) == len(wrong)


def test_the_nearest_to_a_boundary() -> None:
    """In probabilities: where those of the two likeliest classes have the least ratio."""
    logits, _ = overconfident(400)
    ranked = np.sort(softmax(logits.double().numpy(), axis=1), axis=1)
    expected = np.argsort(ranked[:, -1] / ranked[:, -2], kind="stable")[:25]
    assert calibration.nearest_boundary(logits, 25).tolist() == expected.tolist()


def test_an_image_without_an_answer_is_a_mistake_and_near_no_boundary() -> None:
    logits = torch.tensor([[0.0, torch.nan], [0.0, 1.0], [2.0, 2.0]])
    images, sure = calibration.surest_mistakes(logits, torch.tensor([0, 0, 0]), 1.0, 5)
    assert images.tolist() == [1, 0]
    assert sure.tolist() == pytest.approx([math.e / (1 + math.e), 0])
    assert calibration.nearest_boundary(logits, 5).tolist() == [2, 1]
    assert calibration.nearest_boundary(logits[:, :1], 5).tolist() == []
