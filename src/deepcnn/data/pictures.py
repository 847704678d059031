"""A person's own pictures as image sets: listed, divided, looked at once, bad ones dealt with."""

import hashlib
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from deepcnn.config import Data
from deepcnn.data.decode import CUT
from deepcnn.data.folder import Listing, list_csv, list_folder
from deepcnn.data.holdout import held_out
from deepcnn.data.images import ImageSet
from deepcnn.data.photos import Decoding, Photos, Scan, Spots, whole_files
from deepcnn.data.scan import scan
from deepcnn.data.shards import SPLITS as SHARD_SPLITS
from deepcnn.data.shards import is_shards, read_index
from deepcnn.data.shards import pack as pack_shards
from deepcnn.device import available_threads, generator
from deepcnn.errors import DataError
from deepcnn.files import cache_folder

DEFAULT_SIDE = 224  # pixels: what published networks take
CHANNELS = 3
SHOWN = 10  # names in a message
PARTS = ("train", "validation", "test")

Say = Callable[[str], None]


class Listed(NamedTuple):
    """Pictures of a data set, N: `splits` train, validation, test or "", `groups` "" for none."""

    spots: Spots
    labels: NDArray[np.int64]
    splits: tuple[str, ...]
    groups: tuple[str, ...]
    classes: tuple[str, ...]


def load_parts(data: Data, seed: int, say: Say) -> dict[str, ImageSet]:
    """Training, validation (if any) and test images of a folder or CSV file, as `divide` says."""
    listing = list_source(data)
    parts = divide(listing, data, seed, say)
    return _image_sets(listing, parts, data, least_side(data), say)


def load_all(data: Data, least: int, say: Say) -> ImageSet:
    """The test images that a folder or CSV file brings, or else all its images, to measure on."""
    listing = list_source(data)
    given = np.array(listing.splits)
    part = next(part for part in ("test", "validation", "") if part in given or not part)
    wanted = given == part if part else np.full(len(given), True)
    parts = np.where(wanted, "test", "")
    return _image_sets(listing, parts, data, least, say)["test"]


def list_names(data: Data) -> Listing | None:
    """The names of all pictures in a folder or CSV file; None for shards."""
    path = Path(data.name).expanduser()
    if is_shards(path):
        return None
    return list_folder(path, data.group) if path.is_dir() else list_csv(path, data.group)


def list_source(data: Data) -> Listed:
    """Where all pictures lie, and what they are."""
    return _located(list_names(data), data)


def _located(found: Listing | None, data: Data) -> Listed:
    """The pictures of these names; without names, of shards."""
    if found is None:
        index = read_index(Path(data.name).expanduser(), cache_folder())
        if len(index.classes) < 2:
            raise DataError(f"{data.name} has pictures of one class only; expected two or more")
        splits = tuple(SHARD_SPLITS[split] for split in index.splits)
        return Listed(index, index.labels, splits, ("",) * len(index), index.classes)
    spots = whole_files(tuple(os.path.join(found.root, name) for name in found.paths))  # noqa: PTH118
    return Listed(spots, found.labels, found.splits, found.groups, found.classes)


def pack(source: str, out: Path, num_shards: int) -> list[Path]:
    """Write the pictures of a folder or CSV file into shards, their bytes as they are.

    In the order of a random permutation, so that every shard holds a mixture.
    """
    listing = list_source(Data(name=source))
    given, paths = np.array(listing.splits), []
    for split in dict.fromkeys(listing.splits):
        rows = np.flatnonzero(given == split)
        rows = rows[torch.randperm(len(rows), generator=generator(0, "pack")).numpy()]
        pictures = (
            (listing.spots.name(row), listing.spots.read(row), int(listing.labels[row]))
            for row in rows.tolist()
        )
        paths += pack_shards(pictures, listing.classes, out, num_shards, split, len(rows))
    return paths


def divide(listing: Listed, data: Data, seed: int, say: Say) -> NDArray[np.str_]:
    """Which part each picture belongs to: train, validation or test.

    The source's own division counts. Of validation and test alone, either is the test set, which
    no decision is made by; what is missing is held out of the training images, each class in
    proportion, groups whole.
    """
    parts = np.array(listing.splits, dtype="U10")
    parts[parts == ""] = "train"
    present = set(parts.tolist())
    if present == {"train", "validation"}:
        parts[parts == "validation"] = "test"
        say(f"{data.name}: its validation images are the test set, which no decision is made by")
    elif present == {"train"}:
        if not data.test:
            raise DataError(
                f"{data.name} has no test images and data.test is 0, so nothing could be measured; "
                "set --data.test 0.1, or put some into a folder `test`"
            )
        _hold_out(parts, "test", data.test, listing, seed)
    if "validation" not in parts and data.validation:
        _hold_out(parts, "validation", data.validation, listing, seed)
    return parts


def _hold_out(parts: NDArray[np.str_], part: str, share: float, listing: Listed, seed: int) -> None:
    """Move some of the training pictures to another part."""
    rows = np.flatnonzero(parts == "train")
    groups = [listing.groups[row] for row in rows]
    wanted = number(share, len(rows))
    if wanted >= len(rows):
        raise DataError(
            f"data.{part} asks for {wanted} of {len(rows)} images, which leaves none to learn "
            f"from; choose at most {len(rows) - 1}, or a share below 1"
        )
    chosen = held_out(listing.labels[rows], groups, wanted, seed)
    parts[rows[chosen]] = part


def number(share: float, total: int) -> int:
    """How many images a setting asks for: a share below 1, else a number."""
    return max(1, round(share * total)) if share < 1 else int(share)


def least_side(data: Data) -> int:
    """The short side to decode for: twice what a network looks at, so that nothing is lost."""
    return 2 * math.floor((data.size or DEFAULT_SIDE) / data.keep)


def load_to_check(data: Data, say: Say) -> tuple[dict[str, ImageSet], Listing | None]:
    """All pictures that can be read, divided as the source does, for the data doctor; and their
    names, which shards have not.
    """
    names = list_names(data)
    listing = _located(names, data)
    parts = np.array([split or "train" for split in listing.splits])
    found = _look(listing, data, least_side(data), say)
    return _gathered(listing, parts, found, data.name), names


def _image_sets(
    listing: Listed, parts: NDArray[np.str_], data: Data, least: int, say: Say
) -> dict[str, ImageSet]:
    """Look at all pictures, and gather those that have a part by it."""
    found = _look(listing, data, least, say)
    used = np.flatnonzero(parts != "").tolist()
    problems = [found.problems[row] for row in used if row in found.problems]
    _deal_with(problems, len(used), data, say)
    if cut := [found.cut[row] for row in used if row in found.cut]:
        say(_summary(cut, len(used), "end too early and are read as far as they go"))
    sets = _gathered(listing, parts, found, data.name)
    if empty := [part for part, images in sets.items() if not len(images)]:
        raise DataError(f"{data.name}: no {empty[0]} images are left of those that can be read")
    _require_all_classes(sets, listing, data)
    return sets


def _look(listing: Listed, data: Data, least: int, say: Say) -> Scan:
    source = Path(data.name).expanduser().resolve()
    cache = cache_folder() / "pictures" / hashlib.sha256(bytes(source)).hexdigest()[:16]
    decoding = Decoding(CHANNELS, least, data.on_bad == "read")
    return scan(listing.spots, decoding, cache, available_threads(), say)


def _gathered(
    listing: Listed, parts: NDArray[np.str_], found: Scan, name: str
) -> dict[str, ImageSet]:
    """The pictures of each part that can be read."""
    is_bad = np.isin(np.arange(len(parts)), list(found.problems))
    present = [part for part in PARTS if part in parts]
    rows = {part: np.flatnonzero((parts == part) & ~is_bad) for part in present}
    return {
        part: ImageSet(
            f"{name}, {part}", Photos(found, chosen), listing.labels[chosen], listing.classes
        )
        for part, chosen in rows.items()
    }


def _deal_with(problems: list[str], total: int, data: Data, say: Say) -> None:
    """Stop for bad pictures, or name those that are left out."""
    if not problems:
        return
    summary = _summary(problems, total, "cannot be used")
    if data.on_bad != "skip":
        is_cut = data.on_bad == "stop" and any(CUT in problem.lower() for problem in problems)
        rest = "; --data.on_bad read takes what there is of truncated ones" * is_cut
        raise DataError(
            f"{summary}. Mend or remove them, or leave them out: --data.on_bad skip{rest}"
        )
    say(f"left out: {summary}")


def _summary(problems: list[str], total: int, what: str) -> str:
    more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return f"{len(problems)} of {total} pictures {what}: {'; '.join(problems[:SHOWN])}{more}"


def _require_all_classes(sets: dict[str, ImageSet], listing: Listed, data: Data) -> None:
    if "train" not in sets:
        return
    counts = sets["train"].class_counts()
    if empty := [listing.classes[label] for label in np.flatnonzero(counts == 0)[:SHOWN]]:
        names = ", ".join(map(repr, empty))
        raise DataError(f"{data.name}: no training images are left of {names}")


def square_side(data: Data, train: ImageSet) -> int:
    """The side to bring pictures to: as set, their own where they are small equal squares."""
    own = train.size if 0 < train.size <= DEFAULT_SIDE else DEFAULT_SIDE
    return data.size or own
