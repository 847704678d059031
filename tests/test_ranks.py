"""One epoch read by several processes: evenly, and as one of them alone would read it."""

import multiprocessing
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deepcnn.config import Augment, Data
from deepcnn.data.augment import draw
from deepcnn.data.loader import Batch, epoch_batches, source
from deepcnn.data.order import batch_slices, epoch_order, of_rank
from deepcnn.data.splits import load_splits
from faults import call
from picture_files import write_classes
from test_loader import MIXTURES, NUM_IMAGES, RAW, mixed_epoch, same_batch, toy

SEED, EPOCH = 3, 1
PHOTOS = Augment(crop_area=0.3, flip="random", mixup=0.4)


def updates_of(number: int, batch_size: int, rank: int, ranks: int) -> list[Tensor]:
    """The groups of positions that a process reads of an epoch."""
    parts = batch_slices(number, batch_size, drop_last=False)
    return [of_rank(torch.arange(number)[part], rank, ranks) for part in parts]


@given(st.integers(1, 200), st.integers(1, 60), st.integers(1, 8))
def test_every_image_is_read_once_and_by_each_as_many(
    number: int, batch_size: int, ranks: int
) -> None:
    whole: list[int] = []
    by_rank = [updates_of(number, batch_size, rank, ranks) for rank in range(ranks)]
    for parts in zip(*by_rank, strict=True):
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        whole += torch.cat(parts).tolist()
    assert whole == list(range(number))


@settings(max_examples=40)
@given(st.sampled_from([*MIXTURES, Augment(flip="random", crop=1)]), st.integers(1, 5))
def test_each_sees_its_part_of_what_one_would(options: Augment, ranks: int) -> None:
    whole = mixed_epoch(toy(RAW), options, [torch.arange(NUM_IMAGES)])
    for rank in range(ranks):
        groups = updates_of(NUM_IMAGES, 6, rank, ranks)
        here = torch.cat(groups)
        part = Batch(*(None if each is None else each[here] for each in whole))  # type: ignore[arg-type]
        assert same_batch(mixed_epoch(toy(RAW), options, groups), part)


def read(folder: str, rank: int, ranks: int) -> list[Batch]:
    """The batches of a process in an epoch of packed photos."""
    torch.set_num_threads(1)
    splits = load_splits(Data(name=folder, size=16, validation=0), SEED)
    images = source(splits.train, splits.preprocess, torch.device("cpu"))
    number = len(images)
    permutation = epoch_order(splits.train, SEED, EPOCH)
    parameters = draw(PHOTOS, SEED, EPOCH, number)
    groups = updates_of(number, 8, rank, ranks)
    return list(epoch_batches(images, permutation, groups, PHOTOS, parameters))


def test_two_processes_read_shards(tmp_path: Path) -> None:
    pictures = write_classes(tmp_path / "photos", {"cat": 17, "dog": 18})
    folder = str(tmp_path / "shards")
    assert call("data", "pack", pictures, folder, "--shards", 3) == 0
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as processes:
        read_by = processes.starmap(read, [(folder, rank, 2) for rank in range(2)])
    alone = read(folder, 0, 1)
    for whole, *parts in zip(alone, *read_by, strict=True):
        together = (
            None if field[0] is None else torch.cat(field) for field in zip(*parts, strict=True)
        )
        assert same_batch(Batch(*together), whole)  # type: ignore[arg-type]
