"""A glance at a data set before training: what would spoil it and costs no time to see."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from deepcnn.data.images import ImageSet
from deepcnn.data.photos import Photos
from deepcnn.data.symptoms import IMBALANCE

SHOWN = 5  # classes in a line


def glance(sets: Mapping[str, ImageSet], name: str) -> list[str]:
    """Lines about copies, contradictions and classes in the splits (train, validation, test) of
    data set `name`; none where nothing was seen. Only equal files, or arrays, are copies here.
    """
    lines = [f"warning: {line}" for _, line in symptoms(sets)]
    more = [f"`deepcnn data check {name}` shows which, and looks for more"] * bool(lines)
    return lines + more


def symptoms(sets: Mapping[str, ImageSet]) -> list[tuple[str, str]]:
    """The same lines, each with its kind: one of `findings.KINDS`."""
    leaks = [("leak", line) for line in _leaks(sets)]
    return leaks + [("two-labels", line) for line in _contradictions(sets)] + _classes(sets)


def _leaks(sets: Mapping[str, ImageSet]) -> list[str]:
    known = _digests(sets["train"])
    copies = {split: int(np.isin(_digests(sets[split]), known).sum()) for split in sets}
    return [
        f"{split} images that are training images too: {copies[split]:,} of {len(sets[split]):,}; "
        "what is measured on them is memory"
        for split in sets
        if split != "train" and copies[split]
    ]


def _contradictions(sets: Mapping[str, ImageSet]) -> list[str]:
    digests = np.concatenate([_digests(images) for images in sets.values()])
    labels = np.concatenate([images.labels for images in sets.values()])
    pairs = np.unique(np.stack([digests, labels.astype(np.uint64)]), axis=1)
    number = len(np.unique(pairs[0][1:][pairs[0][1:] == pairs[0][:-1]]))
    return [f"images with several labels: {number:,}"] * bool(number)


def _classes(sets: Mapping[str, ImageSet]) -> list[tuple[str, str]]:
    lines = []
    for split, images in sets.items():
        if missing := np.flatnonzero(images.class_counts() == 0).tolist():
            kind = "empty-class" if split == "train" else "missing-class"
            lines.append((kind, f"there are no {split} images of {_named(images, missing)}"))
    train = sets["train"]
    counts = train.class_counts()
    few = np.flatnonzero((counts > 0) & (IMBALANCE * counts <= counts.max())).tolist()
    if few:
        many = f"{IMBALANCE} times as many training images of {train.classes[counts.argmax()]!r}"
        lines.append(("imbalance", f"there are at least {many} as of {_named(train, few)}"))
    return lines


def _named(images: ImageSet, labels: list[int]) -> str:
    names = ", ".join(repr(images.classes[label]) for label in labels[:SHOWN])
    return f"{names} and {len(labels) - SHOWN} more" if len(labels) > SHOWN else names


def _digests(images: ImageSet) -> NDArray[np.uint64]:
    """A number for each image that copies share, in this process."""
    pixels = images.images
    if isinstance(pixels, Photos):
        return np.ascontiguousarray(pixels.digests[:, :8]).view(np.uint64)[:, 0]
    return np.array([hash(image.tobytes()) for image in pixels], np.int64).view(np.uint64)
