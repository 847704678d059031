"""Planted bottlenecks: whether the run names them, and whether the gain is what it promised.

    python benchmarks/bottleneck.py
    python benchmarks/bottleneck.py --cases photos --results /tmp

Each case is a run with a planted fault. It is judged as `preview.look` does in a few seconds; then
the advice is followed, and both runs learn from the same images by turns. A promise is kept if it
is within 25 % of the gain, which is the median of the rounds.

photos: ResNet-20 on photos of 12 megapixels at 64x64 pixels, which are not kept decoded, because
    the disk is said to have no room
tiny: LeNet with batches of 16
dense: AlexNet of the texts, 46.8 million parameters, with batches of 8
pieces: LeNet with batches of 128 computed in 32 pieces
"""

import io
import os
import re
import tarfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import enumerate as enumerate_threads
from typing import Any
from unittest import mock

from PIL import Image

import common
from deepcnn import preflight
from deepcnn.bench import clock
from deepcnn.config import Config, Data, Hardware, Model, Train
from deepcnn.data import kept
from deepcnn.data.scan import LEAVING
from deepcnn.device import Policy, available_threads, has_bf16
from deepcnn.phases import Stopwatch
from deepcnn.preview import Beginning, look
from deepcnn.progress import say
from deepcnn.recipes import RECIPES
from deepcnn.rehearsal import rehearse
from deepcnn.run import Run
from deepcnn.settings import override
from deepcnn.table import table
from deepcnn.train import train_epoch

ARCHIVE = common.REPOSITORY.parent / "shared" / "data" / "imagenet-200.tar"
PHOTOS, MEGAPIXELS = 96, (4000, 3000)
TOLERANCE = 0.25
LOOK = 5.0  # seconds of a look
TURN = 2.0  # seconds of a turn before the remedy, in whole updates
CALLS = 10_000  # of the stopwatch, to tell what one takes
LENGTH = 100_000  # updates of the run that the turns are to be part of
SETTINGS: dict[str, tuple[str, dict[str, object]]] = {
    "tiny": ("lenet-fashion-mnist", {"train.batch_size": 16}),
    "dense": ("alexnet-fashion-mnist", {"train.batch_size": 8}),
    "pieces": ("lenet-fashion-mnist", {"train.batch_size": 128, "train.accumulate": 32}),
}
ALL = ("photos", *SETTINGS)


class Counting(Stopwatch):
    """One that counts how often it is turned."""

    turns = 0

    def _turn(self, phase: str) -> None:
        type(self).turns += 1
        super()._turn(phase)


def hardware() -> Hardware:
    """Fixed, so that the remedy is all that changes."""
    precision = "bf16" if has_bf16("cpu") else "fp32"
    return Hardware("cpu", precision, "channels_last", available_threads())


def planted(name: str, photos: Path) -> Config:
    """The run with its fault."""
    if name == "photos":
        return Config(
            data=Data(name=str(photos), size=64, validation=2, test=2),
            model=Model(name="resnet20"),
            train=Train(batch_size=32),
            hardware=hardware(),
        )
    recipe, changes = SETTINGS[name]
    return replace(override(RECIPES[recipe](), changes, "benchmark"), hardware=hardware())


def begun(config: Config, room: Callable[[Path], int] = kept.room) -> Run:
    """The run before its first update; `room` for decoded pictures."""
    wanted = config.hardware
    policy = Policy(wanted.device, wanted.precision, wanted.layout, wanted.threads)
    policy.apply()
    with mock.patch.object(kept, "room", room):
        run = rehearse(config, preflight.load(config), policy)
    for thread in enumerate_threads():
        if thread.name == LEAVING:
            thread.join()
    return run


def mended(config: Config, advice: str) -> Run:
    """The run after the advice has been followed."""
    if found := re.match(r"--train\.(batch_size|accumulate) (\d+)", advice):
        return begun(override(config, {f"train.{found[1]}": int(found[2])}, "benchmark"))
    assert advice.startswith("keep them decoded"), advice
    return begun(config)


def turn(run: Run, images: int, watch: type[Stopwatch] = Stopwatch) -> None:
    """Make the first updates of an epoch, on so many images, too soon for a verdict."""
    run.watch = watch()
    parts = {each.name: getattr(run, each.name) for each in fields(Run)}
    beginning = Beginning(**parts, most=max(1, round(images / run.config.train.batch_size)))
    run.state.step = run.state.epoch = 0
    with redirect_stderr(io.StringIO()):
        train_epoch(beginning, run.source(run.splits.train), LENGTH)


def case(name: str, rounds: int, photos: Path) -> dict[str, Any]:
    """Judge a planted run, follow the advice, take turns."""
    config = planted(name, photos)
    faulty = begun(config, room=lambda _: 0) if name == "photos" else begun(config)
    verdict = look(faulty, LOOK)
    say(f"{name}: {verdict.in_words()}")
    phases = {key: value for key, value in faulty.watch.by_phase().items() if value}
    after = mended(config, verdict.advice)
    largest = max(config.train.batch_size, after.config.train.batch_size)
    began = time.perf_counter()
    turn(faulty, largest)
    updates = max(1, round(TURN / (time.perf_counter() - began)))
    images = min(updates * largest, len(faulty.splits.train))
    sides = {"before": partial(turn, faulty, images), "after": partial(turn, after, images)}
    seconds = clock.alternate(sides, rounds, name)
    gain = clock.compared(seconds["before"], seconds["after"])
    return {
        "case": name,
        "verdict": verdict.as_dict(),
        "phases": phases,
        "images": images,
        "images_per_second": clock.rates(seconds, images),
        "gain": gain,
        "error": verdict.gain / gain["median_of_rounds"] - 1,
        "kept": abs(verdict.gain / gain["median_of_rounds"] - 1) <= TOLERANCE,
    }


def cost_of_the_stopwatch() -> dict[str, Any]:
    """Of the sprint, whose updates are the shortest: turns in an epoch, and what they take."""
    run = begun(replace(RECIPES["fashion-mnist-sprint"](), hardware=hardware()))
    images, watch = len(run.splits.train), Stopwatch()
    turn(run, images, Counting)
    epoch = clock.best(lambda: turn(run, images))

    def blocks() -> None:
        for _ in range(CALLS):
            with watch.during("copying"):
                pass

    each = clock.best(blocks) / (2 * CALLS)
    share = Counting.turns * each / epoch
    return {"turns": Counting.turns, "seconds_of_a_turn": each, "epoch": epoch, "share": share}


def make_photos(folder: Path) -> Path:
    """Photos of that many megapixels, in two classes, of those in the archive."""
    if folder.exists():
        return folder
    say(f"making {PHOTOS} photos of {MEGAPIXELS[0]}x{MEGAPIXELS[1]} pixels in {folder}")
    with tarfile.open(ARCHIVE) as archive:
        members = [member for member in archive if member.isfile()][:PHOTOS]
        for number, member in enumerate(members):
            place = folder / "ab"[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            with archive.extractfile(member) as file, Image.open(file) as image:  # type: ignore[union-attr]
                large = image.convert("RGB").resize(MEGAPIXELS, Image.Resampling.BICUBIC)
                large.save(place / f"{number}.jpg", quality=90)
    return folder


def in_words(record: dict[str, Any]) -> str:
    """The result for a person."""
    rows = [["case", "said", "promised", "measured", "lowest", "highest", "kept"]]
    for found in record["cases"].values():
        gains = [found["gain"][name] for name in ("median_of_rounds", "min", "max")]
        rows.append([
            found["case"], found["verdict"]["sentence"].partition(" (")[0],
            *(f"{value:.2f}" for value in (found["verdict"]["gain"], *gains)),
            "yes" if found["kept"] else "NO",
        ])  # fmt: skip
    cost = record["cost"]
    return "\n".join([
        common.describe(record["conditions"]),
        table(rows),
        f"the stopwatch is turned {cost['turns']:,} times in an epoch of the sprint, "
        f"{1e6 * cost['seconds_of_a_turn']:.2f} us each: {cost['share']:.2%} of its time",
    ])  # fmt: skip


def main() -> None:
    """Measure, print, record."""
    parser = common.options(__doc__, rounds=7)
    parser.add_argument("--cases", default=",".join(ALL), help="(%(default)s)")
    parser.add_argument("--photos", type=Path, help="folder to make the photos in, if not there")
    arguments = parser.parse_args()
    record = {"name": "bottleneck", "conditions": common.conditions(), "tolerance": TOLERANCE}
    with TemporaryDirectory() as place, mock.patch.dict(os.environ, {"DEEPCNN_CACHE": place}):
        folder, names = arguments.photos or Path(place) / "photos", arguments.cases.split(",")
        if "photos" in names:
            make_photos(folder)
        record["cases"] = {name: case(name, arguments.rounds, folder) for name in names}
    record["cost"] = cost_of_the_stopwatch()
    common.finish("bottleneck", record, in_words(record), arguments.results)


if __name__ == "__main__":
    main()
