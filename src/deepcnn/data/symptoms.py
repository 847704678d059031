"""What can be wrong with a data set, question by question.

All splits are looked at together: a row is a picture's place among the N of all of them.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepcnn.data.appearance import Appearance, Header
from deepcnn.data.decode import CUT
from deepcnn.data.duplicates import SIDE, exact_groups, near_groups
from deepcnn.data.findings import KINDS, SEVERITIES, Finding, Picture
from deepcnn.data.folder import Listing
from deepcnn.data.images import ImageSet
from deepcnn.data.photos import Photos

PLAIN = 2  # levels between the pixels of a picture that shows nothing, saved as JPEG
DARK, BRIGHT = 40, 215  # grey levels that a hundredth of the picture, a spot, may pass
SPOT = 2  # of the 16 x 16 cells that are compared with these
BLURRED = 4.0  # deviations below the middle of the set, on a logarithmic scale
FEW = 20  # pictures whose middle means nothing
TINY, LARGE = 32, 64  # pixels; a short side below the one among sides above the other
SHARE_OF_MEDIAN = 8  # or one below an eighth of the median
LONG = 3  # times the short side
IMBALANCE = 10  # times the pictures of the smallest class

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Evidence:
    """What is known of all pictures: N rows, split by split."""

    sets: Mapping[str, ImageSet]
    listing: Listing | None
    starts: Mapping[str, int]  # split -> its first row
    splits: NDArray[np.str_]  # N
    labels: NDArray[np.str_]  # N, names of classes
    sizes: NDArray[np.int64]  # N 2: width and height in the file
    looks: Appearance
    headers: list[Header | None]  # N

    def picture(self, row: int, fact: str = "") -> Picture:
        """The picture as a finding names it."""
        split = str(self.splits[row])
        index = int(row) - self.starts[split]
        photos = self.sets[split].images
        name = self.short(photos.name(index)) if isinstance(photos, Photos) else ""
        return Picture(split, index, name, str(self.labels[row]), fact)

    def short(self, name: str) -> str:
        """The name of a file below the folder of the data set."""
        return name.removeprefix(f"{self.listing.root}/") if self.listing else name

    def of(self, kind: str, rows: Iterable[int], facts: Iterable[str] = ()) -> Finding:
        """Something found of single pictures."""
        return Finding(kind, tuple((self.picture(row),) for row in rows), tuple(facts))


def _bad_files(evidence: Evidence) -> Iterator[Finding]:
    """Pictures that could not be read, when they were listed or now."""
    bad = _left_out(evidence)
    bad += [evidence.picture(row, problem) for row, problem in evidence.looks.problems.items()]
    cut = [CUT in picture.fact.lower() for picture in bad]
    for kind, wanted in (("truncated", True), ("unreadable", False)):
        rows = zip(bad, cut, strict=True)
        yield Finding(kind, tuple((picture,) for picture, is_cut in rows if is_cut == wanted))


def _left_out(evidence: Evidence) -> list[Picture]:
    """The pictures that were bad already when the sets were made; they are in none of them."""
    photos = [s.images for s in evidence.sets.values() if isinstance(s.images, Photos)]
    scans = {id(each.scan): each.scan for each in photos}
    problems = {
        scan.spots.name(row): text for scan in scans.values() for row, text in scan.problems.items()
    }
    known = _by_path(evidence.listing, problems)
    found = []
    for path, problem in problems.items():
        split, label = known.get(path, ("", ""))
        fact = problem.removeprefix(path).lstrip()
        found.append(Picture(split, -1, evidence.short(path), label, fact))
    return found


def _by_path(listing: Listing | None, wanted: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Split and class of some files, by path."""
    if listing is None:
        return {}
    paths = set(wanted)
    return {
        path: (split, listing.classes[label])
        for name, split, label in zip(listing.paths, listing.splits, listing.labels, strict=True)
        if (path := str(listing.root / name)) in paths
    }


def _copies(evidence: Evidence) -> Iterator[Finding]:
    """The same pixels in several places, and nearly the same look."""
    digests = evidence.looks.digests
    shows = np.flatnonzero(_shows_something(evidence))
    exact = [shows[group] for group in exact_groups(digests[shows])]
    yield _across("leak", evidence, exact, evidence.splits)
    yield _across("two-labels", evidence, exact, evidence.labels)
    yield _within("duplicate", evidence, exact)
    # Of equal pictures one is compared with all others; its group gets the rest back.
    equal = {group[0]: group for group in exact}
    _, firsts = np.unique(digests[shows], return_index=True)
    rows = shows[np.sort(firsts)]
    near = [
        np.sort(np.concatenate([equal.get(row, np.array([row])) for row in rows[group]]))
        for group in near_groups(evidence.looks.small[rows])
    ]
    yield _across("near-leak", evidence, near, evidence.splits)
    yield _across("near-two-labels", evidence, near, evidence.labels)
    yield _within("near-duplicate", evidence, near)


def _across(kind: str, evidence: Evidence, groups: list[Rows], values: NDArray[np.str_]) -> Finding:
    """The groups that hold several splits or labels."""
    chosen = [group for group in groups if len(set(values[group].tolist())) > 1]
    facts = []
    if values is evidence.splits:
        for split in (each for each in evidence.sets if each != "train"):
            number = sum(int((values[group] == split).sum()) for group in chosen)
            facts += [f"{split}: {number:,} of its pictures are elsewhere too"] * (number > 0)
    return Finding(kind, _cases(evidence, chosen), tuple(facts))


def _within(kind: str, evidence: Evidence, groups: list[Rows]) -> Finding:
    """The parts of groups that share split and label."""
    parts, counts = [], dict.fromkeys(evidence.sets, 0)
    for group in groups:
        keys = list(
            zip(evidence.splits[group].tolist(), evidence.labels[group].tolist(), strict=True)
        )
        for key in dict.fromkeys(keys):
            part = group[[each == key for each in keys]]
            if len(part) > 1:
                parts.append(part)
                counts[key[0]] += len(part) - 1
    facts = [
        f"{split}: {number:,} more than there should be"
        for split, number in counts.items()
        if number
    ]
    return Finding(kind, _cases(evidence, parts), tuple(facts))


def _cases(evidence: Evidence, groups: list[Rows]) -> tuple[tuple[Picture, ...], ...]:
    return tuple(tuple(evidence.picture(row) for row in group) for group in groups)


def _shows_something(evidence: Evidence) -> NDArray[np.bool_]:
    """Which pictures were read and are not plain."""
    shows = evidence.looks.spread > PLAIN
    shows[list(evidence.looks.problems)] = False
    return shows


def _light_and_detail(evidence: Evidence) -> Iterator[Finding]:
    shows = _shows_something(evidence)
    plain = evidence.looks.spread <= PLAIN
    plain[list(evidence.looks.problems)] = False
    yield evidence.of("constant", np.flatnonzero(plain))
    levels = np.sort(evidence.looks.small.reshape(-1, SIDE**2), axis=1)
    yield evidence.of("dark", np.flatnonzero(shows & (levels[:, -1 - SPOT] < DARK)))
    yield evidence.of("bright", np.flatnonzero(shows & (levels[:, SPOT] > BRIGHT)))
    rows = np.flatnonzero(shows)
    detail = np.log(np.maximum(evidence.looks.detail[rows], 1e-6))
    if len(rows) >= FEW:
        middle = np.median(detail)
        deviation = 1.4826 * np.median(np.abs(detail - middle))  # of a normal distribution
        yield evidence.of("blurred", rows[detail < middle - BLURRED * deviation])


def _sides(evidence: Evidence) -> Iterator[Finding]:
    sizes = evidence.sizes
    if not len(sizes):
        return
    short, long = sizes.min(axis=1), sizes.max(axis=1)
    median = float(np.median(short))
    least = max(TINY if median >= LARGE else 0, median / SHARE_OF_MEDIAN)
    for kind, rows in (("tiny", short < least), ("long", long > LONG * short)):
        cases = [
            (evidence.picture(int(row), f"{sizes[row, 0]} x {sizes[row, 1]} pixels"),)
            for row in np.flatnonzero(rows & (short > 0))
        ]
        yield Finding(kind, tuple(cases))


def _files(evidence: Evidence) -> Iterator[Finding]:
    """What the heads of files say."""
    found: dict[str, list[tuple[Picture]]] = {"suffix": [], "rotated": [], "mode": []}
    for row, header in enumerate(evidence.headers):
        if header is None:
            continue
        if header.named_otherwise:
            found["suffix"].append((evidence.picture(row, f"{header.format} inside"),))
        if header.is_turned:
            found["rotated"].append((evidence.picture(row),))
        if header.kind:
            found["mode"].append((evidence.picture(row, header.kind),))
    for kind, cases in found.items():
        yield Finding(kind, tuple(cases))


def _classes(evidence: Evidence) -> Iterator[Finding]:
    """Classes without pictures, and with far fewer than others."""
    counts = {
        split: dict(zip(images.classes, images.class_counts().tolist(), strict=True))
        for split, images in evidence.sets.items()
    }
    train = counts.pop("train", {})
    names = dict.fromkeys(name for some in (train, *counts.values()) for name in some)
    largest = max(train, key=train.__getitem__, default="")
    few = [name for name, number in train.items() if 0 < IMBALANCE * number <= train[largest]]
    yield Finding(
        "imbalance",
        facts=tuple(f"{n!r} has {train[n]:,}, {largest!r} has {train[largest]:,}" for n in few),
    )
    if train:
        empty = [name for name in names if not train.get(name)]
        yield Finding("empty-class", facts=tuple(map(repr, empty)))
    missing = [
        f"{name!r} in {split}"
        for split, some in counts.items()
        for name in names
        if not some.get(name) and train.get(name, 1)
    ]
    yield Finding("missing-class", facts=tuple(missing))


def _listed(evidence: Evidence) -> Iterator[Finding]:
    """What only the listing says: groups, and what was left out of it."""
    listing = evidence.listing
    if listing is None:
        return
    names = (str(listing.root / path) for path in listing.paths)
    groups = {name: group for name, group in zip(names, listing.groups, strict=True) if group}
    members: dict[str, dict[str, Picture]] = {}  # group -> split -> its first picture there
    for split, images in evidence.sets.items():
        if not groups or not isinstance(images.images, Photos):
            continue
        for index in range(len(images)):
            if group := groups.get(images.images.name(index)):
                row = evidence.starts[split] + index
                members.setdefault(group, {}).setdefault(
                    split, evidence.picture(row, f"group {group!r}")
                )
    torn = [tuple(members[group].values()) for group in sorted(members)]
    yield Finding("group-leak", tuple(case for case in torn if len(case) > 1))
    yield Finding("left-out", facts=tuple(f"{n:,} {what}" for what, n in listing.ignored.items()))


CHECKS = (_bad_files, _copies, _light_and_detail, _sides, _files, _classes, _listed)


def symptoms(evidence: Evidence) -> list[Finding]:
    """All that is wrong, the most serious first."""
    order = list(KINDS)
    found = [finding for look in CHECKS for finding in look(evidence) if finding.count]
    return sorted(found, key=lambda each: (SEVERITIES.index(each.severity), order.index(each.kind)))
