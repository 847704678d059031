"""The images of a run: what it learns from, what it decides by, what it is measured on."""

from dataclasses import dataclass

from deepcnn.config import Data
from deepcnn.data import catalog
from deepcnn.data.images import ImageSet, split_off
from deepcnn.data.preprocess import Preprocess
from deepcnn.errors import DataError


@dataclass(frozen=True)
class Splits:
    """Training, validation (None where nothing is held out) and test images of one data set."""

    train: ImageSet
    validation: ImageSet | None
    test: ImageSet
    preprocess: Preprocess


def load_splits(data: Data, seed: int) -> Splits:
    """Read a data set, hold validation images out of its training set, derive preprocessing."""
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
        train, validation = split_off(train, data.validation, seed)
    return Splits(train, validation, test, preprocess)


def make_preprocess(data: Data, train: ImageSet) -> Preprocess:
    """Geometry as set; scale from the catalogue's published statistics, else from `train`."""
    channels = train.num_channels
    scales = {
        "raw": lambda: ((0.0,) * channels, (1 / 255,) * channels),
        "unit": lambda: ((0.0,) * channels, (1.0,) * channels),
        "standardized": lambda: catalog.statistics(data.name) or channel_statistics(train),
    }
    mean, std = scales[data.pixels]()
    return Preprocess(channels, data.size or train.size, data.pad, mean, std)


def channel_statistics(images: ImageSet) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, as shares of 255."""
    mean = images.images.mean(axis=(0, 2, 3)) / 255
    std = images.images.std(axis=(0, 2, 3)) / 255
    # A channel that is constant keeps its scale instead of being divided by zero.
    return tuple(map(float, mean)), tuple(float(value) or 1.0 for value in std)
