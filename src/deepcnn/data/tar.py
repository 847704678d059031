"""One tar shard in the layout of WebDataset: its samples, read in one pass and written.

A sample is the members next to one another with one key, which is the name up to the first dot of
its last part: KEY.jpg, the picture, and KEY.cls, its class, or KEY.json with {"label": class}.
Nothing is ever unpacked, and names of members are keys, never paths.
"""

import io
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from deepcnn.data.decode import FORMATS
from deepcnn.errors import DataError
from deepcnn.progress import reported

BLOCK = tarfile.BLOCKSIZE
PICTURES = ("bmp", "gif", "jpeg", "jpg", "png", "tif", "tiff", "webp")
# Key and kind. Names like __this__ are what other tools keep about the archive itself.
MEMBER = re.compile(r"(?!__[^/]*__(?:/|\Z))((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL)
# Dots would end a key; what is not Unicode comes from names in other encodings.
NOT_IN_KEYS = re.compile(r"[.\0\ud800-\udfff]")
READ_LIMIT = 1 << 20  # bytes of one header or class; no true one comes near
# What tarfile and parsers make of absurd bytes.
DAMAGE = (tarfile.TarError, ValueError, OverflowError, LookupError, EOFError, RecursionError)


class Sample(NamedTuple):
    """A picture in a shard: the name and place of its member, and its class as a number or name."""

    key: str
    name: str
    header: int  # where the headers of the member begin
    offset: int  # where the picture's bytes begin
    size: int
    label: int | str


Picture = tuple[str, bytes, int]  # name, content, label
Part = tuple[str, str, tarfile.TarInfo]  # key, kind


class _Bounded(io.BufferedReader):
    """A file of which only small pieces are read: a header that lies must not fill the memory."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= READ_LIMIT:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return super().read(size)


def read_samples(path: Path) -> Iterator[Sample]:
    """Yield the samples of a shard in their order; contents are skipped, except classes.

    Members that are neither a picture nor its class are passed over. Raises DataError, naming shard
    and member.
    """
    with _reading(path), _Bounded(io.FileIO(path)) as file:
        for _, parts in groupby(_parts(file, path), key=itemgetter(0)):
            if sample := _sample(list(parts), file, path):
                yield sample


def name_at(path: Path, header: int) -> str:
    """The name of the member whose headers begin at byte `header` of a shard."""
    with _reading(path), _Bounded(io.FileIO(path)) as file:
        file.seek(header)
        with tarfile.open(fileobj=file, mode="r:", encoding="utf-8") as tar:
            member = tar.next()
    if member is None:
        raise _damaged(path, f"no member at byte {header}")
    return member.name


def write_shards(
    paths: Sequence[Path], pictures: Iterable[Picture], total: int, num_classes: int
) -> None:
    """Write `total` pictures, in their order, to new shards, forced to the disk, in shares of which
    none has more than one picture above another. The same pictures give the same bytes.

    Raises DataError for a label out of range, or if more or fewer pictures come.
    """
    source = enumerate(_checked(reported(pictures, total, "packing"), num_classes))
    shares = [total // len(paths) + (number < total % len(paths)) for number in range(len(paths))]
    num_missing = total
    for path, share in zip(paths, shares, strict=True):
        num_missing -= _write_shard(path, islice(source, share))
    if num_missing or next(source, None):
        found = f"{num_missing} fewer" if num_missing else "more"
        raise DataError(f"expected {total} pictures to pack, {found} came; list them anew")


def _parts(file: _Bounded, path: Path) -> Iterator[Part]:
    for member in _members(file, path):
        if match := MEMBER.fullmatch(member.name):
            yield match[1], match[2].lower(), member


def _members(file: _Bounded, path: Path) -> Iterator[tarfile.TarInfo]:
    """The files in an archive; DataError unless it is whole up to its end mark, which tarfile does
    not ask for: to it an archive ends before the first header that is damaged.
    """
    length, end = os.fstat(file.fileno()).st_size, 0
    with tarfile.open(fileobj=file, mode="r:", encoding="utf-8") as tar:
        while member := tar.next():
            _forget(tar)
            _check(member, length, path)
            end = member.offset_data
            if member.isreg():
                end += -(-member.size // BLOCK) * BLOCK
                yield member
    file.seek(end)
    rest = file.read(READ_LIMIT)
    if len(rest) < BLOCK:
        raise _damaged(path, f"no end mark at byte {end}: it was cut off")
    if any(rest):
        raise _damaged(path, f"neither a member nor only an end mark from byte {end} on")


def _check(member: tarfile.TarInfo, length: int, path: Path) -> None:
    """Refuse a member that is no plain file or folder, or not within an archive of `length`."""
    if member.issparse() or not (member.isreg() or member.isdir()):
        kinds = {"a sparse file": member.issparse(), "a link": member.islnk() or member.issym()}
        kind = next((kind for kind, true in kinds.items() if true), "a device or of unknown kind")
        raise DataError(
            f"{path}: {member.name!r} is {kind}, expected plain files; pack it anew with "
            "tar --dereference --hard-dereference"
        )
    if member.isreg() and not 0 <= member.size <= length - member.offset_data:
        left = length - member.offset_data
        raise _damaged(path, f"{left} of the {member.size} bytes of {member.name!r}")


def _sample(parts: list[Part], file: _Bounded, path: Path) -> Sample | None:
    """The sample made of members with one key, or None if they are no part of one."""
    found: dict[str, tarfile.TarInfo] = {}
    for _, kind, member in parts:
        kind = "picture" if kind in PICTURES else kind
        if kind in found:
            raise DataError(
                f"{path}: {found[kind].name!r} and {member.name!r} are of one sample, which can "
                "have only one of them; rename or remove one (a key ends at the first dot)"
            )
        found[kind] = member
    picture, label = found.get("picture"), found.get("cls", found.get("json"))
    if picture and label:
        place = (picture.offset, picture.offset_data, picture.size)
        return Sample(parts[0][0], picture.name, *place, _label(label, file, path))
    if alone := picture or label:
        missing = ".cls or .json" if picture else "picture"
        raise DataError(
            f"{path}: {alone.name!r} has no {missing} of the same key next to it; a sample's "
            "members must follow one another in one shard, as tar --sort=name puts them"
        )
    return None


def _label(member: tarfile.TarInfo, file: _Bounded, path: Path) -> int | str:
    """The class that a .cls or .json member holds."""
    where = f"{path}: {member.name!r}"
    if member.size > READ_LIMIT:
        raise DataError(f"{where} has {member.size} bytes; expected the class, a number or a name")
    file.seek(member.offset_data)
    content = file.read(member.size)
    try:
        text = content.decode("utf-8").strip()
        value: object = int(text) if text.isascii() and text.isdigit() else text
        if member.name.lower().endswith(".json"):
            value = json.loads(content)["label"]
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise DataError(
            f"{where} holds no class ({type(error).__name__}: {error}); expected a number or a "
            'name as UTF-8 text, in .json as {"label": 3} or {"label": "cat"}'
        ) from error
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise DataError(f"{where} holds the class {value!r}; expected a number from 0 on or a name")


def _checked(pictures: Iterable[Picture], num_classes: int) -> Iterator[Picture]:
    for name, content, label in pictures:
        if not 0 <= label < num_classes:
            raise DataError(f"{name!r} has label {label}; expected 0 to {num_classes - 1}")
        yield name, content, label


def _write_shard(path: Path, pictures: Iterable[tuple[int, Picture]]) -> int:
    """Write pictures with their positions in the set; return how many.

    Keys begin with the position: unique, sorted, and free of folders whatever the names are.
    """
    num_written = 0
    with path.open("xb") as file:
        with tarfile.open(fileobj=file, mode="w", encoding="utf-8") as tar:
            for position, (name, content, label) in pictures:
                stem, kind = _stem_and_kind(name, content)
                key = f"{position:08}-{NOT_IN_KEYS.sub('_', stem)}"
                _add(tar, f"{key}.cls", str(label).encode())
                _add(tar, f"{key}.{kind}", content)
                num_written += 1
        file.flush()
        os.fsync(file.fileno())
    return num_written


def _stem_and_kind(name: str, content: bytes) -> tuple[str, str]:
    """The name of a picture's file without folders and ending, and the ending its format has."""
    from PIL import Image

    last = name.rpartition("/")[2]
    stem, _, kind = last.rpartition(".")
    if kind.lower() in PICTURES:
        return stem, kind.lower()
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            return last, str(picture.format).lower()
    except Exception as error:  # a damaged file makes Pillow's readers raise almost anything
        raise DataError(
            f"{name!r} is no picture by its name or its content; expected one of "
            f"{', '.join(FORMATS)}; remove it from the set"
        ) from error


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Append a member that says nothing of who wrote it and when."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
    _forget(tar)


def _forget(tar: tarfile.TarFile) -> None:
    """Drop the list of all members so far, which would fill the memory."""
    tar.members.clear()  # type: ignore[attr-defined]


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Say as a DataError what the system or tarfile has against the file at `path`."""
    try:
        yield
    except DAMAGE as error:
        raise _damaged(path, str(error) or type(error).__name__) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}); check the disk and rights") from error


def _damaged(path: Path, found: str) -> DataError:
    return DataError(
        f"{path} is damaged or no plain tar file: found {found}; copy it anew, or unpack it if it "
        "is compressed"
    )
