"""Paired comparisons against scipy, a bootstrap by hand, and simulation."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from deepcnn import paired

Bools = NDArray[np.bool_]


def logits_of(right: Bools) -> Tensor:
    """Answers to images of class 1: right or wrong as given."""
    return torch.from_numpy(np.stack([~right, right], axis=1)).float()


def compared(first: Bools, second: Bools) -> paired.OnImages:
    labels = torch.ones(len(first), dtype=torch.int64)
    return paired.on_images(logits_of(first), logits_of(second), labels)


def test_mcnemar_is_the_sign_test_of_the_images_that_differ() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random(400) < 0.8, rng.random(400) < 0.85
    found = compared(first, second)
    better, worse = int((second & ~first).sum()), int((first & ~second).sum())
    smaller = min(better, worse)
    by_hand = min(1.0, 2 * float(stats.binom.cdf(smaller, better + worse, 0.5)))
    assert (found["only_second"], found["only_first"]) == (better, worse)
    assert found["p_value"] == pytest.approx(by_hand)
    assert found["mean"] == pytest.approx(second.mean() - first.mean())


def test_the_interval_is_that_of_drawing_images() -> None:
    rng = np.random.default_rng(1)
    first = rng.random(300) < 0.9
    second = np.where(rng.random(300) < 0.1, ~first, first)
    differences = second.astype(float) - first
    drawn = [differences[rng.integers(300, size=300)].mean() for _ in range(10_000)]
    expected = np.quantile(drawn, [0.025, 0.975])
    assert compared(first, second)["interval"] == pytest.approx(tuple(expected), abs=0.004)


def test_equal_answers_show_nothing() -> None:
    right = np.array([True, False, True])
    found = compared(right, right)
    assert (found["mean"], found["interval"], found["p_value"]) == (0, (0, 0), 1)
    assert not found["shown"]


def test_chance_is_seldom_called_a_difference() -> None:
    """Two networks that are equally good: in about 5 of 100 draws, and never in many more."""
    rng = np.random.default_rng(2)
    called = covered = 0
    for _ in range(400):
        found = compared(rng.random(500) < 0.9, rng.random(500) < 0.9)
        called += found["shown"]
        assert found["interval"] is not None
        covered += found["interval"][0] <= 0 <= found["interval"][1]
    assert called <= 32  # 20 expected of an exact test, which calls fewer
    assert covered >= 365


def test_seeds_are_compared_by_students_t() -> None:
    first, second = [0.90, 0.91, 0.89, 0.905], [0.915, 0.92, 0.91, 0.912]
    found = paired.over_seeds(first, second)
    expected = stats.ttest_rel(second, first)
    low, high = expected.confidence_interval()
    assert found["interval"] == pytest.approx((low, high))
    assert found["p_value"] == pytest.approx(expected.pvalue)
    assert (found["n"], found["shown"]) == (4, True)
    backwards = paired.over_seeds(second, first)
    assert backwards["mean"] == pytest.approx(-found["mean"])


@pytest.mark.parametrize(
    ("first", "second"), [([0.9], [0.8]), ([0.9, 0.9], [0.9, 0.9]), ([0.5, 0.5], [0.75, 0.75])]
)
def test_one_pair_or_no_spread_shows_nothing(first: list[float], second: list[float]) -> None:
    found = paired.over_seeds(first, second)
    assert (found["p_value"], found["shown"]) == (None, False)
    assert (found["interval"] is None) == (len(first) == 1)


def test_the_interval_of_a_mean() -> None:
    values = [0.1, 0.4, 0.35, 0.2]
    expected = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert paired.mean_interval(values) == pytest.approx(expected)
    assert paired.mean_interval(values[:1]) is None
