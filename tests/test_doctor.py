"""The data doctor on sets whose faults are known because they were put there, one at a time."""

import base64
import io
import json
import os
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from deepcnn.data import catalog
from deepcnn.data.doctor import check
from deepcnn.data.doctor_report import as_html, in_words
from deepcnn.data.duplicates import (
    candidates,
    distances,
    exact_groups,
    hashes,
    near_groups,
    near_pairs,
    turned,
)
from deepcnn.data.findings import KINDS, Finding, Report, as_dict
from deepcnn.data.folder import Listing, list_csv, list_folder
from deepcnn.data.images import ImageSet
from deepcnn.data.photos import Decoding, Kept, Photos, Spots, whole_files
from deepcnn.data.scan import scan

ROOT = Path(__file__).parents[1]
Pixels = NDArray[np.uint8]
rng_seeds = st.integers(0, 2**32 - 1)


def scene(seed: int, height: int = 72, width: int = 96) -> Pixels:
    """A made-up photo, H W 3: noise at all scales, as natural pictures have detail at all."""
    generator = np.random.default_rng(seed)
    levels = np.zeros((height, width, 3))
    for cells in (3, 6, 12, 24, 48):
        noise = generator.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        levels += np.asarray(Image.fromarray(noise).resize((width, height)), float) / cells
    levels -= levels.min()
    pixels: Pixels = (20 + 200 * levels / levels.max()).astype(np.uint8)
    return pixels


def scenes(seeds: range, side: int = 32) -> Pixels:
    """Made-up photos N 3 S S."""
    return np.stack([scene(seed, side, side).transpose(2, 0, 1) for seed in seeds])


def array_sets(train: Pixels, test: Pixels) -> dict[str, ImageSet]:
    """Both with classes a and b in turn."""
    return {
        name: ImageSet(f"made-up/{name}", images, np.arange(len(images)) % 2, ("a", "b"))
        for name, images in (("train", train), ("test", test))
    }


def found(report: Report) -> dict[str, list[list[tuple[str, int]]]]:
    """(split, position) of all pictures, case by case, for each kind of finding."""
    return {
        finding.kind: [[(each.split, each.position) for each in case] for case in finding.cases]
        for finding in report.findings
    }


def named(report: Report) -> dict[str, set[str]]:
    """The names of all pictures, for each kind of finding."""
    return {
        finding.kind: {each.name for case in finding.cases for each in case}
        for finding in report.findings
    }


def finding(report: Report, kind: str) -> Finding:
    (only,) = (each for each in report.findings if each.kind == kind)
    return only


def save(path: Path, pixels: Pixels, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)  # type: ignore[arg-type]
    return path


def good_folder(root: Path, number: int = 12) -> Path:
    """Pictures of classes a and b in train and test, with nothing wrong."""
    seeds = iter(range(10_000))
    for split, label, k in product(("train", "test"), "ab", range(number)):
        save(root / split / label / f"{k}.png", scene(next(seeds)))
    return root


def read(listing: Listing, cache: Path, least: int = 0) -> dict[str, ImageSet]:
    """The good pictures of a listing, by split."""
    paths = tuple(str(listing.root / path) for path in listing.paths)
    seen = scan(whole_files(paths), Decoding(3, least), cache, 2, print)
    good = np.array([row not in seen.problems for row in range(len(paths))])
    splits = np.array([split or "train" for split in listing.splits])
    sets = {}
    for split in sorted(set(listing.splits), reverse=True):
        rows = np.flatnonzero(good & (splits == (split or "train")))
        photos = Photos(seen, rows)
        sets[split or "train"] = ImageSet(split, photos, listing.labels[rows], listing.classes)
    return sets


def examined(root: Path, least: int = 0) -> Report:
    listing = list_folder(root)
    return check(read(listing, root.parent / "cache", least), listing, threads=2)


# Symmetries, hashes, groups.


def by_hand(picture: Pixels, symmetry: int) -> Pixels:
    picture = picture.T if symmetry & 4 else picture
    picture = np.flipud(picture) if symmetry & 2 else picture
    return np.fliplr(picture) if symmetry & 1 else picture


@given(rng_seeds, st.integers(0, 7))
def test_turning_all_is_turning_each(seed: int, symmetry: int) -> None:
    small = np.random.default_rng(seed).integers(0, 256, (3, 16, 16), dtype=np.uint8)
    expected = np.stack([by_hand(picture, symmetry) for picture in small])
    np.testing.assert_array_equal(turned(small, symmetry), expected)


def test_the_symmetries_are_the_quarter_turns_and_their_mirror_images() -> None:
    picture = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    ours = {turned(picture, symmetry).tobytes() for symmetry in range(8)}
    turns = [np.rot90(picture[0], quarter) for quarter in range(4)]
    assert ours == {t.tobytes() for turn in turns for t in (turn, np.fliplr(turn))}


smooth = st.builds(
    lambda seed, cells: np.asarray(
        Image.fromarray(
            np.random.default_rng(seed).integers(0, 256, (cells, cells), dtype=np.uint8)
        ).resize((16, 16))
    )[None],
    rng_seeds,
    st.integers(1, 16),
)


@settings(max_examples=200)
@given(smooth, st.integers(0, 7), st.integers(0, 7))
def test_hashes_of_a_turned_picture_are_those_of_the_picture(
    small: Pixels, first: int, second: int
) -> None:
    both = turned(turned(small, first), second)
    assert hashes(turned(small, first))[0, second] == hashes(both)[0, 0]
    assert hashes(small)[0, first] == hashes(turned(small, first))[0, 0]
    assert set(hashes(small)[0].tolist()) == set(hashes(both)[0].tolist())


def cosine_transform(levels: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """The transform (type 2) by way of Fourier's, of each picture and its mirror image in a row."""
    both = np.concatenate([levels, np.flip(levels, axis)], axis)
    shift = np.exp(-0.5j * np.pi * np.arange(32) / 16)
    shape = [32 if each == axis else 1 for each in range(3)]
    found: NDArray[np.float64] = (np.fft.fft(both, axis=axis) * shift.reshape(shape)).real / 2
    return found


def test_a_hash_is_the_signs_of_the_cosine_transform() -> None:
    small = np.random.default_rng(0).integers(0, 256, (50, 16, 16), dtype=np.uint8)
    strengths = cosine_transform(cosine_transform(small.astype(float), 1), 2)[:, :8, :8] / 256
    strengths[:, 0, 0] = 0
    signs = np.packbits(strengths.reshape(50, 64) > 0.05, axis=1)
    assert hashes(small)[:, 0].tobytes() == signs.tobytes()


@given(st.lists(st.integers(0, 6), max_size=30))
def test_exact_groups_are_all_that_share_a_value(values: list[int]) -> None:
    groups = [group.tolist() for group in exact_groups(np.array(values, np.uint64))]
    places = [[i for i, value in enumerate(values) if value == each] for each in range(7)]
    assert sorted(groups) == sorted(place for place in places if len(place) > 1)


@settings(max_examples=8)
@given(rng_seeds)
def test_hashes_that_differ_in_five_bits_meet(seed: int) -> None:
    generator = np.random.default_rng(seed)
    upright = generator.integers(0, 2**64, 400, dtype=np.uint64)
    for place in range(200):
        flips = generator.choice(64, generator.integers(0, 6), replace=False)
        upright[200 + place] = upright[place] ^ np.uint64(sum(1 << int(bit) for bit in flips))
    others = generator.integers(0, 2**64, (400, 7), dtype=np.uint64)
    pairs = candidates(np.column_stack([upright, others]))
    met = [(i, j) for a, b, g in pairs if g == 0 for i, j in zip(a, b, strict=True)]
    assert {(place, 200 + place) for place in range(200)} <= set(met)
    assert all((int(upright[i]) ^ int(upright[j])).bit_count() <= 10 for i, j in met)


@given(smooth, smooth)
def test_distance_is_one_minus_correlation_of_steps(one: Pixels, other: Pixels) -> None:
    def steps(picture: Pixels) -> NDArray[np.float64]:
        levels = picture[0].astype(float)
        rows, columns = levels[1:] - levels[:-1], levels[:, 1:] - levels[:, :-1]
        return np.concatenate([rows.ravel(), columns.ravel()])

    a, b = steps(one), steps(other)
    if a.any() and b.any():
        expected = 1 - a @ b / np.sqrt((a @ a) * (b @ b))
        assert distances(one, other)[0] == pytest.approx(expected, abs=1e-5)


# Copies. Each is saved, changed and read again, as copies come to be.


def saved(pixels: Pixels, **options: object) -> Pixels:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, **options)  # type: ignore[arg-type]
    with Image.open(content) as picture:
        return np.array(picture)


def resized(pixels: Pixels, share: float) -> Pixels:
    height, width = pixels.shape[:2]
    small = Image.fromarray(pixels).resize((round(width * share), round(height * share)))
    return np.array(small.resize((width, height)))


COPIES: dict[str, Callable[[Pixels], Pixels]] = {
    "a quarter turn": lambda pixels: np.rot90(pixels).copy(),
    "a half turn": lambda pixels: np.rot90(pixels, 2).copy(),
    "the other quarter turn": lambda pixels: np.rot90(pixels, 3).copy(),
    "mirrored": lambda pixels: pixels[:, ::-1].copy(),
    "upside down": lambda pixels: pixels[::-1].copy(),
    "transposed": lambda pixels: pixels.transpose(1, 0, 2).copy(),
    "saved anew": lambda pixels: saved(pixels, format="JPEG", quality=60),
    "half size": lambda pixels: resized(pixels, 0.5),
    "brighter": lambda pixels: np.minimum(pixels * 1.25, 255).astype(np.uint8),
    "darker": lambda pixels: (pixels * 0.6).astype(np.uint8),
    "turned, smaller and saved anew": lambda pixels: saved(
        resized(np.rot90(pixels).copy(), 0.7), format="JPEG", quality=70
    ),
}


@pytest.mark.parametrize("how", COPIES)
def test_a_changed_copy_in_another_split_is_found_and_nothing_else(how: str) -> None:
    train, test = scenes(range(100), 48), scenes(range(100, 140), 48)
    for place in range(8):
        copy = COPIES[how](train[3 * place].transpose(1, 2, 0))
        test[place] = copy.transpose(2, 0, 1)
    report = check(array_sets(train, test))
    pairs = [[("train", 3 * place), ("test", place)] for place in range(8)]
    cases = found(report)
    softened = {case[0] for case in cases.pop("blurred", [])}  # as resizing does it
    assert not softened or ("size" in how and softened <= {pair[1] for pair in pairs})
    assert cases == {"near-leak": pairs}
    assert finding(report, "near-leak").facts == ("test: 8 of its pictures are elsewhere too",)


def test_equal_pixels_are_told_by_split_and_label() -> None:
    train, test = scenes(range(40)), scenes(range(40, 60))
    test[3] = train[5]  # same label
    test[4] = train[7]  # another label
    train[20] = train[22]
    train[31] = train[30]  # another label
    test[10] = test[12] = train[0]
    report = check(array_sets(train, test))
    assert {kind: sorted(cases) for kind, cases in found(report).items()} == {
        "leak": [
            [("train", 0), ("test", 10), ("test", 12)],
            [("train", 5), ("test", 3)],
            [("train", 7), ("test", 4)],
        ],
        "two-labels": [[("train", 7), ("test", 4)], [("train", 30), ("train", 31)]],
        "duplicate": [[("test", 10), ("test", 12)], [("train", 20), ("train", 22)]],
    }
    assert finding(report, "leak").facts == ("test: 4 of its pictures are elsewhere too",)
    assert finding(report, "duplicate").facts == (
        "train: 1 more than there should be",
        "test: 1 more than there should be",
    )


def test_a_changed_copy_of_what_is_there_twice_joins_them() -> None:
    train, test = scenes(range(40)), scenes(range(40, 60))
    test[0] = train[0]
    train[2] = train[0][:, ::-1]
    report = check(array_sets(train, test))
    assert found(report) == {
        "leak": [[("train", 0), ("test", 0)]],
        "near-leak": [[("train", 0), ("train", 2), ("test", 0)]],
        "near-duplicate": [[("train", 0), ("train", 2)]],
    }


def test_a_changed_copy_in_another_class_is_found() -> None:
    train = scenes(range(60))
    train[13] = train[4, :, ::-1]
    report = check(array_sets(train, scenes(range(60, 80))))
    assert found(report) == {"near-two-labels": [[("train", 4), ("train", 13)]]}


def test_a_family_of_copies_is_one_group() -> None:
    picture = np.stack(
        [np.asarray(Image.fromarray(scene(1)[:72, :72]).convert("L").resize((16, 16)))]
    )
    family = np.concatenate([turned(picture, symmetry) for symmetry in range(8)])
    others = np.stack(
        [
            np.asarray(Image.fromarray(scene(seed)).convert("L").resize((16, 16)))
            for seed in range(9, 30)
        ]
    )
    (group,) = near_groups(np.concatenate([others, family]))
    assert group.tolist() == list(range(21, 29))


def test_many_lookalikes_are_no_copies_but_a_copy_among_them_is() -> None:
    """Plain garments on black: one outline with a little of its own in each."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[:16, :16]
    outline = 200.0 * (
        (abs(columns - 7.5) < 5) & (rows > 1) & ~((rows > 6) & (abs(columns - 7.5) < 1))
    )
    own = generator.normal(0, 9, (60, 16, 16)) * (outline > 0)
    garments = np.clip(outline + own, 0, 255).astype(np.uint8)
    far = distances(garments[:-1], garments[1:])
    assert np.median(far) < 0.02, "they are as near to each other as copies are"
    assert [len(each) for each in near_pairs(garments)] == [0, 0]
    copy = np.clip(garments[7] * 0.8 + generator.normal(0, 1, (16, 16)), 0, 255).astype(np.uint8)
    ones, others = near_pairs(np.concatenate([garments, copy[None]]))
    assert list(zip(ones, others, strict=True)) == [(7, 60)]


def test_time_grows_with_the_number_not_with_its_square() -> None:
    """Where all hashes are alike, at most so many are compared as there are orders times reach."""
    alike = np.zeros((3_000, 8), np.uint64)
    for ones, others, _ in candidates(alike):
        assert 0 < len(ones) == len(others) <= 3_000 * 21 * 16


# Single pictures.


def with_one(picture: Pixels) -> dict[str, ImageSet]:
    """One picture among sixty good ones, at position 17."""
    images = scenes(range(60), 48)
    images[17] = picture
    return array_sets(images, scenes(range(60, 80), 48))


def test_a_good_set_has_nothing_wrong() -> None:
    report = check(array_sets(scenes(range(100)), scenes(range(100, 150))))
    assert report.findings == ()
    assert in_words(report).endswith("nothing wrong was found")


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("constant", lambda picture: np.full_like(picture, 90)),
        ("constant", lambda picture: 90 + picture % 3),
        ("dark", lambda picture: picture // 8),
        ("bright", lambda picture: 230 + picture // 10),
    ],
)
def test_a_picture_that_shows_little_is_found(
    kind: str, change: Callable[[Pixels], Pixels]
) -> None:
    report = check(with_one(change(scenes(range(200, 201), 48)[0])))
    assert found(report) == {kind: [[("train", 17)]]}


def test_two_colours_of_one_brightness_are_not_plain() -> None:
    stripes = np.zeros((3, 48, 48), np.uint8)
    stripes[0, ::4], stripes[1, 2::4] = 200, 102  # both 60 in grey
    assert "constant" not in found(check(with_one(stripes)))


def test_a_blurred_picture_is_found() -> None:
    sharp = scene(300, 48, 48)
    blurred = resized(sharp, 1 / 8).transpose(2, 0, 1)
    assert found(check(with_one(blurred))) == {"blurred": [[("train", 17)]]}
    assert found(check(with_one(sharp.transpose(2, 0, 1)))) == {}


@pytest.mark.parametrize("side", [1, 2, 3, 200])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_any_size_are_looked_at(side: int, channels: int) -> None:
    generator = np.random.default_rng(side)
    images = generator.integers(0, 256, (30, channels, side, side), dtype=np.uint8)
    images[3], images[4] = 0, 255
    report = check(array_sets(images[:20], images[20:]))
    plain = (
        {("train", 3), ("train", 4)}
        if side > 1
        else {(s, k) for s, n in (("train", 20), ("test", 10)) for k in range(n)}
    )
    assert {picture for case in found(report)["constant"] for picture in case} == plain


def test_sets_may_be_empty() -> None:
    images = scenes(range(30))
    report = check(array_sets(images, images[:0]))
    assert [finding.kind for finding in report.findings] == ["missing-class"]
    assert "test: 0 pictures, 2 classes" in in_words(report)
    assert check(array_sets(images[:0], images[:0])).sets["train"]["pictures"] == 0


# Files.


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return good_folder(tmp_path_factory.mktemp("good") / "data")


def copied(good: Path, to: Path) -> Path:
    """The good folder again, in hard links."""
    for path in good.rglob("*.png"):
        target = to / path.relative_to(good)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, target)
    return to


def test_a_good_folder_has_nothing_wrong(good: Path) -> None:
    report = examined(good)
    assert report.findings == ()
    assert report.sets == {
        split: {
            "pictures": 24,
            "classes": {"a": 12, "b": 12},
            "least": [96, 72],
            "median": [96, 72],
            "most": [96, 72],
        }
        for split in ("train", "test")
    }


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def save_mode(path: Path, mode: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if mode == "I;16":
        grey = scene(900).mean(axis=2)
        Image.fromarray((grey * 257).astype(np.uint16)).save(path)
    else:
        Image.fromarray(scene(900)).convert(mode).save(path)
    return path


FAULTS: dict[str, tuple[str, str, Callable[[Path], object]]] = {
    # name -> kind of finding, file, how to make it
    "text": ("unreadable", "x.jpg", lambda path: path.write_text("<html>not here</html>")),
    "empty file": ("unreadable", "x.png", lambda path: path.write_bytes(b"")),
    "cut JPEG": ("truncated", "x.jpg", lambda path: cut(save(path, scene(900)), 0.5)),
    "cut PNG": ("truncated", "x.png", lambda path: cut(save(path, scene(900)), 0.5)),
    "PNG called JPEG": ("suffix", "x.jpg", lambda path: save(path, scene(900), format="PNG")),
    "JPEG called PNG": ("suffix", "x.PNG", lambda path: save(path, scene(900), format="JPEG")),
    "on its side": ("rotated", "x.jpg", lambda path: save(path, scene(900), exif=exif(6))),
    "mirrored PNG": ("rotated", "x.png", lambda path: save(path, scene(900), exif=exif(2))),
    "CMYK": ("mode", "x.jpg", lambda path: save_mode(path, "CMYK")),
    "palette": ("mode", "x.gif", lambda path: save_mode(path, "P")),
    "transparent": ("mode", "x.png", lambda path: save_mode(path, "RGBA")),
    "16 bits": ("mode", "x.png", lambda path: save_mode(path, "I;16")),
    "1 bit": ("mode", "x.png", lambda path: save_mode(path, "1")),
    "tiny": ("tiny", "x.png", lambda path: save(path, scene(900, 18, 24))),
    "long": ("long", "x.png", lambda path: save(path, scene(900, 60, 300))),
}
FACTS = {
    "CMYK": "CMYK",
    "palette": "palette",
    "transparent": "transparent parts",
    "16 bits": "16 bits",
    "1 bit": "1 bit",
    "tiny": "24 x 18 pixels",
    "long": "300 x 60 pixels",
    "PNG called JPEG": "PNG inside",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_file_is_found_and_nothing_else(
    fault: str, good: Path, tmp_path: Path
) -> None:
    kind, name, make = FAULTS[fault]
    folder = copied(good, tmp_path / "data")
    make(folder / "train" / "a" / name)
    report = examined(folder)
    kinds = named(report)
    if fault == "tiny":  # which is enlarged before its detail is measured
        kinds.pop("blurred", None)
    assert kinds == {kind: {f"train/a/{name}"}}
    (picture,) = finding(report, kind).cases[0]
    assert (picture.split, picture.label) == ("train", "a")
    assert picture.fact.endswith(FACTS.get(fault, picture.fact))


def test_files_without_a_fault_of_their_names(good: Path, tmp_path: Path) -> None:
    folder = copied(good, tmp_path / "data")
    for number, name in enumerate(("x.JPEG", "y.jpg", "z.jpe", "no suffix", "v1.5", "w.webp")):
        kind = "WEBP" if name == "w.webp" else "JPEG"
        save(folder / "test" / "b" / name, scene(950 + number), format=kind, quality=95)
    assert named(examined(folder)) == {}


def test_the_sides_are_those_in_the_file_not_of_a_reduced_decoding(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for number, label in product(range(3), "ab"):
        save(folder / label / f"{number}.jpg", scene(ord(label) + 9 * number, 400, 600))
    report = examined(folder, least=100)
    assert report.findings == ()
    assert report.sets["train"]["most"] == [600, 400]
    assert "600 x 400 pixels" in in_words(report)


def test_a_picture_that_vanishes_after_the_listing_stops_nothing(
    good: Path, tmp_path: Path
) -> None:
    folder = copied(good, tmp_path / "data")
    listing = list_folder(folder)
    sets = read(listing, tmp_path / "cache")
    for split, images in sets.items():
        assert isinstance(images.images, Photos)
        unkept = replace(images.images.scan, kept=Kept(None))
        sets[split] = replace(images, images=replace(images.images, scan=unkept))
    (folder / "test" / "b" / "3.png").unlink()
    report = check(sets, listing, threads=3)
    assert named(report) == {"unreadable": {"test/b/3.png"}}
    page = as_html(report, sets, "vanished")
    assert "<img" not in page
    assert "test/b/3.png (b)" in page


def test_pictures_within_other_files_are_looked_at(good: Path, tmp_path: Path) -> None:
    contents = [path.read_bytes() for path in sorted((good / "train").rglob("*.png"))]
    turned_one = io.BytesIO()
    Image.fromarray(scene(900)).save(turned_one, "JPEG", exif=exif(8), quality=95)
    contents.append(turned_one.getvalue())
    shard = tmp_path / "train-000000.tar"
    shard.write_bytes(b"head" + b"".join(contents))
    sizes = np.array([len(content) for content in contents], np.int64)
    spots = Spots((str(shard),), np.zeros(25, np.int32), 4 + np.cumsum(sizes) - sizes, sizes)
    seen = scan(spots, Decoding(3), tmp_path / "cache", 2, print)
    photos = Photos(seen, np.arange(25))
    sets = {"train": ImageSet("shards", photos, np.arange(25) % 2, ("a", "b"))}
    assert found(check(sets, threads=2)) == {"rotated": [[("train", 24)]]}


def test_the_number_of_threads_changes_nothing(good: Path, tmp_path: Path) -> None:
    folder = copied(good, tmp_path / "data")
    FAULTS["cut JPEG"][2](folder / "train" / "a" / "x.jpg")
    FAULTS["CMYK"][2](folder / "train" / "b" / "x.jpg")
    listing = list_folder(folder)
    sets = read(listing, tmp_path / "cache")
    assert check(sets, listing, threads=1) == check(sets, listing, threads=4)


# Classes and groups.


def counted(**splits: list[int]) -> dict[str, ImageSet]:
    """Splits with so many pictures of classes a, b and so on."""
    sets, start = {}, 0
    for split, counts in splits.items():
        labels = np.repeat(np.arange(len(counts)), counts)
        images = scenes(range(start, start + len(labels)), 16)
        start += len(labels)
        sets[split] = ImageSet(split, images, labels, tuple("abcdef"[: len(counts)]))
    return sets


def facts_of(report: Report) -> dict[str, tuple[str, ...]]:
    return {each.kind: each.facts for each in report.findings}


def test_classes_that_are_missing_or_rare_are_found() -> None:
    report = check(counted(train=[40, 4, 0, 5], validation=[2, 0, 1, 1], test=[2, 2, 0, 2]))
    assert facts_of(report) == {
        "empty-class": ("'c'",),
        "missing-class": ("'b' in validation",),
        "imbalance": ("'b' has 4, 'a' has 40",),
    }
    assert [each.severity for each in report.findings] == ["error", "warning", "warning"]


def test_a_set_without_training_pictures_is_not_blamed_for_that() -> None:
    assert facts_of(check(counted(test=[4, 4]))) == {}


def test_groups_in_two_splits_are_found(good: Path, tmp_path: Path) -> None:
    lines = ["path,label,split,group"]
    for split, label, k in product(("train", "test"), "ab", range(12)):
        group = f"patient {k}" if split == "train" else f"patient {100 + k // 2}"
        group = "patient 3" if (split, label, k) == ("test", "b", 5) else group
        lines.append(f"{good}/{split}/{label}/{k}.png,{label},{split},{group}")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    listing = list_csv(tmp_path / "list.csv")
    report = check(read(listing, tmp_path / "cache"), listing)
    assert [each.kind for each in report.findings] == ["group-leak"]
    (case,) = report.findings[0].cases
    assert [(each.split, each.fact) for each in case] == [
        ("train", "group 'patient 3'"),
        ("test", "group 'patient 3'"),
    ]


def test_what_the_listing_left_out_is_told(good: Path, tmp_path: Path) -> None:
    folder = copied(good, tmp_path / "data")
    (folder / "train" / "c").mkdir()
    (folder / "train" / "notes.txt").write_text("")
    report = examined(folder)
    assert facts_of(report) == {
        "left-out": ("1 empty class folders", "1 files outside the class folders")
    }


# How it is told.

NASTY = ("<script>alert(1)", "a\"'&<b onclick=x>\n\u202e\udcff")


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, dict[str, ImageSet]]:
    """All kinds of faults in a folder with the worst of names."""
    root = tmp_path_factory.mktemp("nasty") / "data"
    for place, label in enumerate(NASTY):
        for number in range(30):
            save(root / "train" / label / f"<i>{number}.png", scene(100 * place + number))
    test, train = root / "test" / NASTY[0], root / "train" / NASTY[1]
    for number in range(14):
        save(test / f"{number}.png", scene(number))  # all of them leaks
    for fault, (_, name, make) in FAULTS.items():
        make(train / f"{fault} {name}")
    save(train / "\udcfe.png", np.zeros((60, 60, 3), np.uint8))
    listing = list_folder(root)
    sets = read(listing, root.parent / "cache")
    return check(sets, listing, threads=2), sets


class Page(HTMLParser):
    """Elements and texts of a page whose tags must all be closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_well_formed_and_only_text_and_pictures(
    nasty: tuple[Report, dict[str, ImageSet]],
) -> None:
    report, sets = nasty
    content = as_html(report, sets, "</title><b>\udcff")
    page = Page()
    page.feed(content.encode().decode())  # no half of a character is left
    page.close()
    assert not page.open
    assert {tag for tag, _ in page.tags} == {
        "html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "ul", "li", "section",
        "div", "figure", "img", "figcaption", "br",
    }  # fmt: skip
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert NASTY[0] in page.text, "as text"
    sources = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(sources) > 20
    for source in sources:
        head, data = str(source).split(",")
        assert head == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            picture.load()
            assert max(picture.size) <= 96


def test_words_name_all_findings_and_ten_examples_each(
    nasty: tuple[Report, dict[str, ImageSet]],
) -> None:
    report, _ = nasty
    words = in_words(report)
    assert all(line.isprintable() for line in words.split("\n"))
    for each in report.findings:
        assert f"{each.severity.upper()}: {KINDS[each.kind].title}: {each.count}" in words
        assert KINDS[each.kind].meaning in words
    assert "ERROR: pictures that are in several splits: 14 (28 in all)" in words
    leak = words[words.index("pictures that are in several splits") :].split("\n\n")[0]
    assert leak.count(" = ") == 10
    assert leak.endswith("and 4 more")
    severities = [each.severity for each in report.findings]
    assert severities == sorted(severities, key=("error", "warning", "note").index)
    assert set(severities) == {"error", "warning", "note"}


def test_json_brings_everything_back(nasty: tuple[Report, dict[str, ImageSet]]) -> None:
    report, _ = nasty
    text = json.dumps(as_dict(report), ensure_ascii=False)
    back = json.loads(text)
    assert back == as_dict(report)
    assert [each["count"] for each in back["findings"]] == [f.count for f in report.findings]
    (leak,) = (each for each in back["findings"] if each["kind"] == "leak")
    assert len(leak["cases"]) == 14
    assert leak["cases"][0][0]["name"] == f"train/{NASTY[0]}/<i>0.png"
    assert back["sets"]["train"]["classes"].keys() == set(NASTY)


# Fashion-MNIST. https://github.com/zalandoresearch/fashion-mnist/issues/44 listed 43 pictures that
# were twice in its training set, one in its test set and ten in both; the files were replaced on
# the same day, so that in those of the catalogue there is none.

LISTED_IN_TRAIN = ((601, 39865), (831, 24228), (1826, 23718), (4974, 6293), (48955, 51368))
LISTED_IN_BOTH = ((3763, 7243), (4944, 7781), (6168, 9227), (12404, 4037), (15943, 6659))


def fashion_mnist(number: int) -> dict[str, ImageSet]:
    """The first training images, and the test images."""
    if not (ROOT / "datasets" / "fashion-mnist").is_dir():
        pytest.skip("fashion-mnist is not on this machine")
    root = ROOT / "datasets"
    train, test = (catalog.load("fashion-mnist", s, root, False) for s in ("train", "test"))
    return {"train": train.subset(np.arange(number), "train"), "test": test}


def pixels_of(images: ImageSet) -> Pixels:
    assert not isinstance(images.images, Photos)
    return images.images


def test_ten_test_images_put_into_the_training_set_are_found_exactly() -> None:
    sets = fashion_mnist(4_000)
    test = sets["test"].subset(np.arange(2_000), "test")
    leaks = [(7 + 390 * place, 13 + 150 * place) for place in range(10)]
    train = replace(
        sets["train"], images=pixels_of(sets["train"]).copy(), labels=sets["train"].labels.copy()
    )
    for place, source in leaks:
        pixels_of(train)[place], train.labels[place] = pixels_of(test)[source], test.labels[source]
    found_here = found(check({"train": train, "test": test}))
    assert found_here["leak"] == [[("train", place), ("test", source)] for place, source in leaks]
    assert "duplicate" not in found_here
    assert "two-labels" not in found_here


@pytest.mark.soak
def test_fashion_mnist_as_it_is_now_and_as_it_was_listed() -> None:
    sets = fashion_mnist(60_000)
    train, test = pixels_of(sets["train"]).copy(), pixels_of(sets["test"])
    assert len({picture.tobytes() for images in (train, test) for picture in images}) == 70_000
    now = check(sets, threads=2)
    assert not {"leak", "two-labels", "duplicate"} & found(now).keys()
    same_shirt = [("train", 970), ("test", 8869)]
    assert same_shirt in found(now)["near-leak"]
    alike = sum(len(case) for kind in ("near-leak", "near-duplicate") for case in found(now)[kind])
    assert alike < 350, "half of a hundredth; distance alone takes four times as many"
    for one, other in LISTED_IN_TRAIN:
        train[other] = train[one]
    for one, other in LISTED_IN_BOTH:
        train[one] = test[other]
    labels = np.zeros(60_000, np.int64)
    was = check(
        {
            "train": ImageSet("train", train, labels, ("thing",)),
            "test": ImageSet("test", test, labels[:10_000], ("thing",)),
        }
    )
    assert sorted(found(was)["duplicate"]) == [
        [("train", one), ("train", other)] for one, other in LISTED_IN_TRAIN
    ]
    assert sorted(found(was)["leak"]) == [
        [("train", one), ("test", other)] for one, other in LISTED_IN_BOTH
    ]
