"""Memory of training from tar shards, with few pictures and with many.

    python benchmarks/shards_memory.py

The pictures are Fashion-MNIST's as JPEG files, each set packed as `deepcnn data pack` does. A new
process then does what a run does: it reads the index, looks at every picture, and makes the first
batches of an epoch; what it holds of its own (RssAnon of /proc/self/status, so Linux only), at its
highest, is reported with and without pixels kept. Kept pixels are a mapped file, of which the
system keeps in memory what it has room for.
"""

import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

import common
from deepcnn.config import Augment, Data
from deepcnn.data import catalog, kept, shards
from deepcnn.data.augment import draw
from deepcnn.data.loader import epoch_batches, source
from deepcnn.data.order import batch_slices, epoch_order
from deepcnn.data.splits import load_splits
from deepcnn.device import Policy, available_threads
from deepcnn.table import table

NUMBERS = (20_000, 200_000)
NUM_SHARDS, BATCH_SIZE, NUM_BATCHES = 20, 128, 300
CHANGES = Augment(flip="random", crop_area=0.2)
SIDE = 32


def pictures(number: int) -> Iterator[tuple[str, bytes, int]]:
    """The first images of Fashion-MNIST, over and over, as JPEG files with their labels."""
    images = catalog.load("fashion-mnist", "train", "")
    pixels = images.images
    assert isinstance(pixels, np.ndarray)
    for k in range(number):
        stream = io.BytesIO()
        Image.fromarray(pixels[k % len(images)][0]).save(stream, "JPEG")
        yield f"{k}.jpg", stream.getvalue(), int(images.labels[k % len(images)])


def own_megabytes() -> float:
    """Memory that this process shares with nobody and no file."""
    (kilobytes,) = re.findall(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kilobytes) / 1_000


def work(folder: str, is_kept: bool) -> None:
    """Do as a run does; print the highest memory before it and in it, in MB."""
    import torch

    if not is_kept:
        kept.room = lambda folder: 0
    Policy("cpu", "fp32", "contiguous", available_threads()).apply()
    before, highest, is_over = own_megabytes(), [0.0], threading.Event()

    def watch() -> None:
        while not is_over.is_set():
            highest[0] = max(highest[0], own_megabytes())
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    splits = load_splits(Data(name=folder, size=SIDE, validation=0.01, test=0.01), seed=0)
    train = splits.train
    order, parameters = epoch_order(train, 0, 0), draw(CHANGES, 0, 0, len(train))
    groups = (
        torch.arange(len(train))[part]
        for part in batch_slices(len(train), BATCH_SIZE, drop_last=False)[:NUM_BATCHES]
    )
    ours = source(train, splits.preprocess, torch.device("cpu"))
    images = sum(
        len(batch.labels) for batch in epoch_batches(ours, order, groups, CHANGES, parameters)
    )
    is_over.set()
    watcher.join()
    print(json.dumps({"images": images, "before": before, "highest": highest[0]}))


def measure(folder: Path, place: Path, is_kept: bool) -> dict[str, Any]:
    """`work` in a new process with a cache of its own."""
    command = [sys.executable, __file__, "--work", str(folder), *["--kept"] * is_kept]
    environment = {**os.environ, "DEEPCNN_CACHE": str(place / f"cache-{folder.name}-{is_kept}")}
    answer = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    facts: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return facts


def main() -> None:
    """Measure, print, record."""
    parser = common.options(__doc__, rounds=0)
    parser.add_argument("--work", help="be the process that is measured, on this folder")
    parser.add_argument("--kept", action="store_true", help="with pixels kept")
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work, arguments.kept)
        return
    record: dict[str, Any] = {"name": "shards-memory", "conditions": common.conditions()}
    rows = [["pictures", "pixels", "MB before", "MB at most", "bytes a picture more"]]
    with TemporaryDirectory() as temporary:
        place, found = Path(temporary), {}
        for number in NUMBERS:
            folder, classes = place / str(number), catalog.entry("fashion-mnist").classes
            shards.pack(pictures(number), classes, folder, NUM_SHARDS, "", number)
            for is_kept in (True, False):
                found[number, is_kept] = measure(folder, place, is_kept)
    for (number, is_kept), facts in found.items():
        least = found[NUMBERS[0], is_kept]["highest"]
        more = (
            1e6 * (facts["highest"] - least) / (number - NUMBERS[0]) if number > NUMBERS[0] else 0
        )
        word = "kept" if is_kept else "decoded anew"
        rows.append([f"{number:,}", word, *(f"{facts[key]:,.0f}" for key in ("before", "highest")),
                     f"{more:,.0f}"])  # fmt: skip
    record["runs"] = [
        {"pictures": number, "kept": is_kept, **facts} for (number, is_kept), facts in found.items()
    ]
    text = "\n".join([common.describe(record["conditions"]), table(rows)])
    common.finish("shards-memory", record, text, arguments.results)


if __name__ == "__main__":
    main()
