"""The images of a run: what it learns from, what it decides by, what it is measured on."""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from deepcnn.config import Data
from deepcnn.data import catalog, doctor, pictures
from deepcnn.data.findings import Report
from deepcnn.data.images import ImageSet, split_off
from deepcnn.data.photos import Photos
from deepcnn.data.preprocess import Preprocess
from deepcnn.device import available_threads
from deepcnn.errors import ConfigError, DataError
from deepcnn.progress import say

SAMPLED = 1_000  # pictures that the statistics of a set in files are taken from

Scale = tuple[tuple[float, ...], tuple[float, ...]]  # mean and deviation by channel, shares of 255


@dataclass(frozen=True)
class Splits:
    """Training, validation (None where nothing is held out) and test images of one data set."""

    train: ImageSet
    validation: ImageSet | None
    test: ImageSet
    preprocess: Preprocess

    def parts(self) -> dict[str, ImageSet]:
        """The image sets there are, by name: train, validation, test."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: images for name, images in parts.items() if images}

    @property
    def fingerprint(self) -> str:
        """SHA-256 that is equal when all images, their labels and their division are."""
        each = {name: images.fingerprint for name, images in self.parts().items()}
        return hashlib.sha256(repr(each).encode()).hexdigest()

    def facts(self) -> dict[str, Any]:
        """What is written down of them: how many, of which classes, and what a network gets."""
        side = self.preprocess.input_size
        return {
            "images": {name: len(images) for name, images in self.parts().items()},
            "classes": self.train.classes,
            "input": [self.preprocess.channels, side, side],
        }


def load_splits(data: Data, seed: int, report: Callable[[str], None] = say) -> Splits:
    """Read a data set, hold out what it does not bring, derive preprocessing.

    `report` is told what was decided about pictures in files.
    """
    if catalog.is_pictures(data.name):
        parts = pictures.load_parts(data, seed, report)
        preprocess = make_preprocess(data, parts["train"])
        return Splits(parts["train"], parts.get("validation"), parts["test"], preprocess)
    train = catalog.load(data.name, "train", data.root)
    test = catalog.load(data.name, "test", data.root)
    if (train.classes, train.num_channels) != (test.classes, test.num_channels):
        raise DataError(
            f"{data.name}: the training set has {train.num_channels} channels and classes "
            f"{', '.join(train.classes)}, the test set {test.num_channels} and "
            f"{', '.join(test.classes)}; they must be the same"
        )
    validation = None
    preprocess = make_preprocess(data, train)
    if data.validation:
        number = pictures.number(data.validation, len(train))
        train, validation = split_off(train, number, seed)
    return Splits(train, validation, test, preprocess)


def load_part(name: str, part: Literal["train", "test"], root: str) -> ImageSet:
    """The training or test images of a data set, to look at; pictures that are bad are left out."""
    if not catalog.is_pictures(name):
        return catalog.load(name, part, root)
    return pictures.load_parts(Data(name=name, on_bad="skip"), seed=0, say=say)[part]


def check_data(name: str, root: str, group: str) -> tuple[Report, dict[str, ImageSet]]:
    """What the data doctor has to say of a data set, and the images it looked at."""
    if catalog.is_pictures(name):
        sets, listing = pictures.load_to_check(Data(name=name, group=group), say)
    else:
        sets = {part: catalog.load(name, part, root) for part in ("train", "test")}
        listing = None
    return doctor.check(sets, listing, available_threads()), sets


def make_preprocess(data: Data, train: ImageSet) -> Preprocess:
    """Geometry as set; scale as set, from the catalogue's published statistics, or from `train`."""
    channels, none = train.num_channels, ((0.0,) * train.num_channels, (1.0,) * train.num_channels)
    keep = data.keep if data.geometry == "crop" else 1.0
    preprocess = Preprocess(
        channels,
        data.size or train.size,
        data.pad,
        *none,
        "none",
        keep,
        data.interpolation,
        data.views,
        data.sure,
    )
    if isinstance(train.images, Photos):
        side, least = pictures.square_side(data, train), pictures.least_side(data)
        preprocess = replace(
            preprocess,
            size=side,
            geometry=data.geometry,
            keep=data.keep,
            interpolation=data.interpolation,
            least=least,
        )
    if data.mean:
        if len(data.mean) != channels:
            raise ConfigError(
                f"data.mean has {len(data.mean)} numbers, but the images have {channels} channels"
            )
        return replace(preprocess, mean=data.mean, std=data.std)
    scales: dict[str, Callable[[], Scale]] = {
        "raw": lambda: (none[0], (1 / 255,) * channels),
        "unit": lambda: none,
        "standardized": lambda: (
            catalog.statistics(data.name) or channel_statistics(train, preprocess)
        ),
    }
    mean, std = scales[data.pixels]()
    return replace(preprocess, mean=mean, std=std)


def channel_statistics(images: ImageSet, preprocess: Preprocess) -> Scale:
    """Mean and deviation of each channel; of pictures in files, over up to 1,000 of them."""
    number, sums, squares = 0, *np.zeros((2, images.num_channels), np.int64)
    for pixels in _portions(images, preprocess):
        number += pixels[:, 0].size
        sums += pixels.sum(axis=(0, 2, 3), dtype=np.int64)
        squares += np.square(pixels, dtype=np.uint16).sum(axis=(0, 2, 3), dtype=np.int64)
    mean = tuple(total / number / 255 for total in sums.tolist())
    # Whole numbers of any length up to here, so that the order of the images does not matter.
    variances = (number * q - s * s for s, q in zip(sums.tolist(), squares.tolist(), strict=True))
    # A channel that is constant keeps its scale instead of being divided by zero.
    return mean, tuple(math.sqrt(value) / number / 255 or 1.0 for value in variances)


def sample(images: ImageSet, preprocess: Preprocess) -> NDArray[np.uint8]:
    """The images that `channel_statistics` goes by, N C H W: all, or up to 1,000 pictures."""
    return np.concatenate(list(_portions(images, preprocess)))


def _portions(images: ImageSet, preprocess: Preprocess) -> Iterator[NDArray[np.uint8]]:
    """Equal squares, few N C H W at a time: all of them with all their digits fill gigabytes."""
    if not isinstance(images.images, Photos):
        starts = range(0, len(images), SAMPLED)
        yield from (images.images[start : start + SAMPLED] for start in starts)
        return
    if preprocess.geometry == "letterbox":  # whose bars would count
        preprocess = replace(preprocess, geometry="squash")
    for k in np.linspace(0, len(images) - 1, min(SAMPLED, len(images))).astype(np.int64):
        yield preprocess.frame(images.images.pixels(int(k)))[None].numpy()
