"""Listings of real folders and CSV files, against recursion over pathlib and csv.DictReader."""

import builtins
import csv
import inspect
import io
import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from deepcnn.data.folder import Listing, list_csv, list_folder
from deepcnn.errors import ConfigError, DataError

NASTY = [
    "with space", " leading", "trailing ", "-rf", "--", "emoji \U0001f408", "e\u0301", "\u00e9",
    "line\nbreak", "car\rriage", "tab\t", "quote\"s'", "back\\slash", "$HOME", "*", "%s", "{0}",
    "a" * 255, "\U0001f408" * 63, "Case", "case", "\u202etfel", "\udcff\udcfe", "x\udc80y",
    "no.suffix.", "=cmd()", "<img src=x>", "NUL", "~", "#",
]  # fmt: skip
Tree = dict[str, Any]  # name -> bytes of a file, Tree of a folder, or Path that a link leads to


def build(root: Path, tree: Tree) -> Path:
    root.mkdir(exist_ok=True)
    for name, content in tree.items():
        path = root / name
        if isinstance(content, dict):
            build(path, content)
        elif isinstance(content, Path):
            path.symlink_to(content)
        else:
            path.write_bytes(content)
    return root


def rows(listing: Listing) -> list[tuple[str, str, str, str]]:
    """(path, class, split, group) of each picture."""
    labels = [listing.classes[label] for label in listing.labels]
    return list(zip(listing.paths, labels, listing.splits, listing.groups, strict=True))


def refusal(call: Any, *arguments: Any) -> str:
    """The message of a DataError, which must be one line that any terminal can print."""
    with pytest.raises(DataError) as error:
        call(*arguments)
    message = str(error.value)
    assert message.isprintable(), message
    assert len(message.encode()) < 20_000
    return message


def left_out(name: str) -> bool:
    return name.startswith(".") or name in ("Thumbs.db", "desktop.ini", "__MACOSX", "Icon\r")


def below(folder: Path, seen: set[str]) -> Iterator[Path]:
    """Files below a folder by recursion, each real folder once, the first in sorted order."""
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        if left_out(path.name):
            continue
        if path.is_dir():
            yield from below(path, seen)
        elif path.is_file():
            yield path


def expected_rows(root: Path, homes: Mapping[str, str]) -> list[tuple[str, str, str, str]]:
    """What a listing of `homes` (folder of class folders -> split) should hold."""
    found = []
    for home, split in homes.items():
        above = {os.path.realpath(root), os.path.realpath(root / home)}
        for folder in (root / home).iterdir():
            if folder.is_dir() and not left_out(folder.name):
                for path in below(folder, set(above)):
                    name = str(path)[len(str(root)) + 1 :]
                    found.append((name, folder.name, split, ""))
    return sorted(found)


SKIPPED = [".hidden", "Thumbs.db", "desktop.ini", "__MACOSX", "Icon\r", "..."]
names = st.sampled_from([*NASTY, *SKIPPED, *"abcdef" * 4]) | st.binary(min_size=1, max_size=4).map(
    os.fsdecode
).filter(lambda name: name not in (".", "..") and not {"/", "\0"} & {*name})
TARGETS = ["..", "../..", "../../..", ".", "nowhere", "a", "../a", "../b", "../../c", "/dev/null"]
contents = st.sampled_from([b"", b"", b"", *map(Path, TARGETS)])
trees = st.dictionaries(
    names,
    st.recursive(contents, lambda inner: st.dictionaries(names, inner, max_size=4), max_leaves=8),
    max_size=4,
)
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # quicker than a disk


@contextmanager
def built(tree: Tree) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as parent:
        above = Path(parent, "above/all/links")
        above.mkdir(parents=True)
        yield build(above / "root", tree)


@settings(max_examples=150)
@given(trees)
def test_any_tree_is_listed_as_recursion_lists_it(tree: Tree) -> None:
    assume(not tree.keys() & {"train", "val", "valid", "validation", "test"})
    with built(tree) as root:
        expected = expected_rows(root, {"": ""})
        if len({label for _, label, _, _ in expected}) < 2:
            refusal(list_folder, root)
            return
        listing = list_folder(root)
        assert rows(listing) == expected
        assert listing.root == root
        assert listing.classes == tuple(sorted({label for _, label, _, _ in expected}))
        assert all((root / path).is_file() for path in listing.paths)


@settings(max_examples=60)
@given(trees, trees, trees, st.sampled_from(["val", "valid", "validation"]))
def test_any_tree_with_splits_is_listed_as_recursion_lists_it(
    train: Tree, validation: Tree, test: Tree, name: str
) -> None:
    folders = {"train": {"cat": {"1": b""}, **train}, name: validation, "test": test}
    with built(folders) as root:
        homes = {"train": "train", name: "validation", "test": "test"}
        expected = expected_rows(root, homes)
        learnt = {label for _, label, split, _ in expected if split == "train"}
        if strange := {label for _, label, _, _ in expected} - learnt:
            assert repr(min(strange)) in refusal(list_folder, root)
        elif len(learnt) < 2:
            assert "one class only" in refusal(list_folder, root)
        else:
            assert rows(list_folder(root)) == expected


PETS: Tree = {"cat": {"1.jpg": b"", "2.jpg": b""}, "dog": {"1.jpg": b""}}
TWO = [("cat/1.jpg", "cat", "", ""), ("cat/2.jpg", "cat", "", ""), ("dog/1.jpg", "dog", "", "")]


def test_a_plain_folder(tmp_path: Path) -> None:
    listing = list_folder(build(tmp_path / "pets", PETS))
    assert rows(listing) == TWO
    assert listing.labels.tolist() == [0, 0, 1]
    assert listing.labels.dtype == "int64"
    assert listing.ignored == {}


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_folder_with_splits(name: str, tmp_path: Path) -> None:
    tree = {"train": PETS, name: {"dog": {"3.jpg": b""}}, "test": {"cat": {"deep": {"4": b""}}}}
    listing = list_folder(build(tmp_path / "pets", tree))
    assert rows(listing) == [
        ("test/cat/deep/4", "cat", "test", ""),
        *((f"train/{path}", label, "train", "") for path, label, _, _ in TWO),
        (f"{name}/dog/3.jpg", "dog", "validation", ""),
    ]


@pytest.mark.parametrize("name", ["train", "Train", "test"])
def test_a_class_may_be_called_like_a_split(name: str, tmp_path: Path) -> None:
    tree = {name: {"1.jpg": b""}, "bus": {"1.jpg": b""}}
    assert list_folder(build(tmp_path / "traffic", tree)).classes == tuple(sorted((name, "bus")))


def test_nasty_names_are_kept_and_sorted_by_code_points(tmp_path: Path) -> None:
    tree = {name: {name: b"", "deep": {name: b""}} for name in NASTY}
    listing = list_folder(build(tmp_path / "na\nsty", tree))
    both = [(f"{name}/{deep}{name}", name, "", "") for name in NASTY for deep in ("", "deep/")]
    assert rows(listing) == sorted(both, key=lambda row: [ord(letter) for letter in row[0]])
    assert listing.classes == tuple(sorted(NASTY))


def test_what_is_left_out_is_counted_by_kind(tmp_path: Path) -> None:
    root = build(
        tmp_path / "pets",
        {
            "train": {
                "cat": {"1": b"", ".DS_Store": b"", ".cache": {"a": b"", "b": b""}},
                "dog": {"1": b"", "Thumbs.db": b"", "desktop.ini": b"", "Icon\r": b""},
                "cow": {},
                "ant": {"deep": {".gitkeep": b""}},
                "notes.txt": b"",
                ".notes": b"",
                "link": Path(".."),
            },
            "val": {
                "cat": {
                    "__MACOSX": {"1": b""},
                    "gone": Path("gone"),
                    "far": Path("../../train/cat/1/2"),
                }
            },
            "extra": {"1": b""},
            "classes.txt": b"",
            "pipe-to-be": {},
        },
    )
    for name in ("pipe", "pipe-to-be/pipe", "train/cat/pipe", "train/dog/deep-pipe"):
        os.mkfifo(root / name)
    build(root / "train/dog/zero", {"zero": Path("/dev/zero"), "null": Path("/dev/null")})
    with socket.socket(socket.AF_UNIX) as listener:
        # A relative address, because that of a socket is short.
        with chdir(root / "val/cat"):
            listener.bind("socket")
        listing = list_folder(root)
    assert rows(listing) == [
        ("train/cat/1", "cat", "train", ""),
        ("train/dog/1", "dog", "train", ""),
    ]
    assert listing.ignored == {
        "broken links": 2,
        "devices": 2,
        "empty class folders": 4,  # cow, ant and link to learn from, cat to validate
        "files outside the class folders": 2,
        "folders beside train, val and test": 2,
        "hidden files and folders": 4,
        "links to folders listed before": 1,
        "named pipes": 3,
        "sockets": 1,
        "system files": 4,
    }


def test_no_file_is_opened(tmp_path: Path) -> None:
    root = build(tmp_path / "pets", PETS)
    forbidden = AssertionError("a listing opens no files")
    with (
        mock.patch.object(builtins, "open", side_effect=forbidden),
        mock.patch.object(io, "open", side_effect=forbidden),
        mock.patch.object(os, "open", side_effect=forbidden),
    ):
        assert rows(list_folder(root)) == TWO


def test_files_cost_no_system_call_each(tmp_path: Path) -> None:
    many = {f"{i:04d}.jpg": b"" for i in range(200)}
    root = build(tmp_path / "pets", {"cat": many, "dog": many})
    calls: Counter[str] = Counter()

    def count(frame: object, event: str, argument: object) -> None:
        if event == "c_call":
            calls[getattr(argument, "__name__", "")] += 1

    sys.setprofile(count)
    try:
        listing = list_folder(root)
    finally:
        sys.setprofile(None)
    assert len(listing.paths) == 400
    assert calls["scandir"] == 3
    assert calls["is_file"] == 402  # answered from what scandir has read
    assert calls["stat"] + calls["lstat"] < 10


@pytest.mark.parametrize(
    ("links", "expected"),
    [
        ({"cat/self": "."}, []),
        ({"cat/up": ".."}, []),
        ({"cat/one": "two", "cat/two": "one"}, []),
        ({"cat/a": "../../far", "far/back": "../pets/cat"}, ["cat/a/f"]),
        ({"cat/a": "../../far", "cat/b": "../../far", "far/again": "."}, ["cat/a/f"]),
        ({"cat/9": "../dog/1.jpg", "cat/0": "1.jpg"}, ["cat/0", "cat/9"]),
        ({"cow": "../far"}, ["cow/f"]),
        ({"ant": "dog"}, ["ant/1.jpg"]),
        ({"cat/dogs": "../dog"}, ["cat/dogs/1.jpg"]),
        ({"pets": "."}, []),
        ({"cat/out": "../../far/f"}, ["cat/out"]),
    ],
)
def test_links_are_followed_and_loops_end(
    links: dict[str, str], expected: list[str], tmp_path: Path
) -> None:
    far = build(tmp_path / "far", {"f": b""})
    root = build(tmp_path / "pets", PETS)
    for name, target in links.items():
        (far.parent / name if name.startswith("far") else root / name).symlink_to(target)
    listing = list_folder(root)
    assert sorted(expected + [path for path, *_ in TWO]) == list(listing.paths)
    through_link = tmp_path / "link"
    through_link.symlink_to(root)
    assert list_folder(through_link).paths == listing.paths


def test_depth_is_no_limit(tmp_path: Path) -> None:
    deep = "/".join(["d"] * 200)
    root = build(tmp_path / "pets", PETS)
    (root / "cat" / deep).mkdir(parents=True)
    (root / "cat" / deep / "1").write_bytes(b"")
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 50)
    try:
        paths = list_folder(root).paths
    finally:
        sys.setrecursionlimit(before)
    assert paths[2] == f"cat/{deep}/1"


class Shuffled:
    """A folder read in another order than the file system's."""

    def __init__(self, entries: Any, chance: random.Random) -> None:
        with entries:
            self.entries = list(entries)
        chance.shuffle(self.entries)

    def __enter__(self) -> Iterator[Any]:
        return iter(self.entries)

    def __exit__(self, *exception: object) -> None:
        pass


def test_the_order_of_the_file_system_does_not_matter(tmp_path: Path) -> None:
    far = build(tmp_path / "far", {"x": {"1": b""}})
    build(far, {"back": far})
    inner = {**dict.fromkeys(NASTY, b""), "far": far, "near": far}
    root = build(tmp_path / "pets", dict.fromkeys(("b", "a", "\u00e9", "e\u0301", "B"), inner))
    expected, scandir = rows(list_folder(root)), os.scandir
    for seed in range(10):
        chance = random.Random(seed)
        with mock.patch.object(os, "scandir", lambda path, c=chance: Shuffled(scandir(path), c)):
            assert rows(list_folder(root)) == expected


def test_neither_locale_nor_hash_seed_matter(tmp_path: Path) -> None:
    tree = {name: {name: b"", "2": b""} for name in NASTY}
    root = build(tmp_path / "pets", {"train": tree, "val": tree})
    program = (
        "import sys, json; from pathlib import Path; from deepcnn.data.folder import list_folder;"
        "listing = list_folder(Path(sys.argv[1]), 'train|val');"
        "print(json.dumps([listing.paths, listing.labels.tolist(), listing.splits, listing.groups,"
        " listing.classes])); assert 'torch' not in sys.modules"
    )
    listing = list_folder(root, "train|val")
    expected = [
        listing.paths, listing.labels.tolist(), listing.splits, listing.groups, listing.classes
    ]  # fmt: skip
    for locale, seed in (("C", "0"), ("C.UTF-8", "1"), ("tr_TR.UTF-8", "2")):
        answer = subprocess.run(
            [sys.executable, "-c", program, str(root)],
            env={**os.environ, "LC_ALL": locale, "PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert answer.stdout == json.dumps(expected) + "\n"


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({}, r"holds no pictures in class folders, but nothing; expected FOLDER/CLASS/PICTURE or"),
        ({"1.jpg": b"", "2.jpg": b""}, "but 2 files outside the class folders; expected FOLDER/"),
        ({"cat": {}, "dog": {}}, "but 2 empty class folders; expected"),
        ({".git": {"1": b""}}, "but 1 hidden files and folders; expected"),
        ({"cat": {"1": b""}}, "one class only, 'cat'; expected at least two"),
        ({"cat": {"1": b""}, "dog": {}}, "one class only, 'cat'; expected at least two"),
        ({"c\nt": {"1": b""}}, r"one class only, 'c\\nt'; expected"),
        ({"train": {"cat": {"1": b""}}}, "one class only, 'cat'; expected at least two"),
        ({"train": {"1": b""}, "test": {"2": b""}}, "'test', 'train', but no class folders in"),
        ({"test": PETS, "val": PETS}, "'test', 'val', but no class folders in 'train'; expected"),
        ({"Train": PETS, "Test": PETS}, "'Test', 'Train', but no class folders in 'train'"),
        ({"train": PETS, "val": PETS, "valid": PETS}, "'val', 'valid'; keep one folder for val"),
        ({"train": PETS, "val": {"cow": {"1": b""}}}, "of 'cow', but none to learn from; add"),
        ({"train": {**PETS, "cow": {}}, "test": {"cow": {"1": b""}}}, "of 'cow', but none to"),
        ({"train": {"cat": {}}, "test": PETS}, "of 'cat', 'dog', but none to learn from; add"),
        (
            {"train": PETS, "test": {f"{i:02d}\udcff": {"1": b""} for i in range(12)}},
            r"of '00\\udcff', .*, '09\\udcff' and 2 more, but none",
        ),
    ],
)
def test_folders_that_make_no_data_set_are_refused(
    tree: Tree, message: str, tmp_path: Path
) -> None:
    root = build(tmp_path / "na\nme", tree)
    found = refusal(list_folder, root)
    assert found.startswith(repr(str(root)))
    assert re.search(message, found), found


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for name, why in (
        ("nowhere", "No such file"),
        ("file", "Not a dir"),
        ("x" * 256, "File name too"),
    ):
        found = refusal(list_folder, tmp_path / name)
        assert found.startswith(f"{str(tmp_path / name)!r} cannot be read ({why}"), found
        assert "expected a folder, and the right to read it" in found


@contextmanager
def open_to_all() -> Iterator[Path]:
    """A temporary folder that every user may look into."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@contextmanager
def without_privileges() -> Iterator[None]:
    """As a user whom the permissions of files bind; skips where there is none."""
    if os.geteuid():
        yield
        return
    try:
        os.seteuid(65_534)
    except OSError:
        pytest.skip("this user may read everything and cannot become another")
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("mode", [0o000, 0o444, 0o111])
@pytest.mark.parametrize("place", ["", "cat", "cat/deep", "dog/link"])
def test_a_folder_that_may_not_be_read_is_refused(place: str, mode: int) -> None:
    with open_to_all() as parent:
        far = build(parent / "far", {"1": b""})
        inside = {"cat": {"1": b"", "deep": {"2": b""}}, "dog": {"1": b"", "link": far}}
        root = build(parent / "pets", inside)
        (root / place).chmod(mode)
        try:
            with without_privileges():
                found = refusal(list_folder, root)
        finally:
            (root / place).chmod(0o755)
    assert found.startswith(f"{str(root / place)!r} cannot be read (Permission denied); expected")


def test_a_link_to_where_nothing_may_be_looked_up_is_refused() -> None:
    with open_to_all() as parent:
        build(parent / "closed", {"1": b""}).chmod(0)
        root = build(parent / "pets", {**PETS, "cow": {"1": parent / "closed/1"}})
        with without_privileges():
            found = refusal(list_folder, root)
        (parent / "closed").chmod(0o755)
    assert found.startswith(f"{str(root / 'cow')!r} cannot be read (Permission denied); expected")


@given(st.sampled_from([r"\d+", r"p(\d)", r"(cat|dog)/(\d)", "^.", r"/(?:x|(\d))", r"(?<=/)\w+"]))
def test_groups_are_what_the_expression_finds(pattern: str) -> None:
    tree = {"cat": {"1p3_a": b"", "2p4_b": b""}, "dog": {"1p3_b": b""}}
    with built(tree) as root:
        listing = list_folder(root, pattern)
    found = [re.search(pattern, path) for path in listing.paths]
    assert listing.groups == tuple(
        match[1] if match.groups() else match[0] for match in found if match
    )


@pytest.mark.parametrize("pattern", ["2", "x*", "(x)?", "2|(x)|.", "a(?=t/2)"])
def test_pictures_without_a_group_are_counted(pattern: str, tmp_path: Path) -> None:
    root = build(tmp_path / "pets", PETS)
    number = 2 if pattern in ("2", "a(?=t/2)") else 3
    found = refusal(list_folder, root, pattern)
    assert found.startswith(f"data.group: {pattern!r} finds no group in {number} of 3 paths, ")
    assert "such as 'cat/1.jpg'; change it" in found


@pytest.mark.parametrize(
    "pattern", ["(", "*", "[z-a]", "(?P<a", r"\\(", "(?<=a+)b", f"a{{{10**20}}}", "(?\n", "\n\n("]
)
def test_what_is_no_expression_is_refused(pattern: str, tmp_path: Path) -> None:
    message = r"^data\.group: .* is no regular expression \(.*\); expected one that finds"
    with pytest.raises(ConfigError, match=message) as error:
        list_folder(tmp_path, pattern)
    assert str(error.value).isprintable()


# Everything below is about CSV files.

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
fields = texts.map(str.strip).filter(bool)
file_names = st.one_of(
    texts, st.sampled_from([name for name in NASTY if name.isprintable() or "\n" in name])
).filter(lambda name: name.strip("./") == name != "" and len(name.encode()) < 256)


@st.composite
def csv_tables(draw: st.DrawFn) -> list[dict[str, str]]:
    """Rows with a path, a label of two or more and perhaps a split, a group and other columns."""
    paths = draw(st.lists(file_names, min_size=2, max_size=6, unique=True))
    assume(all("/" not in path for path in paths))
    labels = draw(st.lists(fields, min_size=2, max_size=3, unique=True))
    split, group, other = draw(st.tuples(st.booleans(), st.booleans(), st.booleans()))
    table = []
    for index, path in enumerate(paths):
        learnt = index < len(labels)
        row = {"path": path, "label": labels[index] if learnt else draw(st.sampled_from(labels))}
        names = ["train", "TRAIN ", "val", "Valid", "validation", " test"]
        row |= {"split": draw(st.sampled_from(names[: 2 if learnt else None]))} if split else {}
        row |= {"group": draw(fields)} if group else {}
        row |= {"a\ncolumn": draw(texts)} if other else {}
        table.append(row)
    assume(len(table) >= len(labels))
    return draw(st.permutations(table))


def written(table: list[dict[str, str]], delimiter: str, end: str, quote_all: bool) -> str:
    # An order of the columns that differs from table to table, but not from run to run.
    columns = sorted(table[0], key=lambda name: (sum(map(ord, table[0]["path"] + name)) % 5, name))
    # Python below 3.13 quotes a line's end only where it is the one of the file.
    quote_all |= any(set("\r\n") & set("".join([*row, *row.values()])) for row in table)
    stream = io.StringIO()
    writer = csv.DictWriter(
        stream,
        columns,
        delimiter=delimiter,
        lineterminator=end,
        quoting=csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL,
    )
    writer.writeheader()
    writer.writerows(table)
    return stream.getvalue()


@settings(max_examples=100)
@given(
    csv_tables(),
    st.sampled_from(",;\t"),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.booleans(),
    st.sampled_from(["utf-8", "utf-8-sig"]),
)
def test_any_csv_is_listed_as_dictreader_reads_it(
    table: list[dict[str, str]], delimiter: str, end: str, quote_all: bool, encoding: str
) -> None:
    with built({row["path"]: b"" for row in table}) as root:
        file = root / ".csv"
        file.write_text(written(table, delimiter, end, quote_all), encoding, newline="")
        with file.open(encoding=encoding, newline="") as stream:
            read = list(csv.DictReader(stream, delimiter=delimiter))
        assert read == table
        listing = list_csv(file)
    splits = {"train": "train", "test": "test", "": ""}
    expected = [
        (
            row["path"],
            row["label"],
            splits.get(row.get("split", "").strip().lower(), "validation"),
            row.get("group", ""),
        )
        for row in read
    ]
    assert rows(listing) == sorted(expected)
    assert listing.root == file.parent
    assert listing.ignored == ({"other columns": 1} if "a\ncolumn" in table[0] else {})


def csv_file(root: Path, text: str | bytes) -> Path:
    """A CSV file beside PETS."""
    file = build(root, PETS) / "pets.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def test_a_plain_csv(tmp_path: Path) -> None:
    text = "path,label\ndog/1.jpg,dog\n\n,\ncat/2.jpg,cat\ncat/1.jpg, cat \n"
    listing = list_csv(csv_file(tmp_path, text))
    assert rows(listing) == TWO
    assert (listing.root, listing.ignored) == (tmp_path, {})


def test_absolute_paths_and_paths_above_are_allowed(tmp_path: Path) -> None:
    build(tmp_path / "far", {"1": b""})
    text = f"\n;\nlabel;path\ncat;{tmp_path}/far/1\ndog;../far/1\ndog;.//cat/./1.jpg\n"
    listing = list_csv(csv_file(tmp_path / "pets", text))
    assert rows(listing) == [
        ("../far/1", "dog", "", ""),
        (f"{tmp_path}/far/1", "cat", "", ""),
        ("cat/1.jpg", "dog", "", ""),
    ]


def test_rows_that_say_the_same_are_listed_once(tmp_path: Path) -> None:
    text = "path,label,split\n" + "cat/1.jpg,cat,train\n./cat/1.jpg,cat,TRAIN\n" * 2
    listing = list_csv(csv_file(tmp_path, text + "dog/1.jpg,dog,train\n"))
    assert listing.paths == ("cat/1.jpg", "dog/1.jpg")
    assert listing.ignored == {"repeated rows": 3}


def test_a_column_of_groups_is_found_or_named(tmp_path: Path) -> None:
    text = "path,label,group,patient\ncat/1.jpg,cat, a,x\ndog/1.jpg,dog,b,\n"
    file = csv_file(tmp_path, text)
    assert list_csv(file).groups == ("a", "b")
    assert list_csv(file).ignored == {"other columns": 1}
    assert "line 3: the group is empty, as in 1 of 2 rows" in refusal(list_csv, file, "patient")
    with pytest.raises(ConfigError, match=r"data\.group: .* no column 'patiens'; did you mean pat"):
        list_csv(file, "patiens")
    file.write_text("path,label,group\ncat/1.jpg,cat,\ndog/1.jpg,dog, \n")
    assert list_csv(file).groups == ("", "")
    assert "line 2: the group is empty, as in 2 of 2 rows" in refusal(list_csv, file, "group")


ROW = "cat/1.jpg,cat\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r", line 1: columns \[\], but no path, label; expected a header with path, label"),
        ("\n\n \n", "columns .* but no path, label"),
        (ROW, r", line 1: columns \['cat/1.jpg', 'cat'\], but no path, label"),
        ("\npath,class\n" + ROW, r", line 2: columns \['path', 'class'\], but no label; exp"),
        ("x," * 60_000, r", line 1: columns \['x', 'x', .{170,190}, but no path, label; expected"),
        ("path:label\n" + ROW, r", line 1: columns \['path:label'\], but no path, label"),
        ("Path,Label\n" + ROW, r", line 1: columns \['Path', 'Label'\], but no path, label"),
        ("path,label\n", " has no rows below its header"),
        ("path,label\n\n,\n", " has no rows below its header"),
        ("path,label,label\n", ", line 1: column 'label' is there twice; rename one"),
        ("path,label\n" + ROW + "dog/1.jpg\n", ", line 3: 1 fields, expected the 2 of the head"),
        ("path,label\n" + ROW + "dog/1.jpg,dog,1\n", ", line 3: 3 fields, expected the 2 of th"),
        ("path;label\n" + ROW, ", line 2: 1 fields, expected the 2 of the header"),
        ("path,label\n" + ROW + 'dog/1.jpg,"dog\n\n', ", line 3: unexpected end of data; close"),
        ("path,label\n" + ROW + '"dog"/1.jpg,dog\n', ", line 3: ',' expected after '\"'; close"),
        ('path\tlabel\n"a"b\t', ", line 2: 'tab' expected after '\"'; close each double quote"),
        ('path,label,"' + "x" * 200_000, ", line 1: field larger than field limit"),
        ('path,"label\n' + ROW, ", line 1: unexpected end of data; close each double quote"),
        ('path,label\n"a\nb",', ", line 2: the label is empty; fill it in"),
        ("path,label\n" + ROW + "dog/1.jpg, \n", ", line 3: the label is empty; fill it in"),
        ("path,label\n" + ROW + ",dog\n", ", line 3: '' is no path of a file; expected one on"),
        ("path,label\n" + ROW + "HTTP://a/b,c\n", ", line 3: 'HTTP://a/b' is no path of a file"),
        ("path,label\n" + ROW + "s3://a,c\n", ", line 3: 's3://a' is no path of a file"),
        ("path,label\n" + ROW + "file:///a,c\n", ", line 3: 'file:///a' is no path of a file"),
        ("path,label\n" + ROW + "cat/\udcff,c\n", ""),
        ("path,label,split\na,b,dev\n", ", line 2: unknown split 'dev'; expected one of train, "),
        (
            "path,label,split\ncat/1.jpg,cat,train\ndog/1.jpg,dog,\ncat/2.jpg,cat,\n",
            ", line 3: the split is empty, as in 2 of 3 rows; fill it in everywhere or nowhere",
        ),
        (
            "path,label,group\ncat/1.jpg,cat,a\ndog/1.jpg,dog,\n",
            ", line 3: the group is empty, as in 1 of 2 rows; fill it in everywhere or nowhere",
        ),
        (
            "path,label\n" + ROW + "dog/1.jpg,dog\ncat/1.jpg,dog\n",
            ", line 4: 'cat/1.jpg' is 'dog', but 'cat/1.jpg' is 'cat' in line 2; keep one",
        ),
        (
            "path,label,split\ncat/1.jpg,cat,train\n./cat/1.jpg,cat,val\n",
            ", line 3: .* is 'cat', 'validation', but .* is 'cat', 'train' in line 2; keep one",
        ),
        (
            "path,label\n" + ROW + "".join(f"c\t{i:02d},dog\n" for i in range(12)),
            r", line 3: 12 of 13 paths lead to no file: 'c\\t00', .*, 'c\\t09' and 2 more; expec",
        ),
        ("path,label\n" + ROW + "dog,dog\n", ", line 3: 1 of 2 paths lead to no file: 'dog'; exp"),
        ("path,label\n" + ROW + f"{'x' * 5_000},dog\n", ", line 3: 1 of 2 paths lead to no file"),
        ("path,label\n" + ROW + "/dev/null,dog\n", ", line 3: 1 of 2 paths lead to no file: '/d"),
        ("path,label\n" + ROW + f'"{"x" * 200_000}",d\n', ", line 3: field larger than field lim"),
        ("path,label\n" + ROW, " has one class only, 'cat'; expected at least two"),
        (
            "path,label,split\ncat/1.jpg,cat,train\ndog/1.jpg,dog,test\n",
            " has validation or test pictures of 'dog', but none to learn from",
        ),
        ("path,label\n" + ROW + "dog/1.jpg,d\0g\n", ", line 3: byte 0x00 is no text in UTF-8"),
        (b"path,label\r\n\r\ncat/1.jpg,c\xe4t\r\n", ", line 3: byte 0xe4 is no text in UTF-8; sa"),
        (b"\xef\xbb\xbfpath,label\rcat/\xff", ", line 2: byte 0xff is no text in UTF-8; save"),
        ("path,label\n".encode("utf-16"), ", line 1: byte 0xff is no text in UTF-8; save the fi"),
        ("path,label\n".encode("utf-16-le"), ", line 1: byte 0x00 is no text in UTF-8; save the"),
    ],
)
def test_csv_files_that_make_no_data_set_are_refused(
    text: str | bytes, message: str, tmp_path: Path
) -> None:
    content = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
    file = csv_file(tmp_path / "na\nme", content)
    found = refusal(list_csv, file)
    assert found.startswith(repr(str(file)))
    assert re.search(message, found), found


def test_what_is_no_csv_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("", "nowhere.csv", "pipe"):
        assert "is not a file; expected a CSV file" in refusal(list_csv, tmp_path / name)
    with open_to_all() as parent:
        file = csv_file(parent, "path,label\n")
        file.chmod(0)
        with without_privileges():
            found = refusal(list_csv, file)
    assert found.startswith(f"{str(file)!r} cannot be read (Permission denied); give yourself")


@pytest.fixture(scope="module")
def pets() -> Iterator[Path]:
    with built({}) as root:
        yield csv_file(root, "")


@settings(max_examples=300)
@given(
    header=st.sampled_from(
        [b"", b"path,label\n", b"path;label;split\r\n", b'"label"\t"path"\tgroup\r']
    ),
    content=st.one_of(
        st.binary(max_size=60),
        st.text(st.sampled_from('acts/.1jpgdo,;\t"\n\r \0'), max_size=60).map(str.encode),
    ),
)
@example(header=b"path,label\n", content=b"cat/1.jpg,cat\ncat/2.jpg,dog\n")
def test_any_bytes_are_listed_or_refused(pets: Path, header: bytes, content: bytes) -> None:
    pets.write_bytes(header + content)
    try:
        listing = list_csv(pets)
    except DataError as error:
        assert str(error).isprintable()
        assert str(error).startswith(repr(str(pets)))
    else:
        assert len(set(listing.paths)) == len(listing.paths) >= len(listing.classes) >= 2
        assert all((pets.parent / path).is_file() for path in listing.paths)
