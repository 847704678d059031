"""Whether the probabilities of a network can be believed, and what follows from them.

The confidence of an answer is the probability of its class by softmax. Guo et al. 2017, "On
Calibration of Modern Neural Networks", arXiv:1706.04599.
"""

import math
from typing import TypedDict

import torch
from torch import Tensor

from deepcnn.metrics import answers

NUM_BINS = 15  # Guo et al. 2017, section 2
TEMPERATURES = (0.05, 20.0)  # beyond these, softmax is as good as hard, or uniform
HALVINGS = 60  # of the interval of the temperature: below the rounding of a float
COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)  # shares of the images, in tables


class Bin(TypedDict):
    """Images of similar confidence."""

    num_images: int
    confidence: float
    accuracy: float


class Part(TypedDict):
    """The answers of at least a certain confidence."""

    threshold: float
    num_images: int
    coverage: float
    correct: int
    accuracy: float


def confidence(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """The probability of each answer, float64 N; 0 where there is none."""
    shares = (logits.double() / temperature).softmax(dim=1)
    return shares.max(dim=1).values.where(answers(logits) >= 0, 0.0)


def judged(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """The confidence of each answer, float64 N, and whether it is right, bool N.

    In order of confidence, mistakes first among equals, whatever the order of the images was.
    """
    correct, sure = answers(logits) == labels, confidence(logits, temperature)
    order = correct.int().argsort(stable=True)
    order = order[sure[order].argsort(stable=True)]
    return sure[order], correct[order]


def surest_mistakes(
    logits: Tensor, labels: Tensor, temperature: float, number: int
) -> tuple[Tensor, Tensor]:
    """Up to `number` wrong answers with the highest confidence: images and these confidences."""
    sure = confidence(logits, temperature)
    wrong = (answers(logits) != labels).nonzero()[:, 0]
    chosen = wrong[sure[wrong].argsort(descending=True, stable=True)][:number]
    return chosen, sure[chosen]


def nearest_boundary(logits: Tensor, number: int) -> Tensor:
    """Up to `number` images whose two highest logits differ least: between two classes."""
    answered = (answers(logits) >= 0).nonzero()[:, 0]
    if logits.shape[1] < 2:
        return answered[:0]
    first, second = logits[answered].double().topk(2, dim=1).values.unbind(dim=1)
    return answered[(first - second).argsort(stable=True)][:number]


def reliability(sure: Tensor, correct: Tensor, num_bins: int = NUM_BINS) -> list[Bin]:
    """Bins with as many images each, give or take one, from what `judged` gives.

    Nixon et al. 2019, "Measuring Calibration in Deep Learning", arXiv:1904.01685: bins of equal
    width leave most of them all but empty.
    """
    parts = zip(
        sure.tensor_split(min(num_bins, len(sure))),
        correct.tensor_split(min(num_bins, len(correct))),
        strict=True,
    )
    return [
        Bin(
            num_images=len(hits),
            confidence=math.fsum(shares.tolist()) / len(shares),
            accuracy=int(hits.sum()) / len(hits),
        )
        for shares, hits in parts
    ]


def calibration_error(bins: list[Bin]) -> float:
    """The expected calibration error: by how much confidence and accuracy of a bin differ, in the
    mean over images. Guo et al. 2017, equation 3.
    """
    total = sum(each["num_images"] for each in bins)
    return math.fsum(
        each["num_images"] / total * abs(each["accuracy"] - each["confidence"]) for each in bins
    )


def fit_temperature(logits: Tensor, labels: Tensor) -> float | None:
    """The number to divide logits by so that the loss on these images is least; None where every
    answer is right, or there is none for some image: then nothing says how sure to be.

    Guo et al. 2017, section 4.2. The loss is convex in the inverse, whose root is halved for.
    """
    if not logits.isfinite().all() or bool((answers(logits) == labels).all()):
        return None
    scores = logits.double()
    own = scores.gather(1, labels[:, None])[:, 0]
    low, high = (math.log(value) for value in TEMPERATURES)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        shares = (scores / math.exp(middle)).softmax(dim=1)
        # The derivative by the inverse: positive where the network is too sure.
        if float(((shares * scores).sum(dim=1) - own).sum()) > 0:
            low = middle
        else:
            high = middle
    return math.exp((low + high) / 2)


def part(sure: Tensor, correct: Tensor, number: int) -> Part:
    """The `number` surest answers, or more where the last has equals, from what `judged` gives."""
    threshold = float(sure[-number])
    first = int(torch.searchsorted(sure, threshold))
    answered = len(sure) - first
    hits = int(correct[first:].sum())
    return Part(
        threshold=threshold,
        num_images=answered,
        coverage=answered / len(sure),
        correct=hits,
        accuracy=hits / answered,
    )


def accuracy_by_coverage(sure: Tensor, correct: Tensor) -> list[Part]:
    """What accuracy would be if only the surest answers were given, for a few shares of them."""
    number = len(sure)
    return [part(sure, correct, math.ceil(share * number)) for share in COVERAGES]


def threshold_for_accuracy(sure: Tensor, correct: Tensor, wanted: float) -> Part | None:
    """As many answers as can be given with at least this accuracy; None if not even the surest."""
    # Numbers of answers from the surest on; equals go together.
    borders = torch.cat([torch.tensor([True]), sure[1:] > sure[:-1]])
    numbers = len(sure) - borders.nonzero()[:, 0]
    hits = correct.flip(0).cumsum(dim=0)[numbers - 1]
    enough = numbers[hits >= wanted * numbers]
    return part(sure, correct, int(enough.max())) if len(enough) else None
