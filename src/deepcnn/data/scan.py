"""The first look at pictures in files: every one is read and decoded once, bad ones are found, and
the pixels are kept for later epochs and runs where there is room.
"""

import shutil
import time
from collections.abc import Generator
from contextlib import closing, suppress
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import numpy as np
from torch import Tensor
from xxhash import xxh3_128_digest

from deepcnn import interrupt
from deepcnn.data import kept
from deepcnn.data.decode import CUT, decode_bytes
from deepcnn.data.kept import (
    FACTS,
    PIXELS,
    Facts,
    Say,
    Store,
    key,
    leave,
    new_folder,
    read_facts,
    stamp,
    storing,
)
from deepcnn.data.photos import Decoding, Kept, Scan, Spots, Where
from deepcnn.data.threads import in_threads
from deepcnn.errors import ImageError
from deepcnn.progress import reported

PORTION = 8  # pictures of one task: with fewer, handing over would cost more than decoding
SMALL = 4_096  # bytes a picture: below, threads wait for Python more than they gain (measured)
TIME_LIMIT = 10  # seconds of a processor for one picture; a photo of 24 megapixels takes 0.2
# Bytes of XXH3's 128 bits, which nobody meets by chance: SHA-256 took a twelfth of the first epoch
# of photos on a chip without instructions for it, 80 times as long as this.
DIGEST_BYTES = 16
LEAVING = "bringing pictures to the disk"  # the name of the thread that does


class Seen(NamedTuple):
    """What was found of one picture: its height and width and where its pixels begin in the file of
    all, or the problem; or both, if the picture counts all the same.
    """

    digest: bytes
    size: tuple[int, int] = (0, 0)
    start: int = 0
    problem: str = ""


def scan(spots: Spots, decoding: Decoding, cache: Path, threads: int, say: Say) -> Scan:
    """Look at all pictures, or take what an earlier look at the same files left in folder `cache`.

    Files count as the same if path, size and time of change are. Where pixels were not kept and
    there is room for them by now, that is another look. `say` is told why they are not kept.
    """
    stamps = [stamp(path) for path in spots.files]
    folder = cache / key(spots, stamps, decoding)
    with suppress(OSError, ValueError):
        facts = read_facts(folder / FACTS)
        if facts.is_kept or _total(decoding, facts) > kept.room(folder):
            return _found(spots, decoding, folder, facts)
    if sum(size for size, _ in stamps) < SMALL * len(spots):
        threads = 1
    staging = new_folder(cache, say)
    try:
        facts = _look(spots, decoding, threads, staging, say)
        # What is mapped into memory stays there, whatever becomes of its file.
        found = _found(spots, decoding, staging, facts)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    # Nobody needs to wait for the disk, but for the end of the process, which waits for this.
    Thread(target=leave, name=LEAVING, args=(facts, found.kept, staging, folder, say)).start()
    return found


def _look(spots: Spots, decoding: Decoding, threads: int, folder: Path, say: Say) -> Facts:
    """Read and decode every picture; write pixels to `folder` while there is room."""
    number = len(spots)
    digests, sizes = np.zeros((number, DIGEST_BYTES), np.uint8), np.zeros((number, 2), np.int32)
    starts, problems, cut = np.zeros(number, np.int64), dict[int, str](), dict[int, str]()
    with (
        storing(folder / PIXELS, number, say) as store,
        closing(_all_seen(spots, decoding, threads, store)) as all_seen,
    ):
        for row, seen in enumerate(reported(all_seen, number, "reading pictures")):
            digests[row] = np.frombuffer(seen.digest, np.uint8)
            sizes[row], starts[row] = seen.size, seen.start
            if seen.problem:
                (cut if any(seen.size) else problems)[row] = seen.problem
    return Facts(digests, sizes, starts, problems, cut, store.is_kept)


def _all_seen(spots: Spots, decoding: Decoding, threads: int, store: Store) -> Generator[Seen]:
    def look(rows: range) -> list[Seen]:
        return [_see(spots, row, decoding, store) for row in rows]

    number = len(spots)
    portions = [range(row, min(row + PORTION, number)) for row in range(0, number, PORTION)]
    groups = (portions[start : start + threads] for start in range(0, len(portions), threads))
    for group in in_threads(look, groups, threads, ahead=2):
        interrupt.check()
        for seen in group:
            yield from seen


def _see(spots: Spots, row: int, decoding: Decoding, store: Store) -> Seen:
    content, problem = b"", ""
    try:
        content = spots.read(row)
        pixels, problem = _decoded(content, Where(spots, row), decoding)
    except ImageError as error:
        return Seen(xxh3_128_digest(content), problem=str(error))
    height, width = pixels.shape[1:]
    return Seen(xxh3_128_digest(content), (height, width), store.add(pixels), problem)


def _decoded(content: bytes, where: Where, decoding: Decoding) -> tuple[Tensor, str]:
    """The pixels, and what is wrong with them. Raises ImageError if they do not count."""
    channels, least, takes_cut = decoding
    problem, began = "", time.thread_time()
    try:
        pixels = decode_bytes(content, where, channels, least)
    except ImageError as error:
        problem = str(error)
        if not takes_cut or CUT not in problem.lower():
            raise
        pixels = decode_bytes(content, where, channels, least, is_cut=True)
    if (took := time.thread_time() - began) > TIME_LIMIT:
        raise ImageError(
            f"{where} takes {took:.0f} s to decode, expected at most {TIME_LIMIT}: save it anew"
        )
    return pixels, problem


def _total(decoding: Decoding, facts: Facts) -> int:
    """Bytes of all decoded pictures."""
    return decoding.channels * int(facts.sizes.prod(axis=1, dtype=np.int64).sum())


def _found(spots: Spots, decoding: Decoding, folder: Path, facts: Facts) -> Scan:
    """Put facts and pixels together. Raises OSError or ValueError if these are not all there."""
    digests, sizes, starts, problems, cut, is_kept = facts
    total = _total(decoding, facts)
    kept = Kept(None)
    if is_kept and total:
        # Copied on write, of which there is none: tensors cannot be made of what is read-only.
        # A plain array of it, because slices of memmaps are slow to make.
        kept.pixels = np.asarray(np.memmap(folder / PIXELS, np.uint8, "c"))
        if len(kept.pixels) != total:
            raise ValueError(f"{folder / PIXELS} has {len(kept.pixels)} bytes, expected {total}")
    return Scan(spots, decoding, digests, sizes, problems, cut, kept, starts)
