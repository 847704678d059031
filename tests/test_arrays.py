"""The readers against files built here with struct and numpy, whole and damaged in every way."""

import gzip
import io
import math
import struct
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from deepcnn.data.arrays import (
    parse_cifar,
    read_cifar,
    read_cifar_archive,
    read_folder,
    read_idx,
    read_idx_pair,
)
from deepcnn.errors import DataError

Bytes = NDArray[np.uint8]
SMALL = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
# The file is written anew for each example, so that one folder may serve them all.
PROPERTY = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def idx(array: Bytes) -> bytes:
    """The IDX file of an array, after the format's description."""
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return struct.pack(">HBB", 0, 8, array.ndim) + sizes + array.tobytes()


def cifar(labels: Bytes, images: Bytes) -> bytes:
    """Records of label bytes (N L) and pixels (N 3 32 32), one after the other."""
    rows = (bytes(a) + b.tobytes() for a, b in zip(labels, images, strict=True))
    return b"".join(rows)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def refusal(call: Callable[[], object]) -> str:
    """What the DataError that `call` must raise says."""
    with pytest.raises(DataError) as caught:
        call()
    return str(caught.value)


def random_images(num: int, seed: int = 0) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, (num, 3, 32, 32), dtype=np.uint8)


shapes = hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=6)


@PROPERTY
@given(array=hnp.arrays(np.uint8, shapes), compress=st.booleans())
def test_any_array_comes_back_as_it_was_written(
    tmp_path: Path, array: Bytes, compress: bool
) -> None:
    content = gzip.compress(idx(array)) if compress else idx(array)
    found = read_idx(write(tmp_path / "array", content))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("encode", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_every_truncation_is_refused(tmp_path: Path, encode: Callable[[bytes], bytes]) -> None:
    whole = encode(idx(SMALL))
    for length in range(len(whole)):
        path = write(tmp_path / "cut", whole[:length])
        assert str(path) in refusal(lambda path=path: read_idx(path))  # type: ignore[misc]


def test_every_changed_byte_of_the_header_is_refused(tmp_path: Path) -> None:
    whole = idx(SMALL)
    path = write(tmp_path / "changed", whole)
    # Changed in place, which is a hundred times faster than 4,080 new files.
    with path.open("r+b", buffering=0) as file:
        for offset in range(4 + 4 * SMALL.ndim):
            for value in set(range(256)) - {whole[offset]}:
                file.seek(offset)
                file.write(bytes([value]))
                refusal(lambda: read_idx(path))
            file.seek(0)
            file.write(whole)
    np.testing.assert_array_equal(read_idx(path), SMALL)


def test_a_changed_byte_of_a_gzip_file_is_refused_or_without_effect(tmp_path: Path) -> None:
    whole = gzip.compress(idx(SMALL))
    num_refused = 0
    for offset in range(len(whole)):
        for value in (whole[offset] ^ 1, whole[offset] ^ 0x80, whole[offset] ^ 0xFF):
            path = write(
                tmp_path / "changed", whole[:offset] + bytes([value]) + whole[offset + 1 :]
            )
            try:  # the time stamp in the header, for one, may be anything
                np.testing.assert_array_equal(read_idx(path), SMALL)
            except DataError:
                num_refused += 1
    assert num_refused > 2 * len(whole)


@PROPERTY
@given(content=st.binary(max_size=200), prefix=st.sampled_from([b"", b"\0\0\x08", b"\x1f\x8b\x08"]))
def test_garbage_is_refused(tmp_path: Path, content: bytes, prefix: bytes) -> None:
    path = write(tmp_path / "garbage", prefix + content)
    try:
        array = read_idx(path)
    except DataError:
        return
    assert prefix + content == idx(array), "accepted, so it must have been a true IDX file"


@pytest.mark.parametrize("extra", [b"\0", b"x" * 10_000])
@pytest.mark.parametrize("encode", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_more_bytes_than_declared_are_refused(
    tmp_path: Path, encode: Callable[[bytes], bytes], extra: bytes
) -> None:
    path = write(tmp_path / "long", encode(idx(SMALL) + extra))
    assert "2 x 3 x 4 = 24 bytes" in refusal(lambda: read_idx(path))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file"),
        (struct.pack(">HBBI", 0, 0x0D, 1, 1) + b"abcd", "00 00 0d 01"),
        (struct.pack(">HBB5I", 0, 8, 5, *[1] * 5) + b"a", "rank 1 to 4"),
        (struct.pack(">HBB2I", 0, 8, 2, 0, 5), "between 1 and"),
        (b"PK\x03\x04 a zip file", "50 4b 03 04"),
    ],
)
def test_another_kind_of_file_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = write(tmp_path / "train-images-idx3-ubyte", content)
    message = refusal(lambda: read_idx(path))
    assert words in message
    assert str(path) in message
    assert "deepcnn data fetch" in message


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    assert "found nothing" in refusal(lambda: read_idx(tmp_path / "none"))
    assert "found a folder" in refusal(lambda: read_idx(tmp_path))


def refused_cheaply(path: Path) -> None:
    tracemalloc.start()
    try:
        refusal(lambda: read_idx(path))
        assert tracemalloc.get_traced_memory()[1] < 8e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("encode", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("sizes", [(2**32 - 1,) * 4, (60_000, 28, 28)])
def test_absurd_sizes_take_no_memory(
    tmp_path: Path, encode: Callable[[bytes], bytes], sizes: tuple[int, ...]
) -> None:
    content = struct.pack(f">HBB{len(sizes)}I", 0, 8, len(sizes), *sizes) + bytes(50_000)
    refused_cheaply(write(tmp_path / "absurd", encode(content)))


@pytest.mark.parametrize("head", [idx(SMALL), struct.pack(">HBB2I", 0, 8, 2, 2**31, 2**31)])
def test_a_gzip_bomb_takes_no_memory(tmp_path: Path, head: bytes) -> None:
    bomb = gzip.compress(head + bytes(50_000_000), compresslevel=1)
    refused_cheaply(write(tmp_path / "bomb", bomb))


def write_pair(folder: Path, images: Bytes, labels: Bytes) -> tuple[Path, Path]:
    return write(folder / "images", idx(images)), write(folder / "labels", idx(labels))


def test_pair_becomes_grey_images_with_labels(tmp_path: Path) -> None:
    images = np.arange(48, dtype=np.uint8).reshape(3, 4, 4)
    paths = write_pair(tmp_path, images, np.array([1, 0, 1], np.uint8))
    found = read_idx_pair(*paths, ["zero", "one"], "toy")
    assert (found.name, found.classes, found.labels.tolist()) == ("toy", ("zero", "one"), [1, 0, 1])
    np.testing.assert_array_equal(found.images[:, 0], images)


@pytest.mark.parametrize(
    ("shape", "labels", "words"),
    [
        ((3, 4, 4), [0, 1], "expected 3 labels"),
        ((3, 4, 4), [0, 1, 2], "label 2 at image 2"),
        ((3, 4, 5), [0, 1, 0], "3 x 4 x 5, expected square"),
        ((3, 4), [0, 1, 0], "3 x 4, expected square"),
    ],
)
def test_pair_that_does_not_agree_is_refused(
    tmp_path: Path, shape: tuple[int, ...], labels: list[int], words: str
) -> None:
    images = np.zeros(shape, np.uint8)
    paths = write_pair(tmp_path, images, np.array(labels, np.uint8))
    assert words in refusal(lambda: read_idx_pair(*paths, ["a", "b"], "toy"))


def test_labels_in_place_of_images_are_refused(tmp_path: Path) -> None:
    images, labels = write_pair(tmp_path, np.zeros((3, 4, 4), np.uint8), np.zeros(3, np.uint8))
    assert "array 3, expected square" in refusal(
        lambda: read_idx_pair(labels, images, ["a"], "toy")
    )


@pytest.mark.parametrize("label_bytes", [1, 2])
def test_cifar_records_come_back_in_order(tmp_path: Path, label_bytes: int) -> None:
    images = random_images(7)
    labels = np.random.default_rng(1).integers(0, 5, (7, label_bytes), dtype=np.uint8)
    first = write(tmp_path / "1.bin", cifar(labels[:3], images[:3]))
    second = write(tmp_path / "2.bin", cifar(labels[3:], images[3:]))
    found = read_cifar([first, second], label_bytes, "abcde", "toy")
    np.testing.assert_array_equal(found.images, images)
    np.testing.assert_array_equal(found.labels, labels[:, -1])  # the fine label is the last
    assert found.images.flags.c_contiguous


@PROPERTY
@given(content=st.binary(max_size=4_000))
def test_cifar_garbage_is_refused(content: bytes) -> None:
    if len(content) != 3_073:
        assert "3073 bytes" in refusal(lambda: parse_cifar(content, 1, "batch.bin"))


def test_cifar_label_out_of_range_names_the_file(tmp_path: Path) -> None:
    labels = np.array([[0], [1], [3], [0]], np.uint8)
    path = write(tmp_path / "batch.bin", cifar(labels, random_images(4)))
    message = refusal(lambda: read_cifar([path], 1, "abc", "toy"))
    assert f"{path}" in message
    assert "label 3 at image 2" in message


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_cifar_archive_reads_as_its_unpacked_files(tmp_path: Path) -> None:
    images, labels = random_images(4), np.array([[9, 1], [9, 0], [9, 1], [9, 0]], np.uint8)
    members = {
        "c/readme.html": b"<p>",
        "c/b.bin": cifar(labels[2:], images[2:]),
        "c/a.bin": cifar(labels[:2], images[:2]),
    }
    path = archive(tmp_path / "c.tar.gz", members)
    found = read_cifar_archive(path, ["c/a.bin", "c/b.bin"], 2, "xy", "toy")
    np.testing.assert_array_equal(found.images, images)
    np.testing.assert_array_equal(found.labels, labels[:, 1])
    assert "no c/d.bin in it" in refusal(
        lambda: read_cifar_archive(path, ["c/a.bin", "c/d.bin"], 2, "xy", "toy")
    )


def test_damaged_archive_is_refused(tmp_path: Path) -> None:
    members = {"c/a.bin": cifar(np.zeros((1, 1), np.uint8), random_images(1))}
    whole = archive(tmp_path / "c.tar.gz", members).read_bytes()
    headers = gzip.decompress(whole)[:512]
    folder_in_place_of_file = headers[:156] + b"5" + headers[157:]
    cases = [whole[:length] for length in range(0, len(whole), 97)]
    cases += [b"not gzip", gzip.compress(b"not tar" * 500), gzip.compress(folder_in_place_of_file)]
    for case in cases:
        path = write(tmp_path / "damaged.tar.gz", case)
        refusal(lambda path=path: read_cifar_archive(path, ["c/a.bin"], 1, "x", "toy"))  # type: ignore[misc]


@pytest.mark.parametrize(
    "change", [{"type": tarfile.SYMTYPE, "linkname": "c"}, {"size": 2**62}, {"size": -1}]
)
def test_archive_with_a_misleading_header_is_refused(
    tmp_path: Path, change: dict[str, object]
) -> None:
    info = tarfile.TarInfo("c/a.bin")
    for key, value in change.items():
        setattr(info, key, value)
    content = info.tobuf(tarfile.GNU_FORMAT) + bytes(5_000)
    path = write(tmp_path / "misleading.tar.gz", gzip.compress(content))
    refusal(lambda: read_cifar_archive(path, ["c/a.bin"], 1, "x", "toy"))


@PROPERTY
@given(offset=st.integers(0, 511), value=st.integers(0, 255))
def test_changed_archive_header_is_refused_or_without_effect(
    tmp_path: Path, offset: int, value: int
) -> None:
    images = random_images(1)
    members = {"c/a.bin": cifar(np.zeros((1, 1), np.uint8), images)}
    content = bytearray(gzip.decompress(archive(tmp_path / "c.tar.gz", members).read_bytes()))
    content[offset] = value
    path = write(tmp_path / "changed.tar.gz", gzip.compress(bytes(content)))
    try:
        found = read_cifar_archive(path, ["c/a.bin"], 1, "x", "toy")
    except DataError:
        return
    np.testing.assert_array_equal(found.images, images)


@pytest.fixture
def own_idx(tmp_path: Path) -> Path:
    """A folder with 3 classes in the training set, of which the test set has 2."""
    generator = np.random.default_rng(2)
    for prefix, labels in (("train", [0, 2, 1, 2]), ("t10k", [1, 0])):
        images = generator.integers(0, 256, (len(labels), 9, 9), dtype=np.uint8)
        write(tmp_path / f"{prefix}-images-idx3-ubyte.gz", gzip.compress(idx(images)))
        write(tmp_path / f"{prefix}-labels-idx1-ubyte", idx(np.array(labels, np.uint8)))
    return tmp_path


def test_own_idx_folder_numbers_its_classes_by_the_training_set(own_idx: Path) -> None:
    train, test = read_folder(own_idx, "train"), read_folder(own_idx, "test")
    assert train.images.shape == (4, 1, 9, 9)
    assert train.classes == test.classes == ("0", "1", "2")
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 2, 1, 2], [1, 0])
    assert test.name == f"{own_idx.name}/test"


def test_own_class_names_are_read(own_idx: Path) -> None:
    listing = own_idx / "classes.txt"
    listing.write_text("\ufeffcat\n dog \n\n鳥\r\n", encoding="utf-8")
    assert read_folder(own_idx, "test").classes == ("cat", "dog", "鳥")
    listing.write_text("cat\ndog\n", encoding="utf-8")
    assert "label 2 at image 1" in refusal(lambda: read_folder(own_idx, "train"))
    for content, words in [(b"", "at least one"), (b"a\na\n", "no name twice"), (b"\xff", "UTF-8")]:
        listing.write_bytes(content)
        assert words in refusal(lambda: read_folder(own_idx, "train"))


def test_own_folder_without_a_part_says_which(own_idx: Path) -> None:
    (own_idx / "t10k-labels-idx1-ubyte").unlink()
    assert "t10k-labels-idx1-ubyte" in refusal(lambda: read_folder(own_idx, "test"))
    assert len(read_folder(own_idx, "train")) == 4


@pytest.mark.parametrize(
    ("label_bytes", "train", "test"),
    [
        (1, ["data_batch_1.bin", "data_batch_2.bin"], "test_batch.bin"),
        (2, ["train.bin"], "test.bin"),
    ],
)
def test_own_cifar_folder(tmp_path: Path, label_bytes: int, train: list[str], test: str) -> None:
    images = random_images(6)
    labels = np.array([[0], [1], [2], [0], [1], [2]], np.uint8).repeat(label_bytes, axis=1)
    for place, name in enumerate([test, *train]):
        part = slice(2 * place, 2 * place + 2)
        write(tmp_path / name, cifar(labels[part], images[part]))
    found = read_folder(tmp_path, "train")
    np.testing.assert_array_equal(found.images, images[2 : 2 + 2 * len(train)])
    np.testing.assert_array_equal(read_folder(tmp_path, "test").images, images[:2])
    (tmp_path / test).unlink()
    assert test in refusal(lambda: read_folder(tmp_path, "test"))


def test_folder_without_data_is_named(tmp_path: Path) -> None:
    message = refusal(lambda: read_folder(tmp_path, "train"))
    assert "train-images-idx3-ubyte" in message
    assert "data_batch_*.bin" in message
    assert "is not a folder" in refusal(lambda: read_folder(tmp_path / "none", "train"))


def test_the_writer_of_these_tests_is_right() -> None:
    """Its header is the one in the description of MNIST."""
    content = idx(np.zeros((60, 28, 28), np.uint8))
    assert content[:16].hex() == "00000803" + "0000003c" + "0000001c" * 2
    assert len(content) == 16 + math.prod((60, 28, 28))
