"""The table of data sets, and how their files are found and read, without network."""

import gzip
import hashlib
import io
import os
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import platformdirs
import pytest
from numpy.typing import NDArray

from deepcnn.data import catalog
from deepcnn.data.catalog import Entry
from deepcnn.data.download import RemoteFile
from deepcnn.errors import DataError

ROOT = Path(__file__).parents[1]
OWN_DATA = ROOT / "datasets"
MORE_DATA = ROOT.parent / "shared" / "data"
NAMES = ("mnist", "fashion-mnist", "kmnist", "cifar10", "cifar100")


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the tests away from what this machine holds, and its cache away from the tests."""
    monkeypatch.delenv("DEEPCNN_DATA", raising=False)
    monkeypatch.delenv("DEEPCNN_CACHE", raising=False)
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name: str(tmp_path / "cache" / name))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def remote(name: str, content: bytes) -> RemoteFile:
    return RemoteFile(name, len(content), hashlib.sha256(content).hexdigest())


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def toy(
    files: dict[str, bytes], layout: str = "idx", unpacked: dict[str, bytes] | None = None
) -> Entry:
    """An entry for made-up files."""
    return Entry(
        files=tuple(remote(name, content) for name, content in files.items()),
        unpacked=tuple(remote(name, content) for name, content in (unpacked or {}).items()),
        mirrors=(),
        licence="none",
        home="https://example.org",
        classes=("a", "b"),
        mean=(0.5,),
        std=(0.25,),
        layout=layout,  # type: ignore[arg-type]
    )


@pytest.fixture
def two_files(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """A data set called toy, of two files that nobody has yet."""
    files = {"one.gz": b"the first", "two.gz": b"the second"}
    monkeypatch.setitem(catalog.CATALOG, "toy", toy(files))
    return files


def place(files: dict[str, bytes], folder: Path) -> None:
    for name, content in files.items():
        write(folder / name, content)


def test_the_table_is_complete() -> None:
    assert catalog.names() == NAMES
    for name in NAMES:
        dataset = catalog.entry(name)
        assert (
            len(dataset.classes) == len(set(dataset.classes)) == (100 if name == "cifar100" else 10)
        )
        assert len(dataset.mean) == len(dataset.std) == (3 if "cifar" in name else 1)
        assert dataset.mirrors
        assert all(address.startswith("https://") for address in dataset.mirrors)
        assert dataset.licence
        assert dataset.home.startswith("https://")
        for file in dataset.files + dataset.unpacked:
            assert len(bytes.fromhex(file.sha256)) == 32


@pytest.mark.parametrize(("name", "record"), [("cifar10", 3_073), ("cifar100", 3_074)])
def test_unpacked_cifar_files_hold_60_000_records(name: str, record: int) -> None:
    sizes = [file.size for file in catalog.entry(name).unpacked]
    assert sum(sizes) == 60_000 * record
    assert sizes[-1] == 10_000 * record  # the test set stands last


def test_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(DataError, match="did you mean fashion-mnist") as caught:
        catalog.entry("fasion-mnist")
    assert all(name in str(caught.value) for name in NAMES)
    with pytest.raises(DataError, match="The catalogue has mnist"):
        catalog.load("zzz", "train")


def test_an_idle_import_is_light() -> None:
    script = (
        "import sys, deepcnn.data.arrays, deepcnn.data.catalog, deepcnn.data.show\n"
        "heavy = {'torch', 'rich', 'PIL', 'filelock', 'platformdirs', 'matplotlib'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_nothing_is_found_where_nothing_is(two_files: dict[str, bytes]) -> None:
    assert catalog.locate("toy", "root") is None
    place({"one.gz": two_files["one.gz"]}, Path("root"))
    assert catalog.locate("toy", "root") is None
    with pytest.raises(DataError, match=r"toy is not here: expected one\.gz, two\.gz") as caught:
        catalog.load("toy", "train", "root", download=False)
    assert "deepcnn data fetch toy" in str(caught.value)


def test_folders_are_searched_in_the_promised_order(
    two_files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPCNN_DATA", str(tmp_path / "variable"))
    folders = [
        Path("datasets"),
        tmp_path / "variable",
        tmp_path / "root",
    ]
    expected = tmp_path / "cache" / "deepcnn" / "datasets"
    place(two_files, expected)
    for folder in folders:
        for better in (expected, expected / "toy"):
            place(two_files, better)
            assert catalog.locate("toy", tmp_path / "root") == {n: better / n for n in two_files}
        expected = folder
        place(two_files, expected)
    assert catalog.locate("toy", tmp_path / "root") == {n: expected / n for n in two_files}


def test_files_may_lie_in_different_folders(two_files: dict[str, bytes]) -> None:
    write(Path("root/toy/one.gz"), two_files["one.gz"])
    write(Path("datasets/two.gz"), two_files["two.gz"])
    assert catalog.locate("toy", "root") == {
        "one.gz": Path("root/toy/one.gz"),
        "two.gz": Path("datasets/two.gz"),
    }


@pytest.mark.parametrize("content", [b"the sekond", b"", b"the second, and more"])
def test_a_wrong_file_is_named_with_both_hashes_and_kept(
    two_files: dict[str, bytes], content: bytes
) -> None:
    place(two_files, Path("datasets"))
    path = write(Path("root/two.gz"), content)
    for call in (catalog.locate, catalog.fetch):
        with pytest.raises(DataError) as caught:
            call("toy", "root")
        message = str(caught.value)
        for word in (str(path), remote("", content).sha256, remote("", b"the second").sha256):
            assert word in message
        assert "deepcnn data fetch toy" in message
        assert path.read_bytes() == content


def test_a_folder_in_place_of_a_file_is_refused(two_files: dict[str, bytes]) -> None:
    Path("datasets/one.gz").mkdir(parents=True)
    with pytest.raises(DataError, match=r"datasets.one\.gz cannot be read"):
        catalog.locate("toy")


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="no folder is closed to this user"
)
def test_a_closed_folder_is_passed_over(two_files: dict[str, bytes]) -> None:
    closed = Path("closed")
    closed.mkdir(mode=0)
    place(two_files, Path("datasets"))
    assert catalog.locate("toy", closed) == {n: Path("datasets", n) for n in two_files}


def idx(array: NDArray[np.uint8]) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def idx_files(classes: int = 2) -> dict[str, bytes]:
    files = {}
    for prefix, num in (("train", 5), ("t10k", 3)):
        images = np.random.default_rng(num).integers(0, 256, (num, 8, 8), dtype=np.uint8)
        labels = (np.arange(num) % classes).astype(np.uint8)
        files[f"{prefix}-images-idx3-ubyte.gz"] = gzip.compress(idx(images))
        files[f"{prefix}-labels-idx1-ubyte.gz"] = gzip.compress(idx(labels))
    return files


def test_an_idx_entry_is_read_with_its_class_names(monkeypatch: pytest.MonkeyPatch) -> None:
    files = idx_files()
    monkeypatch.setitem(catalog.CATALOG, "toy", toy(files))
    place(files, Path("datasets/toy"))
    train, test = catalog.load("toy", "train"), catalog.load("toy", "test")
    assert (len(train), len(test)) == (5, 3)
    assert train.classes == ("a", "b")
    assert (train.name, test.name) == ("toy/train", "toy/test")


def archive(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


CIFAR_FILES = {
    "cifar10": [*(f"b/data_batch_{number}.bin" for number in range(1, 6)), "b/test_batch.bin"],
    "cifar100": ["b/train.bin", "b/test.bin"],
}


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("layout", CIFAR_FILES)
def test_a_cifar_entry_is_read_packed_or_unpacked(
    layout: str, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    label_bytes = 1 if layout == "cifar10" else 2
    names = CIFAR_FILES[layout]
    generator = np.random.default_rng(3)
    records = generator.integers(0, 2, (2 * len(names), label_bytes + 3_072), dtype=np.uint8)
    parts = records.reshape(len(names), 2, -1)
    unpacked = {name: part.tobytes() for name, part in zip(names, parts, strict=True)}
    packed_files = {"b.tar.gz": archive(unpacked)}
    monkeypatch.setitem(catalog.CATALOG, "toy", toy(packed_files, layout, unpacked))
    place(packed_files if packed else unpacked, Path("datasets"))
    train, test = catalog.load("toy", "train"), catalog.load("toy", "test")
    both = np.concatenate([train.images, test.images])
    np.testing.assert_array_equal(both.reshape(len(both), -1), records[:, label_bytes:])
    np.testing.assert_array_equal(test.labels, records[-2:, label_bytes - 1])


def test_folders_are_told_from_names(monkeypatch: pytest.MonkeyPatch) -> None:
    place(idx_files(classes=3), Path("own"))
    place(idx_files(classes=3), Path("kmnist"))
    for source in ("own", "./own", "own/", Path("own"), Path("own").resolve()):
        train = catalog.load(source, "train")
        assert (train.classes, train.name) == (("0", "1", "2"), "own/train")
        assert catalog.statistics(source) is None
    assert catalog.load("./kmnist", "test").name == "kmnist/test"
    assert catalog.statistics("kmnist") == ((0.1918,), (0.3483,))
    assert catalog.statistics("./kmnist") is None
    with pytest.raises(DataError, match="is not a folder"):
        catalog.load("./none", "train")
    with pytest.raises(DataError, match="unknown data set 'none'"):
        catalog.load("none", "train")


def real(name: str) -> Path:
    """The folder in which this machine holds the data set, if it does."""
    for root in (OWN_DATA, MORE_DATA):
        if (root / name).is_dir():
            return root
    pytest.skip(f"{name} is not on this machine")


@pytest.mark.parametrize("name", ["fashion-mnist", "mnist"])
def test_the_published_sets_are_what_the_catalogue_says(name: str) -> None:
    root = real(name)
    train = catalog.load(name, "train", root, download=False)
    test = catalog.load(name, "test", root, download=False)
    assert train.images.shape == (60_000, 1, 28, 28)
    assert test.images.shape == (10_000, 1, 28, 28)
    published = catalog.statistics(name)
    assert published is not None
    # Over the counts of the 256 values, because the pixels as floats would fill 400 MB.
    counts = sum(np.bincount(image.ravel(), minlength=256) for image in train.images)
    values = np.arange(256) / 255
    mean = np.average(values, weights=counts)
    std = np.sqrt(np.average((values - mean) ** 2, weights=counts))
    assert (round(mean, 4), round(std, 4)) == (published[0][0], published[1][0])


def test_fashion_mnist_is_balanced_and_in_order() -> None:
    root = real("fashion-mnist")
    train = catalog.load("fashion-mnist", "train", root, download=False)
    test = catalog.load("fashion-mnist", "test", root, download=False)
    assert train.class_counts().tolist() == [6_000] * 10
    assert test.class_counts().tolist() == [1_000] * 10
    # What its authors show of it: the first picture is an ankle boot, the second a T-shirt.
    assert [train.classes[label] for label in train.labels[:2]] == ["Ankle boot", "T-shirt/top"]


def test_mnist_begins_as_everyone_knows_it() -> None:
    train = catalog.load("mnist", "train", real("mnist"), download=False)
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
