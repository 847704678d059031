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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from deepcnn import interrupt
from deepcnn.data.decode import decode_bytes
from deepcnn.data.photos import Scan, Spots, Where
from deepcnn.data.threads import in_threads
from deepcnn.errors import DataError, ImageError
from deepcnn.files import STAGING_PREFIX, remove_folder, write_synced
from deepcnn.progress import reported

FORMAT = 1  # of the files below; raised when what is written there changes
PORTION = 8  # pictures of one task: with fewer, handing over would cost more than decoding
PROBE = 512  # pictures after which the room that all will take is known well enough
LOOKS = 2  # that are kept of one data set
ABANDONED = 86_400  # seconds after which whoever began a look has been killed
PIXELS, FACTS = "pixels.bin", "facts.npz"
DIGEST_BYTES = hashlib.sha256().digest_size

Say = Callable[[str], None]


class Seen(NamedTuple):
    """What was found of one picture: `pixels` uint8 C H W, or None and the problem."""

    digest: bytes
    pixels: Tensor | None
    problem: str


class Facts(NamedTuple):
    """What was found of M pictures, as in `Scan`, and whether their pixels lie beside it."""

    digests: NDArray[np.uint8]
    sizes: NDArray[np.int32]
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
    with _staging(cache, say) as staging:
        facts = _look(spots, channels, least, threads, staging, say)
        # What is mapped into memory stays there, whatever becomes of its file.
        found = _found(spots, channels, least, staging, facts)
        _leave(facts, staging, folder, say)
    return found


def _look(spots: Spots, channels: int, least: int, threads: int, folder: Path, say: Say) -> Facts:
    """Read and decode every picture; write pixels to `folder` while there is room."""
    digests = np.zeros((len(spots), DIGEST_BYTES), np.uint8)
    sizes = np.zeros((len(spots), 2), np.int32)
    problems: dict[int, str] = {}
    all_seen = _all_seen(spots, channels, least, threads)
    with (folder / PIXELS).open("wb", buffering=0) as file:
        store = _Store(file, len(spots), say)
        for row, seen in enumerate(reported(all_seen, len(spots), "reading pictures")):
            digests[row] = np.frombuffer(seen.digest, np.uint8)
            if seen.pixels is None:
                problems[row] = seen.problem
                continue
            sizes[row] = seen.pixels.shape[1:]
            store.add(row, seen.pixels)
        store.finish()
    return Facts(digests, sizes, problems, store.is_kept)


def _all_seen(spots: Spots, channels: int, least: int, threads: int) -> Iterator[Seen]:
    def look(rows: range) -> list[Seen]:
        return [_see(spots, row, channels, least) for row in rows]

    number = len(spots)
    portions = [range(row, min(row + PORTION, number)) for row in range(0, number, PORTION)]
    groups = (portions[start : start + threads] for start in range(0, len(portions), threads))
    for group in in_threads(look, groups, threads, ahead=2):
        interrupt.check()
        for seen in group:
            yield from seen


def _see(spots: Spots, row: int, channels: int, least: int) -> Seen:
    content = b""
    try:
        content = spots.read(row)
        pixels = decode_bytes(content, Where(spots, row), channels, least)
    except ImageError as error:
        return Seen(hashlib.sha256(content).digest(), None, str(error))
    return Seen(hashlib.sha256(content).digest(), pixels, "")


class _Store:
    """A file of pixels that is given up, and says so, when there is no room for all of them."""

    def __init__(self, file: io.FileIO, number: int, say: Say) -> None:
        self.file, self.number, self.say = file, number, say
        self.room, self.written, self.is_kept = room(Path(str(file.name)).parent), 0, True

    def add(self, row: int, pixels: Tensor) -> None:
        """Write one picture, H W C."""
        if not self.is_kept:
            return
        self.written += pixels.numel()
        expected = self.written * self.number // (row + 1) if row + 1 >= PROBE else self.written
        if expected > self.room:
            free = f"{self.room / 1e9:.1f} GB are free for it"
            self._give_up(f"all would take {expected / 1e9:.1f} GB, {free}")
            return
        rest = np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()).data.cast("B")
        try:
            while rest:
                rest = rest[self.file.write(rest) :]
        except OSError as error:
            self._give_up(f"{self.file.name}: {error.strerror}")

    def _give_up(self, reason: str) -> None:
        self.is_kept = False
        with suppress(OSError):  # a disk that fails may fail in this, too
            self.file.truncate(0)
        self.say(f"decoded pictures are not kept but decoded anew in every epoch: {reason}")

    def finish(self) -> None:
        """Bring what was written to the disk."""
        try:
            os.fsync(self.file.fileno())
        except OSError as error:
            if self.is_kept:
                self._give_up(f"{self.file.name}: {error.strerror}")


def room(folder: Path) -> int:
    """Bytes that decoded pictures may take: half of the free disk, at most half of the memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(shutil.disk_usage(folder).free, memory) // 2


@contextmanager
def _staging(parent: Path, say: Say) -> Iterator[Path]:
    """A new folder in `parent`, or where that cannot be written in the system's temporary one."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=parent))
    except OSError as error:
        say(f"decoded pictures are kept for this run only: {error.filename}: {error.strerror}")
        staging = Path(tempfile.mkdtemp(prefix="deepcnn-"))
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)  # where it was not renamed


def _found(spots: Spots, channels: int, least: int, folder: Path, facts: Facts) -> Scan:
    """Put facts and pixels together. Raises OSError or ValueError if these are not all there."""
    lengths = channels * facts.sizes.prod(axis=1, dtype=np.int64)
    ends = np.cumsum(lengths)
    kept = None
    if facts.is_kept and len(ends) and ends[-1]:
        # Copied on write, of which there is none: tensors cannot be made of what is read-only.
        kept = np.memmap(folder / PIXELS, np.uint8, "c")
        if len(kept) != ends[-1]:
            raise ValueError(f"{folder / PIXELS} has {len(kept)} bytes, expected {ends[-1]}")
    digests, sizes, problems, _ = facts
    return Scan(spots, channels, least, digests, sizes, problems, kept, ends - lengths)


def _leave(facts: Facts, staging: Path, folder: Path, say: Say) -> None:
    """Make `staging` what later runs find as `folder`, in place of what may be damaged there."""
    try:
        write_synced(staging / FACTS, _packed(facts))
    except OSError as error:
        say(f"pictures will be looked at again in the next run: {staging}: {error.strerror}")
        return
    with suppress(OSError):  # `staging` is in another place, or another process was faster
        if folder.exists():
            remove_folder(folder)
        os.rename(staging, folder)  # noqa: PTH104
        _remove_old(folder.parent)


def _packed(facts: Facts) -> bytes:
    """The facts as a file, which ends with its own SHA-256."""
    file = io.BytesIO()
    problems = np.array(json.dumps(facts.problems))
    np.savez(
        file,
        digests=facts.digests,
        sizes=facts.sizes,
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
        return Facts(facts["digests"], facts["sizes"], problems, bool(facts["is_kept"]))


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
