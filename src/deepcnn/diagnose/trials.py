"""What a few updates show: the run in short, rates tried out, labels drawn at random."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor, nn

from deepcnn import interrupt
from deepcnn.config import Config
from deepcnn.data.images import ImageSet
from deepcnn.data.loader import Batch
from deepcnn.data.order import batch_slices, epoch_order
from deepcnn.data.splits import Splits
from deepcnn.device import Policy
from deepcnn.errors import NonFiniteError
from deepcnn.evaluate import predictions
from deepcnn.metrics import num_correct
from deepcnn.optim import lr_factor
from deepcnn.progress import reported
from deepcnn.rehearsal import rehearse
from deepcnn.run import Run
from deepcnn.train import make_update

SHORT, BETWEEN = 60, 5  # updates of the run in short; between two looks at what they change
LOWEST, HIGHEST = 1e-5, 1e2  # learning rates tried
PER_DECADE = 6
LARGEST_BATCH = 128  # images of an update: trials are to take a minute, not ten
GOLDEN = (1 + math.sqrt(5)) / 2  # steps by this share of a row are spread evenly over it
TINY = 1e-12  # norm of weights that are all 0
SMOOTHED = 0.5  # weight of the newest loss in the moving average of the range test
FALLEN = 0.9  # times the first loss, that the lowest one must be
DIVERGED = 4.0  # times the lowest loss: as fastai's finder
LEARNT_FROM, HELD_BACK, AT_ONCE = 500, 300, 50  # images of the trial with labels


@dataclass(frozen=True)
class Short:
    """The run in few updates: the losses, and by how much of its size an update changed each
    weight, in the median over layers and the largest over updates.
    """

    losses: tuple[float, ...]
    ratio: float
    trouble: str = ""


@dataclass(frozen=True)
class Range:
    """The loss at each learning rate, until it diverged."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]  # moving average
    diverged: float  # the rate, infinite if it did not

    @property
    def best(self) -> float:
        """The rate of the lowest loss."""
        return self.rates[int(np.argmin(self.losses))]

    @property
    def suggestion(self) -> float:
        """A tenth of that, as fastai's finder; 0 where the loss did not fall clearly."""
        has_fallen = len(self.losses) > 1 and min(self.losses) < FALLEN * self.losses[0]
        return self.best / 10 if has_fallen else 0.0


@dataclass(frozen=True)
class Learnt:
    """How many were right of images seen for the first time in training, and of others after it."""

    first: int
    seen: int
    others: int
    num_others: int
    chance: float  # the share of the largest class among either


def updates(run: Run, number: int) -> Iterator[tuple[int, Batch, Tensor]]:
    """That many batches in the order of the run, without random changes, with indices of images."""
    images, train = run.source(run.splits.train), run.config.train
    size = min(train.batch_size, LARGEST_BATCH)
    made, epoch = 0, 0
    while made < number:
        visits = epoch_order(run.splits.train, train.seed, epoch)
        parts = batch_slices(len(visits), size, train.drop_last)[: number - made]
        groups = [visits[part] for part in parts]
        for indices, batch in zip(groups, images.batches(groups), strict=True):
            interrupt.check()
            yield made, batch, indices
            made += 1
        epoch += 1


def run_in_short(run: Run) -> Short:
    """Make the updates of the run as if it had only a few: warm-up, peak, and the way down."""
    losses, ratios = [], [0.0]
    try:
        stream = reported(updates(run, SHORT), SHORT, "running in short")
        for step, batch, indices in stream:
            progress = (step + 0.5) / SHORT
            run.reach(progress)
            before = _weights(run.state.model) if step % BETWEEN == 0 else []
            lr = run.config.optim.lr * lr_factor(run.config.optim, progress)
            losses.append(make_update(run, [batch], indices, lr)[0])
            run.state.step = step + 1
            ratios += _changes(before, run.state.model)
    except NonFiniteError as error:
        return Short(tuple(losses), max(ratios), str(error).partition(",")[0])
    return Short(tuple(losses), max(ratios))


def try_rates(run: Run) -> Range:
    """Smith 2017, "Cyclical learning rates", section 3.3: a rate that rises from update to update,
    and the loss at each.
    """
    number = round(PER_DECADE * math.log10(HIGHEST / LOWEST)) + 1
    rates: list[float] = []
    losses: list[float] = []
    mean = 0.0
    run.reach(0)
    for step, batch, indices in reported(updates(run, number), number, "trying learning rates"):
        rate = LOWEST * 10 ** (step / PER_DECADE)
        try:
            loss = make_update(run, [batch], indices, rate)[0]
        except NonFiniteError:
            return Range(tuple(rates), tuple(losses), rate)
        run.state.step = step + 1
        mean = SMOOTHED * loss + (1 - SMOOTHED) * mean if losses else loss
        rates.append(rate)
        losses.append(mean)
        if mean > DIVERGED * min(losses):
            return Range(tuple(rates), tuple(losses), rate)
    return Range(tuple(rates), tuple(losses), math.inf)


def learn_labels(
    learner: Config, splits: Splits, policy: Policy, number: int, shuffled: bool
) -> Learnt:
    """Learn from some training images in `number` updates, with their labels or with labels
    shuffled; then ask for others: held back of the training images, or test images, with labels
    shuffled, too: of what is alike, one label is the most frequent by chance, and may be the right
    one.
    """
    rows = np.random.default_rng(0).permutation(len(splits.train))
    count = min(LEARNT_FROM, len(rows) * 2 // 3)
    images = splits.train.subset(rows[:count], splits.train.name)
    others = splits.train.subset(rows[count : count + HELD_BACK], splits.train.name)
    if shuffled:
        images = _shuffled(images)
        others = _shuffled(_first(splits.test, HELD_BACK))
    size = min(AT_ONCE, len(images))
    config = replace(learner, train=replace(learner.train, batch_size=size))
    run = rehearse(config, replace(splits, train=images, validation=None), policy)
    run.reach(0)
    what = "learning labels drawn at random" if shuffled else "learning labels"
    first = 0
    for step, batch, indices in reported(updates(run, number), number, what):
        correct = make_update(run, [batch], indices, config.optim.lr)[1]
        run.state.step = step + 1
        first += correct if (step + 1) * size <= len(images) else 0
    found = predictions(run.state.model, run.source(others), policy)
    right = num_correct(found.logits, found.labels)
    chance = max(float(each.class_counts().max()) / len(each) for each in (images, others))
    return Learnt(first, len(images) // size * size, right, len(others), chance)


def _shuffled(images: ImageSet) -> ImageSet:
    """The same labels on other images, such that the images of each class get all labels in
    proportion: else a class would be mostly of one label, by chance, and that could be learnt.
    """
    number = len(images)
    by_class = np.argsort(images.labels, kind="stable")
    step = next(k for k in range(round(number / GOLDEN), 0, -1) if math.gcd(k, number) == 1)
    labels = np.empty_like(images.labels)
    labels[by_class] = np.sort(images.labels)[np.arange(number) * step % number]
    return replace(images, labels=labels)


def _first(images: ImageSet, number: int) -> ImageSet:
    rows = np.random.default_rng(0).permutation(len(images))[:number]
    return images.subset(rows, images.name)


def _changes(before: Sequence[Tensor], model: nn.Module) -> list[float]:
    """By how much of its size a weight has changed, in the median; nothing of nothing."""
    after = _weights(model) if before else []
    pairs = zip(before, after, strict=True)
    changes = [float((b - a).norm() / a.norm().clamp(min=TINY)) for a, b in pairs]
    return [float(np.median(changes))] if changes else []


def _weights(model: nn.Module) -> Sequence[Tensor]:
    """Copies of all that trains and is more than a vector."""
    trained = (p for p in model.parameters() if p.requires_grad and p.ndim > 1)
    return [parameter.detach().clone() for parameter in trained]
