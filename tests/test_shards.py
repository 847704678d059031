"""Shards against Python's tarfile and GNU tar, against the published rule for keys, and damaged."""

import gzip
import hashlib
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from deepcnn import files, progress
from deepcnn.data import shards
from deepcnn.data.shards import (
    COLUMNS,
    SPLITS,
    ShardIndex,
    is_shards,
    pack,
    read_index,
    shard_order,
)
from deepcnn.data.tar import MEMBER, PICTURES, READ_LIMIT, read_samples
from deepcnn.errors import ConfigError, DataError

Members = Sequence[tuple[str, bytes]]
FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
PLAIN: Members = [("a.jpg", b"A" * 700), ("a.cls", b"1"), ("b.cls", b"0"), ("b.png", b"B")]
# The rule of the webdataset library (tariterators.base_plus_ext): key, then kind.
PUBLISHED = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
# Folders are emptied for each example, so that one may serve them all.
PROPERTY = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def header(
    name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, pax: dict[str, str] | None = None
) -> bytes:
    """The header of a member, with records of the pax format in front where there are any."""
    member = tarfile.TarInfo(name)
    member.size, member.type, member.pax_headers = size, kind, pax or {}
    return member.tobuf(tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


def archive(members: Members, layout: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar file as Python writes it."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=layout) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def write(folder: Path, **contents: bytes | Members) -> Path:
    """Shards NAME-0.tar in a new folder, from bytes or members."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in contents.items():
        whole = content if isinstance(content, bytes) else archive(content)
        (folder / f"{name.replace('_', '-')}.tar").write_bytes(whole)
    return folder


def fresh(folder: Path) -> ShardIndex:
    """The index of a folder, read without what is remembered of it."""
    cache = folder.with_name("fresh")
    shutil.rmtree(cache, ignore_errors=True)
    return read_index(folder, cache)


def picture(index: ShardIndex, position: int) -> bytes:
    return index.read(position)


def rows(index: ShardIndex) -> list[tuple[str, bytes, str]]:
    """Name, bytes and class of every picture."""
    return [
        (index.member(position), picture(index, position), index.classes[index.labels[position]])
        for position in range(len(index))
    ]


def refusal(call: Callable[[], object]) -> str:
    """What the DataError that `call` must raise says, which is one line."""
    with pytest.raises(DataError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def columns(index: ShardIndex) -> list[NDArray[np.generic]]:
    return [getattr(index, name) for name in COLUMNS]


def same(one: ShardIndex, other: ShardIndex) -> bool:
    pairs = zip(columns(one), columns(other), strict=True)
    return (one.files, one.classes) == (other.files, other.classes) and all(
        a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs
    )


words = st.text("ab\u00e9\u9ce5 -_'%", min_size=1, max_size=6)
folders = st.sampled_from(["", "./", "x/y.z/", "../", "/", "very/" + "long/" * 40])
contents = st.binary(max_size=1200)
labels = st.sampled_from(["cat", "dog", "\u9ce5"])


@st.composite
def samples(draw: st.DrawFn) -> tuple[list[tuple[str, bytes]], tuple[str, bytes, str]]:
    """Members of a sample in some order, and what must be read: name, bytes, class."""
    key = draw(folders) + draw(words)
    kind = draw(st.sampled_from(PICTURES))
    kind = draw(st.sampled_from([kind, kind.upper()]))
    content, label = draw(contents), draw(labels)
    other = "dog" if label == "cat" else "cat"
    texts = draw(
        st.sampled_from(
            [
                {"cls": label},
                {"cls": f" {label}\n", "json": json.dumps({"label": other})},
                {"json": json.dumps({"label": label, "box": [1, 2]}), "txt": other},
                {"CLS": label, "seg.png": "mask", "left.jpg": "eye", "": "nothing"},
            ]
        )
    )
    members = [(f"{key}.{kind}", content), *((f"{key}.{k}", t.encode()) for k, t in texts.items())]
    return draw(st.permutations(members)), (f"{key}.{kind}", content, label)


strays = st.sampled_from(["README", "docs/notes", ".hidden.jpg", "x/._a.jpg", "__meta__/a.jpg"])


@PROPERTY
@given(
    drawn=st.lists(samples(), min_size=1, max_size=5),
    stray=strays,
    layout=st.sampled_from(FORMATS[1:]),
    cut=st.integers(0, 5),
)
def test_what_tarfile_writes_is_found(
    tmp_path: Path,
    drawn: list[tuple[list[tuple[str, bytes]], tuple[str, bytes, str]]],
    stray: str,
    layout: int,
    cut: int,
) -> None:
    # Another letter in front, so that no key comes twice.
    drawn = [
        ([(f"{n}{name}", c) for name, c in members], (f"{n}{row[0]}", *row[1:]))
        for n, (members, row) in enumerate(drawn)
    ]
    parts = [
        archive([(stray, b"?"), *itertools.chain(*(members for members, _ in part))], layout)
        for part in (drawn[:cut], drawn[cut:])
    ]
    index = fresh(write(tmp_path / "set", train_0=parts[0], val_0=parts[1]))
    assert rows(index) == [row for _, row in drawn]
    assert index.classes == tuple(sorted({row[2] for _, row in drawn}))
    first = min(cut, len(drawn))
    expected = ["train"] * first + ["validation"] * (len(drawn) - first)
    assert [SPLITS[split] for split in index.splits] == expected
    places = []
    for number, path in enumerate(index.files):
        with tarfile.open(path) as tar:
            places += [
                (number, member.offset_data, member.size)
                for member in tar
                if member.name in {row[0] for _, row in drawn}
            ]
    found = zip(index.file, index.offset, index.size, strict=True)
    assert places == [tuple(map(int, place)) for place in found]


@settings(max_examples=300, deadline=None)
@given(name=st.text("a.\u00e9_/", min_size=1, max_size=12))
def test_keys_and_kinds_are_the_published_ones(name: str) -> None:
    # A hidden file is no sample here; the published rule takes `x/.jpg` for kind jpg of key `x/`.
    assume(not re.search(r"(^|/)\.[^/]*$", name) and not re.match(r"__[^/]*__(/|$)", name))
    expected = PUBLISHED.match(name)
    found = MEMBER.fullmatch(name)
    assert (found and found.groups()) == (expected and expected.groups())


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("0001.jpg", "0001"),
        ("n01440764/n01440764_10026.JPEG", "n01440764/n01440764_10026"),
        ("./0001.png", "./0001"),
        ("v1.2/0001.jpg", "v1.2/0001"),
        ("../../etc/passwd.jpg", "../../etc/passwd"),
        ("/etc/passwd.jpg", "/etc/passwd"),
        ("a\nb.jpg", "a\nb"),
        ("x" * 300 + ".jpg", "x" * 300),
        ("caf\u00e9/\u9ce5.webp", "caf\u00e9/\u9ce5"),
    ],
)
def test_keys_are_not_paths(tmp_path: Path, name: str, key: str) -> None:
    folder = write(tmp_path / "set", a_0=[(name, b"picture"), (f"{key}.cls", b"0")])
    (sample,) = read_samples(folder / "a-0.tar")
    assert (sample.key, sample.name) == (key, name)
    assert rows(fresh(folder)) == [(name, b"picture", "0")]
    written = {path.name for path in tmp_path.rglob("*.*")}
    assert written == {"a-0.tar", "index.json", "index.npz", "manifest.json"}


def test_names_in_illegal_utf8_are_kept(tmp_path: Path) -> None:
    for layout in FORMATS:
        whole = archive([("\udcff.jpg", b"p"), ("\udcff.cls", b"0")], layout)
        assert fresh(write(tmp_path / "set", a_0=whole)).member(0) == "\udcff.jpg"


@pytest.mark.skipif(not shutil.which("tar"), reason="no tar command")
@pytest.mark.parametrize("layout", ["gnu", "pax", "ustar", "v7", "oldgnu", "posix"])
def test_what_the_tar_command_writes_is_found(tmp_path: Path, layout: str) -> None:
    tree = {f"c{n}/{n:03}.{kind}": bytes([n]) * n * 97 for n in range(9) for kind in ("jpg",)}
    for name, content in tree.items():
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        path.with_suffix(".cls").write_text(f"{len(content)}\n")
    folder = write(tmp_path / "set")
    where = ["-C", str(tmp_path / "tree"), "."]
    command = ["tar", f"--format={layout}", "--sort=name", "-cf", f"{folder}/train-0.tar", *where]
    subprocess.run(command, check=True)
    found = {name.removeprefix("./"): (c, label) for name, c, label in rows(fresh(folder))}
    assert found == {name: (c, str(len(c))) for name, c in tree.items()}


CLS: Members = [("a.cls", b"0")]


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("a.jpg", b"A")], ["'a.jpg'", ".cls or .json"]),
        ([("a.jpg", b"A"), ("b.jpg", b"B"), *CLS], ["'a.jpg'", ".cls or .json"]),
        ([("a.jpg", b"A"), ("a.txt", b"text")], ["'a.jpg'", ".cls or .json"]),
        ([*CLS, ("b.jpg", b"B")], ["'a.cls'", "no picture"]),
        ([("a.json", b"{}"), ("a.left.jpg", b"B")], ["'a.json'", "no picture"]),
        ([*PLAIN, *PLAIN[:2]], ["'a.jpg'", "key of a sample before it"]),
        ([("a.jpg", b"A"), *CLS, ("a.png", b"B")], ["'a.jpg'", "'a.png'", "only one"]),
        ([("a.jpg", b"A"), *CLS, ("a.JPG", b"B")], ["'a.jpg'", "'a.JPG'", "only one"]),
        ([("a.jpg", b"A"), *CLS, *CLS], ["'a.cls'", "only one"]),
        ([("cat.1.jpg", b"A"), ("cat.2.jpg", b"B")], ["no pictures", "first dot"]),
        ([], ["no pictures"]),
    ],
)
def test_samples_that_are_not_whole_are_refused(
    tmp_path: Path, members: Members, words: list[str]
) -> None:
    folder = write(tmp_path / "set", train_0=members)
    message = refusal(lambda: fresh(folder))
    for word in [*words, str(folder)]:
        assert word in message


def test_a_sample_in_two_shards_is_refused(tmp_path: Path) -> None:
    cut = [PLAIN[:1], PLAIN[1:]]
    folder = write(tmp_path / "set", train_0=cut[0], train_1=cut[1])
    message = refusal(lambda: fresh(folder))
    assert f"{folder / 'train-0.tar'}: 'a.jpg'" in message
    assert "one shard" in message


def test_shards_number_their_samples_on_their_own(tmp_path: Path) -> None:
    index = fresh(write(tmp_path / "set", train_0=PLAIN, train_1=PLAIN, val_0=PLAIN))
    assert [index.member(i) for i in range(len(index))] == ["a.jpg", "b.png"] * 3
    assert index.labels.tolist() == [1, 0] * 3
    assert index.splits.tolist() == [1] * 4 + [2] * 2


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.cls", b""),
        ("a.cls", b" \n"),
        ("a.cls", b"\xff\xfe"),
        ("a.cls", b"9" * 5000),
        ("a.cls", b"x" * (READ_LIMIT + 1)),
        ("a.json", b""),
        ("a.json", b"{}"),
        ("a.json", b"[1]"),
        ("a.json", b"3"),
        ("a.json", b'{"label": true}'),
        ("a.json", b'{"label": null}'),
        ("a.json", b'{"label": -1}'),
        ("a.json", b'{"label": 1.0}'),
        ("a.json", b'{"label": " "}'),
        ("a.json", b'{"label": 1'),
        ("a.json", b"[" * 200_000),
    ],
)
def test_what_is_no_class_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    folder = write(tmp_path / "set", train_0=[("a.jpg", b"A"), (name, content)])
    message = refusal(lambda: fresh(folder))
    assert f"{folder / 'train-0.tar'}: {name!r}" in message
    assert "expected" in message
    assert len(message) < 600


SPARSE = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"}


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        (header("odd.jpg", kind=tarfile.SYMTYPE), "a link"),
        (header("odd.jpg", kind=tarfile.LNKTYPE), "a link"),
        (header("odd.jpg", kind=tarfile.CHRTYPE), "a device"),
        (header("odd.jpg", kind=tarfile.BLKTYPE), "a device"),
        (header("odd.jpg", kind=tarfile.FIFOTYPE), "a device"),
        (header("odd.jpg", kind=b"M"), "a device or of unknown kind"),
        (header("odd.jpg", kind=tarfile.GNUTYPE_SPARSE), "a sparse file"),
        (header("odd.jpg", 512, pax=SPARSE) + padded(b"0\n"), "a sparse file"),
    ],
)
def test_members_that_are_no_plain_files_are_refused(
    tmp_path: Path, odd: bytes, words: str
) -> None:
    folder = write(tmp_path / "set", train_0=odd + archive(PLAIN))
    message = refusal(lambda: fresh(folder))
    assert f"{folder / 'train-0.tar'}: 'odd.jpg' is {words}" in message


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = archive(PLAIN)
    end = max(i for i, byte in enumerate(whole) if byte) // 512 * 512 + 512
    folder = write(tmp_path / "set", train_0=whole)
    expected = rows(fresh(folder))
    assert len(expected) == 2
    path = folder / "train-0.tar"
    for length in [*range(0, end + 512, 73), *range(0, end + 512, 512)]:
        path.write_bytes(whole[:length])
        assert str(path) in refusal(lambda: fresh(folder))
    path.write_bytes(whole[: end + 512])  # the rest is only to fill the record of a tape
    assert rows(fresh(folder)) == expected


@settings(PROPERTY, max_examples=150)
@given(member=st.integers(0, 3), offset=st.integers(0, 511), value=st.integers(0, 255))
def test_a_changed_header_is_refused_or_without_effect(
    tmp_path: Path, member: int, offset: int, value: int
) -> None:
    content = bytearray(archive(PLAIN))
    starts = [0, 1536, 2560, 3584]
    content[starts[member] + offset] = value
    folder = write(tmp_path / "set", train_0=bytes(content))
    try:
        found = rows(fresh(folder))
    except DataError:
        return
    assert found == [("a.jpg", b"A" * 700, "1"), ("b.png", b"B", "0")]


@settings(PROPERTY, max_examples=100)
@given(
    content=st.binary(max_size=2000),
    front=st.sampled_from([b"", archive(PLAIN)[:4608], b"\x1f\x8b\x08", header("a.jpg", 10)]),
)
def test_garbage_is_refused(tmp_path: Path, content: bytes, front: bytes) -> None:
    assume(any(content))
    folder = write(tmp_path / "set", train_0=front + content)
    assert str(folder) in refusal(lambda: fresh(folder))


def endless_sparse_map() -> bytes:
    """A header that says a further block of it follows, and so on to the end of the file."""
    block = bytearray(header("a.jpg", 0, tarfile.GNUTYPE_SPARSE))
    block[482] = 1
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + (bytes(504) + b"\1" + bytes(7)) * 100


def test_a_picture_that_is_cut_off_is_named(tmp_path: Path) -> None:
    for size in (1024, 1 << 62, -512):
        folder = write(tmp_path / "set", train_0=header("a.jpg", size) + b"A" * 1000)
        message = refusal(lambda folder=folder: fresh(folder))  # type: ignore[misc]
        assert f"found 1000 of the {size} bytes of 'a.jpg'" in message


LONG = header("././@LongLink", 8 << 30, tarfile.GNUTYPE_LONGNAME)


@pytest.mark.parametrize(
    "front",
    [
        header("a.jpg", 1 << 62),
        header("a.jpg", -512),
        header("a.jpg", -(1 << 62)),
        header("a.jpg", 10, pax={"size": "-1024"}),
        header("a.jpg", 10, pax={"size": "99999999999999999999"}),
        header("a.jpg", 10, pax={"size": "1e3"}),
        header("b.jpg") + header("a.jpg", -1024),
        LONG + padded(b"a" * 100),
        header("././@LongLink", -512, tarfile.GNUTYPE_LONGNAME),
        header("././@PaxHeader", 8 << 30, tarfile.XHDTYPE),
        (header("././@PaxHeader", 12, tarfile.XHDTYPE) + padded(b"12 path=a.b\n")) * 2000,
        endless_sparse_map(),
    ],
)
def test_headers_that_lie_take_no_memory_and_no_time(tmp_path: Path, front: bytes) -> None:
    folder = write(tmp_path / "set", train_0=front + archive(PLAIN))
    with (folder / "train-0.tar").open("ab") as file:
        file.truncate(64 << 20)  # so that reading all of it would be seen
    tracemalloc.start()
    try:
        assert "train-0.tar" in refusal(lambda: fresh(folder))
        assert tracemalloc.get_traced_memory()[1] < 8e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "whole",
    [
        b"",
        b"not a tar file",
        gzip.compress(archive(PLAIN)),
        archive(PLAIN) + archive(PLAIN),
        archive(PLAIN)[:4608] + b"\0" * 511,
        archive(PLAIN)[:4608] + b"\1" * 512 + bytes(1024),
    ],
    ids=["empty", "text", "gzip", "two in one", "no end mark", "damaged after the last"],
)
def test_what_is_not_one_whole_archive_is_refused(tmp_path: Path, whole: bytes) -> None:
    folder = write(tmp_path / "set", train_0=whole)
    message = refusal(lambda: fresh(folder))
    assert f"{folder / 'train-0.tar'} is damaged or no plain tar file" in message
    assert "copy it anew" in message


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train-000000", "train-000001", "val-000000", "test-000000"], [3, 1, 1, 2]),
        (["imagenet1k-train-0000", "imagenet1k-validation-00"], [1, 2]),
        (["set_valid_7"], [2]),
        (["val-0"], [2]),
        (["00000", "00001"], [0, 0]),
        (["pictures-000000"], [0]),
        (["training-000000"], [0]),
    ],
)
def test_the_word_before_the_number_is_the_split(
    tmp_path: Path, names: list[str], splits: list[int]
) -> None:
    folder = write(tmp_path / "set")
    for name in names:
        (folder / f"{name}.tar").write_bytes(archive([("a.jpg", b"A"), ("a.cls", b"0")]))
    for name in ("._train-000000.tar", ".tmp-train-0.tar", "notes.txt", "00000_stats.json"):
        (folder / name).write_bytes(b"no shard")
    index = fresh(folder)
    assert is_shards(folder)
    assert [Path(path).stem for path in index.files] == sorted(names)
    assert index.splits.tolist() == splits
    assert index.file.tolist() == list(range(len(names)))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("other-000000.tar", "belongs to no split"),
        ("train-000001.tar.gz", "is no shard"),
        ("train-000001.tar.part", "is no shard"),
        ("train-000001.tgz", "is no shard"),
        ("train.tar", "is no shard"),
    ],
)
def test_files_that_would_be_passed_over_are_refused(tmp_path: Path, name: str, words: str) -> None:
    folder = write(tmp_path / "set", train_000000=PLAIN)
    (folder / name).write_bytes(archive(PLAIN))
    message = refusal(lambda: fresh(folder))
    assert f"{folder / name}" in message
    assert words in message


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", train_000000=PLAIN)
    path = folder / "train-000001.tar"
    for make, remove in (
        (os.mkfifo, Path.unlink),
        (Path.mkdir, Path.rmdir),
        (lambda path: path.symlink_to("nowhere"), Path.unlink),
    ):
        make(path)
        assert f"{path} is a folder, a device" in refusal(lambda: fresh(folder))
        remove(path)
    path.symlink_to("train-000000.tar")
    assert len(fresh(folder)) == 4


def test_a_folder_without_shards_is_named(tmp_path: Path) -> None:
    assert not is_shards(tmp_path)
    assert not is_shards(tmp_path / "none")
    assert "holds no shards" in refusal(lambda: fresh(tmp_path))
    assert "cannot be listed" in refusal(lambda: fresh(tmp_path / "none"))


def labelled(*labels: object) -> list[tuple[str, bytes]]:
    """One sample for each label; strings as .cls, others as .json."""
    return [
        member
        for n, label in enumerate(labels)
        for member in (
            (f"{n}.jpg", b"p"),
            (f"{n}.cls", label.encode())
            if isinstance(label, str)
            else (f"{n}.json", json.dumps({"label": label}).encode()),
        )
    ]


@pytest.mark.parametrize(
    ("found", "classes", "labels"),
    [
        (["dog", "cat", "dog"], ("cat", "dog"), [1, 0, 1]),
        (["10", "9", "100", "9"], ("9", "10", "100"), [1, 0, 2, 0]),
        (["007", 7, "3"], ("3", "7"), [1, 1, 0]),
        (["b", "B", "\u00e9", "a b"], ("B", "a b", "b", "\u00e9"), [2, 0, 3, 1]),
        (["-1", "\u0663"], ("-1", "\u0663"), [0, 1]),
    ],
)
def test_classes_without_a_list_are_sorted(
    tmp_path: Path, found: list[object], classes: tuple[str, ...], labels: list[int]
) -> None:
    index = fresh(write(tmp_path / "set", train_0=labelled(*found)))
    assert (index.classes, index.labels.tolist()) == (classes, labels)


def test_classes_of_a_list_are_numbers_or_names(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", train_0=labelled("dog", "0", 1, "2", " 3\n"))
    (folder / "classes.txt").write_text("\ufeffzebra\r\n dog \n1\nb c\n\n", encoding="utf-8")
    index = fresh(folder)
    assert index.classes == ("zebra", "dog", "1", "b c")  # those of no picture too
    assert index.labels.tolist() == [1, 0, 1, 2, 3]


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("dogg", "'dogg', not in classes.txt; did you mean dog?"),
        ("2", "2, not in classes.txt, which has 2 lines"),
        ("-1", "'-1', not in classes.txt"),
        (2, "2, not in classes.txt"),
    ],
)
def test_a_class_that_is_not_listed_is_refused(tmp_path: Path, label: object, words: str) -> None:
    folder = write(tmp_path / "set", train_0=labelled("cat", label))
    (folder / "classes.txt").write_text("cat\ndog\n")
    assert f"{folder / 'train-0.tar'}: '1.jpg' is of class {words}" in refusal(
        lambda: fresh(folder)
    )


def test_numbers_among_names_are_refused_without_a_list(tmp_path: Path) -> None:
    for found, words in ((["cat", "1"], "are names"), (["1", "cat"], "are numbers")):
        folder = write(tmp_path / "set", train_0=labelled(*found))
        message = refusal(lambda folder=folder: fresh(folder))  # type: ignore[misc]
        assert "'1.jpg'" in message
        assert words in message


@pytest.mark.parametrize("content", [b"", b"\n", b"a\n\nb\n", b"a\na\n", b"\xff\n", b"a\n a\n"])
def test_an_unfit_list_of_classes_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = write(tmp_path / "set", train_0=PLAIN)
    (folder / "classes.txt").write_bytes(content)
    assert f"{folder / 'classes.txt'} must hold" in refusal(lambda: fresh(folder))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "set", train_0=PLAIN, val_0=PLAIN)


@pytest.fixture
def no_scan(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def refuse(path: Path) -> Iterator[None]:
        raise AssertionError(f"{path} was read again")

    return lambda: monkeypatch.setattr(shards, "read_samples", refuse)


def test_an_index_is_made_once(folder: Path, tmp_path: Path, no_scan: Callable[[], None]) -> None:
    made = read_index(folder, tmp_path / "cache")
    assert same(made, fresh(folder))
    no_scan()
    recalled = read_index(folder, tmp_path / "cache")
    assert same(made, recalled)
    assert rows(recalled) == rows(made)


def relabel(folder: Path) -> None:
    """The same size at another time."""
    (folder / "val-0.tar").write_bytes(archive([*PLAIN[:2], ("b.cls", b"1"), *PLAIN[3:]]))
    os.utime(folder / "val-0.tar", ns=(0, 0))


def lengthen(folder: Path) -> None:
    """Another size at the same time."""
    path = folder / "val-0.tar"
    time = path.stat().st_mtime_ns
    path.write_bytes(archive([("c.jpg", b"C" * 20_000), ("c.cls", b"0")]))
    os.utime(path, ns=(time, time))


def add(folder: Path) -> None:
    (folder / "val-1.tar").write_bytes(archive([("c.jpg", b"C"), ("c.cls", b"1")]))


def rename(folder: Path) -> None:
    (folder / "val-0.tar").rename(folder / "test-0.tar")


def name_classes(folder: Path) -> None:
    (folder / "classes.txt").write_text("cat\ndog\n")


@pytest.mark.parametrize("change", [relabel, lengthen, add, rename, name_classes])
def test_a_changed_set_is_read_anew(
    folder: Path, tmp_path: Path, change: Callable[[Path], None], no_scan: Callable[[], None]
) -> None:
    cache = tmp_path / "cache"
    before = read_index(folder, cache)
    change(folder)
    expected = fresh(folder)
    assert not same(before, expected)
    assert same(read_index(folder, cache), expected)
    assert len(list((cache / "shards").iterdir())) == 1, "the former index is gone"
    no_scan()
    assert same(read_index(folder, cache), expected)


def test_a_damaged_memory_is_made_anew(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    expected = read_index(folder, cache)
    (place,) = (cache / "shards").iterdir()
    for name in ("index.npz", "index.json", "manifest.json"):
        whole = (place / name).read_bytes()
        for damaged in (b"", whole[: len(whole) // 2], whole.replace(b"1", b"2")):
            (place / name).write_bytes(damaged)
            assert same(read_index(folder, cache), expected)
            assert (place / name).read_bytes() == whole


def test_a_memory_is_never_executed(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    expected = read_index(folder, cache)
    (place,) = (cache / "shards").iterdir()
    contents = files.read_folder(place)
    stream = io.BytesIO()
    np.savez(stream, *[np.array([Bomb()], dtype=object)] * len(COLUMNS))
    files.replace_folder(place, {**contents, "index.npz": stream.getvalue()})
    assert same(read_index(folder, cache), expected)


class Bomb:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return pytest.fail, ("a pickle was executed",)


def test_without_room_for_a_memory_the_index_is_given_all_the_same(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    cache.write_bytes(b"a file where a folder should be")
    assert same(read_index(folder, cache), fresh(folder))
    assert "the index of the shards is not kept in" in capsys.readouterr().err


def test_another_process_may_be_quicker_to_remember(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def late(place: Path, contents: dict[str, bytes]) -> None:
        files.replace_folder(place, contents)
        raise OSError(39, "Directory not empty")

    monkeypatch.setattr(shards, "replace_folder", late)
    read_index(folder, tmp_path / "cache")
    assert capsys.readouterr().err == ""


def test_memory_does_not_grow_with_names_and_contents(tmp_path: Path) -> None:
    def peak(num: int) -> int:
        name = f"{'folder/' * 30}%06d.%s"
        members = (((name % (n, "jpg"), b"p"), (name % (n, "cls"), b"0")) for n in range(num))
        folder = write(tmp_path / "set", train_0=archive([*itertools.chain(*members)], 1))
        tracemalloc.start()
        try:
            assert len(fresh(folder)) == num
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert (peak(2000) - peak(500)) / 1500 < 150  # bytes a picture; a name alone takes 270


file_names = st.text(max_size=12) | st.text("a./\n\0\ud800\udcff\u9ce5", max_size=12)
Picture = tuple[str, bytes, int]
pictures = st.builds(
    lambda stem, kind, content, label: (f"{stem}.{kind}", content, label),
    file_names,
    st.sampled_from([*PICTURES, "JPG", "Png"]),
    contents,
    st.integers(0, 2),
)
CLASSES = ["zebra", "\u9ce5", "a b"]
TWO = [("x/a.jpg", b"A", 0), ("x/b.c.png", b"B", 2)]


@PROPERTY
@given(drawn=st.lists(pictures, min_size=1, max_size=9), data=st.data())
def test_what_is_packed_comes_back(
    tmp_path: Path, drawn: list[Picture], data: st.DataObject
) -> None:
    num_shards = data.draw(st.integers(1, len(drawn)))
    split = data.draw(st.sampled_from(SPLITS))
    out = tmp_path / "out"
    shutil.rmtree(out, ignore_errors=True)
    paths = pack(iter(drawn), CLASSES, out, num_shards, split, len(drawn))
    assert sorted(out.iterdir()) == [out / "classes.txt", *paths]

    found, sizes = [], []
    for path in paths:  # by tarfile, after the published rule
        with tarfile.open(path) as tar:
            parts = [(m.name, tar.extractfile(m).read()) for m in tar]  # type: ignore[union-attr]
        sizes.append(len(parts) // 2)
        for label, member in zip(parts[::2], parts[1::2], strict=True):
            key, kind = PUBLISHED_LINES.fullmatch(member[0]).groups()  # type: ignore[union-attr]
            assert label[0] == f"{key}.cls"
            found.append((kind, member[1], int(label[1])))
    wanted = [(name.rpartition(".")[2].lower(), content, label) for name, content, label in drawn]
    assert found == wanted
    assert max(sizes) - min(sizes) <= 1

    index = fresh(out)
    assert [picture(index, i) for i in range(len(index))] == [content for _, content, _ in drawn]
    assert index.labels.tolist() == [label for _, _, label in drawn]
    assert index.classes == tuple(CLASSES)
    assert {SPLITS[i] for i in index.splits} == {split}


PUBLISHED_LINES = re.compile(PUBLISHED.pattern, re.DOTALL)  # for names of more than one line


PACKED = "2a334582309865510ac002e34ebb85423fd3925622e9afe89518a8d674a92cb2"


def test_the_bytes_of_a_pack_are_known(tmp_path: Path) -> None:
    """Whatever the time, the user, the folder and the machine are."""
    (path,) = pack(TWO, CLASSES, tmp_path / "out", 1, "train", 2)
    assert path == tmp_path / "out" / "train-000000.tar"
    content = path.read_bytes()
    expected = archive(
        [
            ("00000000-a.cls", b"0"),
            ("00000000-a.jpg", b"A"),
            ("00000001-b_c.cls", b"2"),
            ("00000001-b_c.png", b"B"),
        ]
    )
    assert content == expected
    assert hashlib.sha256(content).hexdigest() == PACKED


def test_splits_are_packed_side_by_side(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for split in ("train", "validation", "test"):
        pack(TWO, CLASSES, out, 2, split, 2)
    index = fresh(out)
    assert [Path(path).name[:5] for path in index.files] == ["test-"] * 2 + ["train"] * 2 + [
        "val-0"
    ] * 2
    assert [SPLITS[i] for i in index.splits] == ["test"] * 2 + ["train"] * 2 + ["validation"] * 2


@pytest.mark.parametrize("name", ["train-000001.tar", "notes.txt", ".tmp-train", "data-000000.tar"])
def test_a_folder_that_is_in_use_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"mine")
    assert f"{tmp_path} already holds {name!r}" in refusal(
        lambda: pack(TWO, CLASSES, tmp_path, 1, "train", 2)
    )
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"mine"


def test_other_classes_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    pack(TWO, CLASSES, tmp_path, 1, "train", 2)
    assert "classes.txt" in refusal(lambda: pack(TWO, "abc", tmp_path, 1, "test", 2))
    assert "train-000000.tar" in refusal(lambda: pack(TWO, CLASSES, tmp_path, 1, "", 2))


def vanishing() -> Iterator[Picture]:
    yield TWO[0]
    raise FileNotFoundError(2, "No such file or directory", "b.png")


@pytest.mark.parametrize(
    ("drawn", "classes", "words"),
    [
        (TWO[:1], CLASSES, "expected 2 pictures to pack, 1 fewer came"),
        ([*TWO, *TWO], CLASSES, "expected 2 pictures to pack, more came"),
        ([TWO[0], ("b.jpg", b"", 3)], CLASSES, "'b.jpg' has label 3; expected 0 to 2"),
        ([TWO[0], ("b.jpg", b"", -1)], CLASSES, "'b.jpg' has label -1"),
        ([TWO[0], ("b.txt", b"text", 0)], CLASSES, "'b.txt' is no picture"),
        ([TWO[0], ("b\n", b"", 0)], CLASSES, "'b\\n' is no picture"),
        (vanishing(), CLASSES, "b.png"),
        (TWO, [], "must hold one class name a line"),
        (TWO, ["a", " b", "c"], "must hold one class name a line"),
        (TWO, ["a", "b\nc", "d"], "must hold one class name a line"),
        (TWO, ["a", "a", "b"], "must hold one class name a line"),
        (TWO, ["\ufeffa", "b", "c"], "must hold one class name a line"),
        (TWO, ["a", "\udcff", "c"], "must hold one class name a line"),
    ],
)
def test_a_pack_that_fails_leaves_nothing(
    tmp_path: Path, drawn: Sequence[Picture], classes: Sequence[str], words: str
) -> None:
    message = refusal(lambda: pack(drawn, classes, tmp_path / "out", 2, "train", 2))
    assert words in message
    assert not any(tmp_path.rglob("*.*"))


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    message = refusal(lambda: pack(TWO, CLASSES, tmp_path, 1, "train", 2))
    assert f"cannot pack into {tmp_path} ([Errno 28] No space left on device)" in message
    assert list(tmp_path.iterdir()) == []


def test_impossible_requests_are_refused(tmp_path: Path) -> None:
    for num_shards in (0, 3, -1):
        with pytest.raises(ConfigError, match="choose 1 to 2"):
            pack(TWO, CLASSES, tmp_path, num_shards, "train", 2)
    with pytest.raises(ConfigError, match="did you mean train"):
        pack(TWO, CLASSES, tmp_path, 1, "trian", 2)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_name_without_ending_gets_that_of_its_content(tmp_path: Path, kind: str) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (2, 2)).save(stream, kind)
    drawn = [("x/photo", stream.getvalue(), 0), ("x/photo.jfif", stream.getvalue(), 0)]
    pack(drawn, ["a"], tmp_path, 1, "", 2)
    index = fresh(tmp_path)
    assert index.files == (str(tmp_path / "data-000000.tar"),)
    expected = [f"00000000-photo.{kind.lower()}", f"00000001-photo_jfif.{kind.lower()}"]
    assert [index.member(i) for i in range(2)] == expected
    assert picture(index, 1) == stream.getvalue()


def test_a_long_pack_says_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "FIRST_LINE_SECONDS", 0.0)
    pack(TWO, CLASSES, tmp_path, 1, "train", 2)
    assert "packing: 50%" in capsys.readouterr().err


def toy_index(sizes: Sequence[int]) -> ShardIndex:
    file = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    rest = np.zeros(len(file), np.int64)
    paths = tuple(map(str, range(len(sizes))))
    return ShardIndex(
        paths, file, rest, rest, rest, rest.astype(np.int8), rest.astype(np.uint32), ("a",)
    )


sizes = st.lists(st.integers(0, 12), min_size=1, max_size=6).filter(any)


@settings(max_examples=200, deadline=None)
@given(sizes, st.integers(0, 2**40), st.integers(0, 100), st.integers(1, 40), st.data())
def test_an_order_is_near_one_shard_after_the_other(
    sizes: list[int], seed: int, epoch: int, buffer: int, data: st.DataObject
) -> None:
    index = toy_index(sizes)
    chosen = data.draw(st.sets(st.integers(0, len(index) - 1)))
    subset = np.array(data.draw(st.permutations(sorted(chosen))), np.int64)
    # A buffer of one leaves the row of shards as it is: whole ones, ascending inside.
    row = shard_order(seed, epoch, index, subset, 1)
    runs = [[*run] for _, run in itertools.groupby(row.tolist(), key=lambda p: index.file[p])]
    assert len(runs) == len({int(index.file[p]) for p in chosen})
    assert all(run == sorted(run) for run in runs)

    order = shard_order(seed, epoch, index, subset, buffer)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == sorted(chosen)
    places = {int(position): place for place, position in enumerate(row)}
    moves = [abs(places[int(position)] - place) for place, position in enumerate(order)]
    assert max(moves, default=0) < buffer
    np.testing.assert_array_equal(shard_order(seed, epoch, index, np.sort(subset), buffer), order)


def test_an_order_is_the_same_on_every_machine() -> None:
    order = shard_order(1, 3, toy_index([4, 4, 4]), np.arange(12), 6)
    assert order.tolist() == [5, 4, 7, 6, 10, 0, 8, 1, 11, 9, 2, 3]


def test_orders_differ_by_epoch_and_seed() -> None:
    index, everything = toy_index([50] * 20), np.arange(1000)
    orders = {
        tuple(shard_order(seed, epoch, index, everything, 100).tolist())
        for seed in range(5)
        for epoch in range(20)
    }
    assert len(orders) == 100


def test_every_shard_and_every_place_in_a_buffer_comes_first() -> None:
    index, everything = toy_index([8, 8, 8]), np.arange(24)
    first = [int(shard_order(0, epoch, index, everything, 4)[0]) for epoch in range(600)]
    counts = np.bincount(np.array(first) // 8, minlength=3)
    assert counts.min() > 150  # of 200 expected; five standard deviations
    assert {position % 8 for position in first} == {0, 1, 2, 3}


def test_pictures_of_one_shard_meet_over_the_epochs() -> None:
    """Of 40 in buffers of 10, the tenth and eleventh change places in some epoch."""
    index, everything = toy_index([40]), np.arange(40)
    orders = [shard_order(0, epoch, index, everything, 10).tolist() for epoch in range(30)]
    assert any(order.index(10) < order.index(9) for order in orders)


def test_a_buffer_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="choose 1 or more"):
        shard_order(0, 0, toy_index([3]), np.arange(3), 0)


def test_a_picture_is_named_by_its_shard_and_its_member(folder: Path) -> None:
    index = fresh(folder)
    assert index.name(2) == f"{index.files[1]}/{index.member(2)}"
    assert sum(column.itemsize for column in columns(index)) == 33
