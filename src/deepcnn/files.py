"""Durable files: what stands under its final name is whole, whatever kills the process or the disk.

Every write of a checkpoint, a finished model or a downloaded file passes through here, so that the
tests can make any single one of these operations fail.
"""

import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

STAGING_PREFIX = ".tmp-"


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
    staging = path.with_name(f"{STAGING_PREFIX}{uuid.uuid4().hex}")
    try:
        write_synced(staging, content)
        os.replace(staging, path)
    except BaseException:
        staging.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def commit_folder(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Make `folder` appear with all of `contents` (file name -> bytes), or not at all."""
    staging = folder.with_name(f"{STAGING_PREFIX}{uuid.uuid4().hex}")
    try:
        os.mkdir(staging)
        for name, content in contents.items():
            write_synced(staging / name, content)
        sync_folder(staging)
        os.rename(staging, folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    sync_folder(folder.parent)


def remove_folder(folder: Path) -> None:
    """Remove `folder`; it loses its final name first, so that no half-removed folder keeps it."""
    doomed = folder.with_name(f"{STAGING_PREFIX}{uuid.uuid4().hex}")
    os.rename(folder, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def remove_staging(folder: Path) -> None:
    """Clear away what killed processes left half-written; the caller holds the folder's lock."""
    for leftover in folder.glob(f"{STAGING_PREFIX}*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)
