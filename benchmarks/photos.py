"""Reading photos from files, an epoch at a time: torchvision's way against deepcnn's.

Each photo becomes a random window of 8 % of it or more at 224x224, mirrored at random, normalised,
in shuffled batches of 64; all that a person waits for counts. Torchvision lists the folder, starts
two worker processes, as it does in every epoch, and decodes with Pillow. deepcnn's first epoch
lists the folder and looks at every photo; its second one reads the pixels that were kept.
"""

import math
import multiprocessing
import os
import shutil
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import enumerate as enumerate_threads
from typing import Any

import torch

import common
from deepcnn.bench import clock, limits
from deepcnn.bench.sides import side
from deepcnn.config import Augment, Data
from deepcnn.data.augment import draw, windows
from deepcnn.data.images import ImageSet
from deepcnn.data.loader import Batch, epoch_batches, source
from deepcnn.data.order import batch_slices, epoch_order
from deepcnn.data.photos import Photos
from deepcnn.data.pictures import least_side, list_source, load_all
from deepcnn.data.preprocess import Preprocess
from deepcnn.data.scan import LEAVING
from deepcnn.data.splits import load_splits, make_preprocess
from deepcnn.device import Policy, available_threads
from deepcnn.progress import say
from deepcnn.table import table

PHOTOS = common.REPOSITORY.parent / "shared" / "data" / "imagenet-200.tar"
NUM_CLASSES, COPIES = 10, 10  # what the photos of the archive are made into
SIDE, BATCH_SIZE, NUM_WORKERS = 224, 64, 2
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
CHANGES = Augment(flip="random", crop_area=0.08)
IMAGE_BYTES = 3 * SIDE**2 * 4  # what a loader must write for each photo, in fp32
COMPARED = 64  # photos that both sides make, to show that they are the same pictures
TARGETS = {"first epoch": 2.0, "second epoch": 6.0}  # times torchvision's photos per second
WAITS = {"cold": 15.0, "warm": 3.0}  # seconds to the first batch


class Torchvision:
    """The photos of a folder as torchvision's users commonly read them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def epoch(self) -> None:
        """List the folder, start the workers and take every batch from them."""
        from torch.utils.data import DataLoader
        from torchvision.datasets import ImageFolder
        from torchvision.transforms import v2

        steps = v2.Compose([
            v2.RandomResizedCrop(SIDE, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ])  # fmt: skip
        images = ImageFolder(self.folder, steps)
        for _ in DataLoader(images, BATCH_SIZE, shuffle=True, num_workers=NUM_WORKERS):
            pass

    def start_method(self) -> str:
        """How the workers are started."""
        return multiprocessing.get_context().get_start_method()


class Deepcnn:
    """The same with the functions that its training calls."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache = folder, cache

    def forget(self) -> None:
        """Give back disk and memory of what is kept; new memory can be slow on virtual machines."""
        for thread in enumerate_threads():
            if thread.name == LEAVING:
                thread.join()
        del self.images, self.photos
        shutil.rmtree(self.cache)

    def first(self) -> None:
        """Look at every photo, then make every batch, with nothing kept of them before."""
        data = Data(name=str(self.folder), size=SIDE, mean=MEAN, std=STD)
        self.images = load_all(data, least_side(data), say)
        assert isinstance(self.images.images, Photos)
        self.photos, self.preprocess = self.images.images, make_preprocess(data, self.images)
        for _ in batches(self.images, self.preprocess, 0):
            pass

    def second(self) -> None:
        """Make every batch of another epoch."""
        for _ in batches(self.images, self.preprocess, 1):
            pass

    def decode(self) -> None:
        """Only decode every photo at its full size, in threads on all cores."""
        import simplejpeg

        def decode_all(paths: tuple[str, ...]) -> None:
            for path in paths:
                simplejpeg.decode_jpeg(Path(path).read_bytes(), "RGB")

        files, threads = self.photos.scan.spots.files, available_threads()
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(decode_all, [files[number::threads] for number in range(threads)]))

    def facts(self) -> dict[str, int]:
        """How much is kept, and by how much of 255 the same windows of both sides differ at most.

        Photos that were decoded at a half of their size, because that is enough, do not count.
        """
        from torchvision.datasets.folder import default_loader
        from torchvision.transforms.v2 import functional

        photos, parameters = self.photos, draw(CHANGES, 0, 0, len(self.images))
        heights, widths = torch.from_numpy(photos.sizes).unbind(dim=1)
        boxes = windows(parameters, heights, widths)
        kept, differences = photos.scan.kept.pixels, []
        assert boxes is not None
        for k in range(0, len(photos), math.ceil(len(photos) / COMPARED)):
            picture = default_loader(photos.name(k))
            if picture.size == (widths[k], heights[k]):
                top, left, height, width = boxes[k].int().tolist()
                theirs = functional.resized_crop(picture, top, left, height, width, [SIDE, SIDE])
                ours = self.preprocess.cut(photos.pixels(k), (top, left, height, width))
                gap = functional.pil_to_tensor(theirs).int() - ours.int()
                differences.append(int(gap.abs().max()))
        return {
            "bytes_kept": 0 if kept is None else len(kept),
            "photos_compared": len(differences),
            "largest_difference": max(differences, default=-1),
        }


@contextmanager
def as_in_a_script(folder: Path) -> Iterator[Torchvision]:
    """Torchvision's side, which starts its worker processes as a person's own script would."""
    # A process that was spawned spawns others, and those would import everything in every epoch.
    multiprocessing.set_start_method(None, force=True)
    yield Torchvision(folder)


@contextmanager
def as_in_training(folder: Path, cache: Path) -> Iterator[Deepcnn]:
    """Deepcnn's side in a process set up as for training, with a folder for what it keeps."""
    os.environ["DEEPCNN_CACHE"] = str(cache)
    Policy("cpu", "fp32", "contiguous", available_threads()).apply()
    yield Deepcnn(folder, cache)


def batches(images: ImageSet, preprocess: Preprocess, epoch: int) -> Iterator[Batch]:
    """The batches of an epoch, as the training loop asks for them."""
    permutation = epoch_order(images, 0, epoch)
    parameters = draw(CHANGES, 0, epoch, len(images))
    slices = batch_slices(len(images), BATCH_SIZE, drop_last=False)
    groups = (torch.arange(len(images))[part] for part in slices)
    pictures = source(images, preprocess, torch.device("cpu"))
    return epoch_batches(pictures, permutation, groups, CHANGES, parameters)


def first_batch(folder: Path, cache: Path) -> None:
    """Load a folder of pictures as a run does and make the first batch."""
    with as_in_training(folder, cache):
        splits = load_splits(Data(name=str(folder)), seed=0)
        next(batches(splits.train, splits.preprocess, 0))


def wait(folder: Path, cache: Path, is_cold: bool) -> None:
    """`first_batch` from nothing: start Python, import, list, look."""
    if is_cold:
        shutil.rmtree(cache, ignore_errors=True)
    process = multiprocessing.get_context("spawn").Process(target=first_batch, args=(folder, cache))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"the first batch of {folder} was not made; see above")


def count_same(folder: Path) -> int:
    """Number of photos; SystemExit unless both sides find the same ones in the same classes."""
    from torchvision.datasets import ImageFolder

    listing = list_source(Data(name=str(folder)))
    ours = sorted(zip(listing.spots.files, listing.labels.tolist(), strict=True))
    if ours != sorted(ImageFolder(folder).samples):
        raise SystemExit(f"{folder}: expected FOLDER/CLASS/PHOTO.jpg and no other files")
    return len(ours)


def unpack(archive: Path, folder: Path) -> Path:
    """Make several files of every photo of a tar file, in classes by the order of their names."""
    if not archive.exists():
        raise SystemExit(f"{archive} is not there; expected a tar file of photos, or --folder")
    with TemporaryDirectory() as unpacked, tarfile.open(archive) as tar:
        tar.extractall(unpacked, filter="data")
        photos = sorted(path for path in Path(unpacked).rglob("*") if path.is_file())
        for number, path in enumerate(photos):
            label = folder / f"class-{number * NUM_CLASSES // len(photos)}"
            label.mkdir(parents=True, exist_ok=True)
            for copy in range(COPIES):
                shutil.copyfile(path, label / f"{path.stem}-{copy}{path.suffix}")
    return folder


def measure(folder: Path, cache: Path, rounds: int) -> dict[str, Any]:
    """Take turns over the photos of a folder."""
    num_images = count_same(folder)
    with side(as_in_a_script, folder) as theirs, side(as_in_training, folder, cache) as ours:
        turns = {
            "torchvision": partial(theirs.ask, "epoch"),
            "first epoch": partial(ours.ask, "first"),
            "second epoch": partial(ours.ask, "second"),
            "decoding alone": partial(ours.ask, "decode"),
        }
        before = {"first epoch": partial(ours.ask, "forget")}
        seconds = clock.alternate(turns, rounds, "epochs", before)
        facts = {"start_method": theirs.ask("start_method"), **ours.ask("facts")}
    ratio = {name: clock.compared(seconds["torchvision"], seconds[name]) for name in TARGETS}
    return {
        "settings": {"num_images": num_images, "batch_size": BATCH_SIZE, "rounds": rounds},
        **facts,
        "bytes_per_image": IMAGE_BYTES,
        "copy_gigabytes_per_second": limits.measured_copy(),
        "images_per_second": {
            name: clock.spread([num_images / value for value in values])
            for name, values in seconds.items()
        },
        "ratio": ratio,
        "target": TARGETS,
        "met": {name: ratio[name]["of_medians"] >= target for name, target in TARGETS.items()},
    }


def in_words(record: dict[str, Any]) -> str:
    """The result for a person."""
    rows = [["", "photos/s", "lowest", "highest", "ratio", "of rounds", "target", ""]]
    for name, speed in record["images_per_second"].items():
        cells = [f"{speed[key]:,.0f}" for key in ("median", "min", "max")]
        ratio, judged = record["ratio"].get(name), [""] * 4
        if ratio:
            rounds = f"{ratio['min']:.2f} to {ratio['max']:.2f}"
            met = "met" if record["met"][name] else "MISSED"
            judged = [f"{ratio['of_medians']:.2f}", rounds, str(TARGETS[name]), met]
        rows.append([name, *cells, *judged])
    copied = record["copy_gigabytes_per_second"] * 1e9 / IMAGE_BYTES
    return "\n".join([
        common.describe(record["conditions"]),
        f"workers started by {record['start_method']}; {record['bytes_kept'] / 1e9:.2f} GB kept; "
        f"{record['photos_compared']} photos differ by at most {record['largest_difference']} of "
        f"255 between the sides; copying the batches in memory makes {copied:,.0f} photos/s",
        table(rows),
    ])  # fmt: skip


def measure_waits(folder: Path, cache: Path, rounds: int) -> dict[str, Any]:
    """Seconds to the first batch of a folder, with nothing kept of it and after that."""
    num_images = len(list_source(Data(name=str(folder))).labels)
    waits = {name: partial(wait, folder, cache, name == "cold") for name in WAITS}
    seconds = {
        name: clock.spread(x) for name, x in clock.alternate(waits, rounds, "first batches").items()
    }
    return {
        "settings": {"num_images": num_images, "batch_size": BATCH_SIZE, "rounds": rounds},
        "seconds": seconds,
        "target": WAITS,
        "met": {name: seconds[name]["median"] <= target for name, target in WAITS.items()},
    }


def waits_in_words(record: dict[str, Any]) -> str:
    """The result for a person."""
    rows = [["seconds", "median", "lowest", "highest", "target", ""]]
    for name, values in record["seconds"].items():
        cells = [f"{values[key]:.1f}" for key in ("median", "min", "max")]
        rows.append([name, *cells, str(WAITS[name]), "met" if record["met"][name] else "MISSED"])
    what = f"a new process, up to a first batch of {record['settings']['num_images']:,} pictures"
    return "\n".join([common.describe(record["conditions"]), what, table(rows)])


def main() -> None:
    """Measure, print, record."""
    parser = common.options(__doc__, rounds=5)
    parser.add_argument("--folder", type=Path, help="FOLDER/CLASS/PHOTO.jpg, not the archive's")
    parser.add_argument("--cifar", type=Path, help="measure the wait for a first batch of this")
    arguments = parser.parse_args()
    name, rounds = "first-batch" if arguments.cifar else "photos", arguments.rounds
    record: dict[str, Any] = {"name": name, "conditions": common.conditions()}
    with TemporaryDirectory() as temporary:
        place = Path(temporary)
        if arguments.cifar:
            record |= measure_waits(arguments.cifar, place / "cache", rounds)
        else:
            folder = arguments.folder or unpack(PHOTOS, place / "photos")
            record |= measure(folder, place / "cache", rounds)
    words = waits_in_words(record) if arguments.cifar else in_words(record)
    common.finish(name, record, words, arguments.results)


if __name__ == "__main__":
    main()
