"""The first look at pictures: what it finds, what it leaves behind, and what can go wrong."""

import errno
import hashlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from xxhash import xxh3_128_digest

from deepcnn import interrupt
from deepcnn.data import kept
from deepcnn.data import scan as module
from deepcnn.data.kept import FACTS, LOOKS, PIXELS
from deepcnn.data.photos import Decoding, Kept, Photos, Scan, Spots, whole_files
from deepcnn.data.scan import LEAVING, scan
from deepcnn.data.threads import in_threads
from deepcnn.errors import DataError, Interrupted
from deepcnn.files import STAGING_PREFIX
from faults import at_call
from picture_files import blocks, by_pillow, encoded, write_pictures

NUMBER = 20
BAD = {3: b"", 8: b"no picture", 12: encoded(blocks(30, 30))[:200]}
PROGRAM = """
import hashlib, sys
from pathlib import Path
from deepcnn.data.photos import Decoding, whole_files
from deepcnn.data.scan import scan
cache, *paths = sys.argv[1:]
print("ready", flush=True)
for line in sys.stdin:
    found = scan(whole_files(tuple(paths)), Decoding(3, int(line)), Path(cache), 1, sys.exit)
    print(hashlib.sha256(found.kept.pixels).hexdigest(), flush=True)
"""


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Pictures, of which some cannot be read."""
    paths = write_pictures(tmp_path / "pictures", NUMBER)
    for row, content in BAD.items():
        paths[row].write_bytes(content)
    return paths


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "of pictures"


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's temporary folder of each test, in which nothing may be left behind."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def look(
    paths: list[Path], cache: Path, threads: int = 2, least: int = 0
) -> tuple[Scan, list[str]]:
    """What was found, and what was said."""
    said: list[str] = []
    spots = whole_files(tuple(map(str, paths)))
    found = scan(spots, Decoding(3, least), cache, threads, said.append)
    wait_for_the_disk()
    return found, said


def wait_for_the_disk() -> None:
    for thread in threading.enumerate():
        if thread.name == LEAVING and thread is not threading.current_thread():
            thread.join()


def same(one: Scan, other: Scan) -> bool:
    """In everything but whether and where pixels are kept."""
    return (
        np.array_equal(one.digests, other.digests)
        and np.array_equal(one.sizes, other.sizes)
        and one.problems == other.problems
        and all(np.array_equal(a, b) for a, b in zip(pixels(one), pixels(other), strict=True))
    )


def pixels(found: Scan) -> list[Any]:
    """All good pictures, H W C."""
    photos = Photos(found, good(found))
    return [photos.pixels(k).permute(1, 2, 0).numpy() for k in range(len(photos))]


def good(found: Scan) -> Any:
    return np.array([row for row in range(len(found.spots)) if row not in found.problems])


@contextmanager
def no_reading() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Spots, "read", lambda *_: pytest.fail("a file was read"))
        yield


@contextmanager
def reads_counted() -> Iterator[list[int]]:
    rows: list[int] = []
    read = Spots.read

    def note(spots: Spots, row: int) -> bytes:
        rows.append(row)
        return read(spots, row)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Spots, "read", note)
        yield rows


def test_a_look_finds_digests_sizes_and_problems(paths: list[Path], cache: Path) -> None:
    found, said = look(paths, cache)
    assert not said
    assert set(found.problems) == set(BAD)
    for row, path in enumerate(paths):
        content = path.read_bytes()
        assert found.digests[row].tobytes() == xxh3_128_digest(content)
        if row in BAD:
            assert found.sizes[row].tolist() == [0, 0]
            assert str(path) in found.problems[row]
            continue
        with Image.open(path) as picture:
            assert tuple(found.sizes[row]) == picture.size[::-1]
    assert found.problems[3].endswith("is not a picture; expected PNG, JPEG, WEBP, GIF, BMP, TIFF")
    assert "12.png cannot be read" in found.problems[12]


def test_kept_pixels_are_those_of_the_files(paths: list[Path], cache: Path) -> None:
    found, _ = look(paths, cache)
    assert found.kept.pixels is not None
    rows = good(found)
    for row, picture in zip(rows, pixels(found), strict=True):
        np.testing.assert_array_equal(picture, by_pillow(paths[row].read_bytes()))
    assert len(found.kept.pixels) == 3 * found.sizes.prod(axis=1).sum()


def by_forgiving_pillow(content: bytes, monkeypatch: pytest.MonkeyPatch) -> Any:
    with monkeypatch.context() as patch:
        patch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        return by_pillow(content)


@pytest.mark.parametrize("threads", [1, 4])
def test_pictures_that_end_too_early_count_if_asked_for(
    threads: int, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SMALL", 0)
    paths = write_pictures(tmp_path / "pictures", NUMBER)
    whole = {row: encoded(blocks(90, 70, row), kind) for row, kind in ((2, "JPEG"), (9, "PNG"))}
    for row, content in whole.items():
        paths[row].write_bytes(content[: len(content) * 2 // 3])
    paths[5].write_bytes(b"no picture")
    spots = whole_files(tuple(map(str, paths)))
    strict = scan(spots, Decoding(3), cache, threads, pytest.fail)
    assert sorted(strict.problems) == [2, 5, 9]
    for _ in range(2):
        found = scan(spots, Decoding(3, takes_cut=True), cache, threads, pytest.fail)
        assert sorted(found.problems) == [5]
        assert sorted(found.cut) == [2, 9]
        for source in (found, replace(found, kept=Kept(None))):
            photos = Photos(source, np.array([2, 9]))
            for k, row in enumerate(whole):
                picture = photos.pixels(k).permute(1, 2, 0).numpy()
                expected = by_pillow(whole[row])
                assert picture.shape == expected.shape
                np.testing.assert_array_equal(picture[:32], expected[:32])
                assert not np.array_equal(picture[-8:], expected[-8:])
                if row == 9:
                    cut = by_forgiving_pillow(paths[row].read_bytes(), monkeypatch)
                    np.testing.assert_array_equal(picture, cut)
        wait_for_the_disk()
    for row, problem in found.cut.items():
        assert str(paths[row]) in problem
        assert "truncated" in problem


def test_many_pictures_that_end_too_early_are_all_noticed(tmp_path: Path, cache: Path) -> None:
    """By every thread, although others are at such pictures."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    paths = [folder / f"{number:03}.jpg" for number in range(300)]
    for number, path in enumerate(paths):
        content = encoded(blocks(90, 70, number % 7), "JPEG", progressive=number % 3 == 0)
        path.write_bytes(content[: len(content) * 3 // 4] if number % 2 else content + bytes(4_096))
    spots = whole_files(tuple(map(str, paths)))
    found = scan(spots, Decoding(3, takes_cut=True), cache, 8, pytest.fail)
    assert not found.problems
    assert sorted(found.cut) == list(range(1, 300, 2))
    photos = Photos(found, np.arange(300))
    for number in (3, 9, 15):  # progressive ones show the whole picture, less sharp
        whole = by_pillow(encoded(blocks(90, 70, number % 7), "JPEG")).astype(int)
        picture = photos.pixels(number).permute(1, 2, 0).numpy()
        assert np.abs(picture - whole).mean() < 40


def test_a_picture_that_takes_too_long_is_bad(
    paths: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 100_000, 7))
    monkeypatch.setattr(time, "thread_time", lambda: next(clock))
    monkeypatch.setattr(module, "TIME_LIMIT", 7)
    assert set(look(paths, cache / "enough", threads=1)[0].problems) == set(BAD)
    monkeypatch.setattr(module, "TIME_LIMIT", 6)
    found, _ = look(paths, cache / "less", threads=1)
    assert len(found.problems) == NUMBER
    assert found.problems[0] == f"{paths[0]} takes 7 s to decode, expected at most 6: save it anew"


def test_a_missing_file_is_said(paths: list[Path], cache: Path) -> None:
    paths[4].unlink()
    with pytest.raises(DataError, match=r"04\.png: No such file or directory; it was there a mom"):
        look(paths, cache)
    assert not cache.exists()


def test_a_second_look_reads_no_file(paths: list[Path], cache: Path) -> None:
    found, _ = look(paths, cache)
    with no_reading():
        again, said = look(paths, cache)
        assert again.kept.pixels is not None
        assert same(found, again)
    assert not said


def test_bad_pictures_only(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(b"bad")
    for _ in range(2):
        found, said = look([path], cache)
        assert (list(found.problems), found.kept.pixels, said) == ([0], None, [])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")
    os.utime(path, (5, 5))


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(encoded(blocks(5, 5))),
        lambda path: path.write_bytes(path.read_bytes()),
        lambda path: os.utime(path, ns=(0, path.stat().st_mtime_ns + 1)),
        lambda path: lengthen(path),
    ],
    ids=["another picture", "written anew", "another time", "longer, of the same time"],
)
def test_changed_files_are_looked_at_anew(
    change: Callable[[Path], object], paths: list[Path], cache: Path
) -> None:
    os.utime(paths[5], (5, 5))
    look(paths, cache)
    change(paths[5])
    with reads_counted() as rows:
        found, _ = look(paths, cache)
    assert sorted(rows) == list(range(NUMBER))
    assert found.digests[5].tobytes() == xxh3_128_digest(paths[5].read_bytes())
    np.testing.assert_array_equal(pixels(found)[4], by_pillow(paths[5].read_bytes()))


def test_what_decides_the_pixels_is_looked_at_anew(paths: list[Path], cache: Path) -> None:
    small, _ = look(paths, cache, least=4)
    whole, _ = look(paths, cache)
    assert [found.sizes[0].tolist() for found in (whole, small)] == [[23, 31], [6, 8]]
    spots = whole_files(tuple(map(str, paths)))
    grey = scan(spots, Decoding(1), cache, 1, print)
    assert pixels(grey)[0].shape[2] == 1


def test_where_pictures_lie_in_a_file_decides_the_pixels(tmp_path: Path, cache: Path) -> None:
    contents = [encoded(blocks(10, 20, k), "BMP") for k in range(2)]  # of the same length
    (tmp_path / "both").write_bytes(contents[0] + contents[1])
    length = len(contents[0])
    for order in ([0, 1], [1, 0], [0, 0]):
        offsets, lengths = length * np.array(order), np.full(2, length)
        spots = Spots((str(tmp_path / "both"),), np.zeros(2, np.int32), offsets, lengths)
        for k, picture in zip(
            order, pixels(scan(spots, Decoding(3), cache, 1, print)), strict=True
        ):
            np.testing.assert_array_equal(picture, blocks(10, 20, k))


@pytest.mark.parametrize("threads", [1, 8])
def test_threads_do_not_matter(
    threads: int, paths: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SMALL", 0)
    one, _ = look(paths, cache / "2")
    other, _ = look(paths, cache / str(threads), threads)
    assert same(one, other)
    sizes = [path.stat().st_size for path in cache.glob(f"*/*/{PIXELS}")]
    assert len(sizes) == 2
    assert len(set(sizes)) == 1


def test_small_pictures_are_looked_at_in_one_thread(
    paths: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []

    def note(*arguments: Any, **options: Any) -> Iterator[list[Any]]:
        used.append(arguments[2])
        return in_threads(*arguments, **options)

    monkeypatch.setattr(module, "in_threads", note)
    mean = sum(path.stat().st_size for path in paths) / NUMBER
    for small in (mean - 1, mean + 1):
        monkeypatch.setattr(module, "SMALL", small)
        look(paths, cache / str(small), threads=3)
    assert used == [3, 1]


def kept_nowhere(paths: list[Path], cache: Path, reason: str) -> None:
    """Pixels that find no room are decoded again, in later runs too; that is said once in each."""
    expected, _ = look(paths, cache / "elsewhere")
    for run in range(2):
        found, said = look(paths, cache / "here")
        assert found.kept.pixels is None
        assert same(found, expected)
        assert len(said) == 1 - run
        for line in said:
            assert line.startswith("decoded pictures are not kept but decoded anew in every epoch")
            assert reason in line
    (left,) = (cache / "here").iterdir()
    assert (left / PIXELS).stat().st_size == 0


def test_no_room(paths: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "room", lambda folder: 20_000 if folder.parts[-2] == "here" else 1e9)
    kept_nowhere(paths, cache, "0.0 GB are free for it")
    monkeypatch.undo()
    found, said = look(paths, cache / "here")  # by now there is room
    assert found.kept.pixels is not None
    assert not said


def test_a_disk_that_is_full(paths: list[Path], cache: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    expected, _ = look(paths, cache / "elsewhere")
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        found, said = look(paths, cache / "here")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert found.kept.pixels is None
    assert same(found, expected)
    assert len(said) == 1
    assert said[0].endswith(f"{PIXELS}: File too large")


def failing(patch: pytest.MonkeyPatch, name: str) -> None:
    """Have the disk refuse to bring the file of that name to safety."""
    sync = os.fsync

    def refuse(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink().name == name:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(descriptor)

    patch.setattr(os, "fsync", refuse)


linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@linux
def test_a_disk_that_fails_late(
    paths: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = look(paths, cache / "elsewhere")
    failing(monkeypatch, PIXELS)
    mapped: list[Any] = []
    map_file = np.memmap

    def note(*arguments: Any) -> Any:
        mapped.append(map_file(*arguments))
        return mapped[-1]

    monkeypatch.setattr(np, "memmap", note)
    found, said = look(paths, cache / "here")
    assert found.kept.pixels is None
    assert sum(mapped[0].tolist())  # may still be read by who has begun to
    assert same(found, expected)
    assert len(said) == 1
    assert said[0].endswith(f"{PIXELS}: Input/output error")
    found, said = look(paths, cache / "here")  # there is room, so that is tried again
    assert found.kept.pixels is None
    assert len(said) == 1


def test_nobody_waits_for_the_disk(
    paths: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = look(paths, cache / "elsewhere")
    done, sync = threading.Event(), os.fsync

    def slow(descriptor: int) -> None:
        done.wait()
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    spots = whole_files(tuple(map(str, paths)))
    found = scan(spots, Decoding(3), cache / "here", 2, pytest.fail)
    assert found.kept.pixels is not None
    assert same(found, expected)
    assert [path.name[:5] for path in (cache / "here").iterdir()] == [STAGING_PREFIX]
    done.set()
    wait_for_the_disk()
    with no_reading():
        look(paths, cache / "here")


@linux
def test_a_disk_that_is_full_and_fails_is_said_once(
    paths: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "room", lambda _: 0)
    failing(monkeypatch, PIXELS)
    found, said = look(paths, cache)
    assert (found.kept.pixels, len(said)) == (None, 1)


@linux
def test_facts_that_cannot_be_written(
    paths: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = look(paths, cache / "elsewhere")
    failing(monkeypatch, FACTS)
    found, said = look(paths, cache / "here")
    assert found.kept.pixels is not None
    assert same(found, expected)
    assert len(said) == 1
    assert said[0].startswith("pictures will be looked at again in the next run: ")
    assert said[0].endswith("Input/output error")
    assert not list((cache / "here").iterdir())


def test_the_disk_is_left_alone_at_first(
    paths: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, over = [], threading.Event()

    class Program:
        def join(self, seconds: float) -> None:
            waits.append(seconds)
            over.wait(60)

    monkeypatch.setattr(kept, "main_thread", Program)
    monkeypatch.setattr(kept, "QUIET", 7.0)
    try:
        found = scan(whole_files(tuple(map(str, paths))), Decoding(3), cache, 2, pytest.fail)
        assert found.kept.pixels is not None
        assert [folder.name for folder in cache.iterdir() if (folder / FACTS).exists()] == []
    finally:
        over.set()
    wait_for_the_disk()
    assert waits == [7]
    assert [folder for folder in cache.iterdir() if (folder / FACTS).exists()]


def test_pytorch_uses_one_thread_in_each_of_several() -> None:
    threads = torch.get_num_threads()
    found = in_threads(lambda _: torch.get_num_threads(), [range(4)], 2, ahead=0)
    assert list(found) == [[1, 1, 1, 1]]
    assert torch.get_num_threads() == threads


def test_a_program_that_ends_leaves_its_look(paths: list[Path], cache: Path) -> None:
    """Although it does not wait for the disk."""
    command = [sys.executable, "-W", "error", "-c", PROGRAM, str(cache), *map(str, paths)]
    subprocess.run(command, input="0\n", text=True, check=True, timeout=15, capture_output=True)
    with no_reading():
        assert look(paths, cache)[0].kept.pixels is not None


def test_what_will_not_fit_is_given_up_early(
    paths: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, _ = look(paths, cache / "elsewhere")
    assert found.kept.pixels is not None
    half = len(found.kept.pixels) // 2
    monkeypatch.setattr(kept, "room", lambda _: half)
    monkeypatch.setattr(kept, "PROBE", 5)
    written: list[int] = []
    add = kept.Store.add

    def note(store: Any, picture: Any) -> int:
        start: int = add(store, picture)
        written.append(store.added * store.is_kept)
        return start

    monkeypatch.setattr(kept.Store, "add", note)
    assert look(paths, cache / "here")[0].kept.pixels is None
    assert max(written) < 5


def test_room_is_half_of_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for free, expected in ((1_000, 500), (10 * memory, memory // 2)):
        usage = mock.Mock(return_value=mock.Mock(free=free))
        monkeypatch.setattr(shutil, "disk_usage", usage)
        assert kept.room(tmp_path) == expected


def test_a_cache_that_cannot_be_written(paths: list[Path], cache: Path, temporary: Path) -> None:
    cache.parent.write_bytes(b"in its place")
    for _ in range(2):
        found, said = look(paths, cache)
        assert found.kept.pixels is not None
        for row, picture in zip(good(found), pixels(found), strict=True):
            np.testing.assert_array_equal(picture, by_pillow(paths[row].read_bytes()))
        assert len(said) == 1
        assert said[0].startswith(f"decoded pictures are kept for this run only: {cache}: ")
        assert not list(temporary.iterdir())
    assert cache.parent.read_bytes() == b"in its place"


def test_a_damaged_cache_is_made_anew(paths: list[Path], cache: Path) -> None:
    expected, _ = look(paths, cache, threads=1)
    (folder,) = cache.iterdir()
    whole = {name: (folder / name).read_bytes() for name in (PIXELS, FACTS)}
    facts, number = whole[FACTS], len(whole[FACTS])
    damages: list[tuple[str, bytes | None]] = [(name, None) for name in whole]
    damages += [(name, b"") for name in whole]
    damages += [(name, content[:-1]) for name, content in whole.items()]
    damages += [(name, content + b"\0") for name, content in whole.items()]
    damages += [(FACTS, facts[: number // 2])]
    for place in range(0, number, number // 40):
        flipped = bytes([facts[place] ^ (1 << place % 8)])
        damages.append((FACTS, facts[:place] + flipped + facts[place + 1 :]))
    for name, content in damages:
        (folder / name).unlink()
        if content is not None:
            (folder / name).write_bytes(content)
        with reads_counted() as rows:
            found, said = look(paths, cache, threads=1)
        assert (len(rows), said) == (NUMBER, [])
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole
    assert same(found, expected)
    with no_reading():
        look(paths, cache)


@pytest.mark.parametrize("error", [Interrupted("stopped", 2), KeyboardInterrupt()])
def test_an_interrupted_look_leaves_nothing(
    error: BaseException,
    paths: list[Path],
    cache: Path,
    temporary: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, "PORTION", 2)
        patch.setattr(interrupt, "check", mock.Mock(side_effect=[None, None, error]))
        with pytest.raises(type(error)):
            look(paths, cache)
    assert not list(cache.iterdir())
    assert not list(temporary.iterdir())
    assert look(paths, cache)[0].kept.pixels is not None


def test_only_the_newest_looks_stay(paths: list[Path], cache: Path) -> None:
    for number in range(LOOKS + 2):
        os.utime(paths[0], (number, number))
        look(paths, cache)
        assert len(list(cache.iterdir())) == min(number + 1, LOOKS)
    with no_reading():
        for number in (LOOKS + 1, LOOKS):
            os.utime(paths[0], (number, number))
            look(paths, cache)


def test_the_work_of_others_stays(paths: list[Path], cache: Path) -> None:
    """Unless they have been killed long ago."""
    at_work, killed = (cache / f"{STAGING_PREFIX}{name}" for name in ("at work", "killed"))
    for folder in (at_work, killed):
        folder.mkdir(parents=True)
        (folder / PIXELS).write_bytes(b"half")
    long_ago = time.time() - 25 * 3_600
    os.utime(killed, (long_ago, long_ago))
    look(paths, cache)
    assert not killed.exists()
    for number in range(LOOKS + 1):
        os.utime(paths[0], (number, number))
        look(paths, cache)
    assert at_work.exists()


def test_pixels_outlive_their_file(paths: list[Path], cache: Path) -> None:
    found, _ = look(paths, cache)
    for number in range(1, LOOKS + 1):
        os.utime(paths[0], (number, number))
        look(paths, cache)
    for row, picture in zip(good(found), pixels(found), strict=True):
        np.testing.assert_array_equal(picture, by_pillow(paths[row].read_bytes()))


@pytest.mark.parametrize("moment", ["while looking", "when leaving"])
def test_another_process_is_faster(
    moment: str, paths: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the other one has been through before this one's files are written, or after."""
    where, name = {
        "while looking": (module, "_all_seen"),
        "when leaving": (kept, "write_synced"),
    }[moment]
    others: list[Scan] = []
    at_call(where, name, 1, lambda: others.append(look(paths, cache)[0]), monkeypatch.setattr)
    found, said = look(paths, cache)
    assert not said
    assert same(found, others[0])
    assert len(list(cache.iterdir())) == 1
    with no_reading():
        look(paths, cache)


def test_two_processes_at_once(tmp_path: Path, cache: Path) -> None:
    """Both look in five ways, one after the other, and clear away what is old by then."""
    paths = write_pictures(tmp_path / "pictures", 100)
    command = [sys.executable, "-W", "error", "-c", PROGRAM, str(cache), *map(str, paths)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as two:
        assert two.stdin
        assert two.stdout
        assert two.stdout.readline() == "ready\n"
        two.stdin.write("0\n1\n2\n3\n4\n")
        two.stdin.close()
        for least in range(5):
            found, said = look(paths, cache, threads=1, least=least)
            assert not said
            assert found.kept.pixels is not None
            for row, path in enumerate(paths):
                assert found.digests[row].tobytes() == xxh3_128_digest(path.read_bytes())
            assert (
                two.stdout.readline().strip() == hashlib.sha256(found.kept.pixels.data).hexdigest()
            )
    assert two.returncode == 0
    assert len(list(cache.iterdir())) == LOOKS
    assert not list(cache.glob(f"{STAGING_PREFIX}*"))


def test_threads_hand_over_in_order() -> None:
    def slow(number: int) -> int:
        time.sleep(0.01 * (number % 3 == 0))
        return number**2

    groups = [range(start, start + 3) for start in range(0, 30, 3)]
    for ahead in (0, 1, 5, 50):
        results = list(in_threads(slow, groups, threads=4, ahead=ahead))
        assert results == [[number**2 for number in group] for group in groups]


def test_threads_take_no_more_than_asked_for() -> None:
    taken: list[int] = []

    def groups() -> Iterator[list[int]]:
        for number in range(10):
            taken.append(number)
            yield [number]

    for number, _ in enumerate(in_threads(abs, groups(), threads=2, ahead=3)):
        assert len(taken) == min(number + 4, 10)


def test_what_a_thread_raises_comes_at_its_turn() -> None:
    results = in_threads(lambda k: 1 // k, [[2], [1], [0], [3]], threads=2, ahead=2)
    assert [next(results), next(results)] == [[0], [1]]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_work_given_up_is_not_begun() -> None:
    begun: list[int] = []
    go = threading.Event()

    def work(number: int) -> None:
        begun.append(number)
        go.wait()

    results = in_threads(work, [[], range(100)], threads=2, ahead=1)
    assert next(results) == []
    go.set()
    before = threading.active_count()
    results.close()  # type: ignore[attr-defined]
    assert threading.active_count() <= before - 1
    assert len(begun) < 100
