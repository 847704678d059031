"""Pictures that are there twice: the same pixels, or nearly the same look, turned or mirrored too.

N pictures, S = 16 the side of their small grey copies. The eight symmetries of the square are
numbered by three bits: 4 swaps rows and columns, then 2 reverses rows, 1 reverses columns.
"""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

SIDE = 16  # of a small copy: what recompression and resizing leave as it is
SYMMETRIES = range(8)
FREQUENCIES = 8  # of each axis: the signs of 8 x 8 of the cosine transform's numbers are the hash
FAINTEST = 0.05  # grey levels; a weaker frequency is rounding, and its sign means nothing
PLAINEST = 1.0  # grey levels between neighbours, root mean square: below, there is no look

BLOCKS, BLOCK_BITS = 7, 9  # hashes that differ in five bits agree in two blocks at least
REACH = 8  # neighbours in each direction that are compared: time grows with N, not with its square
MOST_BITS = 10  # between copies: on 28x28 pixels 99 of 100 saved as JPEG of quality 40 have fewer

# A pair counts if it is `CERTAIN`, or nearer than `FARTHEST` and set apart: at most `LOOKALIKES`
# other pictures are within `APART` times its distance. Trousers on black have many lookalikes at
# any distance, a copy has none. Of the 70,000 pictures of Fashion-MNIST that takes 253, to the eye
# mostly one garment twice, and 6 of MNIST; distance alone takes 1,446 and 978. Of 2,000 copies of
# Fashion-MNIST's, turned or mirrored, and saved as JPEG of quality 75 or 40, brightened by 3/10, or
# saved at 3/4 of their size, it finds 100, 98, 98 and 85 in 100.
CERTAIN, FARTHEST = 0.003, 0.02
APART, LOOKALIKES = 4, 3
PORTION = 1024  # pairs compared at once, which fit in a processor's cache

Array = NDArray[np.int64]
Pairs = tuple[Array, Array, int]  # ones, others, and the symmetry that turns the one into the other


def exact_groups(digests: NDArray[np.uint64]) -> list[Array]:
    """Indices of the pictures that share a digest with others, group by group."""
    order = np.argsort(digests, kind="stable")
    ends = np.flatnonzero(digests[order][1:] != digests[order][:-1]) + 1
    groups = [group for group in np.split(order, ends) if len(group) > 1]
    return sorted(groups, key=lambda group: int(group[0]))


def near_groups(small: NDArray[np.uint8]) -> list[Array]:
    """Indices of pictures N S S that look nearly alike, ascending, group by group."""
    links: dict[int, int] = {}
    for one, other in zip(*map(np.ndarray.tolist, near_pairs(small)), strict=True):
        links[_root(links, other)] = _root(links, one)
    groups: dict[int, list[int]] = {}
    for index in sorted(links):
        groups.setdefault(_root(links, index), []).append(index)
    return [np.array(group) for group in groups.values()]


def _root(links: dict[int, int], index: int) -> int:
    """Which index stands for the group of `index`."""
    while links.setdefault(index, index) != index:
        index = links[index]
    return index


def near_pairs(small: NDArray[np.uint8]) -> tuple[Array, Array]:
    """Pairs of pictures N S S that look nearly alike under some symmetry: ones and others."""
    looks = np.flatnonzero(np.sqrt((_steps(small) ** 2).mean(axis=1)) >= PLAINEST)
    small = small[looks]
    ones, others, far = _measured(small)
    # First among the pairs at hand, which spares most lookalikes the comparison with all pictures.
    near = np.flatnonzero((far <= FARTHEST) & ((far <= CERTAIN) | _are_apart(ones, others, far)))
    ones, others, far = ones[near], others[near], far[near]
    crowds = [_crowd(small, some, APART * far) for some in (ones, others)]
    near = np.flatnonzero((far <= CERTAIN) | (np.maximum(*crowds) <= 1 + LOOKALIKES))
    return looks[ones[near]], looks[others[near]]


def _measured(small: NDArray[np.uint8]) -> tuple[Array, Array, NDArray[np.float64]]:
    """All pairs whose hashes are alike, each once, with their distance under the best symmetry."""
    ones, others = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    far = [np.empty(0)]
    for some, partners, symmetry in candidates(hashes(small)):
        for start in range(0, len(some), PORTION):
            one, other = some[start : start + PORTION], partners[start : start + PORTION]
            ones.append(one)
            others.append(other)
            far.append(distances(turned(small[one], symmetry), small[other]))
    one, other, distance = np.concatenate(ones), np.concatenate(others), np.concatenate(far)
    nearest = np.argsort(distance, kind="stable")
    _, first = np.unique(one[nearest] * len(small) + other[nearest], return_index=True)
    each = nearest[first]
    return one[each], other[each], distance[each]


def _are_apart(ones: Array, others: Array, far: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether few other pictures are about as near to the one and to the other of each pair."""
    # One number a pair and picture, its index and a distance below 1: sorted, they can be counted.
    both = np.concatenate([ones, others])
    known = np.sort(both + np.minimum(np.tile(far, 2), 0.99))
    limits = np.minimum(APART * far, 0.99)
    crowds = [
        np.searchsorted(known, i + limits) - np.searchsorted(known, i) for i in (ones, others)
    ]
    few: NDArray[np.bool_] = np.maximum(*crowds) <= 1 + LOOKALIKES
    return few


def _crowd(small: NDArray[np.uint8], chosen: Array, limits: NDArray[np.float64]) -> Array:
    """How many of all pictures N S S, as they stand, are within its limit of each chosen one."""
    theirs = _directions(small[chosen])
    counts = np.full(len(chosen), -1)  # without itself
    for start in range(0, len(small), PORTION):
        alike = _directions(small[start : start + PORTION]) @ theirs.T
        counts += (alike >= 1 - limits).sum(axis=0)
    return counts


def turned(small: NDArray[np.uint8], symmetry: int) -> NDArray[np.uint8]:
    """Pictures N S S under one of the eight symmetries."""
    if symmetry & 4:
        small = small.transpose(0, 2, 1)
    return small[:, :: -1 if symmetry & 2 else 1, :: -1 if symmetry & 1 else 1]


def hashes(small: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """For each picture N S S the hash of it under each of the eight symmetries: N 8.

    A bit is the sign of a frequency of the cosine transform. To reverse an axis is to negate its
    odd frequencies, and to swap the axes is to swap them, so that nothing is transformed twice.
    """
    places = (np.arange(SIDE) + 0.5) / SIDE
    waves = np.cos(np.pi * np.arange(FREQUENCIES)[:, None] * places) / SIDE
    strengths = waves @ small.astype(np.float64) @ waves.T  # N 8 8
    strengths[:, 0, 0] = 0  # brightness
    reversing = (-1.0) ** np.arange(FREQUENCIES)
    found = np.empty((len(small), len(SYMMETRIES)), np.uint64)
    for symmetry in SYMMETRIES:
        changed = strengths.transpose(0, 2, 1) if symmetry & 4 else strengths
        changed = changed * reversing[:, None] if symmetry & 2 else changed
        changed = changed * reversing if symmetry & 1 else changed
        bits = np.packbits((changed > FAINTEST).reshape(-1, FREQUENCIES**2), axis=1)
        found[:, symmetry] = bits.view(np.uint64)[:, 0]
    return found


def candidates(hashes: NDArray[np.uint64]) -> Iterator[Pairs]:
    """Pairs whose hashes N 8 differ in few bits, where the symmetry turns the one into the other.

    Each order in turn sorts all hashes by two of their blocks and compares neighbours, so that time
    grows with N: Manku et al., Detecting near-duplicates for web crawling, 2007.
    """
    number, upright = len(hashes), hashes[:, 0]
    fronts = list(combinations(range(BLOCKS), 2))
    orders = [np.argsort(_sorted_by(upright, front)) for front in fronts]
    for symmetry in SYMMETRIES:
        turned_so = hashes[:, symmetry]
        codes = [np.empty(0, np.int64)]
        for front, order in zip(fronts, orders, strict=True):
            keys = _sorted_by(turned_so, front)
            places = np.searchsorted(_sorted_by(upright, front)[order], keys)
            for step in range(-REACH, REACH):
                others = order[np.clip(places + step, 0, number - 1)]
                different = np.bitwise_count(turned_so ^ upright[others])
                ones = np.flatnonzero((different <= MOST_BITS) & (others > np.arange(number)))
                codes.append(ones * number + others[ones])
        ones, others = np.divmod(np.unique(np.concatenate(codes)), max(number, 1))
        yield ones, others, symmetry


def _sorted_by(hashes: NDArray[np.uint64], front: tuple[int, int]) -> NDArray[np.uint64]:
    """Keys that have two blocks of the hashes in front."""
    first, second = (
        (hashes >> np.uint64(BLOCK_BITS * block)) << np.uint64(64 - BLOCK_BITS) for block in front
    )
    keys: NDArray[np.uint64] = first | second >> np.uint64(BLOCK_BITS)
    return keys | hashes >> np.uint64(2 * BLOCK_BITS)


def distances(ones: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.float64]:
    """How far pictures N S S are from others: 0 alike, 1 unrelated, 2 inverted.

    One minus the correlation of steps: brightness and contrast do not count, and edges count more
    than areas, which many pictures share.
    """
    alike = (_directions(ones) * _directions(others)).sum(axis=1, dtype=np.float64)
    far: NDArray[np.float64] = np.maximum(0, 1 - alike)
    return far


def _directions(small: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The steps of pictures N S S, each row of length 1."""
    steps = _steps(small)
    steps /= np.sqrt((steps**2).sum(axis=1, keepdims=True))
    return steps


def _steps(small: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Differences between neighbouring pixels, N 2S(S-1)."""
    levels = small.astype(np.float32)
    steps = [np.diff(levels, axis=axis).reshape(-1, SIDE * (SIDE - 1)) for axis in (1, 2)]
    return np.concatenate(steps, axis=1)
