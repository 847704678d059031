"""How long a run will take, from a few of its updates."""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from deepcnn import checkpoint
from deepcnn.data.images import ImageSet
from deepcnn.data.preprocess import small_side
from deepcnn.device import Policy
from deepcnn.evaluate import predictions
from deepcnn.files import STAGING_PREFIX
from deepcnn.run import Run

WARM, PIECE_SECONDS = 8, 0.3  # images to warm up with; length of the piece that is timed
# The learning curve and the report, which draw pictures whatever the network is. Measured as 1.5
# to 2.5 s with the libraries they load.
PICTURES = 2.0


@dataclass(frozen=True)
class Lengths:
    """Seconds of the parts of a run."""

    update: float  # the mean of those to come
    answer: float  # an image, in the precision of the run
    exact_answer: float  # in fp32, as the test is
    save: float  # a checkpoint

    def epoch(self, run: Run) -> float:
        """An epoch: updates, what is measured after them, a checkpoint."""
        splits, train = run.splits, run.config.train
        measured = len(splits.validation) if splits.validation else 0
        measured += len(splits.test) * train.test_each_epoch
        return self._updates(len(run.slices(1))) + measured * self.answer + self.save

    def rest(self, run: Run) -> float:
        """What is left of the run, evaluation, model and report included."""
        epochs = run.config.train.epochs
        left = run.updates(epochs) - run.state.step
        pause = self.epoch(run) - self._updates(len(run.slices(1)))
        asked = sum(len(images) for name, images in run.splits.parts().items() if name != "train")
        saves = left * self.update / max(run.config.train.checkpoint_seconds, self.update)
        return (
            self._updates(left)
            + (epochs - run.state.epoch) * pause
            + math.floor(saves) * self.save
            + asked * self.exact_answer
            + 2 * self.save  # the finished model is written and read back, too
            + PICTURES
        )

    def _updates(self, number: int) -> float:
        return number * self.update


def lengths_of(run: Run, update: float, first: int) -> Lengths:
    """Time evaluation and a checkpoint, for a second at most; an update since the `first` took
    `update` seconds, in the mean.
    """
    own, exact = run.policy, run.policy.exact()
    answer = seconds_per_image(run, own)
    exact_answer = answer if own == exact else seconds_per_image(run, exact)
    # An update takes as long as its images have pixels.
    now = run.state.progress
    growth = _pixels(run, now, 1) / _pixels(run, first / run.total(), now)
    return Lengths(update * growth, answer, exact_answer, seconds_of_checkpoint(run))


def _pixels(run: Run, start: float, end: float) -> float:
    """Those of a training image, in the mean between two points of progress, as a share of all."""
    if start >= end:
        return 1.0
    side = run.splits.preprocess.input_size
    small = max(0.0, min(end, run.config.augment.small_until) - start) / (end - start)
    return 1 - small * (1 - (small_side(side) / side) ** 2)


def seconds_per_image(run: Run, policy: Policy) -> float:
    """Seconds that evaluation takes for an image, from a piece of it: a batch, where that is not
    long, for fewer at once take longer each.
    """
    model, at_once = run.final_model(), run.source(run.splits.test).at_once()

    def timed(number: int) -> float:
        images = run.source(part_of(run.splits.test, number))
        began = time.perf_counter()
        predictions(model, images, policy)
        return (time.perf_counter() - began) / len(images)

    number = max(WARM, int(PIECE_SECONDS / timed(WARM)))
    return timed(at_once if number < at_once <= 2 * number else number)


def seconds_of_checkpoint(run: Run) -> float:
    """Seconds that a checkpoint takes to be written, on the disk of the run where it has one."""
    place = run.folder if run.folder.is_dir() else None
    with TemporaryDirectory(prefix=STAGING_PREFIX, dir=place) as folder:
        began = time.perf_counter()
        checkpoint.save(Path(folder), run.state)
        return time.perf_counter() - began


def part_of(images: ImageSet, number: int) -> ImageSet:
    """So many of the images, or all: evenly chosen, for classes may follow one after the other."""
    places = np.linspace(0, len(images) - 1, min(number, len(images))).round().astype(np.int64)
    return images.subset(places, images.name)
