"""What each part of a step computes and moves, from its operations.

Bytes are the least that have to be moved: a part reads each tensor that comes from outside of it
once, and writes each tensor that another part, or its own backward pass, reads once.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import NamedTuple

from deepcnn.profile.tally import Operation, Tally, Version, Work
from deepcnn.profile.trace import PHASES, Key, Part


class PartWork(NamedTuple):
    """What a part does in all directions: bytes that its operations touch, and FLOPs by kind."""

    operations: Counter[str]
    flops: Counter[str]


@dataclass(frozen=True)
class Counts:
    """All that is counted of a step."""

    flops: dict[Key, Counter[Work]]
    touched: dict[Key, Counter[str]]  # bytes by operation
    uncounted: dict[str, Counter[Part]]  # calls by operation whose FLOPs nobody knows
    moved: dict[Key, int]  # bytes
    kept: dict[Part, int]  # bytes that the forward pass makes for the backward pass

    def of_part(self, part: Part) -> PartWork:
        """The operations of a part in the forward pass, or if there are none there, elsewhere, and
        the products of all.
        """
        touched, flops = Counter[str](), Counter[str]()
        for phase in PHASES:
            touched = touched or self.touched.get((part, phase), touched)
            for work, number in self.flops.get((part, phase), {}).items():
                flops[work.kind] += number
        return PartWork(touched, flops)


def counts(tally: Tally) -> Counts:
    """To be asked for while what the step leaves behind is still there."""
    operations = [
        (key, each) for each in tally.operations if (key := tally.trace.marks[each.mark][0])
    ]
    flops: defaultdict[Key, Counter[Work]] = defaultdict(Counter)
    touched: defaultdict[Key, Counter[str]] = defaultdict(Counter)
    uncounted: defaultdict[str, Counter[Part]] = defaultdict(Counter)
    for key, each in operations:
        sizes = [size for *_, size in each.reads] + [size for _, size in each.writes]
        touched[key][each.name] += sum(sizes)
        if each.work:
            flops[key][each.work] += each.flops
        if not each.is_counted:
            uncounted[each.name][key[0]] += 1
    moved, kept = _moved(operations, tally.sizes, tally.left()), _kept(operations, tally)
    return Counts(dict(flops), dict(touched), dict(uncounted), moved, kept)


def _moved(
    operations: list[tuple[Key, Operation]], sizes: list[int], left: set[Version]
) -> dict[Key, int]:
    writers: dict[Version, tuple[Key, int]] = {}
    readers: defaultdict[Version, set[Key]] = defaultdict(set)
    pieces: defaultdict[tuple[Key, Version], dict[tuple[int, int], int]] = defaultdict(dict)
    for key, each in operations:
        for version, piece, size in each.reads:
            readers[version].add(key)
            if version not in writers or writers[version][0] != key:
                pieces[key, version][piece] = size
        writers |= {version: (key, size) for version, size in each.writes}
    moved: Counter[Key] = Counter()
    for (key, version), read in pieces.items():
        moved[key] += min(sum(read.values()), sizes[version.storage])
    for version, (key, size) in writers.items():
        if version in left or readers[version] - {key}:
            moved[key] += size
    return dict(moved)


def _kept(operations: list[tuple[Key, Operation]], tally: Tally) -> dict[Part, int]:
    made = {
        version: part
        for (part, phase), each in operations
        if phase == "forward"
        for version, _ in each.writes
        if version.storage in tally.made
    }
    needed = {
        version
        for (_, phase), each in operations
        if phase == "backward"
        for version, *_ in each.reads
    }
    kept: Counter[Part] = Counter()
    for version in needed & made.keys():
        kept[made[version]] += tally.sizes[version.storage]
    return dict(kept)
