"""Numbers from (logits, labels): pure functions on CPU tensors, sums and counts, never averages of
averages.
"""

import math
from typing import TypedDict

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


def num_correct(logits: Tensor, labels: Tensor, top: int = 1) -> int:
    """How many labels are among the `top` highest logits. Ties go to the lower class index."""
    if top == 1:
        return int((logits.argmax(dim=1) == labels).sum())
    ranked = logits.sort(dim=1, descending=True, stable=True).indices[:, :top]
    return int((ranked == labels[:, None]).any(dim=1).sum())


def mean_loss(logits: Tensor, labels: Tensor) -> float:
    """Mean cross-entropy in nats, summed in float64."""
    return float(F.cross_entropy(logits.double(), labels))


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
    predicted = logits.argmax(dim=1)
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
            )
        )
    return rows
