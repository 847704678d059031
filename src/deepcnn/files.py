"""Durable files: what stands under its final name is whole, whatever kills the process or the disk.

Every write of a checkpoint, a finished model or a downloaded file passes through here, so that the
tests can make any single one of these operations fail.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

STAGING_PREFIX = ".tmp-"
MANIFEST = "manifest.json"


class Damaged(Exception):
    """A sealed folder is not what was committed; the message says which file and how."""


def cache_folder() -> Path:
    """Where things that can be made again are kept: $DEEPCNN_CACHE or the platform's place."""
    from platformdirs import user_cache_dir

    return Path(os.environ.get("DEEPCNN_CACHE") or user_cache_dir("deepcnn"))


def write_synced(path: Path, content: bytes) -> None:
    """Write `content` to a new file and force it to the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Force the names inside `folder` to the disk, so that a rename outlives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: bytes) -> None:
    """Make `path` hold `content`, or leave what stood there; never anything between."""
    staging = _staging_name(path)
    try:
        write_synced(staging, content)
        os.replace(staging, path)
    except BaseException:
        staging.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def commit_folder(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Make `folder` appear with all of `contents` (file name -> bytes) and a manifest of their
    SHA-256, or not at all. Raises OSError where something of that name holds files already.
    """
    with _staged(folder, contents) as staging:
        os.rename(staging, folder)


def replace_folder(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Like `commit_folder`, but what stood there goes once the new folder has its name, not before.

    Killed between the two renames it leaves neither under that name; a failing disk leaves the old.
    """
    if not folder.exists():
        commit_folder(folder, contents)
        return
    former = _staging_name(folder)
    with _staged(folder, contents) as staging:
        os.rename(folder, former)
        try:
            os.rename(staging, folder)
        except BaseException:
            os.rename(former, folder)
            raise
    shutil.rmtree(former, ignore_errors=True)


@contextmanager
def _staged(folder: Path, contents: Mapping[str, bytes]) -> Iterator[Path]:
    """A folder beside `folder` with `contents`, forced to the disk and read back, to be renamed."""
    staging = _staging_name(folder)
    try:
        os.mkdir(staging)
        for name, content in contents.items():
            write_synced(staging / name, content)
        write_synced(staging / MANIFEST, _manifest(contents))
        sync_folder(staging)
        read_folder(staging)
        yield staging
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    sync_folder(folder.parent)


def read_folder(folder: Path) -> dict[str, bytes]:
    """The files of a committed folder; Damaged unless every byte is as it was committed.

    Raises OSError where the disk does not answer, which says nothing about what is on it.
    """
    try:
        manifest = (folder / MANIFEST).read_bytes()
        names = json.loads(manifest)["files"].keys()
        contents = {name: (folder / name).read_bytes() for name in names}
    except FileNotFoundError as error:
        raise Damaged(f"{Path(error.filename).name} is missing") from error
    except (NotADirectoryError, IsADirectoryError) as error:
        raise Damaged(f"{Path(error.filename).name} is of another kind") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{MANIFEST} is not what was written ({error})") from error
    # The manifest is written in one way only, so a change anywhere in it shows here too.
    if _manifest(contents) != manifest:
        raise Damaged(_difference(contents, manifest))
    return contents


def remove_folder(folder: Path) -> None:
    """Remove `folder`; it loses its final name first, so that no half-removed folder keeps it."""
    doomed = _staging_name(folder)
    os.rename(folder, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def remove_staging(folder: Path) -> None:
    """Clear away what killed processes left half-written; the caller holds the folder's lock."""
    for leftover in folder.glob(f"{STAGING_PREFIX}*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def _staging_name(path: Path) -> Path:
    """A fresh name beside `path`, one that `remove_staging` knows."""
    return path.with_name(f"{STAGING_PREFIX}{uuid.uuid4().hex}")


def _manifest(contents: Mapping[str, bytes]) -> bytes:
    files = {
        name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in contents.items()
    }
    return json.dumps({"schema": 1, "files": files}, indent=1).encode()


def _difference(contents: Mapping[str, bytes], manifest: bytes) -> str:
    expected = json.loads(manifest)["files"]
    found = json.loads(_manifest(contents))["files"]
    for name, facts in found.items():
        if facts != expected[name]:
            kind = f"{facts['size']} bytes, SHA-256 {facts['sha256'][:12]}..."
            return f"{name} is not what was written: {kind} are not those of {MANIFEST}"
    return f"{MANIFEST} has been changed"
