"""Numbers from (logits, labels): pure functions on CPU tensors, sums and counts, never averages of
averages.

An answer with a logit that is not finite is no answer: it is wrong, whatever the label. A measure
that has nothing to go by is None.
"""

import math
from typing import TypedDict

import torch
from torch import Tensor
from torch.nn import functional as F

Z_95 = 1.959963984540054  # 97.5 % quantile of the normal distribution


class ClassRow(TypedDict):
    """How one class fares: `recall` is None where the class has no image."""

    name: str
    num_images: int
    correct: int
    predicted: int
    precision: float | None
    recall: float | None
    f1: float | None


def answers(logits: Tensor) -> Tensor:
    """The class of the highest logit of each image, int64 N: the lower of two that are equal, and
    -1 for no answer.
    """
    return torch.where(logits.isfinite().all(dim=1), logits.argmax(dim=1), -1)


def num_correct(logits: Tensor, labels: Tensor, top: int = 1) -> int:
    """How many labels are among the `top` highest logits. Ties go to the lower class index."""
    if top == 1:
        return int((answers(logits) == labels).sum())
    ranked = logits.sort(dim=1, descending=True, stable=True).indices[:, :top]
    hits = (ranked == labels[:, None]).any(dim=1)
    return int((hits & logits.isfinite().all(dim=1)).sum())


def mean_loss(logits: Tensor, labels: Tensor) -> float:
    """Mean cross-entropy in nats, summed without rounding, so that the order does not matter;
    infinite if an image has no answer.
    """
    if not logits.isfinite().all():
        return math.inf
    losses = F.cross_entropy(logits.double(), labels, reduction="none")
    return math.fsum(losses.tolist()) / len(losses)


def confusion_matrix(logits: Tensor, labels: Tensor) -> Tensor:
    """Counts of images, int64 K K: a row for each label, a column for each answer."""
    predicted, num_classes = answers(logits), logits.shape[1]
    cells = (labels * num_classes + predicted)[predicted >= 0]
    return cells.bincount(minlength=num_classes**2).view(num_classes, num_classes)


def balanced_accuracy(logits: Tensor, labels: Tensor) -> float:
    """The mean recall of the classes that have images."""
    counts = labels.bincount(minlength=logits.shape[1])
    correct = confusion_matrix(logits, labels).diagonal()
    there = counts > 0
    return math.fsum((correct[there].double() / counts[there]).tolist()) / int(there.sum())


def wilson_interval(successes: int, trials: int, z: float = Z_95) -> tuple[float, float]:
    """Interval for a proportion (Wilson 1927): right for small counts and near 0 and 1."""
    if trials <= 0:
        raise ValueError("an interval needs at least one trial")
    share = successes / trials
    centre = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    low, high = (centre - spread) / scale, (centre + spread) / scale
    # At the ends the formula gives 0 or 1 exactly; rounding must not step over them.
    return (0.0 if successes == 0 else low, 1.0 if successes == trials else high)


def per_class(logits: Tensor, labels: Tensor, classes: tuple[str, ...]) -> list[ClassRow]:
    """One row for each class, in the order of `classes`."""
    predicted = answers(logits)
    rows: list[ClassRow] = []
    for index, name in enumerate(classes):
        actual, guessed = labels == index, predicted == index
        correct, images, guesses = (
            int((actual & guessed).sum()), int(actual.sum()), int(guessed.sum())
        )  # fmt: skip
        rows.append(
            ClassRow(
                name=name,
                num_images=images,
                correct=correct,
                predicted=guesses,
                precision=correct / guesses if guesses else None,
                recall=correct / images if images else None,
                f1=2 * correct / (images + guesses) if images + guesses else None,
            )
        )
    return rows
