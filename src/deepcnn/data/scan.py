"""The first look at pictures in files: every one is read and decoded once, bad ones are found, and
the pixels are kept for later epochs and runs where there is room.
"""

import hashlib
import io
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from threading import Lock, Thread
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from deepcnn import interrupt
from deepcnn.data.decode import decode_bytes
from deepcnn.data.photos import Kept, Scan, Spots, Where
from deepcnn.data.threads import in_threads
from deepcnn.errors import DataError, ImageError
from deepcnn.files import STAGING_PREFIX, remove_folder, write_synced
from deepcnn.progress import reported

FORMAT = 2  # of the files below; raised when what is written there changes
PORTION = 8  # pictures of one task: with fewer, handing over would cost more than decoding
PROBE = 512  # pictures after which the room that all will take is known well enough
LOOKS = 2  # that are kept of one data set
ABANDONED = 86_400  # seconds after which whoever began a look has been killed
PIXELS, FACTS = "pixels.bin", "facts.npz"
LEAVING = "bringing pictures to the disk"  # the name of the thread that does
DIGEST_BYTES = hashlib.sha256().digest_size

NOT_KEPT = "decoded pictures are not kept but decoded anew in every epoch"

Say = Callable[[str], None]


class Seen(NamedTuple):
    """What was found of one picture: its height and width and where its pixels begin in the file of
    all, or the problem.
    """

    digest: bytes
    size: tuple[int, int] = (0, 0)
    start: int = 0
    problem: str = ""


class Facts(NamedTuple):
    """What was found of M pictures, as in `Scan`, and whether their pixels lie beside it."""

    digests: NDArray[np.uint8]
    sizes: NDArray[np.int32]
    starts: NDArray[np.int64]
    problems: dict[int, str]
    is_kept: bool


def scan(spots: Spots, channels: int, least: int, cache: Path, threads: int, say: Say) -> Scan:
    """Look at all pictures, or take what an earlier look at the same files left in folder `cache`.

    Files count as the same if path, size and time of change are. `say` is told why pixels are not
    kept, where they are not.
    """
    folder = cache / _key(spots, channels, least)
    with suppress(OSError, ValueError):
        return _found(spots, channels, least, folder, _read(folder / FACTS))
    staging = _staging(cache, say)
    try:
        facts = _look(spots, channels, least, threads, staging, say)
        # What is mapped into memory stays there, whatever becomes of its file.
        found = _found(spots, channels, least, staging, facts)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    # Nobody needs to wait for the disk, but for the end of the process, which waits for this.
    Thread(target=_leave, name=LEAVING, args=(facts, found.kept, staging, folder, say)).start()
    return found


def _look(spots: Spots, channels: int, least: int, threads: int, folder: Path, say: Say) -> Facts:
    """Read and decode every picture; write pixels to `folder` while there is room."""
    number = len(spots)
    digests, sizes = np.zeros((number, DIGEST_BYTES), np.uint8), np.zeros((number, 2), np.int32)
    starts, problems = np.zeros(number, np.int64), dict[int, str]()
    with (
        _storing(folder / PIXELS, number, say) as store,
        closing(_all_seen(spots, channels, least, threads, store)) as all_seen,
    ):
        for row, seen in enumerate(reported(all_seen, number, "reading pictures")):
            digests[row] = np.frombuffer(seen.digest, np.uint8)
            sizes[row], starts[row] = seen.size, seen.start
            if seen.problem:
                problems[row] = seen.problem
    return Facts(digests, sizes, starts, problems, store.is_kept)


def _all_seen(
    spots: Spots, channels: int, least: int, threads: int, store: "_Store"
) -> Generator[Seen]:
    def look(rows: range) -> list[Seen]:
        return [_see(spots, row, channels, least, store) for row in rows]

    number = len(spots)
    portions = [range(row, min(row + PORTION, number)) for row in range(0, number, PORTION)]
    groups = (portions[start : start + threads] for start in range(0, len(portions), threads))
    for group in in_threads(look, groups, threads, ahead=2):
        interrupt.check()
        for seen in group:
            yield from seen


def _see(spots: Spots, row: int, channels: int, least: int, store: "_Store") -> Seen:
    content = b""
    try:
        content = spots.read(row)
        pixels = decode_bytes(content, Where(spots, row), channels, least)
    except ImageError as error:
        return Seen(hashlib.sha256(content).digest(), problem=str(error))
    height, width = pixels.shape[1:]
    return Seen(hashlib.sha256(content).digest(), (height, width), store.add(pixels))


class _Store:
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
def _storing(path: Path, number: int, say: Say) -> Iterator[_Store]:
    with path.open("wb", buffering=0) as file:
        store = _Store(file, number, say)
        yield store
        if not store.is_kept:
            _empty(file)  # again: other threads may have written after it was given up


def _empty(file: io.FileIO) -> None:
    with suppress(OSError):  # a disk that fails may fail in this, too
        file.truncate(0)


def room(folder: Path) -> int:
    """Bytes that decoded pictures may take: half of the free disk, at most half of the memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(shutil.disk_usage(folder).free, memory) // 2


def _staging(parent: Path, say: Say) -> Path:
    """A new folder in `parent`, or where that cannot be written in the system's temporary one."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=parent))
    except OSError as error:
        say(f"decoded pictures are kept for this run only: {error.filename}: {error.strerror}")
        return Path(tempfile.mkdtemp(prefix="deepcnn-"))


def _found(spots: Spots, channels: int, least: int, folder: Path, facts: Facts) -> Scan:
    """Put facts and pixels together. Raises OSError or ValueError if these are not all there."""
    total = channels * int(facts.sizes.prod(axis=1, dtype=np.int64).sum())
    kept = Kept(None)
    if facts.is_kept and total:
        # Copied on write, of which there is none: tensors cannot be made of what is read-only.
        kept.pixels = np.memmap(folder / PIXELS, np.uint8, "c")
        if len(kept.pixels) != total:
            raise ValueError(f"{folder / PIXELS} has {len(kept.pixels)} bytes, expected {total}")
    digests, sizes, starts, problems, _ = facts
    return Scan(spots, channels, least, digests, sizes, problems, kept, starts)


def _leave(facts: Facts, kept: Kept, staging: Path, folder: Path, say: Say) -> None:
    """Make `staging` what later runs find as `folder`, in place of what may be damaged there."""
    try:
        facts = _synced(facts, kept, staging / PIXELS, say)
        write_synced(staging / FACTS, _packed(facts))
        with suppress(OSError):  # `staging` is in another place, or another process was faster
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
    with path.open("rb+", buffering=0) as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:
            kept.pixels = None
            _empty(file)
            if facts.is_kept:
                say(f"{NOT_KEPT}: {path}: {error.strerror}")
            return facts._replace(is_kept=False)
    return facts


def _packed(facts: Facts) -> bytes:
    """The facts as a file, which ends with its own SHA-256."""
    file = io.BytesIO()
    problems = np.array(json.dumps(facts.problems))
    np.savez(
        file,
        digests=facts.digests,
        sizes=facts.sizes,
        starts=facts.starts,
        problems=problems,
        is_kept=np.array(facts.is_kept),
    )
    return file.getvalue() + hashlib.sha256(file.getvalue()).digest()


def _read(path: Path) -> Facts:
    """What `_packed` wrote. Raises OSError, or ValueError if it is not that."""
    content = path.read_bytes()
    content, digest = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        raise ValueError(f"{path} is damaged")
    with np.load(io.BytesIO(content), allow_pickle=False) as facts:
        problems = {int(row): text for row, text in json.loads(str(facts["problems"])).items()}
        arrays = (facts["digests"], facts["sizes"], facts["starts"])
        return Facts(*arrays, problems, bool(facts["is_kept"]))


def _key(spots: Spots, channels: int, least: int) -> str:
    """A name for exactly these bytes on this disk, and for how they are decoded."""
    decoders = [version(name) for name in ("pillow", "simplejpeg")]
    digest = hashlib.sha256(repr((FORMAT, channels, least, decoders)).encode())
    for path in spots.files:
        try:
            status = os.stat(path)  # noqa: PTH116
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}; it was there a moment ago") from error
        digest.update(os.fsencode(path))
        digest.update(f"\0{status.st_size} {status.st_mtime_ns}\n".encode())
    for array in (spots.file, spots.offset, spots.size):
        digest.update(array.data)
    return digest.hexdigest()[:32]


def _remove_old(cache: Path) -> None:
    """Leave the newest looks at a data set, whose files, or what is wanted of them, have changed;
    and those that other processes are at.
    """
    ages = {folder: time.time() - folder.stat().st_mtime for folder in cache.iterdir()}
    begun = {folder for folder in ages if folder.name.startswith(STAGING_PREFIX)}
    old = sorted(ages.keys() - begun, key=ages.__getitem__)[LOOKS:]
    for folder in (*old, *(folder for folder in begun if ages[folder] > ABANDONED)):
        shutil.rmtree(folder, ignore_errors=True)  # who has mapped it keeps what it has
