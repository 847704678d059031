import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import GeneratorType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torchvision.transforms import v2

from deepcnn.config import Augment
from deepcnn.data import loader
from deepcnn.data.augment import Parameters, augment, draw, pick, windows
from deepcnn.data.images import ImageSet
from deepcnn.data.loader import Batch, Source, epoch_batches, in_order, source
from deepcnn.data.order import batch_slices, order
from deepcnn.data.photos import Kept, Photos
from deepcnn.data.preprocess import Preprocess
from deepcnn.errors import ImageError
from picture_files import looked_at, write_pictures

NUM_IMAGES = 23
# Pixels stay what they are, so that a batch can be compared with the stored images bit by bit.
RAW = Preprocess(channels=2, size=4, pad=0, mean=(0.0, 0.0), std=(1 / 255, 1 / 255))
SCALED = Preprocess(channels=2, size=7, pad=1, mean=(0.3, 0.4), std=(0.2, 0.5))
seeds = st.integers(0, 2**63 - 1)
epochs = st.integers(0, 10_000)


def stored_pixels() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, 2, 4, 4), dtype=np.uint8)


def stored() -> ImageSet:
    labels = np.random.default_rng(1).integers(0, 3, NUM_IMAGES)
    return ImageSet("toy", stored_pixels(), labels, ("a", "b", "c"))


def toy(preprocess: Preprocess) -> Source:
    return source(stored(), preprocess, torch.device("cpu"))


@settings(deadline=None)
@given(seeds, epochs, st.integers(1, 300))
def test_order_is_a_permutation_that_depends_on_its_arguments_only(
    seed: int, epoch: int, num_images: int
) -> None:
    visited = order(seed, epoch, num_images)
    assert sorted(visited.tolist()) == list(range(num_images))
    torch.manual_seed(seed % 1000)
    assert torch.equal(order(seed, epoch, num_images), visited)


@settings(deadline=None, max_examples=30)
@given(seeds, epochs)
def test_each_epoch_and_seed_has_its_own_order(seed: int, epoch: int) -> None:
    visited = order(seed, epoch, 100)
    assert not torch.equal(visited, order(seed, epoch + 1, 100))
    assert not torch.equal(visited, order(seed ^ 1, epoch, 100))


@settings(deadline=None)
@given(st.integers(1, 500), st.integers(1, 60))
def test_batches_cover_every_image_once(num_images: int, batch_size: int) -> None:
    batches = [
        list(range(num_images))[part] for part in batch_slices(num_images, batch_size, False)
    ]
    assert [i for batch in batches for i in batch] == list(range(num_images))
    assert all(len(batch) == batch_size for batch in batches[:-1])
    # A single image at the end is joined to the batch before it, if there is one.
    alone = num_images == 1 or batch_size == 1
    assert len(batches[-1]) in ([1] if alone else range(2, batch_size + 2))
    assert len(batches) == max(1, -(-num_images // batch_size) - (num_images % batch_size == 1))


@settings(deadline=None)
@given(st.integers(1, 500), st.integers(1, 60))
def test_drop_last_leaves_out_the_rest_and_nothing_else(num_images: int, batch_size: int) -> None:
    batches = [list(range(num_images))[part] for part in batch_slices(num_images, batch_size, True)]
    whole = num_images // batch_size
    assert [len(batch) for batch in batches] == [batch_size] * whole
    assert [i for batch in batches for i in batch] == list(range(whole * batch_size))


def test_batches_of_a_few_sizes() -> None:
    def sizes(num_images: int, batch_size: int, drop_last: bool) -> list[int]:
        return [p.stop - p.start for p in batch_slices(num_images, batch_size, drop_last)]

    assert sizes(10, 4, False) == [4, 4, 2]
    assert sizes(9, 4, False) == [4, 5]
    assert sizes(8, 4, False) == [4, 4]
    assert sizes(9, 4, True) == [4, 4]
    assert sizes(1, 4, False) == [1]
    assert sizes(60_000, 128, False) == [128] * 468 + [96]
    assert sizes(50_000, 64, True) == [64] * 781  # text 000: the last 16 are discarded


def test_in_order_yields_every_image_once_whatever_the_batch_size() -> None:
    images = stored()
    for batch_size in range(1, NUM_IMAGES + 2):
        batches = list(in_order(toy(RAW), batch_size))
        assert max(len(batch.labels) for batch in batches) <= batch_size
        pixels = torch.cat([batch.images for batch in batches]).numpy()
        np.testing.assert_allclose(pixels, stored_pixels(), rtol=1e-6)
        assert torch.cat([batch.labels for batch in batches]).tolist() == images.labels.tolist()
        assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(NUM_IMAGES))


chosen = st.lists(st.integers(0, NUM_IMAGES - 1), min_size=1, max_size=40)


@settings(deadline=None)
@given(chosen)
def test_a_batch_is_the_gathered_images_preprocessed(indices: list[int]) -> None:
    images = stored()
    batch = toy(SCALED).batch(torch.tensor(indices))
    assert torch.equal(batch.images, SCALED(gathered(stored_pixels(), indices)))
    assert batch.images.dtype == torch.float32
    assert batch.labels.tolist() == images.labels[indices].tolist()
    assert batch.indices.tolist() == indices


@settings(deadline=None, max_examples=50)
@given(chosen, seeds, epochs)
def test_an_augmented_batch_is_the_gathered_augmented_images_preprocessed(
    indices: list[int], seed: int, epoch: int
) -> None:
    options = Augment(flip="random", crop=2)
    parameters = draw(options, seed, epoch, NUM_IMAGES)
    whole = augment(torch.from_numpy(stored_pixels()), options, parameters).numpy()
    batch = toy(SCALED).batch(torch.tensor(indices), options, parameters)
    assert torch.equal(batch.images, SCALED(gathered(whole, indices)))


def gathered(images: NDArray[np.uint8], indices: list[int]) -> torch.Tensor:
    return torch.stack([torch.from_numpy(images[index].copy()) for index in indices])


def test_without_augmentation_settings_a_batch_is_not_augmented() -> None:
    indices = torch.arange(NUM_IMAGES)
    plain = toy(RAW).batch(indices).images
    assert torch.equal(toy(RAW).batch(indices, Augment(), draw(Augment(), 0, 0, 23)).images, plain)


def test_a_source_holds_bytes() -> None:
    images = toy(RAW)
    assert isinstance(images.images, torch.Tensor)
    assert (images.images.dtype, images.labels.dtype) == (torch.uint8, torch.int64)


PHOTO = Preprocess(3, 14, 1, (0.3, 0.4, 0.5), (0.2, 0.5, 0.3), geometry="crop", keep=0.9)
NUM_PHOTOS = 20
BATCH_SIZES = (1, 3, 8, NUM_PHOTOS, 100)
WINDOWS = Augment(crop_area=0.2, flip="random")


def photo_set(folder: Path, is_kept: bool = True) -> ImageSet:
    photos = looked_at(write_pictures(folder / "pictures", NUM_PHOTOS), folder / "cache")
    if not is_kept:
        photos = Photos(replace(photos.scan, kept=Kept(None)), photos.rows)
    assert (photos.scan.kept.pixels is not None) == is_kept
    return ImageSet("own", photos, np.arange(NUM_PHOTOS) % 3, ("a", "b", "c"))


@pytest.fixture(scope="module", params=[True, False], ids=["kept", "not kept"])
def photos(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return photo_set(tmp_path_factory.mktemp("photos"), request.param)


@pytest.fixture
def files(tmp_path: Path) -> ImageSet:
    """Pictures that are read when they are asked for."""
    return photo_set(tmp_path, is_kept=False)


def in_files(images: ImageSet, preprocess: Preprocess = PHOTO) -> Source:
    return source(images, preprocess, torch.device("cpu"))


def picture(images: ImageSet, index: int) -> torch.Tensor:
    assert isinstance(images.images, Photos)
    return images.images.pixels(index)


def framed(images: ImageSet, indices: list[int], preprocess: Preprocess = PHOTO) -> torch.Tensor:
    return torch.stack([preprocess.frame(picture(images, index)) for index in indices])


@pytest.mark.parametrize("geometry", ["crop", "squash", "letterbox"])
def test_batches_of_photos_are_framed_and_normalised(geometry: str, photos: ImageSet) -> None:
    preprocess = replace(PHOTO, geometry=geometry)
    expected = preprocess(framed(photos, list(range(NUM_PHOTOS)), preprocess))
    assert expected.shape == (NUM_PHOTOS, 3, 16, 16)
    for batch_size in BATCH_SIZES:
        batches = list(in_order(in_files(photos, preprocess), batch_size))
        assert torch.equal(torch.cat([batch.images for batch in batches]), expected)
        assert torch.cat([batch.labels for batch in batches]).tolist() == photos.labels.tolist()
        assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(NUM_PHOTOS))


@pytest.mark.parametrize(("side", "pad", "number"), [(28, 2, 256), (224, 0, 41), (4_000, 0, 1)])
def test_few_large_images_are_computed_at_once(side: int, pad: int, number: int) -> None:
    images = Source(torch.empty(0), torch.empty(0), replace(PHOTO, size=side, pad=pad))
    assert images.at_once() == number


def test_photos_are_squashed_for_a_model_of_equal_squares(photos: ImageSet) -> None:
    batches = [
        in_files(photos, replace(PHOTO, geometry=geometry)).batch(torch.arange(NUM_PHOTOS))
        for geometry in ("none", "squash", "crop")
    ]
    assert torch.equal(batches[0].images, batches[1].images)
    assert not torch.equal(batches[0].images, batches[2].images)


@pytest.mark.parametrize(("threads", "ahead"), [(1, 0), (2, 3), (8, 1)])
def test_threads_do_not_change_batches(
    threads: int, ahead: int, photos: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = draw(WINDOWS, 7, 1, NUM_PHOTOS)
    groups = [torch.tensor([3, 1, 4]), torch.arange(NUM_PHOTOS), torch.tensor([19, 19])]
    expected = list(in_files(photos).batches(groups, WINDOWS, parameters))
    monkeypatch.setattr(loader, "available_threads", lambda: threads)
    monkeypatch.setattr(loader, "PORTION", 1)
    monkeypatch.setattr(loader, "AHEAD", ahead)
    # What is finished on another device is read in advance.
    readings = loader.read(photos_of(photos), groups, PHOTO, parameters, None)
    ours = in_files(photos).batches(groups, WINDOWS, parameters)
    for one, other, reading in zip(expected, ours, readings, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.indices, other.indices)
        assert torch.equal(one.indices, torch.from_numpy(reading.positions))
        rows, pixels = pick(parameters, other.indices), reading.images
        pixels = augment(pixels, WINDOWS, rows, is_placed=True)
        assert torch.equal(PHOTO(pixels), one.images)


def photos_of(images: ImageSet) -> Photos:
    assert isinstance(images.images, Photos)
    return images.images


chosen_photos = st.lists(st.integers(0, NUM_PHOTOS - 1), min_size=1, max_size=12)


@settings(max_examples=50)
@given(chosen_photos, seeds, epochs)
def test_random_windows_are_cut_out_as_torchvision_does(
    photos: ImageSet, indices: list[int], seed: int, epoch: int
) -> None:
    parameters = draw(WINDOWS, seed, epoch, NUM_PHOTOS)
    sides = torch.from_numpy(photos_of(photos).sizes).long()
    boxes = windows(parameters, *sides.unbind(1))
    assert boxes is not None
    expected = []
    for index in indices:
        top, left, height, width = map(int, boxes[index])
        assert 0 <= top <= top + height <= sides[index, 0]
        assert 0 <= left <= left + width <= sides[index, 1]
        square = v2.functional.resized_crop(
            picture(photos, index), top, left, height, width, [14, 14], antialias=True
        )
        expected.append(square.flip(-1) if parameters["flip"][index] else square)
    batch = in_files(photos).batch(torch.tensor(indices), WINDOWS, parameters)
    assert torch.equal(batch.images, PHOTO(torch.stack(expected)))


@settings(max_examples=30)
@given(chosen_photos, seeds, epochs)
def test_other_changes_come_after_the_frame(
    photos: ImageSet, indices: list[int], seed: int, epoch: int
) -> None:
    options = Augment(flip="random", crop=2, erase=0.5)
    parameters = draw(options, seed, epoch, NUM_PHOTOS)
    whole = augment(framed(photos, list(range(NUM_PHOTOS))), options, parameters)
    batch = in_files(photos).batch(torch.tensor(indices), options, parameters)
    assert torch.equal(batch.images, PHOTO(whole[indices]))


def test_a_subset_of_photos_is_read_by_its_own_positions(photos: ImageSet) -> None:
    few = photos.subset(np.array([11, 2, 7]), "few")
    batch = in_files(few).batch(torch.tensor([2, 0]))
    assert torch.equal(batch.images, PHOTO(framed(photos, [7, 11])))
    assert batch.labels.tolist() == photos.labels[[7, 11]].tolist()


@pytest.mark.parametrize("options", [None, WINDOWS])
def test_a_picture_that_cannot_be_read_is_named(options: Augment | None, files: ImageSet) -> None:
    path = Path(photos_of(files).name(13))
    path.write_bytes(path.read_bytes()[:40])
    parameters = draw(options, 0, 0, NUM_PHOTOS) if options else None
    groups = [torch.arange(k, k + 5) for k in range(0, NUM_PHOTOS, 5)]
    batches = in_files(files).batches(groups, options, parameters)
    assert [next(batches).indices[0], next(batches).indices[0]] == [0, 5]
    with pytest.raises(ImageError, match=r"13\.jpg (cannot be read|is not a picture)"):
        next(batches)


def test_a_picture_that_shrinks_is_named_rather_than_cut_beside(files: ImageSet) -> None:
    path = Path(photos_of(files).name(1))
    path.write_bytes(Path(photos_of(files).name(2)).read_bytes())
    with pytest.raises(ImageError, match=r"01\.jpg is another picture than"):
        in_files(files).batch(torch.tensor([0, 1]), WINDOWS, draw(WINDOWS, 0, 0, NUM_PHOTOS))


def test_batches_given_up_leave_no_threads(files: ImageSet) -> None:
    before = set(threading.enumerate())
    batches = in_files(files).batches(torch.arange(k, k + 2) for k in range(0, NUM_PHOTOS, 2))
    next(batches)
    assert isinstance(batches, GeneratorType)
    batches.close()
    assert before.issuperset(threading.enumerate())


@pytest.mark.parametrize("together", [0, 100, 400, 10**9])
@pytest.mark.parametrize("preprocess", [RAW, SCALED])
def test_batches_are_the_same_however_many_are_changed_together(
    preprocess: Preprocess, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = Augment(flip="random", crop=1, rotate=20, contrast=0.3, erase=0.5)
    parameters, images = draw(options, 0, 0, NUM_IMAGES), toy(preprocess)
    groups = portions(NUM_IMAGES, (1, 2, 9, 10, 17))
    expected = [images.batch(group, options, parameters) for group in groups]
    monkeypatch.setattr(loader, "TOGETHER", together)
    actual = list(images.batches(groups, options, parameters))
    assert [len(batch.labels) for batch in actual] == list(map(len, groups))
    assert all(map(same_batch, actual, expected))


def test_no_more_images_are_changed_together_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers: list[int] = []

    def counted(images: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        numbers.append(len(images))
        return images

    monkeypatch.setattr(loader, "augment", counted)
    monkeypatch.setattr(loader, "TOGETHER", 10 * 4 * 4)
    options = Augment(flip="random")
    groups = portions(NUM_IMAGES, (3, 6, 9, 20))  # of 3, 3, 3, 11 and 3 images
    for _ in toy(RAW).batches(groups, options, draw(options, 0, 0, NUM_IMAGES)):
        pass
    assert numbers == [9, 11, 3]


# Two images in one


def portions(number: int, cuts: Iterable[int], begin: int = 0) -> list[torch.Tensor]:
    """The positions from `begin` on, cut into groups."""
    edges = sorted({begin, number, *(cut for cut in cuts if begin < cut < number)})
    return [torch.arange(start, stop) for start, stop in pairwise(edges)]


def mixed_epoch(
    images: Source, settings: Augment, groups: Iterable[torch.Tensor], seed: int = 3
) -> Batch:
    """What an epoch's batches are, put together."""
    number = len(images)
    parameters = draw(settings, seed, 0, number)
    permutation = order(seed, 0, number)
    batches = list(epoch_batches(images, permutation, groups, settings, parameters))
    parts = zip(*batches, strict=True)
    return Batch(*(None if part[0] is None else torch.cat(part) for part in parts))  # type: ignore[arg-type]


def same_batch(one: Batch, other: Batch) -> bool:
    pairs = zip(one, other, strict=True)
    return all(a is b is None or (a is not None and torch.equal(a, b)) for a, b in pairs)  # type: ignore[arg-type]


MIXTURES = [
    Augment(mixup=0.4, flip="random"),
    Augment(cutmix=1.0),
    Augment(mixup=0.2, cutmix=1.0, crop=1),
]
cuts = st.lists(st.integers(1, NUM_IMAGES), max_size=12)


@settings(max_examples=60)
@given(st.sampled_from(MIXTURES), cuts, st.integers(0, NUM_IMAGES - 1))
def test_batches_are_no_part_of_mixing(options: Augment, where: list[int], begin: int) -> None:
    """Whatever their size, and from wherever a run goes on."""
    whole = mixed_epoch(toy(RAW), options, [torch.arange(NUM_IMAGES)])
    assert same_batch(mixed_epoch(toy(RAW), options, portions(NUM_IMAGES, where)), whole)
    rest = mixed_epoch(toy(RAW), options, portions(NUM_IMAGES, where, begin))
    assert same_batch(rest, Batch(*(part[begin:] for part in whole if part is not None)))


def test_batches_of_mixed_photos(photos: ImageSet) -> None:
    options = Augment(mixup=0.4, cutmix=1.0, crop_area=0.2, flip="random")
    whole = mixed_epoch(in_files(photos), options, [torch.arange(NUM_PHOTOS)])
    for size in (1, 3, 4, 7):
        groups = portions(NUM_PHOTOS, range(0, NUM_PHOTOS, size))
        assert same_batch(mixed_epoch(in_files(photos), options, groups), whole)


@settings(max_examples=40)
@given(st.floats(0.1, 2), seeds, cuts)
def test_mixup_by_its_formula(alpha: float, seed: int, where: list[int]) -> None:
    options = Augment(mixup=alpha)
    found = mixed_epoch(toy(RAW), options, portions(NUM_IMAGES, where), seed)
    share = draw(options, seed, 0, NUM_IMAGES)["share"].numpy()
    visited, labels = order(seed, 0, NUM_IMAGES).tolist(), stored().labels
    assert found.share is not None
    assert found.partner_labels is not None
    for place, index in enumerate(visited):
        partner = visited[place ^ 1] if place ^ 1 < NUM_IMAGES else index
        own, other = stored_pixels()[[index, partner]].astype(np.float64)
        expected = share[index] * own + (1 - share[index]) * other
        np.testing.assert_allclose(found.images[place], expected, rtol=1e-5, atol=1e-3)
        assert found.share[place] == share[index]
        assert (found.labels[place], found.partner_labels[place]) == (
            labels[index], labels[partner],
        )  # fmt: skip


def counted(images: Source, options: Augment, groups: list[torch.Tensor]) -> list[list[int]]:
    """The images that were read for each batch of an epoch."""
    read: list[list[int]] = []
    batches = Source.batches

    def note(source: Source, asked: Iterable[torch.Tensor], *rest: Any) -> Iterator[Batch]:
        for batch in batches(source, asked, *rest):
            read.append(batch.indices.tolist())
            yield batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Source, "batches", note)
        mixed_epoch(images, options, groups)
    return read


@settings(max_examples=40)
@given(cuts)
def test_without_mixing_nothing_is_read_twice(where: list[int]) -> None:
    groups = portions(NUM_IMAGES, where)
    read = counted(toy(RAW), Augment(flip="random"), groups)
    permutation = order(3, 0, NUM_IMAGES).tolist()
    assert read == [[permutation[k] for k in group] for group in groups]


@settings(max_examples=40)
@given(st.sampled_from(MIXTURES), cuts)
def test_mixing_reads_the_other_halves_of_torn_pairs_only(
    options: Augment, where: list[int]
) -> None:
    groups = portions(NUM_IMAGES, where)
    torn = sum(int(group[0]) % 2 for group in groups)  # pairs with an end in each of two batches
    read = counted(toy(RAW), options, groups)
    assert sum(map(len, read)) == NUM_IMAGES + 2 * torn
    assert all(len(set(images)) == len(images) for images in read)


def test_without_mixing_batches_are_plain() -> None:
    options = Augment(flip="random", crop=1)
    parameters: Parameters = draw(options, 3, 0, NUM_IMAGES)
    found = mixed_epoch(toy(RAW), options, portions(NUM_IMAGES, [4, 9]))
    assert (found.share, found.partner_labels) == (None, None)
    assert same_batch(found, toy(RAW).batch(order(3, 0, NUM_IMAGES), options, parameters))
