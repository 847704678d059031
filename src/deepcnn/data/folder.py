"""The pictures of a person's folder or CSV file: names, classes, splits, groups; no pixels.

Names are kept as they are and sorted by their code points, so that the order is the same on every
machine; in messages they are escaped, so that each stays one line.
"""

import errno
import os
import re
import stat
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepcnn.data.table import read_table
from deepcnn.errors import ConfigError, DataError, did_you_mean

SHOWN = 10  # names in a message
VALIDATION = ("val", "valid", "validation")
SPLITS = {"train": "train", **dict.fromkeys(VALIDATION, "validation"), "test": "test"}
LAYOUTS = "FOLDER/CLASS/PICTURE or FOLDER/{train,val,test}/CLASS/PICTURE"
SYSTEM_FILES = {"thumbs.db", "desktop.ini", "__macosx", "icon\r"}
FILE, FOLDER = "files", "folders"
OTHER_KINDS = {stat.S_IFIFO: "named pipes", stat.S_IFSOCK: "sockets"}
NOWHERE = {errno.ENOENT, errno.ELOOP, errno.ENOTDIR}  # what a link leads to when it is broken
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
NEEDLESS = re.compile(r"(?<![^/])\./|(?<=/)/+")  # in paths: a//b and ./a/b are a/b

Ignored = Counter[str]


@dataclass(frozen=True)
class Listing:
    """Pictures of a data set by name, in the order of their paths."""

    root: Path  # the paths are relative to it
    paths: tuple[str, ...]  # '/'-separated, undecodable bytes as the system gives them
    labels: NDArray[np.int64]  # index into classes
    splits: tuple[str, ...]  # train, validation, test, or "" where the source does not say
    groups: tuple[str, ...]  # "" where there is none
    classes: tuple[str, ...]  # sorted by name
    ignored: Mapping[str, int]  # what was left out, in words -> how many


class Picture(NamedTuple):
    """One line of a listing."""

    path: str
    label: str
    split: str
    group: str


def list_folder(folder: Path, group: str = "") -> Listing:
    """List FOLDER/CLASS/** or, if `train` holds folders, FOLDER/{train,val,test}/CLASS/**.

    `group` is a regular expression: what its first group, or else all of it, finds in a path says
    which pictures belong together. Links are followed. Raises DataError; ConfigError for `group`.
    """
    pattern = _compiled(group)
    ignored: Ignored = Counter()
    pictures = []
    for parent, split, labels in _class_folders(folder, ignored):
        # A link back up to where the classes lie is a loop, and no class.
        above = {_identity(folder, ""), _identity(folder, parent)}
        for label in labels:
            paths = _walk(folder, f"{parent}{label}", set(above), ignored)
            ignored["empty class folders"] += not paths
            pictures += [Picture(path, label, split, "") for path in paths]
    if not pictures:
        others = ", ".join(f"{n} {words}" for words, n in _counts(ignored).items()) or "nothing"
        raise DataError(
            f"{str(folder)!r} holds no pictures in class folders, but {others}; expected {LAYOUTS}"
        )
    return _listing(folder, folder, _grouped(pictures, pattern) if group else pictures, ignored)


def list_csv(file: Path, group: str = "") -> Listing:
    """List the rows of a CSV file with columns `path`, `label` and perhaps `split` and `group`.

    Paths are relative to the file's folder. `group` names another column for the groups. Spaces
    around labels, splits and groups do not count. Raises DataError; ConfigError for `group`.
    """
    header, rows = read_table(file, ("path", "label"))
    if group and group not in header:
        raise ConfigError(
            f"data.group: {str(file)!r} has no column {group!r}{did_you_mean(group, header)}; "
            f"found {_few(header)}"
        )
    used = {"path", "label", "split", group or "group"}
    ignored: Ignored = Counter({"other columns": len(set(header) - used)})
    pictures: dict[str, tuple[int, Picture]] = {}
    name = repr(str(file))
    for line, row in rows:
        picture = _picture(f"{name}, line {line}", row, group or "group")
        first, earlier = pictures.setdefault(picture.path, (line, picture))
        ignored["repeated rows"] += first != line
        if picture != earlier:
            raise DataError(
                f"{name}, line {line}: {_facts(picture)}, but {_facts(earlier)} in line {first}; "
                "keep one of the two"
            )
    if not pictures:
        raise DataError(f"{name} has no rows below its header; expected one a picture")
    _require_whole(file, pictures.values(), bool(group))
    return _listing(file, file.parent, [picture for _, picture in pictures.values()], ignored)


def _listing(source: Path, root: Path, pictures: Collection[Picture], ignored: Ignored) -> Listing:
    """Number the classes, which are those of the pictures to learn from."""
    pictures = sorted(pictures)
    learnt = {picture.label for picture in pictures if picture.split in ("", "train")}
    if strange := {picture.label for picture in pictures} - learnt:
        raise DataError(
            f"{str(source)!r} has validation or test pictures of {_few(strange)}, but none to "
            "learn from; add some to train, or take the class out"
        )
    if len(learnt) < 2:
        raise DataError(
            f"{str(source)!r} has one class only, {_few(learnt)}; expected at least two classes"
        )
    classes = tuple(sorted(learnt))
    index = {name: label for label, name in enumerate(classes)}
    paths, labels, splits, groups = zip(*pictures, strict=True)
    numbers = np.array([index[label] for label in labels], dtype=np.int64)
    return Listing(root, paths, numbers, splits, groups, classes, _counts(ignored))


def _class_folders(root: Path, ignored: Ignored) -> list[tuple[str, str, list[str]]]:
    """Where class folders lie (such as `val/`), the split that means, and their names."""
    outside, folders = _scan(root, "", ignored)
    ignored["files outside the class folders"] += len(outside)
    if "train" not in folders or not _scan(root, "train", Counter())[1]:
        if folders and {name.lower() for name in folders} <= SPLITS.keys():
            raise DataError(
                f"{str(root)!r} holds {_few(folders)}, but no class folders in 'train'; "
                f"expected {LAYOUTS}"
            )
        return [("", "", folders)]
    splits = [name for name in folders if name in SPLITS]
    if len({SPLITS[name] for name in splits}) < len(splits):
        raise DataError(f"{str(root)!r} holds {_few(splits)}; keep one folder for validation")
    ignored["folders beside train, val and test"] += len(folders) - len(splits)
    places = []
    for split in splits:
        outside, classes = _scan(root, split, ignored)
        ignored["files outside the class folders"] += len(outside)
        places.append((f"{split}/", SPLITS[split], classes))
    return places


def _walk(root: Path, place: str, seen: set[tuple[int, int]], ignored: Ignored) -> list[str]:
    """Paths of all files below a folder, each real folder once; `seen` ones are left out."""
    paths, pending = [], [place]
    while pending:
        place = pending.pop()
        identity = _identity(root, place)
        if identity in seen:
            ignored["links to folders listed before"] += 1
            continue
        seen.add(identity)
        files, folders = _scan(root, place, ignored)
        paths += [f"{place}/{name}" for name in files]
        pending += [f"{place}/{name}" for name in reversed(folders)]
    return paths


def _scan(root: Path, place: str, ignored: Ignored) -> tuple[list[str], list[str]]:
    """Names of the files and of the folders in one folder, sorted; anything else is counted."""
    names: dict[str, list[str]] = {FILE: [], FOLDER: []}
    # The dot asks for the right to open what is inside, too, and not to read the names only.
    with _reading(root / place), os.scandir(f"{root}/{place}/.") as entries:
        for entry in entries:
            kind = _kind(entry)
            if kind in names:
                names[kind].append(entry.name)
            else:
                ignored[kind] += 1
    return sorted(names[FILE]), sorted(names[FOLDER])


def _kind(entry: os.DirEntry[str]) -> str:
    """FILE, FOLDER or, in words, why it is neither; a link is what it leads to."""
    if entry.name.startswith("."):
        return "hidden files and folders"
    if entry.name.lower() in SYSTEM_FILES:
        return "system files"
    try:
        # The first two need no system call but for links: 60,000 files take a tenth of a second.
        if entry.is_file():
            return FILE
        if entry.is_dir():
            return FOLDER
        return OTHER_KINDS.get(stat.S_IFMT(entry.stat().st_mode), "devices")
    except OSError as error:
        if error.errno in NOWHERE:
            return "broken links"
        raise


def _identity(root: Path, place: str) -> tuple[int, int]:
    """Device and inode: the same for all names of one folder."""
    with _reading(root / place):
        facts = (root / place).stat()
    return facts.st_dev, facts.st_ino


def _compiled(group: str) -> re.Pattern[str]:
    try:
        return re.compile(group)
    except (re.error, OverflowError, RecursionError) as error:
        raise ConfigError(
            f"data.group: {group!r} is no regular expression ({str(error)!r}); expected one that "
            r"finds the group in a path, such as patient(\d+)"
        ) from error


def _grouped(pictures: list[Picture], pattern: re.Pattern[str]) -> list[Picture]:
    matches = [pattern.search(picture.path) for picture in pictures]
    groups = [(match and match[min(pattern.groups, 1)]) or "" for match in matches]
    if without := [row.path for row, group in zip(pictures, groups, strict=True) if not group]:
        raise DataError(
            f"data.group: {pattern.pattern!r} finds no group in {len(without)} of "
            f"{len(pictures)} paths, such as {min(without)!r}; change it so that it fits all"
        )
    return [row._replace(group=group) for row, group in zip(pictures, groups, strict=True)]


def _picture(where: str, row: Mapping[str, str], group: str) -> Picture:
    """One row, checked."""
    path, label, split = row["path"], row["label"].strip(), row.get("split", "").strip()
    if not path or URL.match(path):
        raise DataError(
            f"{where}: {path!r} is no path of a file; expected one on this machine, relative to "
            "the folder of the CSV file, or absolute"
        )
    if not label:
        raise DataError(f"{where}: the label is empty; fill it in, or take the row out")
    if split and split.lower() not in SPLITS:
        raise DataError(f"{where}: unknown split {split!r}; expected one of {', '.join(SPLITS)}")
    return Picture(
        NEEDLESS.sub("", path), label, SPLITS.get(split.lower(), ""), row.get(group, "").strip()
    )


def _require_whole(file: Path, rows: Collection[tuple[int, Picture]], need_groups: bool) -> None:
    """Raise DataError where only some rows have a split or group, or have no file."""
    for column, needed in (("split", False), ("group", need_groups)):
        empty = [line for line, picture in rows if not getattr(picture, column)]
        if empty and (needed or len(empty) < len(rows)):
            raise DataError(
                f"{str(file)!r}, line {empty[0]}: the {column} is empty, as in {len(empty)} of "
                f"{len(rows)} rows; fill it in everywhere or nowhere"
            )
    folder = str(file.parent)
    missing = [
        (line, row.path)
        for line, row in rows
        # pathlib would take most of the time that the listing takes
        if not os.path.isfile(os.path.join(folder, row.path))  # noqa: PTH113, PTH118
    ]
    if missing:
        raise DataError(
            f"{str(file)!r}, line {missing[0][0]}: {len(missing)} of {len(rows)} paths lead to no "
            f"file: {_few([path for _, path in missing])}; expected paths relative to {folder!r}"
        )


def _facts(picture: Picture) -> str:
    return f"{picture.path!r} is {', '.join(map(repr, filter(None, picture[1:])))}"


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Say as a DataError what the system has against reading a folder."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{str(path)!r} cannot be read ({error.strerror}); expected a folder, and the right to "
            "read it and what is in it"
        ) from error


def _few(names: Collection[str]) -> str:
    """The first names, each escaped."""
    shown = ", ".join(map(repr, sorted(names)[:SHOWN]))
    return f"{shown} and {len(names) - SHOWN} more" if len(names) > SHOWN else shown


def _counts(ignored: Ignored) -> dict[str, int]:
    return {words: number for words, number in sorted(ignored.items()) if number}
