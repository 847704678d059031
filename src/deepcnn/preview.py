"""A few seconds of a run in memory, to tell what will limit it."""

from dataclasses import dataclass, fields

from deepcnn.bottleneck import Verdict
from deepcnn.phases import Stopwatch, delay
from deepcnn.run import Run
from deepcnn.speed import judged, try_sizes
from deepcnn.train import train_epoch


@dataclass
class Beginning(Run):
    """The first updates of a run's first epoch."""

    most: int = 1

    def slices(self, epoch: int) -> list[slice]:
        """Not more batches than that."""
        return super().slices(epoch)[: self.most]


def look(run: Run, seconds: float) -> Verdict:
    """Make the first updates of a rehearsal for about so many seconds, and judge them.

    What comes after an epoch, evaluation and checkpoints, is not in it. `run.watch` has the seconds
    by phase afterwards; the run itself is no more as it was.
    """
    beginning = Beginning(**{each.name: getattr(run, each.name) for each in fields(Run)})
    total, available = run.updates(run.config.train.epochs), len(run.slices(epoch=0))
    train_epoch(beginning, run.source(run.splits.train), total)
    if available > 1:  # the first update warms up
        beginning.watch = run.watch = Stopwatch()
        beginning.delay_before = delay()
    images = run.source(run.splits.train)
    while beginning.most < available and (left := seconds - run.watch.elapsed()) > 0:
        made = beginning.most - 1
        more = max(1, int(left * made / run.watch.elapsed()))
        beginning.most = min(available, beginning.most + more)
        train_epoch(beginning, images, total)
    beginning.trial = beginning.trial or try_sizes(beginning, images)
    return judged(beginning)
