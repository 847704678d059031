import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from sklearn.metrics import (
    balanced_accuracy_score,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)

from deepcnn import metrics
from deepcnn.metrics import mean_loss, num_correct, per_class, wilson_interval

Arrays = tuple[NDArray[np.float32], NDArray[np.int64]]


@st.composite
def scored(draw: st.DrawFn, elements: st.SearchStrategy[float], least: int = 1) -> Arrays:
    """Logits N K, labels N; some classes may have no image."""
    num_images, num_classes = draw(st.integers(1, 30)), draw(st.integers(least, 12))
    logits = draw(arrays(np.float32, (num_images, num_classes), elements=elements))
    labels = draw(arrays(np.int64, num_images, elements=st.integers(0, num_classes - 1)))
    return logits, labels


few_values = st.sampled_from([-1.0, 0.0, 1.0])  # many ties
# Differences of 30 at most: scikit-learn takes no probability to be below 2e-16.
many_values = st.floats(-15, 15, width=32)


@st.composite
def without_ties(draw: st.DrawFn) -> Arrays:
    logits, labels = draw(scored(st.just(0.0), least=3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    ranks = rng.permuted(np.tile(np.arange(logits.shape[1]), (len(logits), 1)), axis=1)
    return ranks.astype(np.float32), labels


@settings(deadline=None)
@given(without_ties(), st.data())
def test_top_k_equals_scikit_learn(case: Arrays, data: st.DataObject) -> None:
    logits, labels = case
    classes = np.arange(logits.shape[1])
    top = data.draw(st.integers(1, len(classes) - 1))
    expected = top_k_accuracy_score(labels, logits, k=top, normalize=False, labels=classes)
    assert num_correct(torch.from_numpy(logits), torch.from_numpy(labels), top) == expected


@settings(deadline=None)
@given(scored(few_values), st.integers(1, 14))
def test_among_equals_the_lower_class_counts(case: Arrays, top: int) -> None:
    expected = 0
    for row, label in zip(case[0].tolist(), case[1].tolist(), strict=True):
        before = [k for k, x in enumerate(row) if x > row[label] or (x == row[label] and k < label)]
        expected += len(before) < top
    logits, labels = map(torch.from_numpy, case)
    assert num_correct(logits, labels, top) == expected


def test_ties_among_many_classes() -> None:
    """Enough of them to show a sort that is not stable."""
    rng = np.random.default_rng(0)
    logits, labels = rng.integers(3, size=(50, 1_000)), rng.integers(1_000, size=50)
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    ties_before = (logits == own) & (np.arange(1_000) < labels[:, None])
    rank = ((logits > own) | ties_before).sum(axis=1)
    for top in (1, 5, 100, 300, 600, 999):
        correct = num_correct(torch.from_numpy(logits).float(), torch.from_numpy(labels), top)
        assert correct == (rank < top).sum()


@settings(deadline=None)
@given(scored(many_values, least=2))
def test_loss_equals_scikit_learn(case: Arrays) -> None:
    logits, labels = case
    shares = scipy.special.softmax(logits.astype(np.float64), axis=1)
    expected = log_loss(labels, shares, labels=np.arange(logits.shape[1]))
    assert mean_loss(torch.from_numpy(logits), torch.from_numpy(labels)) == pytest.approx(
        expected, rel=1e-9, abs=1e-9
    )


def test_loss_of_hopeless_and_perfect_answers_is_finite() -> None:
    logits = torch.tensor([[3e4, -3e4]])
    assert mean_loss(logits, torch.tensor([0])) == 0
    assert mean_loss(logits, torch.tensor([1])) == 6e4


@settings(deadline=None)
@given(scored(few_values))
def test_classes_equal_scikit_learn(case: Arrays) -> None:
    logits, labels = case
    predicted = logits.argmax(axis=1)
    classes = np.arange(logits.shape[1])
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=classes, zero_division=np.nan
    )
    names = tuple(f"class {k}" for k in classes)
    rows = per_class(torch.from_numpy(logits), torch.from_numpy(labels), names)
    assert [row["name"] for row in rows] == list(names)
    assert [row["num_images"] for row in rows] == support.tolist()
    assert [row["predicted"] for row in rows] == [int((predicted == k).sum()) for k in classes]
    assert sum(row["correct"] for row in rows) == int((predicted == labels).sum())
    for k, row in enumerate(rows):
        assert_share(row["precision"], precision[k])
        assert_share(row["recall"], recall[k])
        assert_share(row["f1"], f1[k])


def assert_share(actual: float | None, expected: float) -> None:
    """A share of nothing is None here and not-a-number there."""
    assert (actual is None) == math.isnan(expected)
    assert actual is None or actual == pytest.approx(expected)


def test_one_image() -> None:
    logits, labels = torch.tensor([[0.0, 2.0, 1.0]]), torch.tensor([2])
    assert [num_correct(logits, labels, top) for top in (1, 2, 3, 9)] == [0, 1, 1, 1]
    guessed, absent, actual = (
        per_class(logits, labels, ("a", "b", "c"))[index] for index in (1, 0, 2)
    )
    assert (guessed["precision"], guessed["recall"]) == (0, None)
    assert (absent["precision"], absent["recall"]) == (None, None)
    assert (actual["precision"], actual["recall"]) == (None, 0)


@settings(deadline=None)
@given(st.integers(1, 100_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_interval_equals_scipy(counts: tuple[int, int]) -> None:
    expected = scipy.stats.binomtest(*counts).proportion_ci(0.95, method="wilson")
    low, high = wilson_interval(*counts)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= low <= Fraction(*counts) <= high <= 1


def test_interval_at_the_ends_is_exact() -> None:
    for trials in range(1, 200):
        assert wilson_interval(0, trials)[0] == 0
        assert wilson_interval(trials, trials)[1] == 1


def test_interval_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one trial"):
        wilson_interval(0, 0)


@settings(deadline=None)
@given(scored(few_values))
def test_confusions_equal_scikit_learn(case: Arrays) -> None:
    logits, labels = map(torch.from_numpy, case)
    predicted, classes = case[0].argmax(axis=1), np.arange(case[0].shape[1])
    found = metrics.confusion_matrix(logits, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of one class only, and of answers that are no label
        assert found.tolist() == confusion_matrix(labels, predicted, labels=classes).tolist()
        expected = balanced_accuracy_score(labels, predicted)
    assert metrics.balanced_accuracy(logits, labels) == pytest.approx(expected)


@given(st.permutations(range(20)))
def test_the_order_of_the_images_changes_no_bit(order: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 3, generator=generator)
    labels = torch.randint(3, (20,), generator=generator)
    for measure in (mean_loss, num_correct, metrics.balanced_accuracy):
        assert measure(logits, labels) == measure(logits[order], labels[order])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 1])
def test_what_is_not_finite_is_no_answer(bad: float, place: int) -> None:
    """Neither where the label is nor where it is not."""
    logits, labels = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([1, 0, 1])
    logits[2, place] = bad
    assert metrics.answers(logits).tolist() == [1, 0, -1]
    assert [num_correct(logits, labels, top) for top in (1, 2)] == [2, 2]
    assert mean_loss(logits, labels) == math.inf
    assert metrics.confusion_matrix(logits, labels).tolist() == [[1, 0], [0, 1]]
    assert metrics.balanced_accuracy(logits, labels) == 0.75
    assert [row["predicted"] for row in per_class(logits, labels, ("a", "b"))] == [1, 1]


def test_intervals_cover_what_they_should() -> None:
    """Of 10,000 draws the interval holds the true share in 93 to 97 %, also for rare mistakes."""
    rng = np.random.default_rng(0)
    for share, number in ((0.5, 50), (0.9, 100), (0.95, 153), (0.99, 10_000), (0.917, 10_000)):
        draws = rng.binomial(number, share, 10_000)
        ends = {k: wilson_interval(int(k), number) for k in np.unique(draws)}
        held = [ends[k][0] <= share <= ends[k][1] for k in draws]
        assert 0.93 <= np.mean(held) <= 0.97, (share, number)
