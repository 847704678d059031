"""Disks that tear, flip, lose, refuse and fill up: no damaged checkpoint is ever used, no good one
is lost, and training goes on as long as it can.
"""

import errno
import functools
import io
import itertools
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deepcnn import checkpoint, files
from deepcnn.checkpoint import TrainState
from deepcnn.errors import DeepcnnError, RunError, SaveError
from deepcnn.files import MANIFEST
from deepcnn.optim import tensors
from faults import (
    SMALL,
    Settings,
    arguments_of,
    assert_whole,
    at_call,
    checkpoints,
    digest,
    last_step,
    leftovers,
    outcome,
    server,
    stop_early,
    train_here,
    write_images,
)

# Content that is not what was committed.

OLD, NEW = 1, 2  # steps of two checkpoints


def small_state(step: int) -> TrainState:
    """A few kilobytes of everything that a checkpoint holds, other values for another step."""
    torch.manual_seed(step)
    model = nn.Sequential(nn.Linear(24, 16), nn.BatchNorm1d(16))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(4, 24)).square().sum().backward()
    optimizer.step()
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    events = [{"event": "step", "step": number} for number in range(step)]
    return TrainState(model, optimizer, scaler, tensors(model), step=step, events=events)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for step in (OLD, NEW):
        checkpoint.save(tmp_path, small_state(step))
    return tmp_path


def newest(folder: Path) -> Path:
    return sorted(folder.glob("step-*"))[-1]


def content(state: TrainState) -> dict[str, bytes]:
    return checkpoint._to_files(state)


def assert_falls_back(folder: Path, story: str) -> None:
    """The older checkpoint is loaded, and the reason for passing over the newer one is given."""
    state, weight = erased()
    place, reasons = checkpoint.load_newest(folder, state)
    assert place == folder / f"step-{OLD:09d}", f"{story}: loaded {place}"
    assert state.step == OLD, story
    assert torch.equal(weight, weight_of(small_old())), story
    assert len(reasons) == 1, story
    assert reasons[0].startswith(f"passed over {newest(folder).name}: "), story


@functools.cache
def small_old() -> TrainState:
    return small_state(OLD)


@functools.cache
def small_target() -> TrainState:
    return small_state(0)


def erased() -> tuple[TrainState, Tensor]:
    """A state to load into, in which nothing is right, and its weights."""
    state = small_target()
    state.step = -1
    return state, weight_of(state).fill_(7.0)


def weight_of(state: TrainState) -> Tensor:
    return state.model.get_parameter("0.weight").detach()


def test_without_a_fault_the_newest_is_loaded(folder: Path) -> None:
    state = small_state(0)
    assert checkpoint.load_newest(folder, state) == (newest(folder), [])
    assert content(state) == content(small_state(NEW))


@pytest.mark.timeout(900)  # thousands of cuts, on a machine that may be busy
def test_cut_at_every_byte(folder: Path) -> None:
    for path in sorted(newest(folder).iterdir()):
        whole = path.read_bytes()
        for length in reversed(range(len(whole))):
            os.truncate(path, length)
            assert_falls_back(folder, f"{path.name} cut to {length} of {len(whole)} bytes")
        path.write_bytes(whole)


@pytest.mark.parametrize("number", [1_000, pytest.param(10_000, marks=pytest.mark.soak)])
def test_single_bits_flipped(number: int, folder: Path) -> None:
    chance = random.Random(number)
    paths = sorted(newest(folder).iterdir())
    sizes = [path.stat().st_size for path in paths]
    for path in chance.choices(paths, sizes, k=number):
        flip_and_check(folder, path, chance.randrange(8 * path.stat().st_size))


def test_every_bit_of_the_manifest_flipped(folder: Path) -> None:
    path = newest(folder) / MANIFEST
    for bit in range(8 * path.stat().st_size):
        flip_and_check(folder, path, bit)


def flip_and_check(folder: Path, path: Path, bit: int) -> None:
    flip(path, bit)
    assert_falls_back(folder, f"{path.name} with bit {bit} flipped")
    flip(path, bit)


def flip(path: Path, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(bit // 8)
        byte = file.read(1)[0]
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))


def test_blocks_zeroed_and_bytes_added(folder: Path) -> None:
    block = 256
    for path in sorted(newest(folder).iterdir()):
        whole = path.read_bytes()
        for start in range(0, len(whole), block):
            zeros = bytes(len(whole[start : start + block]))
            zeroed = whole[:start] + zeros + whole[start + block :]
            assert zeroed != whole
            path.write_bytes(zeroed)
            assert_falls_back(folder, f"{path.name} zeroed from {start}")
        for tail in (b"\0", b"\n", b" ", bytes(4096), whole):
            path.write_bytes(whole + tail)
            assert_falls_back(folder, f"{path.name} followed by {len(tail)} bytes")
        path.write_bytes(whole)


def test_files_swapped_and_from_the_other_checkpoint(folder: Path) -> None:
    paths = sorted(newest(folder).iterdir())
    contents = {path: path.read_bytes() for path in paths}
    for one, other in itertools.combinations(paths, 2):
        one.write_bytes(contents[other])
        other.write_bytes(contents[one])
        assert_falls_back(folder, f"{one.name} and {other.name} swapped")
        one.write_bytes(contents[one])
        other.write_bytes(contents[other])
    for path in paths:
        path.write_bytes((folder / f"step-{OLD:09d}" / path.name).read_bytes())
        assert_falls_back(folder, f"{path.name} from the other checkpoint")
        path.write_bytes(contents[path])


@pytest.mark.parametrize(
    "name", ["weights.safetensors", "state.safetensors", "meta.json", MANIFEST]
)
def test_file_missing_or_no_file(name: str, folder: Path) -> None:
    path = newest(folder) / name
    path.unlink()
    assert_falls_back(folder, f"{name} missing")
    path.mkdir()
    assert_falls_back(folder, f"{name} is a folder")
    path.rmdir()
    path.symlink_to(path.with_name("nothing"))
    assert_falls_back(folder, f"{name} leads nowhere")


def test_empty_folder_and_added_file(folder: Path) -> None:
    (newest(folder) / ".DS_Store").write_bytes(b"left by a file manager")
    state = small_state(0)
    assert checkpoint.load_newest(folder, state) == (newest(folder), [])
    assert content(state) == content(small_state(NEW))
    (folder / f"step-{NEW + 1:09d}").mkdir()
    reason = f"passed over step-{NEW + 1:09d}: {MANIFEST} is missing"
    assert checkpoint.load_newest(folder, state) == (folder / f"step-{NEW:09d}", [reason])


def test_nothing_is_loaded_when_all_are_damaged(folder: Path) -> None:
    for place in folder.iterdir():
        (place / "meta.json").write_bytes(b"{}")
    state = small_state(0)
    before = content(state)
    found = checkpoint.load_newest(folder, state)
    assert found[0] is None
    assert len(found[1]) == 2
    assert content(state) == before


# Operations that fail.

FEW: Settings = SMALL | {
    "data.validation": 0,
    "train.epochs": 1,
    "train.batch_size": 48,
    "train.ema": 0.9,
    "train.checkpoint_seconds": 0,
}
GATE_ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS)
SOAK_ERRORS = (errno.EDQUOT, errno.EINTR, errno.ESTALE, errno.EMFILE)
OPERATIONS = ("fsync", "replace", "rename", "mkdir", "open", "unlink", "remove", "rmdir")


class FailingDisk:
    """Counts the operations on files, once armed, and lets number `first` to `last` fail."""

    def __init__(self, error: int, first: float, last: float, run: Path) -> None:
        self.error, self.first, self.last, self.run = error, first, last, run
        self.disk = run.parents[2]  # with the images; the package lies on another one
        self.armed = False
        self.count = 0
        self.failed: list[str] = []
        self.newest = 0  # step of the newest checkpoint there was before the first failure

    def check(self, what: str) -> None:
        if not self.armed:
            return
        self.count += 1
        if not self.failed:
            self.newest = max(self.newest, last_step(self.run))
        if self.first <= self.count <= self.last:
            self.failed.append(what)
            raise OSError(self.error, os.strerror(self.error), what)

    def operation(self, name: str) -> Callable[..., Any]:
        original = getattr(os, name)

        @functools.wraps(original)
        def wrapper(*arguments: Any, **options: Any) -> Any:
            self.check(name)
            # Waiting for a real disk would take most of the time of these tests.
            return None if name == "fsync" else original(*arguments, **options)

        return wrapper

    def open(self, *arguments: Any, **options: Any) -> Any:
        if not Path(str(arguments[0])).is_relative_to(self.disk):
            return self._open(*arguments, **options)
        self.check("open")
        return FailingFile(self._open(*arguments, **options), self)

    _open = staticmethod(io.open)


class FailingFile:
    """A file whose reads, writes and flushes may fail; a failing write leaves half behind."""

    def __init__(self, file: Any, disk: FailingDisk) -> None:
        self._file, self._disk = file, disk

    def write(self, data: bytes) -> int:
        try:
            self._disk.check("write")
        except OSError:
            self._file.write(data[: len(data) // 2])
            raise
        return int(self._file.write(data))

    def read(self, *arguments: Any) -> Any:
        self._disk.check("read")
        return self._file.read(*arguments)

    def flush(self) -> None:
        self._disk.check("flush")
        self._file.flush()

    def __enter__(self) -> "FailingFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextmanager
def failing(disk: FailingDisk, from_start: bool = False) -> Iterator[FailingDisk]:
    """From the first update on, or before it, operations go through `disk`."""

    def switch() -> None:
        disk.armed = not from_start

    with pytest.MonkeyPatch.context() as patch:
        for name in OPERATIONS:
            patch.setattr(os, name, disk.operation(name))
        patch.setattr(io, "open", disk.open)
        at_call(torch.Tensor, "backward", 1, switch, patch.setattr)
        disk.armed = from_start
        yield disk
        disk.armed = False


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return FEW | {"data.name": str(write_images(tmp_path_factory.mktemp("data") / "images"))}


@pytest.fixture(scope="module")
def whole(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digest of a run on a good disk."""
    run = tmp_path_factory.mktemp("twin") / "run"
    train_here(settings, run)
    return digest(run)


def errors(*gate: int) -> list[Any]:
    """All of them as parameters; those that are not in the gate are for the soak."""
    return [
        pytest.param(
            error, id=errno.errorcode[error], marks=[] if error in gate else [pytest.mark.soak]
        )
        for error in GATE_ERRORS + SOAK_ERRORS
    ]


def numbered(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """1, 2, 3 ... with a run folder of its own for each."""
    for number in itertools.count(1):
        yield number, tmp_path / str(number) / "run"


def warnings_in(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith("warning: ")]


@pytest.mark.parametrize("error", errors(*GATE_ERRORS))
def test_one_operation_fails(
    error: int,
    settings: Settings,
    whole: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    warned = 0
    for number, run in numbered(tmp_path):
        capsys.readouterr()
        saved = True
        with failing(FailingDisk(error, number, number, run)) as disk:
            try:
                train_here(settings, run)
            except SaveError:
                saved = False
        if not disk.failed:
            break
        story = f"operation {number}, {disk.failed}"
        warnings = warnings_in(capsys.readouterr().err)
        assert len(warnings) <= 1, story
        warned += len(warnings)
        assert_whole(run)
        assert last_step(run) >= disk.newest, story
        if not saved:
            take_up(settings, run)
        assert outcome(run).items() <= whole.items(), story
        assert_tidy_when_taken_up(settings, run)
    assert number > 100
    assert warned > number / 2


def assert_tidy_when_taken_up(settings: Settings, run: Path) -> None:
    """What a failing removal has left goes away with the next command on the folder."""
    if leftovers(run):
        with pytest.raises(RunError, match="finished"):
            train_here(settings, run)
    assert not leftovers(run)


@pytest.mark.parametrize("error", errors(*GATE_ERRORS))
def test_all_operations_fail_from_one_on(
    error: int,
    settings: Settings,
    whole: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for number, run in numbered(tmp_path):
        capsys.readouterr()
        saved = True
        with failing(FailingDisk(error, number, float("inf"), run)) as disk:
            try:
                train_here(settings, run)
            except SaveError as failure:
                saved = False
                assert "could not be written" in str(failure)
                assert os.strerror(error) in str(failure)
        if not disk.failed:
            break
        story = f"operations from {number} on, first {disk.failed[0]}"
        warnings = warnings_in(capsys.readouterr().err)
        assert all(os.strerror(error) in line for line in warnings), story
        assert_whole(run)
        # Between the two renames that replace a checkpoint it has no name, nor gets one back.
        allowed = disk.newest - (disk.failed[0] == "rename")
        assert last_step(run) >= allowed, f"{story}: a good checkpoint was lost"
        if not saved:
            take_up(settings, run)
            assert digest(run) == whole, story
        assert_tidy_when_taken_up(settings, run)
    assert number > 100


def take_up(settings: Settings, run: Path) -> None:
    """The same command on a good disk. The model may be there, only not sure to survive a power
    cut, which was reason enough to report a failure.
    """
    with suppress(RunError):
        train_here(settings, run)


@pytest.mark.parametrize("error", errors(errno.EROFS))
@pytest.mark.parametrize("begun", [False, True], ids=["new", "begun"])
def test_set_up_fails_with_one_sentence(
    error: int, begun: bool, settings: Settings, whole: dict[str, str], tmp_path: Path
) -> None:
    half = tmp_path / "half"
    stop_early(settings, half, 1)
    for number, run in numbered(tmp_path):
        if begun:
            make_untidy(shutil.copytree(half, run))
        disk = FailingDisk(error, number, number, run)
        with suppress(DeepcnnError), failing(disk, from_start=True):
            train_here(settings, run)
        if not disk.failed:
            break
        take_up(settings, run)
        assert digest(run) == whole, f"operation {number}, {disk.failed}"
        assert not leftovers(run)
    assert number > 10


def make_untidy(run: Path) -> None:
    """Add what kills and bad disks leave: staged files and folders, a torn checkpoint."""
    shutil.copytree(checkpoints(run)[0], run / "checkpoints" / "step-000000002")
    (run / "checkpoints" / "step-000000002" / "meta.json").write_bytes(b"{")
    for folder in (run, run / "checkpoints"):
        (folder / f"{files.STAGING_PREFIX}folder").mkdir()
        (folder / f"{files.STAGING_PREFIX}folder" / "weights.safetensors").write_bytes(b"half")
    (run / f"{files.STAGING_PREFIX}file").write_bytes(b"half")


def test_checkpoints_that_cannot_be_read_now_are_not_removed(
    settings: Settings, whole: dict[str, str], tmp_path: Path
) -> None:
    """A disk that does not answer today may answer tomorrow; damaged content will not heal."""
    run = tmp_path / "run"
    stop_early(settings, run, 1)
    before = checkpoints(run)
    original = io.open

    def open_most(path: Any, *arguments: Any, **options: Any) -> Any:
        if "step-" in str(path):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return original(path, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(io, "open", open_most)
        with pytest.raises(RunError, match=os.strerror(errno.ESTALE)):
            train_here(settings, run)
    assert checkpoints(run) == before
    train_here(settings, run)
    assert digest(run) == whole


def test_checkpoint_of_another_version_is_left_alone(settings: Settings, tmp_path: Path) -> None:
    run = tmp_path / "run"
    stop_early(settings, run, 1)
    (place,) = checkpoints(run)
    contents = files.read_folder(place)
    contents["meta.json"] = json.dumps(json.loads(contents["meta.json"]) | {"schema": 99}).encode()
    files.remove_folder(place)
    files.commit_folder(place, contents)
    with pytest.raises(RunError, match="schema 99"):
        train_here(settings, run)
    assert files.read_folder(place) == contents


class FullStream(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_messages_that_cannot_be_written_do_not_stop_training(
    settings: Settings, whole: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", FullStream())
    train_here(settings, tmp_path / "run")
    assert digest(tmp_path / "run") == whole


@pytest.mark.parametrize("name", ["config.json", "environment.json"])
def test_torn_record_of_a_run_is_refused(name: str, settings: Settings, tmp_path: Path) -> None:
    run = tmp_path / "run"
    stop_early(settings, run, 1)
    record = (run / name).read_bytes()
    for length in range(0, len(record), 97):
        (run / name).write_bytes(record[:length])
        with pytest.raises(RunError, match=re.escape(str(run / name))):
            train_here(settings, run)


def test_damaged_newest_checkpoint_is_named_and_made_again(
    settings: Settings,
    whole: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    stop_early(settings, run, 1)
    make_untidy(run)
    train_here(settings, run)
    assert (
        "warning: passed over step-000000002: meta.json is not what was" in capsys.readouterr().err
    )
    assert digest(run) == whole


# A disk that is really full.

FULL: Settings = SMALL | {
    "model.name": "compact",
    "train.ema": 0.9,
    "train.checkpoint_seconds": 0,
}
WEIGHTS_BYTES = 530_000
STATE_BYTES = 1_050_000  # momentum and averaged weights
CHECKPOINT_BYTES = WEIGHTS_BYTES + STATE_BYTES


@pytest.fixture(scope="module")
def full(settings: Settings) -> Settings:
    return FULL | {"data.name": settings["data.name"]}


@pytest.fixture(scope="module")
def twin(full: Settings, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("full twin")
    assert server().run(arguments_of(full, folder / "run"), folder / "out.txt").code == 0
    return digest(folder / "run")


def assert_gets_over_it(run: Path, full: Settings, twin: dict[str, str], child: Any) -> None:
    """A full disk has cost neither the run nor its checkpoints, only time."""
    assert "Traceback" not in child.said()
    assert warnings_in(child.said())
    assert not leftovers(run)
    assert_whole(run)
    if child.code == 0:
        assert outcome(run).items() <= twin.items()
        return
    assert child.code == SaveError.exit_code
    assert "the finished model could not be written" in child.said()
    again = server().run(arguments_of(full, run), run.with_suffix(".again"))
    assert again.code == 0, again.said()
    assert digest(run) == twin


def limits() -> list[Any]:
    """Largest file that can be written; in the gate no more than the record and the picture."""
    soak = random.Random(0).sample(range(3_000, STATE_BYTES), 15)
    return [100_000, *(pytest.param(limit, marks=pytest.mark.soak) for limit in soak)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
@pytest.mark.parametrize("limit", limits())
def test_files_cannot_grow(
    limit: int, full: Settings, twin: dict[str, str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    child = server().run(arguments_of(full, run), tmp_path / "out.txt", "limit files", limit)
    assert child.code == (0 if limit > WEIGHTS_BYTES + 2_000 else 1), child.said()
    assert_gets_over_it(run, full, twin, child)


@pytest.fixture(scope="module")
def _small_disks(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = str(tmp_path_factory.mktemp("mount"))
    command = ["unshare", "--user", "--map-root-user", "--mount"]
    if not shutil.which("unshare"):
        pytest.skip("there is no program `unshare`, so no disk can be made")
    made = subprocess.run([*command, "mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True)
    if made.returncode:
        pytest.skip(f"no disk can be made here: {made.stderr.decode().strip()}")


def disks() -> list[Any]:
    """Size in checkpoints; the update from which on there is more room, 0: none."""
    soak = [(size / 10, more) for size in range(3, 18) for more in (0, 12)]
    return [(1.2, 0), (1.2, 12), *(pytest.param(*each, marks=pytest.mark.soak) for each in soak)]


@pytest.mark.usefixtures("_small_disks")
@pytest.mark.parametrize(("size", "more_at"), disks())
def test_disk_is_full(
    size: float, more_at: int, full: Settings, twin: dict[str, str], tmp_path: Path
) -> None:
    disk, run = tmp_path / "disk", tmp_path / "run"
    disk.mkdir()
    preparation = ("small disk", str(disk), int(size * CHECKPOINT_BYTES), str(run), more_at)
    out = tmp_path / "out.txt"
    child = server().run(arguments_of(full, disk), out, *preparation)
    if size > 1:
        assert last_step(run) == (1 if not more_at else 24)  # the old one stays, room is used
    assert_gets_over_it(run, full, twin, child)
