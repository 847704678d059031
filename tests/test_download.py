"""Downloads from real servers on this machine that break, lie, stall or are not there."""

import gc
import hashlib
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import platformdirs
import pytest

from deepcnn.data import catalog, download
from deepcnn.data.catalog import Entry
from deepcnn.data.download import RemoteFile, download_files
from deepcnn.errors import DataError

CONTENTS = {
    "one.gz": np.random.default_rng(1).bytes(700_000),
    "two.gz": np.random.default_rng(2).bytes(90_000),
}
FILES = tuple(
    RemoteFile(name, len(content), hashlib.sha256(content).hexdigest())
    for name, content in CONTENTS.items()
)
ONE, TWO = FILES
FIRST = CONTENTS["one.gz"]
TOY = Entry(FILES, (), "none", "https://example.org", ("a",), (0.5,), (0.5,), "idx")
LIMIT = 5.0  # seconds in which a machine without network must have said so


@dataclass
class Site:
    """A mirror and how it behaves; `cuts` are the bytes after which successive bodies end."""

    contents: dict[str, bytes]
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    stalls: bool = False  # at a cut, instead of closing the connection
    delay: float = 0.0  # seconds before an answer
    shift: int = 0  # bytes by which a resumed body begins too late
    address: str = ""
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)


class Handler(BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        site, name = self.site, self.path.lstrip("/")
        site.requests.append((name, self.headers["Range"]))
        time.sleep(site.delay)
        if name not in site.contents:
            self.send_error(404)
            return
        if (start := self.start()) > len(site.contents[name]):
            self.send_error(416)
            return
        body = self.begin(site.contents[name], start)
        cut = site.cuts.pop(0) if site.cuts else len(body)
        self.wfile.write(body[:cut])
        if site.stalls and cut < len(body):
            site.released.wait(30)

    def start(self) -> int:
        """Read where the body shall begin."""
        asked = self.headers["Range"] if self.site.ranges else None
        return int(asked.removeprefix("bytes=").removesuffix("-")) + self.site.shift if asked else 0

    def begin(self, content: bytes, start: int) -> bytes:
        """Send the headers and return the body that they announce."""
        if start:
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        return content[start:]

    def log_message(self, *_: object) -> None:
        """Keep the output of the tests clean."""


class Server(ThreadingHTTPServer):
    """One that does not mind clients which went away."""

    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the tests away from this machine's proxies, data and cache."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("DEEPCNN_DATA", raising=False)
    monkeypatch.delenv("DEEPCNN_CACHE", raising=False)
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name: str(tmp_path / "cache" / name))
    monkeypatch.setitem(catalog.CATALOG, "toy", TOY)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


class Web:
    """The mirrors of a test."""

    def __init__(self) -> None:
        self.servers: list[tuple[Server, Site]] = []

    def site(self, contents: dict[str, bytes] = CONTENTS, **behaviour: object) -> Site:
        site = Site(contents, **behaviour)  # type: ignore[arg-type]
        server = Server(("127.0.0.1", 0), type("", (Handler,), {"site": site}))
        site.address = f"http://127.0.0.1:{server.server_port}"
        # The default of half a second between looks would be added to every test.
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        self.servers.append((server, site))
        return site

    def close(self) -> None:
        for server, site in self.servers:
            site.released.set()
            server.shutdown()
            server.server_close()


@pytest.fixture
def web() -> Iterator[Web]:
    web = Web()
    yield web
    web.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "root" / "toy"
    folder.mkdir(parents=True)
    return folder


def held(folder: Path) -> dict[str, bytes]:
    """What stands in a folder, but for the lock."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def refusal(folder: Path, *mirrors: str) -> str:
    """What the DataError of a download of one.gz says."""
    with pytest.raises(DataError) as caught:
        download_files("toy", [ONE], mirrors, folder)
    return str(caught.value)


def closed_port() -> str:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}"


@pytest.fixture
def black_hole() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(16)
        yield f"http://127.0.0.1:{silent.getsockname()[1]}"


def test_all_files_arrive_with_a_word_on_stderr(
    web: Web, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = web.site()
    found = catalog.fetch("toy", tmp_path / "root", [f"{site.address}/"])
    folder = tmp_path / "root" / "toy"
    assert found == {name: folder / name for name in CONTENTS}
    assert held(folder) == CONTENTS
    assert site.requests == [("one.gz", None), ("two.gz", None)]
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        f"downloading toy into {folder}",
        "one.gz: 0.7 of 0.7 MB",
        "two.gz: 0.1 of 0.1 MB",
    ]
    assert catalog.fetch("toy", tmp_path / "root", [site.address]) == found
    assert len(site.requests) == 2, "what is there is not asked for again"


def test_a_long_download_tells_the_time_left(
    web: Web, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "LINE_SECONDS", 0.0)
    monkeypatch.setattr(download, "CHUNK", 100_000)
    download_files("toy", [ONE], [web.site().address], folder)
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"one\.gz: 0\.\d of 0\.7 MB, [\d.]+ s left", lines[1])


def test_a_terminal_shows_a_bar(
    web: Web, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # how rich is told that this is a terminal
    download_files("toy", [ONE], [web.site().address], folder)
    assert "━" in capsys.readouterr().err
    assert held(folder) == {"one.gz": FIRST}


def test_only_missing_files_are_asked_for(web: Web, folder: Path) -> None:
    site = web.site()
    (folder / "one.gz").write_bytes(FIRST)
    catalog.fetch("toy", folder.parent, [site.address])
    assert site.requests == [("two.gz", None)]


def test_a_cut_connection_is_taken_up_where_it_broke(web: Web, folder: Path) -> None:
    site = web.site(cuts=[100_000, 250_000])
    download_files("toy", [ONE], [site.address], folder)
    assert site.requests == [
        ("one.gz", None),
        ("one.gz", "bytes=100000-"),
        ("one.gz", "bytes=350000-"),
    ]
    assert held(folder) == {"one.gz": FIRST}


def test_a_later_download_goes_on_from_what_an_earlier_one_left(web: Web, folder: Path) -> None:
    failing = web.site(cuts=[100_000, 0])
    assert "closed after 0 of 600000 bytes" in refusal(folder, failing.address)
    assert held(folder) == {"one.gz.part": FIRST[:100_000]}
    site = web.site()
    download_files("toy", [ONE], [site.address], folder)
    assert site.requests == [("one.gz", "bytes=100000-")]
    assert held(folder) == {"one.gz": FIRST}


def test_the_next_mirror_goes_on_where_the_first_broke(web: Web, folder: Path) -> None:
    failing, site = web.site(cuts=[100_000, 0]), web.site()
    download_files("toy", [ONE], [failing.address, site.address], folder)
    assert site.requests == [("one.gz", "bytes=100000-")]
    assert held(folder) == {"one.gz": FIRST}


def test_a_connection_that_breaks_forever_is_given_up(web: Web, folder: Path) -> None:
    site = web.site(cuts=[10] * 100)
    assert "broke 5 times" in refusal(folder, site.address)
    assert held(folder) == {"one.gz.part": FIRST[:50]}


def test_a_server_without_ranges_starts_over(web: Web, folder: Path) -> None:
    site = web.site(ranges=False, cuts=[100_000])
    download_files("toy", [ONE], [site.address], folder)
    assert site.requests == [("one.gz", None), ("one.gz", "bytes=100000-")]
    assert held(folder) == {"one.gz": FIRST}


def test_a_range_that_was_not_asked_for_is_refused(web: Web, folder: Path) -> None:
    (folder / "one.gz.part").write_bytes(FIRST[:1_000])
    site = web.site(shift=7)
    assert "offered 'bytes 1007-699999/700000'" in refusal(folder, site.address)
    assert held(folder) == {"one.gz.part": FIRST[:1_000]}


@pytest.mark.parametrize("left", [b"rubbish", FIRST[:-1] + b"?", FIRST + b"more", b""])
def test_rubbish_left_by_an_earlier_attempt_does_no_harm(
    web: Web, folder: Path, left: bytes
) -> None:
    (folder / "one.gz.part").write_bytes(left)
    download_files("toy", [ONE], [web.site().address], folder)
    assert held(folder) == {"one.gz": FIRST}


def test_a_whole_part_needs_no_network(folder: Path) -> None:
    (folder / "one.gz.part").write_bytes(FIRST)
    download_files("toy", [ONE], [closed_port()], folder)
    assert held(folder) == {"one.gz": FIRST}


WRONG = {"one.gz": FIRST[:-1] + b"?"}


def test_wrong_bytes_are_thrown_away_and_the_next_mirror_asked(web: Web, folder: Path) -> None:
    liar, site = web.site(WRONG), web.site()
    download_files("toy", [ONE], [liar.address, site.address], folder)
    assert site.requests == [("one.gz", None)], "nothing of the wrong bytes was kept"
    assert held(folder) == {"one.gz": FIRST}


def test_wrong_bytes_everywhere_leave_nothing(web: Web, folder: Path) -> None:
    liars = [web.site(WRONG).address, web.site(WRONG).address]
    message = refusal(folder, *liars)
    assert held(folder) == {}
    assert message.count("wrong content") == 2
    for word in (*liars, ONE.sha256, hashlib.sha256(WRONG["one.gz"]).hexdigest()):
        assert word in message


def test_a_page_in_place_of_the_file_is_not_even_read(web: Web, folder: Path) -> None:
    portal = web.site({"one.gz": b"<html>please log in</html>"})
    assert "offers 26 bytes, expected 700000" in refusal(folder, portal.address)
    assert held(folder) == {}


def test_a_file_that_no_mirror_has_is_named(web: Web, folder: Path) -> None:
    site = web.site({"one.gz": FIRST})
    with pytest.raises(DataError, match="HTTP 404") as caught:
        download_files("toy", FILES, [site.address], folder)
    assert held(folder) == {"one.gz": FIRST}
    assert f"put two.gz from {site.address} into {folder}" in str(caught.value)


def test_no_network_is_said_at_once_and_what_to_do(folder: Path) -> None:
    mirrors = [closed_port(), closed_port()]
    began = time.monotonic()
    with pytest.raises(DataError) as caught:
        catalog.fetch("toy", folder.parent, mirrors)
    assert time.monotonic() - began < LIMIT
    message = str(caught.value)
    for word in (*mirrors, "one.gz, two.gz", "Connection refused", str(folder)):
        assert word in message
    assert held(folder) == {}


def test_silent_servers_are_given_up_within_the_limit(folder: Path, black_hole: str) -> None:
    began = time.monotonic()
    message = refusal(folder, black_hole, black_hole, black_hole)
    assert time.monotonic() - began < LIMIT
    assert message.count("no answer within") == 3
    assert held(folder) == {}


def test_an_answer_that_comes_too_late_is_closed(
    web: Web, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "CONNECT_SECONDS", 0.4)
    late = [web.site(delay=0.3), web.site({}, delay=0.3)]
    site = web.site()
    mirrors = [*(site.address for site in late), site.address]
    download_files("toy", [ONE], mirrors, folder)
    assert held(folder) == {"one.gz": FIRST}
    time.sleep(0.4)
    gc.collect()  # would warn of a connection left open


def test_a_stalled_body_is_taken_up_again(
    web: Web, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "STALL_SECONDS", 0.3)
    site = web.site(cuts=[100_000], stalls=True)
    began = time.monotonic()
    download_files("toy", [ONE], [site.address], folder)
    assert time.monotonic() - began < LIMIT
    assert site.requests[1] == ("one.gz", "bytes=100000-")
    assert held(folder) == {"one.gz": FIRST}


@pytest.mark.parametrize("address", ["no address", "gopher://127.0.0.1", "http://[", "http://\n"])
def test_a_bad_address_is_one_more_reason(folder: Path, address: str) -> None:
    assert "one.gz" in refusal(folder, address)


def test_a_disk_that_refuses_is_not_blamed_on_the_network(web: Web, folder: Path) -> None:
    (folder / "one.gz.part").mkdir()
    message = refusal(folder, web.site().address)
    assert message.startswith(f"cannot write one.gz into {folder}")
    assert "--data.root" in message


def test_files_go_to_the_first_folder_that_takes_them(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirrors = [web.site().address]
    obstacle = tmp_path / "file"
    obstacle.touch()
    monkeypatch.setenv("DEEPCNN_DATA", str(tmp_path / "variable"))
    found = catalog.fetch("toy", obstacle / "root", mirrors)
    assert found["one.gz"] == tmp_path / "variable" / "toy" / "one.gz"
    monkeypatch.setenv("DEEPCNN_DATA", str(obstacle))
    found = catalog.fetch("toy", "", mirrors)
    assert found["one.gz"] == tmp_path / "cache" / "deepcnn" / "datasets" / "toy" / "one.gz"
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda _: str(obstacle))
    with pytest.raises(DataError, match=r"no folder to download toy into .*--data\.root"):
        catalog.fetch("toy", "", mirrors)


FETCH = """
import sys
from deepcnn.data import catalog
from deepcnn.data.download import RemoteFile
root, mirror, *facts = sys.argv[1:]
rows = zip(facts[0::3], map(int, facts[1::3]), facts[2::3])
files = tuple(RemoteFile(*row) for row in rows)
catalog.CATALOG["toy"] = catalog.Entry(files, (), "", "", ("a",), (0.5,), (0.5,), "idx")
catalog.fetch("toy", root, [mirror])
"""


def fetching(root: Path, mirror: str) -> "subprocess.Popen[bytes]":
    """Another process that fetches the toy data set."""
    facts = [str(fact) for file in FILES for fact in (file.name, file.size, file.sha256)]
    command = [sys.executable, "-c", FETCH, str(root), mirror, *facts]
    return subprocess.Popen(command, stderr=subprocess.PIPE)


def test_two_processes_at_once_share_one_download(web: Web, folder: Path) -> None:
    site = web.site(delay=0.5)
    processes = [fetching(folder.parent, site.address) for _ in range(2)]
    errors = [process.communicate(timeout=20)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert site.requests == [("one.gz", None), ("two.gz", None)]
    assert held(folder) == CONTENTS


def test_a_killed_process_leaves_a_part_that_the_next_one_completes(web: Web, folder: Path) -> None:
    stalling = web.site(cuts=[300_000], stalls=True)
    process = fetching(folder.parent, stalling.address)
    part = folder / "one.gz.part"
    deadline = time.monotonic() + 15
    while not (part.exists() and part.stat().st_size >= 200_000):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.communicate()
    (left,) = held(folder).items()
    assert left[0] == "one.gz.part"
    assert FIRST.startswith(left[1])
    site = web.site()
    catalog.fetch("toy", folder.parent, [site.address])
    assert site.requests[0] == ("one.gz", f"bytes={len(left[1])}-")
    assert held(folder) == CONTENTS
