"""A person's own pictures: divided, looked at, trained on, measured, and answered for."""

import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcnn import artefact, evaluate, models
from deepcnn.cli import main
from deepcnn.config import Data
from deepcnn.data.catalog import is_pictures
from deepcnn.data.images import ImageSet
from deepcnn.data.loader import source
from deepcnn.data.photos import Photos, whole_files
from deepcnn.data.pictures import (
    Listed,
    divide,
    least_side,
    load_all,
    load_parts,
    number,
    square_side,
)
from deepcnn.data.scan import scan
from deepcnn.data.splits import load_part, load_splits
from deepcnn.device import Policy
from deepcnn.errors import DataError, RunError
from deepcnn.predict import predict
from faults import (
    MINI,
    SMALL,
    Settings,
    digest,
    last_step,
    signals_restored,
    stop_early,
    torch_restored,
    train_here,
)
from picture_files import blocks, by_pillow, encoded, write_classes

COUNTS = {"bird": 12, "cat": 24, "dog": 36}
TOTAL = sum(COUNTS.values())
PLAIN = Policy("cpu", "fp32", "contiguous", threads=1)
TOY: Settings = SMALL | {
    "data.validation": 12, "data.test": 12, "data.size": 12, "data.keep": 0.8,
    "augment.crop_area": 0.4, "augment.crop": 0, "train.epochs": 2, "train.batch_size": 12,
}  # fmt: skip
STEPS_PER_EPOCH = (TOTAL - 24) // 12


def listed(
    labels: list[int], splits: list[str] | None = None, groups: list[str] | None = None
) -> Listed:
    none = [""] * len(labels)
    return Listed(
        whole_files(tuple(f"/nowhere/{k:04}" for k in range(len(labels)))),
        np.array(labels, dtype=np.int64),
        tuple(none if splits is None else splits),
        tuple(none if groups is None else groups),
        tuple(f"class {k}" for k in range(max(labels) + 1)),
    )


def divided(
    found: Listed, validation: float, test: float, seed: int = 0
) -> tuple[list[str], list[str]]:
    """The parts, and what was said."""
    said: list[str] = []
    data = Data(name="own", validation=validation, test=test)
    return divide(found, data, seed, said.append).tolist(), said


def photos_of(images: ImageSet) -> Photos:
    assert isinstance(images.images, Photos)
    return images.images


def names(images: ImageSet) -> list[str]:
    photos = photos_of(images)
    return [photos.name(k) for k in range(len(photos))]


def files(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*.*") if path.is_file())


def load(folder: Path, seed: int = 0, **options: Any) -> tuple[dict[str, ImageSet], list[str]]:
    said: list[str] = []
    return load_parts(Data(name=str(folder), **options), seed, said.append), said


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_classes(tmp_path / "own", COUNTS)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEEPCNN_CACHE", str(tmp_path / "deepcnn"))
    return tmp_path / "deepcnn"


@pytest.fixture(autouse=True)
def _quickly() -> Iterator[None]:
    with mock.patch("os.fsync"), torch_restored():
        torch.set_num_threads(1)
        yield


shares = st.one_of(st.floats(0.01, 0.3), st.integers(1, 9).map(float))


@given(st.lists(st.integers(0, 2), min_size=30, max_size=200), shares, shares, st.integers(0, 99))
def test_what_a_source_does_not_divide_is_held_out(
    labels: list[int], validation: float, test: float, seed: int
) -> None:
    parts, said = divided(listed([*labels, 0, 1, 2]), validation, test, seed)
    counts = Counter(parts)
    total = len(labels) + 3
    assert counts["test"] == number(test, total)
    assert counts["validation"] == number(validation, total - counts["test"])
    assert counts.total() == counts["train"] + counts["validation"] + counts["test"]
    assert not said
    assert divided(listed([*labels, 0, 1, 2]), validation, test, seed)[0] == parts


def test_classes_are_held_out_in_proportion() -> None:
    labels = [0] * 100 + [1] * 300 + [2] * 600
    parts, _ = divided(listed(labels), 90, 100)
    for part, expected in (("test", [10, 30, 60]), ("validation", [9, 27, 54])):
        chosen = [label for label, found in zip(labels, parts, strict=True) if found == part]
        assert [chosen.count(k) for k in range(3)] == expected
    assert divided(listed(labels), 90, 100, seed=1)[0] != parts


@settings(max_examples=50)
@given(st.lists(st.integers(0, 11), min_size=40, max_size=120), st.integers(0, 9))
def test_groups_stay_whole(groups: list[int], seed: int) -> None:
    groups = [*groups, *range(12)]
    labels = [k % 2 for k in range(len(groups))]
    parts, _ = divided(listed(labels, groups=[str(group) for group in groups]), 0.2, 0.2, seed)
    assert set(parts) == {"train", "validation", "test"}
    for group in set(groups):
        assert len({p for p, g in zip(parts, groups, strict=True) if g == group}) == 1


GIVEN = ["train"] * 20 + ["validation"] * 5 + ["test"] * 6
LABELS = [k % 2 for k in range(31)]


def test_the_division_of_the_source_counts() -> None:
    assert divided(listed(LABELS, GIVEN), 0.5, 0.5) == (GIVEN, [])
    assert divided(listed(LABELS, GIVEN), 0, 0) == (GIVEN, [])


def test_validation_alone_is_the_test_set() -> None:
    """What decisions are made by is held out of the training images instead."""
    given = GIVEN[:25]
    parts, said = divided(listed(LABELS[:25], given), 4, 0.5)
    assert parts[20:] == ["test"] * 5
    assert Counter(parts[:20]) == {"train": 16, "validation": 4}
    assert said == ["own: its validation images are the test set, which no decision is made by"]
    parts, _ = divided(listed(LABELS[:25], given), 0, 0)
    assert Counter(parts) == {"train": 20, "test": 5}


def test_a_given_test_set_is_left_alone() -> None:
    given = GIVEN[:20] + GIVEN[25:]
    parts, said = divided(listed(LABELS[:26], given), 0.25, 0.5)
    assert parts[20:] == ["test"] * 6
    assert Counter(parts[:20]) == {"train": 15, "validation": 5}
    assert not said
    assert divided(listed(LABELS[:26], given), 0, 0.5)[0] == given


def test_nothing_to_measure_on_is_refused() -> None:
    for splits in (None, ["train"] * 31):
        with pytest.raises(DataError, match=r"own has no test images .* set --data\.test 0\.1"):
            divided(listed(LABELS, splits), 0.1, 0)
        assert Counter(divided(listed(LABELS, splits), 0, 7)[0]) == {"train": 24, "test": 7}


def test_a_share_or_a_number() -> None:
    assert [number(share, 250) for share in (0.1, 0.001, 0.5, 0.999, 1, 7)] == [
        25, 1, 125, 250, 1, 7,
    ]  # fmt: skip


def test_a_folder_becomes_three_sets(folder: Path) -> None:
    sets, said = load(folder, validation=9, test=12)
    assert {part: len(images) for part, images in sets.items()} == {
        "train": TOTAL - 21, "validation": 9, "test": 12,
    }  # fmt: skip
    assert not said
    everything = [name for images in sets.values() for name in names(images)]
    assert sorted(everything) == files(folder)
    for part, images in sets.items():
        assert images.name == f"{folder}, {part}"
        assert images.classes == tuple(COUNTS)
        for k, path in enumerate(map(Path, names(images))):
            assert path.parent.name == images.classes[images.labels[k]]
            pixels = photos_of(images).pixels(k).permute(1, 2, 0).numpy()
            np.testing.assert_array_equal(pixels, by_pillow(path.read_bytes()))
    assert sets["test"].class_counts().tolist() == [2, 4, 6]


def spoil(folder: Path, count: int, name: str = "dog") -> list[str]:
    """Make the last pictures of a class illegible; their paths."""
    paths = sorted((folder / name).iterdir())[-count:]
    for path in paths:
        path.write_bytes(b"no picture")
    return [str(path) for path in paths]


@pytest.mark.parametrize("count", [1, 10, 13])
def test_bad_pictures_stop_a_run(count: int, folder: Path) -> None:
    bad = spoil(folder, count)
    for _ in range(2):  # also when they are known from the first time
        with pytest.raises(DataError) as stop:
            load(folder)
        message = str(stop.value)
        assert message.startswith(f"{count} of {TOTAL} pictures cannot be used: {bad[0]} is not a")
        assert [path in message for path in bad] == [True] * min(count, 10) + [False] * (count - 10)
        assert ("; and 3 more. Mend" in message) == (count == 13)
        assert message.endswith("Mend or remove them, or leave them out: --data.on_bad skip")
        assert "\n" not in message


def test_bad_pictures_are_left_out(folder: Path) -> None:
    bad = spoil(folder, 13)
    sets, said = load(folder, on_bad="skip", test=20)
    assert len(said) == 1
    assert said[0].startswith(f"left out: 13 of {TOTAL} pictures cannot be used: {bad[0]} is not a")
    assert said[0].endswith("; and 3 more")
    everything = {name for images in sets.values() for name in names(images)}
    assert everything == set(files(folder)) - set(bad)
    for images in sets.values():
        assert [Path(name).parent.name for name in names(images)] == [
            images.classes[label] for label in images.labels
        ]


def test_pictures_that_end_too_early_are_read_if_asked_for(folder: Path) -> None:
    cut = sorted((folder / "dog").iterdir())[-1]
    cut.write_bytes(encoded(blocks(60, 50), "JPEG")[:1_000])
    with pytest.raises(DataError, match=r"data\.on_bad skip; --data\.on_bad read takes what there"):
        load(folder)
    sets, said = load(folder, on_bad="read")
    assert said == [
        f"1 of {TOTAL} pictures end too early and are read as far as they go: {cut} cannot be "
        "read: image file is truncated (33 bytes not processed)"
    ]
    assert str(cut) in {name for images in sets.values() for name in names(images)}
    (bad,) = spoil(folder, 1, "cat")
    with pytest.raises(
        DataError, match=rf"1 of {TOTAL} pictures cannot be used: .* --data\.on_bad skip$"
    ):
        load(folder, on_bad="read")
    assert bad


def test_bad_pictures_do_not_move_others(folder: Path) -> None:
    """A picture that goes bad leaves every other one in its part."""
    before, _ = load(folder)
    bad = spoil(folder, 5)
    after, _ = load(folder, on_bad="skip")
    for part, images in before.items():
        assert names(after[part]) == [name for name in names(images) if name not in bad]


def test_a_class_without_training_images_is_refused(folder: Path) -> None:
    spoil(folder, COUNTS["cat"], "cat")
    spoil(folder, COUNTS["bird"], "bird")
    with pytest.raises(DataError, match=r"own: no training images are left of 'bird', 'cat'$"):
        load(folder, on_bad="skip")


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_a_part_without_images_is_refused(part: str, tmp_path: Path) -> None:
    for each in ("train", "val", "test"):
        write_classes(tmp_path / "own" / each, {"a": 3, "b": 3})
    for name in ("a", "b"):
        spoil(tmp_path / "own" / part, 3, name)
    word = {"val": "validation"}.get(part, part)
    with pytest.raises(DataError, match=rf"own: no {word} images are left of those that can be"):
        load(tmp_path / "own", on_bad="skip")


def test_all_of_a_source_to_measure_on(folder: Path, tmp_path: Path) -> None:
    def loaded(source: Path) -> ImageSet:
        return load_all(Data(name=str(source)), 0, print)

    assert sorted(names(loaded(folder))) == files(folder)
    place = tmp_path / "divided"
    for part in ("train", "valid", "test"):
        write_classes(place / part, {"a": 2, "b": 3})
    for part in ("test", "valid"):
        images = loaded(place)
        assert sorted(names(images)) == files(place / part)
        assert (images.classes, images.labels.tolist()) == (("a", "b"), [0, 0, 1, 1, 1])
        shutil.rmtree(place / part)
    assert sorted(names(loaded(place))) == files(place)


def test_a_table_says_the_same_as_the_folder(folder: Path) -> None:
    table = folder.parent / "table.csv"
    rows = [f"{p.relative_to(table.parent)},{p.parent.name}" for p in map(Path, files(folder))]
    table.write_text("\n".join(["path,label", *reversed(rows)]))
    assert is_pictures(table)
    by_folder, by_table = load(folder)[0], load(table)[0]
    for part, images in by_folder.items():
        assert names(images) == names(by_table[part])
        assert images.fingerprint == by_table[part].fingerprint


def fingerprints(folder: Path, **options: Any) -> dict[str, str]:
    return {part: images.fingerprint for part, images in load(folder, **options)[0].items()}


def test_a_fingerprint_is_that_of_the_content(folder: Path, tmp_path: Path) -> None:
    before = fingerprints(folder)
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(folder, elsewhere)
    assert fingerprints(elsewhere) == before
    for path in files(folder):
        os.utime(path, (1, 1))
    assert fingerprints(folder) == before


def test_a_fingerprint_changes_with_any_byte_of_any_file(folder: Path) -> None:
    """Even with one that no pixel depends on: it is files that are compared."""
    sets, _ = load(folder)
    before = fingerprints(folder)
    for part, images in sets.items():
        for name in (names(images)[0], names(images)[-1]):
            content = Path(name).read_bytes()
            Path(name).write_bytes(content + b"\0")
            after = fingerprints(folder)
            assert [p for p in after if after[p] != before[p]] == [part]
            Path(name).write_bytes(content)
    assert fingerprints(folder) == before


def test_names_count_as_far_as_they_order_the_pictures(folder: Path) -> None:
    """The order of an epoch and the draw of what is held out go by position among all pictures."""
    before = fingerprints(folder)
    (folder / "cat" / "00.png").rename(folder / "cat" / "000.png")
    assert fingerprints(folder) == before
    (folder / "cat" / "000.png").rename(folder / "cat" / "99.png")
    assert fingerprints(folder)["train"] != before["train"]
    (folder / "cat" / "99.png").rename(folder / "cat" / "00.png")
    (folder / "cat").rename(folder / "cow")
    assert fingerprints(folder)["train"] != before["train"]


def test_sides(folder: Path, tmp_path: Path) -> None:
    train = load(folder)[0]["train"]
    assert (square_side(Data(), train), least_side(Data())) == (224, 448)
    assert square_side(Data(size=50), train) == 50
    assert least_side(Data(size=50, keep=0.6)) == 2 * 83
    for side, expected in ((16, 16), (224, 224), (225, 224)):
        squares = tmp_path / str(side)
        for name, count in (("a", 2), ("b", 3)):
            (squares / name).mkdir(parents=True)
            for k in range(count):
                (squares / name / f"{k}.png").write_bytes(encoded(blocks(side, side, k)))
        images = load(squares, validation=0, test=1)[0]["train"]
        assert square_side(Data(), images) == expected


def test_a_large_jpeg_is_kept_as_small_as_is_needed(folder: Path) -> None:
    """At 30 / 0.6 = 50 pixels a network looks, and twice that is what is kept at least."""
    for name in COUNTS:
        (folder / name / "large.jpg").write_bytes(encoded(blocks(600, 400), "JPEG"))
        (folder / name / "small.jpg").write_bytes(encoded(blocks(199, 600), "JPEG"))
    found: dict[str, list[int]] = {}
    for images in load(folder, size=30, keep=0.6)[0].values():
        found |= dict(zip(names(images), photos_of(images).sizes.tolist(), strict=True))
    for name in COUNTS:
        assert found[str(folder / name / "large.jpg")] == [150, 100]
        assert found[str(folder / name / "small.jpg")] == [199, 600]


def test_the_same_folder_is_looked_at_once(folder: Path, own_cache: Path) -> None:
    with mock.patch("deepcnn.data.pictures.scan", wraps=scan) as scans:
        first, second = load_splits(Data(name=str(folder)), 0), load(folder / ".." / "own")[0]
    (cache,) = {call.args[2] for call in scans.call_args_list}
    assert cache.parent == own_cache / "pictures"
    assert first.train.fingerprint == second["train"].fingerprint
    assert load_part(str(folder), "test", "").fingerprint == first.test.fingerprint


def settings_of(folder: Path) -> Settings:
    return TOY | {"data.name": str(folder)}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classes(tmp_path_factory.mktemp("toy") / "own", COUNTS)


@pytest.fixture(scope="module")
def twin(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    run = tmp_path_factory.mktemp("twin") / "run"
    with mock.patch("os.fsync"):
        train_here(settings_of(toy), run)
    return run


@pytest.mark.parametrize("updates", [0, 1, 3, STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH - 1])
def test_a_run_on_photos_continues_bit_for_bit(
    updates: int, toy: Path, twin: Path, tmp_path: Path, own_cache: Path
) -> None:
    run, settings = tmp_path / "run", settings_of(toy) | {"train.checkpoint_seconds": 0}
    stop_early(settings, run, updates)
    assert last_step(run) == updates
    if updates % 2:  # decoded anew or mapped, it is the same
        shutil.rmtree(own_cache)
    train_here(settings, run)
    assert digest(run) == digest(twin)


def test_kept_or_not_it_is_the_same_run(
    toy: Path, twin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepcnn.data.kept.room", lambda _: 0)
    monkeypatch.setattr("deepcnn.data.loader.available_threads", lambda: 5)
    train_here(settings_of(toy), tmp_path / "run")
    assert digest(tmp_path / "run") == digest(twin)


def test_chance_matters_in_these_runs(toy: Path, twin: Path, tmp_path: Path) -> None:
    for name, value in (("augment.crop_area", 0), ("train.seed", 1)):
        train_here(settings_of(toy) | {name: value}, tmp_path / name)
        assert digest(tmp_path / name)["last weights"] != digest(twin)["last weights"]


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_a_changed_picture_is_no_basis_to_continue(part: str, folder: Path, tmp_path: Path) -> None:
    settings = settings_of(folder) | {"train.checkpoint_seconds": 0}
    train_here(settings, tmp_path / "twin")
    run = tmp_path / "run"
    stop_early(settings, run, 5)
    found = Data(name=str(folder), validation=12, test=12)
    path = Path(names(load_parts(found, 0, print)[part])[7])
    content = path.read_bytes()
    path.write_bytes(encoded(255 - by_pillow(content)))
    with pytest.raises(RunError, match=r"other conditions \(images: \w{12} then, \w{12} now"):
        train_here(settings, run)
    path.write_bytes(content)
    train_here(settings, run)
    assert digest(run) == digest(tmp_path / "twin")


def command(*arguments: object) -> str:
    """What a command that succeeds prints."""
    output = io.StringIO()
    with (
        mock.patch.dict(models.MODELS, {"mini": MINI}), signals_restored(), torch_restored(),
        redirect_stdout(output), pytest.raises(SystemExit) as stop,
    ):  # fmt: skip
        main([str(argument) for argument in arguments])
    assert stop.value.code == 0
    return output.getvalue()


def test_every_photo_is_predicted_as_it_was_evaluated(toy: Path, twin: Path) -> None:
    result = json.loads(command("evaluate", twin, "--json"))
    with mock.patch.dict(models.MODELS, {"mini": MINI}):
        found = artefact.load(twin)
    assert result["accuracy"] == found.meta["test"]["accuracy"]
    data = Data(name=str(toy), validation=12, test=12, size=12, keep=0.8)
    splits = load_splits(data, 0, print)
    assert splits.preprocess == found.preprocess
    pixels = source(splits.test, found.preprocess, torch.device("cpu"))
    logits = evaluate.predictions(found.model, pixels, PLAIN).logits
    assert found.temperature == found.meta["temperature"] != 1  # fitted to the images held out
    shares = (logits.double() / found.temperature).softmax(dim=1)
    answers = list(predict(found, map(Path, names(splits.test)), top=len(COUNTS)))
    for answer, row in zip(answers, shares.tolist(), strict=True):
        expected = dict(zip(found.classes, row, strict=True))
        assert dict(answer.classes) == pytest.approx(expected, abs=1e-6)
    right = [answer.classes[0][0] == answer.path.parent.name for answer in answers]
    assert sum(right) / len(right) == result["accuracy"]


def test_another_folder_is_measured_whole(twin: Path, tmp_path: Path) -> None:
    other = write_classes(tmp_path / "other", {"bird": 3, "cat": 4, "dog": 5})
    result = json.loads(command("evaluate", twin, "--data", other, "--json"))
    assert result["num_images"] == 12
    answers = command("predict", twin, *files(other), "--json").splitlines()
    right = [
        Path(answer["image"]).parent.name == answer["classes"][0]["class"]
        for answer in map(json.loads, answers)
    ]
    assert sum(right) / 12 == result["accuracy"]
