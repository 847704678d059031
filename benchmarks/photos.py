"""Reading photos from files, an epoch at a time: torchvision's way against deepcnn's.

Both make the same of each photo: a random window of 8 % of its area or more at 224x224, mirrored
at random, normalised, in shuffled batches of 64. What counts is all that a person waits for.
Torchvision lists the folder, starts two worker processes, as it does in every epoch, and decodes
with Pillow. deepcnn's first epoch lists the folder and looks at every photo, with nothing kept
from before; its second one reads the pixels that were kept.
"""

import os
import shutil
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

import common
from deepcnn.config import Augment, Data
from deepcnn.data.augment import draw, windows
from deepcnn.data.images import ImageSet
from deepcnn.data.loader import Batch, batch_slices, epoch_batches, epoch_order, source
from deepcnn.data.photos import Photos
from deepcnn.data.pictures import least_side, list_source, load_all
from deepcnn.data.preprocess import Preprocess
from deepcnn.data.splits import load_splits, make_preprocess
from deepcnn.device import Policy, available_threads
from deepcnn.progress import say
from sides import side

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


class Deepcnn:
    """The same with the functions that its training calls."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache = folder, cache

    def first(self) -> None:
        """Look at every photo, then make every batch; what was kept before is deleted first."""
        shutil.rmtree(self.cache, ignore_errors=True)
        data = settings(self.folder)
        self.images = load_all(data, least_side(data), say)
        self.preprocess = make_preprocess(data, self.images)
        self._epoch(0)

    def second(self) -> None:
        """Make every batch of another epoch."""
        self._epoch(1)

    def kept(self) -> int:
        """Bytes of pixels that are kept; 0 where there is no room, and every epoch decodes."""
        kept = self._photos().scan.kept
        return 0 if kept is None else len(kept)

    def largest_difference(self, number: int) -> float:
        """Of 255, between the windows of some photos as both sides make them.

        Those that were decoded at a half or less of their size, which is enough, are passed over.
        """
        from torchvision.datasets.folder import default_loader
        from torchvision.transforms.v2 import functional

        photos, parameters = self._photos(), draw(CHANGES, 0, 0, len(self.images))
        heights, widths = torch.from_numpy(photos.sizes).unbind(dim=1)
        boxes = windows(parameters, heights, widths)
        assert boxes is not None
        largest = 0.0
        for k in np.linspace(0, len(photos) - 1, min(number, len(photos))).astype(int).tolist():
            picture = default_loader(photos.name(k))
            if picture.size == (widths[k], heights[k]):
                top, left, height, width = boxes[k].long().tolist()
                theirs = functional.resized_crop(picture, top, left, height, width, [SIDE, SIDE])
                ours = self.preprocess.cut(photos.pixels(k), (top, left, height, width))
                difference = functional.pil_to_tensor(theirs).int() - ours.int()
                largest = max(largest, float(difference.abs().max()))
        return largest

    def _photos(self) -> Photos:
        assert isinstance(self.images.images, Photos)
        return self.images.images

    def _epoch(self, epoch: int) -> None:
        for _ in batches(self.images, self.preprocess, epoch):
            pass


class Decoding:
    """The least that an epoch of decoding takes: libjpeg-turbo on all cores, nothing else."""

    def __init__(self, paths: tuple[str, ...]) -> None:
        self.paths, self.threads = paths, available_threads()

    def epoch(self) -> None:
        """Read and decode every photo."""
        shares = [self.paths[number :: self.threads] for number in range(self.threads)]
        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(self._decode, shares))

    def _decode(self, paths: tuple[str, ...]) -> None:
        import simplejpeg

        for path in paths:
            simplejpeg.decode_jpeg(Path(path).read_bytes(), "RGB")


@contextmanager
def reading(folder: Path, cache: Path) -> Iterator[Deepcnn]:
    """Deepcnn in a process that is set up as for training."""
    set_up(cache)
    yield Deepcnn(folder, cache)


def set_up(cache: Path) -> None:
    """Make this process one that trains on all cores, with its own folder for what is kept."""
    os.environ["DEEPCNN_CACHE"] = str(cache)
    Policy("cpu", "fp32", "contiguous", available_threads()).apply()


def settings(folder: Path) -> Data:
    """How the photos of a folder are read."""
    return Data(name=str(folder), size=SIDE, mean=MEAN, std=STD)


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
    set_up(cache)
    splits = load_splits(Data(name=str(folder)), seed=0)
    next(batches(splits.train, splits.preprocess, 0))


def wait(folder: Path, cache: Path, is_cold: bool) -> None:
    """`first_batch` from nothing: start Python, import, list, look."""
    if is_cold:
        shutil.rmtree(cache, ignore_errors=True)
    process = get_context("spawn").Process(target=first_batch, args=(folder, cache))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"the first batch of {folder} was not made; see above")


def same_photos(folder: Path) -> tuple[str, ...]:
    """Paths of the photos; SystemExit unless both sides find the same ones with the same labels."""
    from torchvision.datasets import ImageFolder

    listing = list_source(settings(folder))
    ours = sorted(zip(listing.spots.files, listing.labels.tolist(), strict=True))
    if ours != sorted(ImageFolder(folder).samples):
        raise SystemExit(f"{folder}: expected FOLDER/CLASS/PHOTO.jpg and no other files")
    return listing.spots.files


def unpack(archive: Path, folder: Path) -> Path:
    """Put every photo of a tar file as several files into classes by the order of their names."""
    if not archive.exists():
        raise SystemExit(f"{archive} is not there; expected a tar file of photos, or --folder")
    with tarfile.open(archive) as tar:
        members = sorted((member for member in tar if member.isfile()), key=lambda m: m.name)
        for number, member in enumerate(members):
            label = folder / f"class-{number * NUM_CLASSES // len(members)}"
            label.mkdir(parents=True, exist_ok=True)
            content = tar.extractfile(member)
            assert content is not None
            photo, name = content.read(), Path(member.name)
            for copy in range(COPIES):
                (label / f"{name.stem}-{copy}{name.suffix}").write_bytes(photo)
    return folder


def measure(folder: Path, place: Path, rounds: int) -> dict[str, Any]:
    """Take turns over the photos of a folder; `place` is for what is kept of them."""
    paths = same_photos(folder)
    with (
        side(nullcontext, Torchvision(folder)) as theirs,
        side(reading, folder, place / "cache") as ours,
        side(nullcontext, Decoding(paths)) as limit,
    ):
        turns = {
            "torchvision": partial(theirs.ask, "epoch"),
            "first epoch": partial(ours.ask, "first"),
            "second epoch": partial(ours.ask, "second"),
            "decoding alone": partial(limit.ask, "epoch"),
        }
        seconds = common.alternate(turns, rounds)
        kept, difference = ours.ask("kept"), ours.ask("largest_difference", COMPARED)
    ratio = {name: common.compared(seconds["torchvision"], seconds[name]) for name in TARGETS}
    return {
        "settings": {"num_images": len(paths), "batch_size": BATCH_SIZE, "rounds": rounds},
        "num_workers": NUM_WORKERS,
        "kept_bytes": kept,
        "largest_difference": difference,
        "bytes_per_image": IMAGE_BYTES,
        **rates(seconds, len(paths), common.measured_copy()),
        "ratio": ratio,
        "target": TARGETS,
        "met": {name: ratio[name]["of_medians"] >= target for name, target in TARGETS.items()},
    }


def rates(seconds: dict[str, list[float]], num_images: int, copy: float) -> dict[str, Any]:
    """Photos per second, and the bytes written for them as a share of what a copy writes."""
    record: dict[str, Any] = {"copy_gigabytes_per_second": copy}
    for name, values in seconds.items():
        speed = common.spread([num_images / value for value in values])
        record[name] = {"images_per_second": speed}
        if name != "decoding alone":
            record[name]["share_of_copy"] = speed["median"] * IMAGE_BYTES / 1e9 / copy
    return record


def in_words(record: dict[str, Any]) -> str:
    """The result for a person."""
    rows = [["", "photos/s", "lowest", "highest", "of copy speed"]]
    for name in ("torchvision", *TARGETS, "decoding alone"):
        speed = record[name]["images_per_second"]
        share = record[name].get("share_of_copy")
        cells = [f"{speed[key]:,.0f}" for key in ("median", "min", "max")]
        rows.append([name, *cells, f"{share:.1%}" if share else ""])
    return "\n".join([
        common.describe(record["conditions"]),
        f"a copy of memory writes {record['copy_gigabytes_per_second']:.1f} GB/s; a photo becomes "
        f"{IMAGE_BYTES:,} bytes; {record['kept_bytes'] / 1e9:.1f} GB of pixels were kept; the "
        f"sides differ by at most {record['largest_difference']:.0f} of 255",
        common.table(rows),
        *(in_line(name, record["ratio"][name], target) for name, target in TARGETS.items()),
    ])  # fmt: skip


def in_line(name: str, ratio: dict[str, float], target: float) -> str:
    """One ratio for a person."""
    met = "met" if ratio["of_medians"] >= target else "MISSED"
    return (
        f"{name}: ratio {ratio['of_medians']:.2f} (rounds: median {ratio['median_of_rounds']:.2f}, "
        f"{ratio['min']:.2f} to {ratio['max']:.2f}), target {target}: {met}"
    )


def measure_waits(folder: Path, place: Path, rounds: int) -> dict[str, Any]:
    """Seconds to the first batch of a folder, with nothing kept of it and after that."""
    waits = {name: partial(wait, folder, place / "cache", name == "cold") for name in WAITS}
    seconds = {name: common.spread(x) for name, x in common.alternate(waits, rounds).items()}
    return {
        "settings": {"num_images": sum(1 for path in folder.rglob("*") if path.is_file())},
        "seconds": seconds,
        "target": WAITS,
        "met": {name: seconds[name]["median"] <= target for name, target in WAITS.items()},
    }


def waits_in_words(record: dict[str, Any]) -> str:
    """The result for a person."""
    rows = [["seconds", "median", "lowest", "highest", "target", ""]]
    for name, values in record["seconds"].items():
        cells = [f"{values[key]:.1f}" for key in ("median", "min", "max")]
        met = "met" if record["met"][name] else "MISSED"
        rows.append([name, *cells, f"{WAITS[name]:.0f}", met])
    number = record["settings"]["num_images"]
    head = f"from a new process to the first batch of {number:,} files; cold: nothing kept of them"
    return "\n".join([common.describe(record["conditions"]), head, common.table(rows)])


def main() -> None:
    """Measure, print, record."""
    parser = common.options(__doc__, rounds=5)
    parser.add_argument(
        "--folder", type=Path, help=f"FOLDER/CLASS/PHOTO.jpg (those of {PHOTOS.name}, {COPIES}x)"
    )
    parser.add_argument(
        "--cifar", type=Path, help="seconds to the first batch of this folder of small pictures"
    )
    arguments = parser.parse_args()
    name = "first-batch" if arguments.cifar else "photos"
    record: dict[str, Any] = {"name": name, "conditions": common.conditions()}
    with TemporaryDirectory() as temporary:
        place = Path(temporary)
        if arguments.cifar:
            record |= measure_waits(arguments.cifar, place, arguments.rounds)
        else:
            folder = arguments.folder or unpack(PHOTOS, place / "photos")
            record |= measure(folder, place, arguments.rounds)
    words = waits_in_words(record) if arguments.cifar else in_words(record)
    common.finish(name, record, words, arguments.results)


if __name__ == "__main__":
    main()
