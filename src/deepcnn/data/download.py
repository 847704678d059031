"""Files from the network: taken up where they broke off, verified, and whole or absent.

A file grows as `NAME.part` and gets its name only when its size and SHA-256 are right, so a broken
connection, a killed process or a lying server never leaves a wrong file under a final name.
"""

import hashlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from deepcnn import interrupt
from deepcnn.errors import DataError
from deepcnn.files import sync_folder

# Shared by the addresses of a file, so that a machine without network says so within 5 s.
CONNECT_SECONDS = 4.0
STALL_SECONDS = 20.0  # without a byte
ATTEMPTS = 5  # at one address, each of which must have brought the file forward
CHUNK = 1 << 18  # bytes
LINE_SECONDS = 5.0  # between two lines of progress where there is no terminal


@dataclass(frozen=True)
class RemoteFile:
    """A published file: `size` in bytes, `sha256` in hexadecimal."""

    name: str
    size: int
    sha256: str


class _TransferError(Exception):
    """Why one address did not give the file."""


def download_files(
    name: str, files: Sequence[RemoteFile], mirrors: Sequence[str], folder: Path
) -> None:
    """Put the `files` of data set `name` into `folder`, from the first of `mirrors` that has them.

    The caller holds the folder's lock.
    """
    if files:
        sys.stderr.write(f"downloading {name} into {folder}\n")
    for position, file in enumerate(files):
        try:
            reasons = _from_any(file, mirrors, folder)
        except OSError as error:
            raise DataError(
                f"cannot write {file.name} into {folder} ({error}); make room or choose another "
                "folder with --data.root or DEEPCNN_DATA"
            ) from error
        if reasons:
            raise _unavailable(name, files[position:], mirrors, folder, reasons)


def verify(name: str, file: RemoteFile, path: Path) -> None:
    """Refuse `path` unless it is, byte for byte, what was published as `file` of `name`."""
    try:
        size, digest = path.stat().st_size, sha256(path)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error}); expected the {file.name} of {name}; move it away"
        ) from error
    if (size, digest) != (file.size, file.sha256):
        raise DataError(
            f"{path} is not the {file.name} of {name}: it has {size} bytes and SHA-256 {digest}, "
            f"expected {file.size} bytes and {file.sha256}; delete it or move it away and run "
            f"`deepcnn data fetch {name}` again"
        )


def sha256(path: Path) -> str:
    """Compute the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _from_any(file: RemoteFile, mirrors: Sequence[str], folder: Path) -> list[str]:
    """Bring `file` from some mirror and return nothing, or else one reason for each address."""
    reasons = []
    part = folder / f"{file.name}.part"
    for mirror in mirrors:
        address = f"{mirror.rstrip('/')}/{file.name}"
        try:
            _complete(part, address, file, CONNECT_SECONDS / len(mirrors))
        except _TransferError as error:
            reasons.append(f"{address}: {error}")
            continue
        _commit(part, folder / file.name)
        return []
    return reasons


def _commit(part: Path, path: Path) -> None:
    """Give a finished file its final name, both forced to the disk."""
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(path)
    sync_folder(path.parent)


def _complete(part: Path, address: str, file: RemoteFile, patience: float) -> None:
    """Make `part` hold the verified content of `file`, going on from what it holds already."""
    for _ in range(ATTEMPTS):
        start = _size(part)
        try:
            _append(part, address, file, start, patience)
        except _TransferError:
            if _size(part) <= start:
                raise
            continue
        found = sha256(part)
        if found == file.sha256:
            return
        part.unlink()
        if start == 0:
            raise _TransferError(f"wrong content (SHA-256 {found}, expected {file.sha256})")
        # The fault may lie in what an earlier attempt left: once more from the first byte.
    raise _TransferError(f"the connection broke {ATTEMPTS} times")


def _append(part: Path, address: str, file: RemoteFile, start: int, patience: float) -> None:
    """Bring the bytes of `file` from `start` on, or all where the server cannot begin there."""
    if start > file.size:
        part.unlink()
        start = 0
    if start == file.size:
        return
    with _open(address, start, patience) as response:
        resumed = response.status == HTTPStatus.PARTIAL_CONTENT
        start = start if resumed else 0
        _check_headers(response.headers, start, file.size, resumed)
        with part.open("ab" if resumed else "wb") as output, _progress(file, start) as report:
            for chunk in _chunks(response, file.size - start):
                output.write(chunk)
                report(output.tell())


def _open(address: str, start: int, patience: float) -> HTTPResponse:
    """Ask for the bytes from `start` on; an answer must begin within `patience` seconds."""
    headers = {"User-Agent": "deepcnn"} | ({"Range": f"bytes={start}-"} if start else {})
    answer: Future[HTTPResponse] = Future()
    # In a thread of its own, because a timeout of the socket bounds neither the look-up of the name
    # nor the sum over its numbers; a daemon, so that it cannot hold up the end of the program.
    threading.Thread(target=_ask, args=(answer, address, headers), daemon=True).start()
    with _network():
        try:
            return answer.result(patience)
        except TimeoutError:
            answer.add_done_callback(_close_late)
            raise _TransferError(f"no answer within {patience:.1f} s") from None


def _ask(answer: "Future[HTTPResponse]", address: str, headers: dict[str, str]) -> None:
    try:
        answer.set_result(urlopen(Request(address, headers=headers), timeout=STALL_SECONDS))
    except Exception as error:
        answer.set_exception(error)


def _close_late(answer: "Future[HTTPResponse]") -> None:
    late = answer.exception() or answer.result()
    if isinstance(late, HTTPError | HTTPResponse):
        late.close()


def _check_headers(headers: Message, start: int, size: int, resumed: bool) -> None:
    """Refuse what cannot be the file before a byte of it replaces what is there."""
    span = headers.get("Content-Range", "")
    if resumed and not span.startswith(f"bytes {start}-"):
        raise _TransferError(f"asked for the bytes from {start} on, was offered {span!r}")
    length = headers.get("Content-Length", str(size - start))
    if length != str(size - start):
        raise _TransferError(f"offers {length} bytes, expected {size - start}")


def _chunks(response: HTTPResponse, expected: int) -> Iterator[bytes]:
    """Yield `expected` bytes of the body, as they come."""
    received = 0
    while received < expected:
        interrupt.check()
        with _network():
            chunk = response.read1(min(CHUNK, expected - received))
        if not chunk:
            raise _TransferError(f"the connection closed after {received} of {expected} bytes")
        received += len(chunk)
        yield chunk


@contextmanager
def _network() -> Iterator[None]:
    """Turn what the network may say into a reason a person can read."""
    try:
        yield
    except HTTPError as error:
        error.close()
        raise _TransferError(f"HTTP {error.code} {error.reason}") from error
    except URLError as error:
        raise _TransferError(str(error.reason)) from error
    except (OSError, HTTPException, ValueError) as error:
        raise _TransferError(str(error) or type(error).__name__) from error


def _unavailable(
    name: str,
    files: Sequence[RemoteFile],
    mirrors: Sequence[str],
    folder: Path,
    reasons: Sequence[str],
) -> DataError:
    return DataError(
        f"cannot download {name} ({'; '.join(reasons)}); try again when the network is back, or "
        f"put {', '.join(file.name for file in files)} from {' or '.join(mirrors)} into {folder}"
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@contextmanager
def _progress(file: RemoteFile, start: int) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with the number of bytes that are there; it shows them on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(file, start)
        return
    text = TextColumn("{task.description}", markup=False)
    columns = (text, BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(file.name, total=file.size, completed=start)
        yield lambda present: bar.update(task, completed=present)


def _lines(file: RemoteFile, start: int) -> Callable[[int], None]:
    """Report progress as a plain line every few seconds, and one at the end."""
    from deepcnn.progress import duration

    began = last = time.monotonic()

    def report(present: int) -> None:
        nonlocal last
        now = time.monotonic()
        if present < file.size and now - last < LINE_SECONDS:
            return
        last = now
        left = (file.size - present) * (now - began) / (present - start)
        line = f"{file.name}: {present / 1e6:.1f} of {file.size / 1e6:.1f} MB"
        sys.stderr.write(f"{line}, {duration(left)} left\n" if left else f"{line}\n")

    return report
