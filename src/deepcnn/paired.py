"""Whether one network is better than another: tests on the same images, and over the same seeds."""

import math
import statistics
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from scipy import stats
from torch import Tensor

from deepcnn.metrics import answers

CONFIDENCE = 0.95
RESAMPLES = 10_000


class Difference(TypedDict):
    """How the second of two does beside the first: `mean` is a difference of accuracies."""

    n: int
    mean: float
    interval: tuple[float, float] | None
    p_value: float | None
    shown: bool


class OnImages(Difference):
    """The same on the same images: how many only one of the two has right."""

    only_first: int
    only_second: int


def on_images(first: Tensor, second: Tensor, labels: Tensor) -> OnImages:
    """Compare answers to the same images: logits N K of both.

    The p-value is that of McNemar's exact test (McNemar 1947), the interval that of the paired
    bootstrap: images are drawn with both their answers (Efron and Tibshirani 1993, chapter 13).
    """
    right = [answers(logits) == labels for logits in (first, second)]
    only_first, only_second = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    number, differing = len(labels), only_first + only_second
    p_value = float(stats.binomtest(only_second, differing).pvalue) if differing else 1.0
    # Drawing images is drawing how many of each kind there are: only these kinds matter.
    kinds = np.array([only_first, only_second, number - differing]) / number
    drawn = np.random.default_rng(0).multinomial(number, kinds, size=RESAMPLES)
    ends = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
    low, high = np.quantile((drawn[:, 1] - drawn[:, 0]) / number, ends)
    return OnImages(
        n=number,
        mean=(only_second - only_first) / number,
        interval=(float(low), float(high)),
        p_value=p_value,
        shown=p_value < 1 - CONFIDENCE,
        only_first=only_first,
        only_second=only_second,
    )


def over_seeds(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Compare results of the same seeds, by Student's t for pairs; one pair shows nothing."""
    differences = [b - a for a, b in zip(first, second, strict=True)]
    interval = mean_interval(differences)
    p_value = None
    if interval:
        low, high = interval
        # Differences that are all equal have no spread to be judged by.
        p_value = float(stats.ttest_rel(second, first).pvalue) if high > low else None
    return Difference(
        n=len(differences),
        mean=statistics.fmean(differences),
        interval=interval,
        p_value=p_value,
        shown=p_value is not None and p_value < 1 - CONFIDENCE,
    )


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of a mean by Student's t; None for one value."""
    if len(values) < 2:
        return None
    mean, deviation = statistics.fmean(values), statistics.stdev(values)
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    half = quantile * deviation / math.sqrt(len(values))
    return mean - half, mean + half
