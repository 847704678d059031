"""What a look at pictures found, kept in the cache folder: facts of each, and all decoded pixels
where there is room for them.
"""

import hashlib
import io
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from threading import Lock, main_thread
from typing import NamedTuple

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from deepcnn.data.photos import Kept, Spots
from deepcnn.errors import DataError
from deepcnn.files import STAGING_PREFIX, remove_folder, write_synced

FORMAT = 4  # of the files below; raised when what is written there changes
QUIET = 20.0  # seconds after a look in which the disk is left alone
PATIENCE = 20.0  # seconds that the lock of a folder is waited for; what is done under it takes one
PROBE = 512  # pictures after which the room that all will take is known well enough
LOOKS = 2  # that are kept of one data set
ABANDONED = 86_400  # seconds after which whoever began a look has been killed
PIXELS, FACTS = "pixels.bin", "facts.npz"
CHECK_BYTES = hashlib.sha256().digest_size  # at the end of the file of facts
NOT_KEPT = "decoded pictures are not kept but decoded anew in every epoch"

Say = Callable[[str], None]


class Facts(NamedTuple):
    """What was found of M pictures, as in `Scan`, and whether their pixels lie beside it."""

    digests: NDArray[np.uint8]
    sizes: NDArray[np.int32]
    starts: NDArray[np.int64]
    problems: dict[int, str]
    cut: dict[int, str]
    is_kept: bool


class Store:
    """A file of pixels that is given up, and says so, when there is no room for all of them.

    Threads write side by side, each what it has decoded, while that is near the processor.
    """

    def __init__(self, file: io.FileIO, number: int, say: Say) -> None:
        self.file, self.number, self.say = file, number, say
        self.room = room(Path(str(file.name)).parent)
        self.added, self.written, self.is_kept, self.lock = 0, 0, True, Lock()

    def add(self, pixels: Tensor) -> int:
        """Write one picture, H W C; where it begins."""
        with self.lock:
            place = start = self.written
            self.written, self.added = self.written + pixels.numel(), self.added + 1
            all_known = self.added >= PROBE
            expected = self.written * self.number // self.added if all_known else self.written
            if expected > self.room:
                free = f"{self.room / 1e9:.1f} GB are free for it"
                self._give_up(f"all would take {expected / 1e9:.1f} GB, {free}")
        rest = np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()).data.cast("B")
        try:
            while self.is_kept and rest:
                written = os.pwrite(self.file.fileno(), rest, place)
                rest, place = rest[written:], place + written
        except OSError as error:
            with self.lock:
                self._give_up(f"{self.file.name}: {error.strerror}")
        return start

    def _give_up(self, reason: str) -> None:
        if self.is_kept:
            self.is_kept = False
            _empty(self.file)
            self.say(f"{NOT_KEPT}: {reason}")


@contextmanager
def storing(path: Path, number: int, say: Say) -> Iterator[Store]:
    """A file for the pixels of that many pictures, empty at the end if it was given up."""
    with path.open("wb", buffering=0) as file:
        store = Store(file, number, say)
        yield store
        if not store.is_kept:
            _empty(file)  # again: other threads may have written after it was given up


def _empty(file: io.FileIO) -> None:
    with suppress(OSError):  # a disk that fails may fail in this, too
        file.truncate(0)


def room(folder: Path) -> int:
    """Bytes that decoded pictures may take: half of the free disk, at most half of the memory."""
    return min(disk_room(folder), memory_room())


def disk_room(folder: Path) -> int:
    """Half of what is free where `folder` is, or will be."""
    place = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return shutil.disk_usage(place).free // 2


def memory_room() -> int:
    """Half of the memory of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def new_folder(parent: Path, say: Say) -> Path:
    """A new folder in `parent`, or where that cannot be written in the system's temporary one."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=parent))
    except OSError as error:
        say(f"decoded pictures are kept for this run only: {error.filename}: {error.strerror}")
        return Path(tempfile.mkdtemp(prefix="deepcnn-"))


def leave(facts: Facts, kept: Kept, staging: Path, folder: Path, say: Say) -> None:
    """Make `staging` what later runs find as `folder`, in place of what may be damaged there.

    Not at once: bringing gigabytes to the disk slows the first batches down, which are wanted now.
    """
    main_thread().join(QUIET)  # a program that ends is not kept waiting for longer
    try:
        facts = _synced(facts, kept, staging / PIXELS, say)
        write_synced(staging / FACTS, _packed(facts))
        # OSError: `staging` is in another place, or another process holds on to the lock.
        with suppress(OSError), FileLock(f"{folder.parent}.lock", timeout=PATIENCE):
            if folder.exists():
                remove_folder(folder)
            os.rename(staging, folder)  # noqa: PTH104
            _remove_old(folder.parent)
    except OSError as error:
        say(f"pictures will be looked at again in the next run: {staging}: {error.strerror}")
    finally:
        shutil.rmtree(staging, ignore_errors=True)  # where it was not renamed


def _synced(facts: Facts, kept: Kept, path: Path, say: Say) -> Facts:
    """Bring the pixels to the disk; what it could not take may be gone from memory, too."""
    try:
        with path.open("rb+", buffering=0) as file:
            os.fsync(file.fileno())
    except OSError as error:
        kept.pixels = None
        if facts.is_kept:
            say(f"{NOT_KEPT}: {path}: {error.strerror}")
        path.unlink()  # not shortened: who is just reading what is mapped would crash
        path.touch()
        return facts._replace(is_kept=False)
    return facts


def _packed(facts: Facts) -> bytes:
    """The facts as a file, which ends with its own SHA-256."""
    file = io.BytesIO()
    np.savez(
        file,
        digests=facts.digests,
        sizes=facts.sizes,
        starts=facts.starts,
        problems=np.array(json.dumps([facts.problems, facts.cut])),
        is_kept=np.array(facts.is_kept),
    )
    return file.getvalue() + hashlib.sha256(file.getvalue()).digest()


def read_facts(path: Path) -> Facts:
    """What `_packed` wrote. Raises OSError, or ValueError if it is not that."""
    content = path.read_bytes()
    content, digest = content[:-CHECK_BYTES], content[-CHECK_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        raise ValueError(f"{path} is damaged")
    with np.load(io.BytesIO(content), allow_pickle=False) as facts:
        arrays = (facts["digests"], facts["sizes"], facts["starts"])
        problems, cut = (
            {int(row): text for row, text in each.items()}
            for each in json.loads(str(facts["problems"]))
        )
        return Facts(*arrays, problems, cut, bool(facts["is_kept"]))


def stamp(path: str) -> tuple[int, int]:
    """Size and time of change of a file, in bytes and nanoseconds."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; it was there a moment ago") from error
    return status.st_size, status.st_mtime_ns


def key(spots: Spots, stamps: list[tuple[int, int]], *decoding: object) -> str:
    """A name for exactly these bytes on this disk, and for how they are decoded."""
    decoders = [version(name) for name in ("pillow", "simplejpeg")]
    digest = hashlib.sha256(repr((FORMAT, *decoding, decoders)).encode())
    for path, (size, changed) in zip(spots.files, stamps, strict=True):
        digest.update(os.fsencode(path))
        digest.update(f"\0{size} {changed}\n".encode())
    for array in (spots.file, spots.offset, spots.size):
        digest.update(array.data)
    return digest.hexdigest()[:32]


def _remove_old(cache: Path) -> None:
    """Leave the newest looks at a data set, whose files, or what is wanted of them, have changed;
    and those that other processes are at. Who calls holds the lock of the folder.
    """
    changed = {folder: folder.stat().st_mtime for folder in cache.iterdir()}
    begun = {folder for folder in changed if folder.name.startswith(STAGING_PREFIX)}
    old = sorted(changed.keys() - begun, key=changed.__getitem__, reverse=True)[LOOKS:]
    abandoned = [folder for folder in begun if time.time() - changed[folder] > ABANDONED]
    for folder in (*old, *abandoned):
        shutil.rmtree(folder, ignore_errors=True)  # who has mapped it keeps what it has
