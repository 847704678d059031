"""Readers of the IDX and CIFAR binary layouts, straight into uint8 arrays.

N images, C channels, H rows, W columns, K classes. Nothing is believed before it is checked against
what is really there: a damaged file ends in a `DataError`, never in a wrong array or a full memory.
"""

import gzip
import math
import os
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, cast

import numpy as np
from numpy.typing import NDArray

from deepcnn.data.images import ImageSet
from deepcnn.errors import DataError

Split = Literal["train", "test"]

IDX_SPLITS: Mapping[Split, tuple[str, str]] = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
IDX_UNSIGNED_BYTES = b"\x00\x00\x08"  # the fourth byte of an IDX file is the rank
GZIP_MAGIC = b"\x1f\x8b"
DEFLATE_MAX_RATIO = 1032  # no deflate stream grows by more: zlib's technical notes
CHUNK = 1 << 20  # bytes
CIFAR_SHAPE = (3, 32, 32)  # C H W
CIFAR_PIXELS = math.prod(CIFAR_SHAPE)
CLASS_NAMES_FILE = "classes.txt"
# What decompressors say; the last two are what tarfile makes of absurd numbers in a header.
DAMAGE = (gzip.BadGzipFile, zlib.error, EOFError, tarfile.TarError, ValueError, OverflowError)


@dataclass(frozen=True)
class CifarLayout:
    """Records of `label_bytes` and 3072 pixels; the last label byte is the class."""

    label_bytes: int
    patterns: Mapping[Split, str]  # names of the files of a split


CIFAR_LAYOUTS = {
    "cifar10": CifarLayout(1, {"train": "data_batch_*.bin", "test": "test_batch.bin"}),
    "cifar100": CifarLayout(2, {"train": "train.bin", "test": "test.bin"}),
}


def read_idx(path: Path | str) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, rank 1 to 4, plain or gzip-compressed."""
    path = Path(path)
    with _reading(path), path.open("rb") as file:
        length = os.fstat(file.fileno()).st_size
        compressed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        file.seek(0)
        if not compressed:
            return _parse_idx(file, length, path)
        with gzip.open(file) as stream:
            return _parse_idx(cast("IO[bytes]", stream), length * DEFLATE_MAX_RATIO, path)


def read_idx_pair(
    images_path: Path | str, labels_path: Path | str, classes: Sequence[str], name: str
) -> ImageSet:
    """Read grey images (N H W) and their labels (N) from two IDX files; images become N 1 H W."""
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.ndim != 3 or images.shape[1] != images.shape[2]:
        raise _damaged(images_path, f"an array {_times(images.shape)}", "square images N x H x W")
    if labels.shape != images.shape[:1]:
        expected = f"{len(images)} labels, one for each image of {images_path}"
        raise _damaged(labels_path, f"an array {_times(labels.shape)}", expected)
    _check_labels(labels, len(classes), labels_path)
    return ImageSet(name, images[:, np.newaxis], labels.astype(np.int64), tuple(classes))


def parse_cifar(
    content: bytes, label_bytes: int, where: Path | str
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Find images N 3 32 32 and labels N in the records of `content`, without a copy."""
    record = label_bytes + CIFAR_PIXELS
    if not content or len(content) % record:
        raise _damaged(where, f"{len(content)} bytes", f"one or more records of {record} bytes")
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, record)
    return records[:, label_bytes:].reshape(-1, *CIFAR_SHAPE), records[:, label_bytes - 1]


def read_cifar(
    paths: Sequence[Path], label_bytes: int, classes: Sequence[str], name: str
) -> ImageSet:
    """Read all images of some .bin files, in the order of `paths`."""
    contents = {str(path): _read_bytes(path) for path in paths}
    return _join_cifar(contents, label_bytes, classes, name)


def read_cifar_archive(
    archive: Path, members: Sequence[str], label_bytes: int, classes: Sequence[str], name: str
) -> ImageSet:
    """Read all images of some .bin files inside a .tar.gz, in the order of `members`."""
    with _reading(archive), tarfile.open(archive, "r:gz") as tar:
        limit = archive.stat().st_size * DEFLATE_MAX_RATIO
        # The names are gathered first, because to look one up by name would read to the end anyway.
        found = {m.name: m for m in tar if m.isreg() and 0 <= m.size <= limit}
        if missing := [member for member in members if member not in found]:
            raise _damaged(archive, f"no {missing[0]} in it", f"{len(members)} such files")
        contents = {f"{archive}/{member}": _extract(tar, found[member]) for member in members}
    return _join_cifar(contents, label_bytes, classes, name)


def read_folder(folder: Path, split: Split) -> ImageSet:
    """Read a person's own data, unchecked by any hash, in one of the layouts above.

    The classes are the lines of `classes.txt` or else "0" to the largest label of the training set.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; give the folder that holds the data set")
    if _holds_idx(folder):
        return _read_idx_folder(folder, split)
    if layout := _cifar_layout(folder):
        return _read_cifar_folder(folder, layout, split)
    idx = ", ".join(name for pair in IDX_SPLITS.values() for name in pair)
    cifar = ", ".join(p for layout in CIFAR_LAYOUTS.values() for p in layout.patterns.values())
    raise DataError(f"{folder} holds no data set: expected {idx} (each plain or .gz), or {cifar}")


def holds_arrays(folder: Path) -> bool:
    """Whether a folder has files of one of the layouts above."""
    return _holds_idx(folder) or _cifar_layout(folder) is not None


def _holds_idx(folder: Path) -> bool:
    return any(_idx_path(folder, name).exists() for pair in IDX_SPLITS.values() for name in pair)


def _cifar_layout(folder: Path) -> CifarLayout | None:
    for layout in CIFAR_LAYOUTS.values():
        if any(any(folder.glob(pattern)) for pattern in layout.patterns.values()):
            return layout
    return None


def _parse_idx(stream: IO[bytes], limit: int, where: Path) -> NDArray[np.uint8]:
    """Read an IDX stream which cannot be longer than `limit` bytes."""
    magic = stream.read(4)
    if magic[:3] != IDX_UNSIGNED_BYTES or magic[3:] not in (b"\x01", b"\x02", b"\x03", b"\x04"):
        found = f"{magic.hex(' ')} at its beginning" if magic else "an empty file"
        raise _damaged(where, found, "00 00 08 and 01 to 04 (IDX, unsigned bytes, rank 1 to 4)")
    header = stream.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise _damaged(where, "an end within the header", f"{magic[3]} sizes of 4 bytes")
    shape = struct.unpack(f">{magic[3]}I", header)
    return np.frombuffer(_read_elements(stream, shape, limit, where), np.uint8).reshape(shape)


def _read_elements(stream: IO[bytes], shape: Sequence[int], limit: int, where: Path) -> bytearray:
    """Read as many bytes as `shape` has elements, which must be all that is left."""
    size = math.prod(shape)
    expected = f"the {_times(shape)} = {size} bytes that its header declares"
    if not 0 < size <= limit:
        raise _damaged(where, "an impossible header", f"{expected} to be between 1 and {limit}")
    content = _read_at_most(stream, size + 1)
    if len(content) != size:
        found = f"only {len(content)} bytes" if len(content) < size else "more bytes"
        raise _damaged(where, found, expected)
    return content


def _read_at_most(stream: IO[bytes], limit: int) -> bytearray:
    """Read `limit` bytes or all up to the end, in memory that grows only with what comes."""
    content = bytearray()
    while chunk := stream.read(min(CHUNK, limit - len(content))):
        content += chunk
    return content


def _read_bytes(path: Path) -> bytes:
    with _reading(path):
        return path.read_bytes()


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member)
    assert stream is not None, "only regular files are asked for"
    with stream:
        return bytes(_read_at_most(stream, member.size))


def _join_cifar(
    contents: Mapping[str, bytes], label_bytes: int, classes: Sequence[str], name: str
) -> ImageSet:
    """Join all records of `contents`, which maps where they come from to their bytes."""
    parts = [parse_cifar(content, label_bytes, where) for where, content in contents.items()]
    for where, (_, labels) in zip(contents, parts, strict=True):
        _check_labels(labels, len(classes), where)
    images = np.concatenate([images for images, _ in parts])
    labels = np.concatenate([labels for _, labels in parts])
    return ImageSet(name, images, labels.astype(np.int64), tuple(classes))


def _read_idx_folder(folder: Path, split: Split) -> ImageSet:
    images, labels = (_idx_path(folder, name) for name in IDX_SPLITS[split])
    training_labels = _idx_path(folder, IDX_SPLITS["train"][1])
    classes = _class_names(folder, lambda: read_idx(training_labels))
    return read_idx_pair(images, labels, classes, f"{folder.resolve().name}/{split}")


def _read_cifar_folder(folder: Path, layout: CifarLayout, split: Split) -> ImageSet:
    def largest_labels() -> NDArray[np.uint8]:
        paths = _matching(folder, layout.patterns["train"])
        parts = [parse_cifar(_read_bytes(path), layout.label_bytes, path) for path in paths]
        return np.array([labels.max() for _, labels in parts])

    paths = _matching(folder, layout.patterns[split])
    classes = _class_names(folder, largest_labels)
    return read_cifar(paths, layout.label_bytes, classes, f"{folder.resolve().name}/{split}")


def _idx_path(folder: Path, name: str) -> Path:
    """Choose the file `name` or, if only that is there, its compressed form."""
    plain, compressed = folder / name, folder / f"{name}.gz"
    return compressed if compressed.exists() and not plain.exists() else plain


def _matching(folder: Path, pattern: str) -> list[Path]:
    if paths := sorted(folder.glob(pattern)):
        return paths
    raise DataError(f"{folder} holds no {pattern}; put the missing part of the data set there")


def _class_names(folder: Path, labels: Callable[[], NDArray[np.uint8]]) -> tuple[str, ...]:
    """Read the folder's list of names, or else count up to the largest of `labels()`."""
    listing = folder / CLASS_NAMES_FILE
    if not listing.exists():
        return tuple(str(label) for label in range(int(labels().max()) + 1))
    try:
        lines = _read_bytes(listing).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{listing} is not UTF-8 text; save it as UTF-8") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not names or len(set(names)) < len(names):
        raise DataError(f"{listing} must hold one class name a line, at least one, no name twice")
    return names


def _check_labels(labels: NDArray[np.uint8], num_classes: int, where: Path | str) -> None:
    index = int(labels.argmax())
    if labels[index] >= num_classes:
        expected = f"labels 0 to {num_classes - 1}, as there are {num_classes} classes"
        raise _damaged(where, f"label {labels[index]} at image {index}", expected)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Say as a `DataError` what the system or a decompressor has against the file at `path`."""
    try:
        if not path.is_file():
            raise _missing(path)
        yield
    except DAMAGE as error:
        raise _damaged(path, str(error) or type(error).__name__, "whole, undamaged data") from error
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error}); check the disk and the rights"
        ) from error


def _missing(path: Path) -> DataError:
    found = "a folder or device" if path.exists() else "nothing"
    return DataError(
        f"expected a file at {path}, found {found}; put the file there, or run "
        "`deepcnn data fetch NAME` if the data set has a name in the catalogue"
    )


def _damaged(where: Path | str, found: str, expected: str) -> DataError:
    return DataError(
        f"{where} is damaged or of another kind: found {found}, expected {expected}; "
        "delete it and copy it anew, or run `deepcnn data fetch NAME` again"
    )


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
