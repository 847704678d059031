"""Batches of Fashion-MNIST at 224x224 in [0, 1], loader alone: the texts' way against deepcnn's.

The texts' side is a DataLoader of two worker processes that resize one picture after the other
(see texts.py); deepcnn's is `Source.batch` over `order`, as its training loop calls it. A turn is
a whole epoch, so that no side begins or ends one with batches that were made outside the clock.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

import torch

import common
import texts
from deepcnn.bench import clock, limits
from deepcnn.bench.sides import side
from deepcnn.data.loader import Source, source
from deepcnn.data.order import batch_slices, order
from deepcnn.data.splits import load_splits
from deepcnn.device import Policy, available_threads
from deepcnn.recipes import alexnet_fashion_mnist
from deepcnn.table import table

TARGET = 5.0  # times as many images per second as the texts' way
IMAGE_BYTES = texts.SIDE**2 * 4  # what a loader must write for each image, in fp32
COMPARED = 256  # images that both sides make, to show that they are the same pictures


class Loading:
    """Deepcnn's loader alone, an epoch at a time."""

    def __init__(self, images: Source, batch_size: int) -> None:
        self.images, self.batch_size = images, batch_size
        self.epochs = count()

    def epoch(self) -> None:
        """Make every batch of the next epoch."""
        permutation = order(0, next(self.epochs), len(self.images.images))
        for batch_slice in batch_slices(len(permutation), self.batch_size, drop_last=False):
            self.images.batch(permutation[batch_slice])


def our_source(num_images: int) -> Source:
    """The first images of the training set, as the recipe prepares them."""
    data = replace(alexnet_fashion_mnist().data, root=str(texts.DATASETS))
    splits = load_splits(data, seed=0)
    whole = source(splits.train, splits.preprocess, torch.device("cpu"))
    assert isinstance(whole.images, torch.Tensor)
    return Source(whole.images[:num_images], whole.labels[:num_images], whole.preprocess)


@contextmanager
def loading(num_images: int, batch_size: int, threads: int) -> Iterator[Loading]:
    """The loader in a process that is set up as for training."""
    Policy("cpu", "fp32", "contiguous", threads or available_threads()).apply()
    yield Loading(our_source(num_images), batch_size)


def largest_difference(number: int) -> float:
    """Between the pixels of the two sides, of 255: Pillow rounds twice, which makes up to 1."""
    pictures = texts.fashion_mnist()
    theirs = torch.stack([pictures[index][0] for index in range(number)])
    ours = our_source(number).batch(torch.arange(number)).images
    return 255 * float((ours - theirs).abs().max())


def measure(num_images: int, batch_size: int, rounds: int, threads: int) -> dict[str, Any]:
    """Take turns over the first `num_images` images."""
    with (
        side(texts.loading, num_images, batch_size) as before,
        side(loading, num_images, batch_size, threads) as ours,
    ):
        turns = {"texts": partial(before.ask, "epoch"), "deepcnn": partial(ours.ask, "epoch")}
        seconds = clock.alternate(turns, rounds, "loading")
    ratio = clock.compared(seconds["texts"], seconds["deepcnn"])
    return {
        "settings": {"num_images": num_images, "batch_size": batch_size, "rounds": rounds},
        "largest_difference": largest_difference(min(COMPARED, num_images)),
        "bytes_per_image": IMAGE_BYTES,
        **rates(seconds, num_images, limits.measured_copy()),
        "ratio": ratio,
        "target": TARGET,
        "met": ratio["of_medians"] >= TARGET,
    }


def rates(seconds: dict[str, list[float]], num_images: int, copy: float) -> dict[str, Any]:
    """Images per second, and the bytes written for them as a share of what a copy writes."""
    record: dict[str, Any] = {"copy_gigabytes_per_second": copy}
    for name, values in seconds.items():
        speed = clock.spread([num_images / value for value in values])
        share = speed["median"] * IMAGE_BYTES / 1e9 / copy
        record[name] = {"images_per_second": speed, "share_of_copy": share}
    return record


def in_words(record: dict[str, Any]) -> str:
    """The result for a person."""
    rows = [["", "images/s", "lowest", "highest", "of copy speed"]]
    for name in ("texts", "deepcnn"):
        speed = record[name]["images_per_second"]
        cells = [f"{speed[key]:,.0f}" for key in ("median", "min", "max")]
        rows.append([name, *cells, f"{record[name]['share_of_copy']:.1%}"])
    ratio = record["ratio"]
    return "\n".join([
        common.describe(record["conditions"]),
        f"a copy of memory writes {record['copy_gigabytes_per_second']:.1f} GB/s; an image has "
        f"{IMAGE_BYTES:,} bytes; the sides differ by at most "
        f"{record['largest_difference']:.2f} of 255",
        table(rows),
        f"ratio {ratio['of_medians']:.2f} (rounds: median {ratio['median_of_rounds']:.2f}, "
        f"{ratio['min']:.2f} to {ratio['max']:.2f}), target {TARGET}: "
        f"{'met' if record['met'] else 'MISSED'}",
    ])  # fmt: skip


def main() -> None:
    """Measure, print, record."""
    parser = common.options(__doc__, rounds=5)
    parser.add_argument(
        "--images", type=common.positive, default=60_000, help="of the set, a turn (%(default)s)"
    )
    parser.add_argument("--batch", type=common.positive, default=128, help="(%(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="of deepcnn's side (all)")
    arguments = parser.parse_args()
    record = {"name": "loader", "conditions": common.conditions()}
    record |= measure(arguments.images, arguments.batch, arguments.rounds, arguments.threads)
    common.finish("loader", record, in_words(record), arguments.results)


if __name__ == "__main__":
    main()
