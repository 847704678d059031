"""A folder of tar shards in the layout of WebDataset: FOLDER/train-000000.tar and so on.

For sets larger than memory, and for disks on which many small files are slow. An index says where
the bytes of each picture lie; the pictures themselves stay where they are.
"""

import hashlib
import io
import json
import os
import re
import shutil
import sys
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deepcnn.data.arrays import CLASS_NAMES_FILE
from deepcnn.data.classes import Classes, class_names_file, read_class_names
from deepcnn.data.photos import Spots
from deepcnn.data.tar import BLOCK, Picture, name_at, read_samples, write_shards
from deepcnn.device import generator
from deepcnn.errors import ConfigError, DataError, look_up
from deepcnn.files import (
    STAGING_PREFIX,
    Damaged,
    read_folder,
    replace_folder,
    sync_folder,
    write_synced,
)
from deepcnn.progress import reported

SPLITS = ("", "train", "validation", "test")  # "" where the names of the shards do not say
PREFIXES = {"": "data", "train": "train", "validation": "val", "test": "test"}
WORDS = {"train": 1, "val": 2, "valid": 2, "validation": 2, "test": 3}  # in front of the number
SHARD = re.compile(r"(?:.*[-_])?[0-9]+\.tar")
# What may be a shard that is compressed, not wholly fetched or misnamed.
ARCHIVE = re.compile(r"[^.].*\.(tar|tgz)(\.(gz|bz2|xz|zst|part))?")
COLUMNS = {"file": "i", "offset": "q", "size": "q", "labels": "q", "splits": "b", "lead": "I"}
SCHEMA = 1


@dataclass(frozen=True, eq=False)
class ShardIndex(Spots):
    """The pictures of a folder of shards: a row of 33 bytes each, in stored order."""

    labels: NDArray[np.int64]  # index into classes
    splits: NDArray[np.int8]  # index into SPLITS
    lead: NDArray[np.uint32]  # blocks of headers in front of the picture
    classes: tuple[str, ...]

    def member(self, row: int) -> str:
        """The name of a picture, read from its shard: kept, names would fill memory."""
        header = int(self.offset[row]) - BLOCK * int(self.lead[row])
        return name_at(Path(self.files[self.file[row]]), header)

    def name(self, row: int) -> str:
        """The picture as messages call it: its shard, and if that can be read its name there."""
        try:
            return f"{self.files[self.file[row]]}/{self.member(row)}"
        except (DataError, OSError):
            return super().name(row)


def is_shards(folder: Path) -> bool:
    """Whether any file in `folder` has the name of a shard."""
    return folder.is_dir() and any(SHARD.fullmatch(name) for name in _archives(folder))


def read_index(folder: Path, cache: Path) -> ShardIndex:
    """Find every picture in the shards of `folder`, in one pass over their headers, or recall from
    `cache` where they were while every shard has the same name, size and time.

    Classes are the lines of classes.txt, else what is found, sorted. Raises DataError, naming shard
    and member.
    """
    splits, classes = _find_shards(folder), Classes(read_class_names(folder))
    files = tuple(map(str, splits))
    facts = {
        "schema": SCHEMA,
        "shards": [_stamp(path) for path in splits],
        "classes": list(classes.listed),
    }
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:24]
    if (known := _recalled(cache / "shards" / name, facts, files)) is not None:
        return known
    columns = {name: array(code) for name, code in COLUMNS.items()}
    shards = reported(splits.items(), len(splits), f"reading {folder}")
    for number, (path, split) in enumerate(shards):
        _scan(path, (number, split), columns, classes)
    if not columns["file"]:
        raise DataError(
            f"{folder} holds no pictures; expected KEY.jpg and KEY.cls, where KEY ends at the "
            "first dot: cat.1.jpg is no picture of cat.1 but the part 1.jpg of a sample cat"
        )
    arrays: dict[str, Any] = {name: np.asarray(column) for name, column in columns.items()}
    names, labels = classes.final()
    index = ShardIndex(files, **{**arrays, "labels": labels[arrays["labels"]]}, classes=names)
    _keep(cache / "shards" / name, facts, index)
    return index


def pack(
    pictures: Iterable[Picture],
    classes: Sequence[str],
    out: Path,
    num_shards: int,
    split: str,
    total: int,
) -> list[Path]:
    """Write `total` pictures (name, bytes, label), in their order, into shards of equal numbers.

    The same pictures give the same bytes. `out` may hold other splits of the same classes, nothing
    else; the shards appear in it once all are written. Raises DataError and ConfigError.
    """
    prefix = look_up("split", split, PREFIXES)
    if not 1 <= num_shards <= total:
        raise ConfigError(f"{total} pictures cannot fill {num_shards} shards; choose 1 to {total}")
    names = [f"{prefix}-{number:06}.tar" for number in range(num_shards)]
    listing = class_names_file(classes, out / CLASS_NAMES_FILE)
    staging = out / f"{STAGING_PREFIX}{prefix}"
    try:
        out.mkdir(parents=True, exist_ok=True)
        _require_room(out, split, listing)
        staging.mkdir()
        try:
            write_shards([staging / name for name in names], pictures, total, len(classes))
            write_synced(staging / CLASS_NAMES_FILE, listing)
            for name in (CLASS_NAMES_FILE, *names):
                (staging / name).replace(out / name)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        sync_folder(out)
    except OSError as error:
        raise DataError(f"cannot pack into {out} ({error}); check the disk and rights") from error
    return [out / name for name in names]


def shard_order(
    seed: int, epoch: int, index: Spots, subset: NDArray[np.int64], buffer: int
) -> NDArray[np.int64]:
    """The order in which an epoch visits the positions in `subset`: shards in random order, and in
    the row of pictures that gives, those within each `buffer` of them in random order.
    """
    if buffer < 1:
        raise ConfigError(f"a buffer of {buffer} pictures cannot be shuffled; choose 1 or more")
    source = generator(seed, "shards", epoch)
    turns = torch.randperm(len(index.files), generator=source).numpy()
    row = np.sort(subset)
    row = row[np.argsort(turns[index.file[row]], kind="stable")]
    # Buffers begin elsewhere in each epoch, or those of a single shard would never mix.
    shift = int(torch.randint(buffer, (1,), generator=source))
    noise = torch.randperm(len(row), generator=source).numpy()
    return row[np.lexsort((noise, (np.arange(len(row)) + shift) // buffer))]


def _archives(folder: Path) -> list[str]:
    """The names in `folder` that are shards or may have been meant to be, sorted."""
    try:
        return sorted(filter(ARCHIVE.fullmatch, os.listdir(folder)))  # noqa: PTH208
    except OSError as error:
        raise DataError(f"{folder} cannot be listed ({error}); check the path") from error


def _find_shards(folder: Path) -> dict[Path, int]:
    """The shards, sorted by name, with the number of their split."""
    names = _archives(folder)
    if wrong := [name for name in names if not SHARD.fullmatch(name)]:
        raise DataError(
            f"{folder / wrong[0]} is no shard; expected plain tar files with names like "
            "train-000000.tar: unpack, rename or remove it"
        )
    splits = {folder / name: _split(name) for name in names}
    if any(splits.values()) and not all(splits.values()):
        unknown = next(path for path, split in splits.items() if not split)
        raise DataError(
            f"{unknown} belongs to no split, other shards do; expected {', '.join(WORDS)} in front "
            "of every number, or of none: rename it"
        )
    if not splits:
        raise DataError(f"{folder} holds no shards; expected names like train-000000.tar")
    return splits


def _split(name: str) -> int:
    """The number of the split that a shard is of, by the word in front of its own number."""
    return WORDS.get(re.split("[-_]", name)[-2:][0], 0)


def _stamp(path: Path) -> list[object]:
    """What changes when a shard is written anew: name, size in bytes, time in ns."""
    if not path.is_file():
        raise DataError(f"{path} is a folder, a device or a broken link; expected a tar file")
    facts = path.stat()
    return [path.name, facts.st_size, facts.st_mtime_ns]


def _scan(
    path: Path, numbers: tuple[int, int], columns: dict[str, "array[int]"], classes: Classes
) -> None:
    """Append the rows of a shard, whose file and split have `numbers`."""
    first = len(columns["file"])
    keys = array("q")
    for sample in read_samples(path):
        lead = (sample.offset - sample.header) // BLOCK
        label = classes.number(sample.label, f"{path}: {sample.name!r}")
        row = (numbers[0], sample.offset, sample.size, label, numbers[1], lead)
        for column, value in zip(columns.values(), row, strict=True):
            column.append(value)
        keys.append(hash(sample.key))
    order = np.argsort(keys, kind="stable")
    twice = order[1:][np.diff(np.asarray(keys)[order]) == 0]
    if len(twice):
        again = first + int(twice[0])
        header = columns["offset"][again] - BLOCK * columns["lead"][again]
        raise DataError(
            f"{path}: {name_at(path, header)!r} has the key of a sample before it, which it does "
            "not follow; pack the shard with tar --sort=name, and no key twice"
        )


def _require_room(out: Path, split: str, listing: bytes) -> None:
    """Refuse a folder with anything but other splits of the same classes."""
    own = SPLITS.index(split)
    for name in sorted(os.listdir(out)):  # noqa: PTH208
        is_other = bool(own and SHARD.fullmatch(name)) and _split(name) not in (0, own)
        same_classes = name == CLASS_NAMES_FILE and (out / name).read_bytes() == listing
        if not is_other and not same_classes:
            raise DataError(
                f"{out} already holds {name!r}; choose an empty folder, or one with other splits "
                f"of the same {CLASS_NAMES_FILE}"
            )


def _recalled(place: Path, facts: dict[str, Any], files: tuple[str, ...]) -> ShardIndex | None:
    """The index kept in `place`; None if it is of other facts or damaged: then it is made anew."""
    try:
        contents = read_folder(place)
        record = json.loads(contents["index.json"])
        if record["facts"] != facts:
            return None
        with np.load(io.BytesIO(contents["index.npz"]), allow_pickle=False) as columns:
            rows = dict(zip(COLUMNS, columns.values(), strict=True))
        return ShardIndex(files, **rows, classes=tuple(record["classes"]))
    except (Damaged, OSError, ValueError, KeyError):
        return None


def _keep(place: Path, facts: dict[str, Any], index: ShardIndex) -> None:
    """Put the index into `place`. Without room for it there it is made anew next time."""
    columns = io.BytesIO()
    np.savez_compressed(columns, *(getattr(index, name) for name in COLUMNS))
    record = json.dumps({"facts": facts, "classes": index.classes}).encode()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        replace_folder(place, {"index.json": record, "index.npz": columns.getvalue()})
    except (Damaged, OSError) as error:
        # Another process may have been quicker with the same.
        if _recalled(place, facts, index.files) is None:
            sys.stderr.write(f"the index of the shards is not kept in {place} ({error})\n")
