"""What limits the speed of a run, what to do about it, and what that would bring.

A verdict is a pure function of what was measured: where the time went (`phases`), and what a trial
beside the run showed. The gain is a forecast, total / (total - seconds saved), where what the
remedy costs has been taken off what it saves.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from deepcnn.config import Config
from deepcnn.phases import CROWDED

WORTH = 1.1  # times as fast: a remedy for less is not named
LARGER = 4  # times the images of an update, which leave a quarter of what an update costs
LEAST_UPDATES = 20  # of an epoch, that larger batches must leave for the schedule to work with
RARE, RARER = 60.0, 10  # seconds between checkpoints: the default; times as long where that is set
WIDE = 1_000_000  # parameters, from which it is them that an update costs and not the calls
NEAR = 0.5  # of the peak of convolutions; a network of many kinds of layers hardly gets closer

LIMITS = {
    "reading": "reading files",
    "decoding": "decoding pictures",
    "augmenting": "random changes to images",
    "preprocessing": "bringing images to their side and scale",
    "copying": "copying images to the device and into its layout",
    "forward": "arithmetic in the forward pass",
    "backward": "arithmetic in the backward pass",
    "optimiser": "the optimiser",
    "evaluating": "evaluation",
    "checkpointing": "writing checkpoints",
    "waiting": "threads that hand over pictures",
    "other": "what is between the steps",
}


class Room(NamedTuple):
    """Bytes that decoded pictures would take, and that disk and memory have for them."""

    needed: int
    disk: int
    memory: int


@dataclass(frozen=True)
class Trial:
    """What was measured beside a run: shares of time that do not come from images, arithmetic."""

    computing: float  # of forward and backward passes
    loading: float  # of making batches of bytes in memory; 0 for pictures in files
    gflop: float  # of an image, forward and backward
    peak: float  # GFLOP/s of a convolution on this machine, in the format of the run


@dataclass(frozen=True)
class Evidence:
    """What was measured of a run: `seconds` by phase, how often things were done, and a trial."""

    config: Config
    seconds: Mapping[str, float]
    updates: int
    pieces: int  # that their batches were computed in
    saves: int  # checkpoints
    epochs: int  # ended
    trial: Trial
    num_images: int  # to learn from
    tested: float  # share of the images evaluated after an epoch that are of the test set
    num_parameters: int
    dense: float  # share of them in fully connected layers
    cores: int
    delayed: float = 0.0  # seconds in which other programs had its core
    room: Room | None = None  # where pictures in files are not kept decoded

    @property
    def total(self) -> float:
        """Wall seconds, without those of the trial."""
        return sum(self.seconds.values()) - self.seconds["measuring"]

    def of(self, *phases: str) -> float:
        """Seconds of some phases together."""
        return sum(self.seconds[phase] for phase in phases)


class Remedy(NamedTuple):
    """A cause of `seconds`, `saved` of which an advice would save, net of its own cost."""

    cause: str
    advice: str
    seconds: float
    saved: float


@dataclass(frozen=True)
class Verdict:
    """What limits a run, by its `share` of the time; where no advice helps, there is no gain."""

    limit: str
    share: float
    advice: str
    gain: float  # times as fast, 1 without advice

    def in_words(self) -> str:
        """One sentence."""
        expected = f", expect {self.gain:.1f} times the speed" if self.gain > 1 else ""
        return f"limited by {self.limit} ({self.share:.0%} of the time): {self.advice}{expected}"

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON can hold it."""
        return {**asdict(self), "sentence": self.in_words()}


def verdict(evidence: Evidence) -> Verdict:
    """The remedy that saves most, if it is worth the trouble, or else the longest phase."""
    total = evidence.total
    is_crowded = evidence.delayed > CROWDED * total
    # Where other programs take the cores by turns, every call waits, and a trial sees only that.
    remedies = MEASURED if is_crowded else (*MEASURED, *TRIED)
    found = [remedy for each in remedies if (remedy := each(evidence))]
    best = max(found, key=lambda remedy: remedy.saved, default=None)
    if is_crowded and evidence.delayed > (best.saved if best else 0.0):
        limit = "other programs, which had the core that it waited for"
        return Verdict(
            limit, min(1.0, evidence.delayed / total), "it would be faster without them", 1.0
        )
    if best and (gain := total / (total - best.saved)) >= WORTH:
        return Verdict(best.cause, best.seconds / total, best.advice, gain)
    longest = max(LIMITS, key=evidence.seconds.__getitem__)
    limit = f"{LIMITS[longest]}{_remark(longest, evidence)}"
    nothing = "no setting would make much of a difference"
    return Verdict(limit, evidence.seconds[longest] / total, nothing, 1.0)


def keep_pictures(evidence: Evidence) -> Remedy | None:
    """Decoded pictures kept: an epoch then neither reads nor decodes, nor waits for either."""
    room = evidence.room
    if not room or room.needed > room.memory:
        return None
    work = evidence.of("reading", "decoding")
    in_threads = work + evidence.of("augmenting", "preprocessing")
    saved = work + evidence.of("waiting") * (work / in_threads if in_threads else 0)
    return Remedy(
        f"decoding pictures on {_count(evidence.cores, 'core')}",
        f"keep them decoded, for which the disk of DEEPCNN_CACHE needs {2 * room.needed / 1e9:.1f} "
        "GB free",
        saved,
        saved,
    )


def larger_batches(evidence: Evidence) -> Remedy | None:
    """Fewer updates: what each costs whatever its size is paid less often."""
    batch_size = evidence.config.train.batch_size
    most = evidence.num_images // (batch_size * LEAST_UPDATES)
    times = max((k for k in (2, LARGER) if k <= most), default=1)
    if times == 1:
        return None
    loading = evidence.trial.loading * evidence.of("copying", "preprocessing")
    seconds = _computing(evidence) + loading + evidence.of("optimiser", "other")
    milliseconds = 1e3 * seconds / evidence.updates
    cause = f"the {milliseconds:,.1f} ms that an update costs whatever its size"
    if evidence.num_parameters >= WIDE:
        cause = (
            f"{evidence.num_parameters:,} parameters, {evidence.dense:.0%} of them in fully "
            f"connected layers, that an update of {batch_size} images goes through"
        )
    advice = f"--train.batch_size {times * batch_size}, with a rate to go with it"
    return Remedy(cause, advice, seconds, seconds * (1 - 1 / times))


def fewer_pieces(evidence: Evidence) -> Remedy | None:
    """Batches in one piece: what each piece costs whatever its size is paid once."""
    if evidence.pieces == evidence.updates:
        return None
    seconds = _computing(evidence)
    is_asked_for = evidence.config.train.accumulate > 1
    return Remedy(
        f"the {evidence.pieces / evidence.updates:.0f} pieces that a batch is computed in",
        "--train.accumulate 1, if memory allows" if is_asked_for else "more memory than it has",
        seconds,
        seconds * (1 - evidence.updates / evidence.pieces),
    )


def fewer_checkpoints(evidence: Evidence) -> Remedy | None:
    """Those by the clock less often; the one after each epoch stays."""
    by_clock = max(0, evidence.saves - evidence.epochs)
    if not by_clock:
        return None
    before = evidence.config.train.checkpoint_seconds
    after = RARE if before < RARE else RARER * before
    seconds = evidence.of("checkpointing")
    left = min(by_clock, evidence.total / after)
    return Remedy(
        LIMITS["checkpointing"],
        f"--train.checkpoint_seconds {after:g}, which a kill may cost",
        seconds,
        seconds / evidence.saves * (by_clock - left),
    )


def no_test_each_epoch(evidence: Evidence) -> Remedy | None:
    """The test set read once, at the end."""
    if not evidence.config.train.test_each_epoch:
        return None
    seconds = evidence.of("evaluating") * evidence.tested
    advice = "--train.test_each_epoch false; the end of the run tests anyway"
    return Remedy("testing after each epoch", advice, seconds, seconds)


MEASURED: tuple[Callable[[Evidence], Remedy | None], ...] = (
    keep_pictures,
    fewer_checkpoints,
    no_test_each_epoch,
)
TRIED: tuple[Callable[[Evidence], Remedy | None], ...] = (larger_batches, fewer_pieces)


def _computing(evidence: Evidence) -> float:
    """Seconds of all forward and backward passes that do not come from their images."""
    return evidence.trial.computing * evidence.of("forward", "backward")


def _remark(phase: str, evidence: Evidence) -> str:
    """What is worth knowing of the longest phase."""
    if phase == "decoding" and evidence.room:
        needed, memory = evidence.room.needed / 1e9, evidence.room.memory / 1e9
        return f", which take {needed:.1f} GB decoded, and memory has room for {memory:.1f}"
    if phase not in ("forward", "backward") or not evidence.trial.peak:
        return ""
    images = evidence.updates * evidence.config.train.batch_size
    rate = evidence.trial.gflop * images / evidence.of("forward", "backward")
    share = rate / evidence.trial.peak
    near = ", near what this machine can do" if share >= NEAR else ""
    return f" at {rate:,.0f} GFLOP/s, {share:.0%} of a convolution at its best{near}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
