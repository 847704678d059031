"""What is held out of a training set, for decisions: each class in proportion, groups whole.

N samples, K classes.
"""

from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from deepcnn.errors import DataError

ALL = -1  # stands beside the labels for all of them together


def held_out(
    labels: NDArray[np.int64], groups: Sequence[str], number: int, seed: int
) -> NDArray[np.int64]:
    """Choose about `number` of N samples: their indices, ascending; the same for the same seed.

    Without groups (all "") exactly `number`, shares of classes rounded by largest remainder. With
    groups none is torn apart, a sample without one stands for itself, each class keeps some, and
    numbers come as near as `_whole_groups` gets. Raises DataError where that is impossible.
    """
    if len(labels) < 2:
        raise DataError(
            f"nothing can be held out of {len(labels)} images: give more, or --data.validation 0"
        )
    if not 0 < number < len(labels):
        raise DataError(
            f"cannot hold out {number} of {len(labels)} images: choose data.validation "
            f"between 1 and {len(labels) - 1}, or 0 for none"
        )
    shares = _shares(np.bincount(labels), number)
    chance = np.random.Generator(np.random.Philox(seed))
    if any(groups):
        return _whole_groups(labels, groups, shares, chance)
    shuffled = chance.permutation(len(labels))
    chosen = [shuffled[labels[shuffled] == label][:share] for label, share in enumerate(shares)]
    return np.sort(np.concatenate(chosen))


def _shares(counts: NDArray[np.int64], number: int) -> NDArray[np.int64]:
    """Whole numbers K that add up to `number`, in proportion to `counts` K."""
    exact = counts * number / counts.sum()
    shares: NDArray[np.int64] = np.floor(exact).astype(np.int64)
    shares[np.argsort(shares - exact, kind="stable")[: number - shares.sum()]] += 1
    return shares


def _whole_groups(
    labels: NDArray[np.int64],
    groups: Sequence[str],
    shares: NDArray[np.int64],
    chance: np.random.Generator,
) -> NDArray[np.int64]:
    """Indices of the groups that a greedy search in random order takes.

    A group is taken, or given back, where that brings the classes nearer to their `shares`, until
    none is. Groups larger than the shares leave too few, so the same is done again with the total
    as one more number to come near to. If none is taken at all, the one that fits best is.
    """
    members: dict[str | int, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group or index, []).append(index)
    parts = [np.array(indices) for indices in members.values()]
    sizes = [_sizes(labels[part]) for part in parts]  # negative for a group that is taken
    missing = Counter({ALL: int(shares.sum()), **dict(enumerate(shares.tolist()))})
    kept = _sizes(labels)

    def turn(group: int, counts: Collection[int]) -> bool:
        size = sizes[group]
        if _gain(size, missing, counts) <= 0 or not _leaves_some(kept, size):
            return False
        missing.subtract(size)
        kept.subtract(size)
        sizes[group] = Counter({label: -number for label, number in size.items()})
        return True

    order = chance.permutation(len(parts)).tolist()
    for counts in (range(len(shares)), range(ALL, len(shares))):
        while sum(turn(group, counts) for group in order):
            pass
    taken = [part for part, size in zip(parts, sizes, strict=True) if size[ALL] < 0]
    return np.sort(np.concatenate(taken or [parts[_best_fit(order, sizes, missing, kept)]]))


def _sizes(labels: NDArray[np.int64]) -> Counter[int]:
    """Images by class, and of ALL classes."""
    return Counter({ALL: len(labels), **Counter(labels.tolist())})


def _gain(size: Counter[int], missing: Counter[int], counts: Collection[int]) -> int:
    """By how many images what is `missing` comes nearer to 0 without a group of that size."""
    return sum(
        abs(missing[label]) - abs(missing[label] - number)
        for label, number in size.items()
        if label in counts
    )


def _leaves_some(kept: Counter[int], size: Counter[int]) -> bool:
    """Whether each class keeps images when a group of that size goes."""
    return all(kept[label] > number for label, number in size.items())


def _best_fit(
    order: list[int], sizes: list[Counter[int]], missing: Counter[int], kept: Counter[int]
) -> int:
    possible = [group for group in order if _leaves_some(kept, sizes[group])]
    if not possible:
        raise DataError(
            "cannot hold out images by whole groups: each group holds all images of some class "
            f"({len(sizes)} in all); check data.group, or choose data.validation 0"
        )
    return max(possible, key=lambda group: _gain(sizes[group], missing, missing))
