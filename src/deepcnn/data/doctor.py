"""The data doctor: looks at every picture and every class before anything is learnt from them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcnn.data.appearance import LARGEST, Header, joined, look_at, read_headers
from deepcnn.data.findings import Report
from deepcnn.data.folder import Listing
from deepcnn.data.images import ImageSet
from deepcnn.data.photos import Photos
from deepcnn.data.symptoms import Evidence, symptoms


def check(sets: Mapping[str, ImageSet], listing: Listing | None = None, threads: int = 1) -> Report:
    """Look at all splits of a data set, by name (train, validation, test), and say what is wrong.

    `listing` adds what only the source knows: groups, what was left out, and the classes of
    pictures that cannot be read. No picture stops this, however bad it is.
    """
    evidence = _gather(sets, listing, threads)
    facts = {split: _facts(evidence, split) for split in sets}
    return Report(facts, tuple(symptoms(evidence)))


def _gather(sets: Mapping[str, ImageSet], listing: Listing | None, threads: int) -> Evidence:
    headers: list[Header | None] = []
    sizes = [np.zeros((0, 2), np.int64)]
    for images in sets.values():
        photos = images.images if isinstance(images.images, Photos) else None
        headers += read_headers(photos, threads) if photos is not None else [None] * len(images)
        sizes.append(_sizes(images, headers[len(headers) - len(images) :]))
    all_sizes = np.concatenate(sizes)
    side = int(min(LARGEST, np.median(all_sizes.min(axis=1)))) if len(all_sizes) else 1
    looks = joined([look_at(images, max(1, side), threads) for images in sets.values()])
    names = [np.array(images.classes)[images.labels] for images in sets.values()]
    lengths = [len(images) for images in sets.values()]
    return Evidence(
        sets,
        listing,
        dict(zip(sets, np.cumsum([0, *lengths]).tolist(), strict=False)),
        np.repeat(np.array(list(sets)), lengths),
        np.concatenate(names),
        all_sizes,
        looks,
        headers,
    )


def _sizes(images: ImageSet, headers: list[Header | None]) -> NDArray[np.int64]:
    """Widths and heights N 2, before any reduction in decoding where the file says them."""
    photos = images.images
    if not isinstance(photos, Photos):
        return np.full((len(images), 2), photos.shape[:1:-1], np.int64)
    decoded = photos.sizes[:, ::-1].astype(np.int64)
    for row, header in enumerate(headers):
        if header:
            decoded[row] = header.width, header.height
    return decoded


def _facts(evidence: Evidence, split: str) -> dict[str, Any]:
    """What was looked at in a split: pictures by class, and their sides."""
    images = evidence.sets[split]
    counts = dict(zip(images.classes, images.class_counts().tolist(), strict=True))
    sizes = evidence.sizes[evidence.splits == split]
    facts: dict[str, Any] = {"pictures": len(images), "classes": counts}
    if len(sizes):
        areas = sizes.prod(axis=1)
        facts["least"] = sizes[areas.argmin()].tolist()
        facts["median"] = np.median(sizes, axis=0).astype(int).tolist()
        facts["most"] = sizes[areas.argmax()].tolist()
    return facts
