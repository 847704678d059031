"""What is normal in trials, with the reasons for each limit."""

from collections.abc import Iterator, Sequence

from deepcnn.by_heart import Memory
from deepcnn.config import Optim
from deepcnn.diagnose.findings import Finding
from deepcnn.diagnose.trials import LOWEST, Learnt, Range, Short
from deepcnn.metrics import wilson_interval

# Weights that are not learnt shrink by this share in an update. In the recipes it is 0.0001 at
# most; at 0.01 they have lost two thirds after a hundred updates.
MOST_DECAY = 1e-2
# By this an L1 penalty moves every weight in an update; first weights are about 0.05 in size.
MOST_L1 = 1e-3
# Share of its size by which an update changes a weight at most: "somewhere around 1e-3" is right
# (Stanford's CS231n, "Ratio of weights:updates"). In nine recipes, run in short, 0.03 to 0.8.
LEAST_RATIO = 1e-5
WORSE = 0.5  # nats above the first loss; none of nine recipes, run in short, ends above it at all
LAST = 10  # losses of the run in short that are averaged
UNLIKELY = 4.0  # standard deviations: 1 in 30,000 by chance
UNDECIDED = 100  # images on which little can be told from chance
PER_CLASS = 20  # training images in the trial, without which a class is hardly learnt
NEAR = 0.1  # above chance: where a hard set may stay, and what kinds within a class may add

HARMLESS = ("small-batch", "channels-swapped")  # trials work all the same


def penalties(optim: Optim) -> Iterator[Finding]:
    """Whether weights have the time to learn before they have decayed."""
    decay, l1 = optim.lr * optim.weight_decay, optim.lr * optim.l1
    if decay > MOST_DECAY:
        yield Finding("decay", f"optim.lr times optim.weight_decay is {decay:.3g}")
    if l1 > MOST_L1:
        yield Finding("decay", f"optim.lr times optim.l1 is {l1:.3g}")


def rates(optim: Optim, tried: Range, short: Short, died: Sequence[Finding]) -> Iterator[Finding]:
    """Whether the learning rate lets the run get anywhere."""
    advice = f"--optim.lr {tried.suggestion:.2g} to begin with" if tried.suggestion else ""
    last = sum(short.losses[-LAST:]) / max(1, len(short.losses[-LAST:]))
    at = f"at optim.lr {optim.lr:g}"
    if short.trouble and tried.diverged <= LOWEST:
        yield Finding("non-finite", f"{short.trouble}, at any learning rate")
    elif short.trouble:
        yield Finding("rate-too-high", f"{short.trouble} of the run in short, {at}", advice)
    elif last > short.losses[0] + WORSE:
        course = f"the loss rises from {short.losses[0]:.3g} to {last:.3g} {at}"
        yield Finding("rate-too-high", course, advice)
    elif optim.lr >= tried.diverged:
        diverged = f"the loss diverges at {tried.diverged:.2g}, and optim.lr is {optim.lr:g}"
        yield Finding("rate-too-high", diverged, advice)
    elif died:
        yield Finding("rate-too-high", f"dead after the run in short: {died[0].measured}", advice)
    elif short.ratio < LEAST_RATIO:
        change = f"an update changes weights by {short.ratio:.1g} of their size at most, {at}"
        yield Finding("rate-too-low", change, advice)


def memory(tried: Sequence[Memory]) -> Iterator[Finding]:
    """Whether a few images were learnt by heart."""
    best = max(tried, key=lambda each: (each.known, each.while_training))
    measured = "; ".join(each.in_words() for each in tried)
    if best.is_whole:
        return
    in_training = [each for each in tried if each.while_training == each.number]
    if in_training:
        known = in_training[0]
        told = (
            f"{known.number} of {known.number} known in training mode, {known.known} in evaluation"
        )
        yield Finding("norm-statistics", told)
    else:
        yield Finding("not-by-heart", measured)


def labels(learnt: Learnt, shuffled: bool, classes: int) -> Iterator[Finding]:
    """Whether what is learnt of labels holds for other images, and of shuffled ones does not."""
    if shuffled:
        places = (
            (learnt.first, learnt.seen, "training images not seen before"),
            (learnt.others, learnt.num_others, "test images"),
        )
        for right, number, what in places:
            if number and wilson_interval(right, number, UNLIKELY)[0] > learnt.chance + NEAR:
                measured = f"{right / number:.0%} of {number} {what} are right"
                yield Finding("label-leak", f"{measured}, chance is {learnt.chance:.0%}")
        return
    if learnt.num_others < UNDECIDED or learnt.seen < PER_CLASS * classes:
        return
    low, high = wilson_interval(learnt.others, learnt.num_others)
    if low <= learnt.chance and high < learnt.chance + NEAR:
        share = learnt.others / learnt.num_others
        measured = f"{share:.0%} of {learnt.num_others} images held back are right"
        yield Finding("labels-unrelated", f"{measured}, chance is {learnt.chance:.0%}")
