"""Published files of weights in the caches of torchvision and timm: found there, or fetched.

What is in a cache is used without a word to the network, and verified each time: torchvision's
files have the beginning of their SHA-256 in their names, those of the Hugging Face hub are links
to files named by it.
"""

import hashlib
import os
import re
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import torch

from deepcnn import interrupt
from deepcnn.errors import ConfigError
from deepcnn.files import sync_folder
from deepcnn.models import zoo
from deepcnn.progress import FIRST_LINE_SECONDS, LINE_SECONDS, reported

CONNECT_SECONDS = 4.0  # until an answer begins: a machine without network says so within 5 s
STALL_SECONDS = 20.0  # without a byte
CHUNK = 1 << 18  # bytes


def torchvision_file(address: str) -> Path:
    """The file of this address in torch's cache.

    Raises ConfigError for a damaged one, and where it is not there and cannot be fetched.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / address.rpartition("/")[2]
    if not path.is_file():
        try:
            _download_once(address, path)
        except OSError as error:
            raise ConfigError(
                f"model.weights: {path} cannot be written ({error}); make room, or choose another "
                "folder with TORCH_HOME"
            ) from error
    verify(path)
    return path


def hub_file(repository: str, name: str) -> tuple[Path, str]:
    """A file in the cache of the Hugging Face hub, and its address.

    `repository` may end in @ and a revision. Raises ConfigError as `torchvision_file` does.
    """
    hub = zoo.load("huggingface_hub")
    repository, _, revision = repository.partition("@")
    where = {"repo_id": repository, "filename": name, "revision": revision or "main"}
    address = hub.hf_hub_url(**where)
    cached = hub.try_to_load_from_cache(**where)
    path = Path(cached) if isinstance(cached, str) else _from_hub(hub, address, where)
    # In the cache, the file is a link to one that is named by its SHA-256.
    expected = path.resolve().name
    if not re.fullmatch("[0-9a-f]{64}", expected):
        raise ConfigError(
            f"model.weights: {path} is kept without its SHA-256 and cannot be verified; if you "
            f"trust it, give its path: --model.weights {path}"
        )
    _require_hash(path.resolve(), expected)
    return path, address


def verify(path: Path) -> None:
    """Refuse a file of torchvision's unless its SHA-256 begins as its name ends."""
    _require_hash(path, _published_hash(path))


def _from_hub(hub: Any, address: str, where: dict[str, str]) -> Path:
    """Fetch a file of the hub into its cache."""
    by_hand = "put it on this machine and give its path: --model.weights FILE.safetensors"
    if hub.constants.HF_HUB_OFFLINE:
        raise _unavailable(address, "HF_HUB_OFFLINE is set", by_hand)
    with _network(address, by_hand):
        try:  # The hub's own client asks for most of a minute before it says that nobody answers.
            _open(Request(hub.constants.ENDPOINT, method="HEAD")).close()
        except HTTPError as error:
            error.close()  # it answers, which was the question
    bar = partial(zoo.load("tqdm").tqdm, delay=FIRST_LINE_SECONDS, mininterval=LINE_SECONDS)
    try:
        return Path(hub.hf_hub_download(**where, tqdm_class=bar))
    except hub.errors.RemoteEntryNotFoundError as error:
        raise ConfigError(
            f"model.weights: {where['repo_id']} has no {where['filename']}, and files of other "
            "kinds are not opened, because they can run code; choose other weights"
        ) from error
    except Exception as error:  # of the HTTP library, another one from version to version
        raise _unavailable(address, str(error).strip().partition("\n")[0], by_hand) from error


def _download_once(address: str, path: Path) -> None:
    """Bring a file of torchvision, unless another process does so meanwhile."""
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.is_file():
            _download(address, path)


def _download(address: str, path: Path) -> None:
    """Bring a file of torchvision; it gets its name when it is verified."""
    by_hand = f"put it into {path.parent}"
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as output:
            for piece in _pieces(address, by_hand):
                interrupt.check()
                output.write(piece)
            os.fsync(output.fileno())
        if not _sha256(part).startswith(_published_hash(path)):
            raise _unavailable(address, f"wrong content, SHA-256 {_sha256(part)}", by_hand)
        part.replace(path)
        sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def _pieces(address: str, by_hand: str) -> Iterator[bytes]:
    """Yield what an address gives, with a line on stderr now and then."""
    with _network(address, by_hand), _open(Request(address)) as response:
        length, received = response.length, 0
        if length is None:
            raise HTTPException("the answer does not say how long the file is")
        pieces = iter(partial(response.read, CHUNK), b"")
        for piece in reported(pieces, -(-length // CHUNK), address.rpartition("/")[2]):
            received += len(piece)
            yield piece
        if received < length:
            raise HTTPException(f"the connection closed after {received} of {length} bytes")


def _open(request: Request) -> HTTPResponse:
    """The answer to a request; TimeoutError unless it begins soon."""
    answer: Future[HTTPResponse] = Future()

    def ask() -> None:
        try:
            answer.set_result(urlopen(request, timeout=STALL_SECONDS))
        except Exception as error:
            answer.set_exception(error)

    # In a thread of its own, because a timeout of the socket bounds neither the look-up of the name
    # nor the sum over its numbers; a daemon, so that it cannot hold up the end of the program.
    threading.Thread(target=ask, daemon=True).start()
    try:
        return answer.result(CONNECT_SECONDS)
    except TimeoutError as error:
        if answer.done():
            raise
        answer.add_done_callback(_close_late)
        raise TimeoutError(f"no answer within {CONNECT_SECONDS:.0f} s") from error


def _close_late(answer: "Future[HTTPResponse]") -> None:
    late = answer.exception() or answer.result()
    if isinstance(late, HTTPError | HTTPResponse):
        late.close()


@contextmanager
def _network(address: str, by_hand: str) -> Iterator[None]:
    """Turn what the network may say into a ConfigError that a person can follow."""
    try:
        yield
    except HTTPError as error:
        error.close()
        raise _unavailable(address, f"HTTP {error.code} {error.reason}", by_hand) from error
    except URLError as error:
        raise _unavailable(address, str(error.reason), by_hand) from error
    except (OSError, HTTPException, ValueError) as error:
        raise _unavailable(address, str(error) or type(error).__name__, by_hand) from error


def _unavailable(address: str, reason: str, by_hand: str) -> ConfigError:
    return ConfigError(
        f"model.weights: cannot fetch {address.rpartition('/')[2]} from {address} ({reason}); try "
        f"again when the network is back, or fetch it elsewhere and {by_hand}"
    )


def _published_hash(path: Path) -> str:
    return path.stem.rpartition("-")[2]


def _require_hash(path: Path, expected: str) -> None:
    found = _sha256(path)
    if not found.startswith(expected):
        raise ConfigError(
            f"model.weights: {path} is damaged: its SHA-256 is {found}, expected {expected}; "
            "delete it and run the command again, which fetches it anew"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
