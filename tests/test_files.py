import os
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcnn import files
from deepcnn.files import (
    Damaged,
    commit_folder,
    read_folder,
    remove_folder,
    remove_staging,
    replace_file,
    replace_folder,
)

CONTENTS = {"weights": bytes(range(256)), "meta.json": b"{}", "empty": b"", "\u00e9.txt": b"accent"}
NAMES = [*CONTENTS, "manifest.json"]
# What any write consists of; each of them may fail.
OPERATIONS = ("fsync", "mkdir", "open", "rename", "replace")

names = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=12)
contents = st.dictionaries(
    names.filter(lambda name: name not in (".", "..", "manifest.json")),
    st.binary(max_size=40),
    max_size=4,
)


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files") / "step"
    commit_folder(folder, CONTENTS)
    return folder


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def changed(folder: Path, name: str, content: bytes) -> Iterator[None]:
    """The folder with other bytes in one file."""
    before = (folder / name).read_bytes()
    assert content != before
    (folder / name).write_bytes(content)
    try:
        yield
    finally:
        (folder / name).write_bytes(before)


@settings(deadline=None, max_examples=30)
@given(contents)
def test_a_folder_gives_back_what_was_committed(contents: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as parent:
        commit_folder(Path(parent) / "step", contents)
        assert read_folder(Path(parent) / "step") == contents
        assert listing(Path(parent)) == ["step"]


@settings(deadline=None, max_examples=200)
@given(name=st.sampled_from(NAMES), place=st.integers(0, 2**20), change=st.integers(1, 255))
def test_a_change_of_any_byte_is_found(committed: Path, name: str, place: int, change: int) -> None:
    content = bytearray((committed / name).read_bytes() or b"\0")
    content[place % len(content)] ^= change
    with changed(committed, name, bytes(content)), pytest.raises(Damaged):
        read_folder(committed)


@settings(deadline=None, max_examples=60)
@given(name=st.sampled_from(NAMES), content=st.binary(max_size=300), data=st.data())
def test_other_contents_are_found(
    committed: Path, name: str, content: bytes, data: st.DataObject
) -> None:
    before = (committed / name).read_bytes()
    cut = data.draw(st.integers(0, len(before)))
    for other in {content, before + content, before[:cut], before[:cut] + content} - {before}:
        with changed(committed, name, other), pytest.raises(Damaged):
            read_folder(committed)


def test_messages_say_which_file_and_how(committed: Path, tmp_path: Path) -> None:
    with changed(committed, "weights", b"short"), pytest.raises(Damaged) as damage:
        read_folder(committed)
    for part in ("weights is not what was written", "5 bytes, SHA-256 "):
        assert part in str(damage.value)
    renumbered = (committed / "manifest.json").read_bytes().replace(b'"schema": 1', b'"schema": 2')
    with (
        changed(committed, "manifest.json", renumbered),
        pytest.raises(Damaged, match=r"^manifest\.json has been changed$"),
    ):
        read_folder(committed)
    with pytest.raises(Damaged, match=r"^manifest\.json is missing$"):
        read_folder(tmp_path / "nowhere")


def test_a_manifest_of_another_shape_is_found(committed: Path) -> None:
    listed = b'{"schema": 1, "files": ["weights"]}'
    with changed(committed, "manifest.json", listed), pytest.raises(Damaged):
        read_folder(committed)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    commit_folder(tmp_path / "step", CONTENTS)
    (tmp_path / "step" / name).unlink()
    with pytest.raises(Damaged, match=f"^{name} is missing$"):
        read_folder(tmp_path / "step")


@pytest.mark.parametrize("one", NAMES[:3])
def test_files_that_changed_places_are_found(one: str, committed: Path) -> None:
    other = (committed / "\u00e9.txt").read_bytes()
    with (
        changed(committed, "\u00e9.txt", (committed / one).read_bytes()),
        changed(committed, one, other),
        pytest.raises(Damaged),
    ):
        read_folder(committed)


class Fault:
    """Lets the operations of `deepcnn.files` pass but for number `fatal`, which raises `error`."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, fatal: int, error: type[BaseException]
    ) -> None:
        self.count, self.fatal, self.error = 0, fatal, error
        for name in OPERATIONS:
            owner = Path if name == "open" else os
            monkeypatch.setattr(owner, name, self.wrap(getattr(owner, name)))

    def wrap(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            if self.count == self.fatal:
                raise self.error(28, "No space left on device")
            return operation(*arguments, **options)

        return wrapped


errors = pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])


def outcomes(
    monkeypatch: pytest.MonkeyPatch, error: type[BaseException], write: Callable[[], None]
) -> Iterator[bool]:
    """Let each operation of `write` fail in turn; yield whether all went well this time."""
    for fatal in range(1, 100):
        with monkeypatch.context() as patch:
            fault = Fault(patch, fatal, error)
            # An error while it is read back says that the folder cannot be trusted.
            with suppress(error, Damaged):
                write()
        yield fault.count < fatal
        if fault.count < fatal:
            return


@errors
def test_a_folder_appears_whole_or_not_at_all(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "step"
    seen = []
    for succeeded in outcomes(monkeypatch, error, lambda: commit_folder(folder, CONTENTS)):
        assert listing(tmp_path) in ([], ["step"])
        if folder.exists():
            assert read_folder(folder) == CONTENTS
            remove_folder(folder)
        seen.append(succeeded)
    assert seen[-1]
    assert len(seen) > 2 * len(NAMES)  # each file is opened and synced, at least


@errors
def test_a_folder_holds_the_old_or_the_new(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "step"
    commit_folder(folder, CONTENTS)
    held = []
    for succeeded in outcomes(monkeypatch, error, lambda: replace_folder(folder, {"new": b""})):
        remove_staging(tmp_path)  # a failing disk may keep what was replaced
        assert listing(tmp_path) == ["step"]
        held.append(read_folder(folder))
        assert held[-1] in ([{"new": b""}] if succeeded else [CONTENTS, {"new": b""}])
        remove_folder(folder)
        commit_folder(folder, CONTENTS)
    assert held[0] == CONTENTS
    assert held[-1] == {"new": b""}


@errors
def test_a_file_holds_the_old_or_the_new(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(b"old")
    held = []
    for succeeded in outcomes(monkeypatch, error, lambda: replace_file(file, b"new")):
        assert listing(tmp_path) == ["config.json"]
        held.append(file.read_bytes())
        assert held[-1] in ([b"new"] if succeeded else [b"old", b"new"])
        file.write_bytes(b"old")
    assert held[0] == b"old"
    assert held[-1] == b"new"


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """A disk on which a file may have `room` bytes: a write stops there with an OSError."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("room", [0, 1, 50_000, 99_999])
def test_a_full_disk_leaves_nothing_half_written(room: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with full_disk(room), pytest.raises(OSError, match="File too large"):
        replace_file(tmp_path / "file", b"new" * 100_000)
    with full_disk(room), pytest.raises(OSError, match="File too large"):
        commit_folder(tmp_path / "step", {"small": b"", "large": b"new" * 100_000})
    assert listing(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_everything_is_on_the_disk_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are told by their inode, which a rename does not change."""
    synced: list[int] = []
    named: list[int] = []  # how many syncs came before each new name

    def recorded(operation: Callable[..., None], note: Callable[..., None]) -> Callable[..., None]:
        def noted(*arguments: Any) -> None:
            note(*arguments)
            operation(*arguments)

        return noted

    fsync = recorded(os.fsync, lambda file: synced.append(os.fstat(file).st_ino))
    monkeypatch.setattr(os, "fsync", fsync)
    for name in ("rename", "replace"):
        renamed = recorded(getattr(os, name), lambda *_: named.append(len(synced)))
        monkeypatch.setattr(os, name, renamed)
    commit_folder(tmp_path / "step", CONTENTS)
    replace_file(tmp_path / "config.json", b"{}")

    parent, folder = tmp_path.stat().st_ino, tmp_path / "step"
    files_of_folder = {path.stat().st_ino for path in (folder, *folder.iterdir())}
    first, second = named
    assert set(synced[:first]) == files_of_folder
    assert synced[first:] == [parent, (tmp_path / "config.json").stat().st_ino, parent]
    assert second == first + 2


def test_a_disk_that_gives_back_something_else_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lossy(path: Path, content: bytes) -> None:
        path.write_bytes(content.replace(b"accent", b"acc\0nt"))

    monkeypatch.setattr(files, "write_synced", lossy)
    with pytest.raises(Damaged, match="txt is not what was written"):
        commit_folder(tmp_path / "step", CONTENTS)
    assert list(tmp_path.iterdir()) == []


def test_a_committed_folder_is_not_overwritten(committed: Path) -> None:
    with pytest.raises(OSError, match="not empty"):
        commit_folder(committed, {"other": b""})
    assert read_folder(committed) == CONTENTS
    assert listing(committed.parent) == ["step"]


def test_a_folder_loses_its_name_before_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(folder: Path, **_: object) -> None:
        raise KeyboardInterrupt

    commit_folder(tmp_path / "step", CONTENTS)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            remove_folder(tmp_path / "step")
    assert not (tmp_path / "step").exists()
    remove_staging(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_killed_processes_left_is_cleared_and_nothing_else(tmp_path: Path) -> None:
    commit_folder(tmp_path / "step", CONTENTS)
    replace_file(tmp_path / "config.json", b"{}")
    (tmp_path / ".tmp-file").write_bytes(b"half")
    (tmp_path / ".tmp-folder").mkdir()
    (tmp_path / ".tmp-folder" / "weights").write_bytes(b"half")
    (tmp_path / "other.tmp-").touch()
    remove_staging(tmp_path)
    assert listing(tmp_path) == ["config.json", "other.tmp-", "step"]
    assert read_folder(tmp_path / "step") == CONTENTS
