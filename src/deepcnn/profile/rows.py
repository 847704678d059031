"""What was found of a network, part by part: `Profile`, its rows, and their passes."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from deepcnn.bench.limits import Peaks
from deepcnn.forecast.memory import Peak, Timeline
from deepcnn.profile.trace import BETWEEN, LAYER, Phase

MEMORY = ("parameters", "gradients", "optimiser state", "activations")


@dataclass(frozen=True)
class Ceilings:
    """The best of a machine: GFLOP/s by number format and kind, and GB/s read and written."""

    arithmetic: Peaks
    bandwidth: float

    def balance(self, number_format: str) -> float:
        """FLOPs for each byte moved, below which a convolution waits for memory."""
        return self.arithmetic[number_format]["convolution"] / self.bandwidth


@dataclass(frozen=True)
class Pass:
    """One direction of one part: what it computes, the least it moves, and how long it takes."""

    flops: int
    bytes: int
    seconds: float  # the median of all rounds
    least: float
    most: float
    arithmetic: float  # seconds that the arithmetic takes at this machine's peak
    traffic: float  # and the bytes, at the speed of its memory

    @property
    def bound(self) -> float:
        """Seconds below which this machine cannot get: Williams, Waterman and Patterson 2009."""
        return max(self.arithmetic, self.traffic)

    @property
    def limited_by(self) -> Literal["arithmetic", "bandwidth"]:
        """What the bound comes from."""
        return "arithmetic" if self.arithmetic > self.traffic else "bandwidth"

    @property
    def intensity(self) -> float:
        """FLOPs for each byte."""
        return self.flops / self.bytes if self.bytes else 0.0

    @property
    def gflops(self) -> float:
        """GFLOP/s that were reached."""
        return self.flops / self.seconds / 1e9 if self.seconds else 0.0

    @property
    def gigabytes(self) -> float:
        """GB/s that were reached, of the least bytes."""
        return self.bytes / self.seconds / 1e9 if self.seconds else 0.0

    @property
    def efficiency(self) -> float:
        """The bound as a share of the time."""
        return self.bound / self.seconds if self.seconds else 0.0

    @property
    def recoverable(self) -> float:
        """Seconds above the bound."""
        return max(0.0, self.seconds - self.bound)

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        names = ("bound", "limited_by", "intensity", "gflops", "gigabytes", "efficiency",
                 "recoverable")  # fmt: skip
        return {**asdict(self), **{name: getattr(self, name) for name in names}}


@dataclass(frozen=True)
class Row:
    """A part of a step: a call of a layer, what is computed between two, or what is outside.

    `memory` is in bytes, by the names of `MEMORY`. Parameters belong to the first call of a layer.
    """

    what: str
    name: str
    kind: str  # class of the layer, or the operations
    type: str  # convolution, dense, norm ...
    output: tuple[int, ...] | None  # without the batch
    parameters: int
    memory: Mapping[str, int]
    passes: Mapping[Phase, Pass]

    @property
    def seconds(self) -> float:
        """In all directions."""
        return sum(each.seconds for each in self.passes.values())

    @property
    def flops(self) -> int:
        """In all directions."""
        return sum(each.flops for each in self.passes.values())

    @property
    def is_inside(self) -> bool:
        """Whether it belongs to the network."""
        return self.what in (LAYER, BETWEEN)

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        passes = {phase: each.as_dict() for phase, each in self.passes.items()}
        return {**asdict(self), "memory": dict(self.memory), "passes": passes}


@dataclass(frozen=True)
class Profile:
    """A step of a network, part by part, and as a whole."""

    subject: Mapping[str, Any]
    rows: list[Row]
    whole: Mapping[str, Any]  # seconds of the step with nothing watched: median, min, max, values
    input_bytes: int
    ceilings: Ceilings
    uncounted: Mapping[str, Mapping[str, int]]  # operation: part: calls
    timeline: Timeline | None  # of its memory; None where that differs from batch to batch

    @property
    def flops(self) -> int:
        """Of the whole step."""
        return sum(row.flops for row in self.rows)

    @property
    def peak(self) -> Peak | None:
        """The moment with the most in memory."""
        return self.timeline.peak(self.subject["batch_size"]) if self.timeline else None

    def seconds(self, is_inside: bool) -> float:
        """All parts of the network together, or all that is outside of it."""
        return sum(row.seconds for row in self.rows if row.is_inside == is_inside)

    def memory(self) -> dict[str, Counter[str]]:
        """Bytes, by the names of `MEMORY` and by type."""
        found = {name: Counter[str]() for name in MEMORY}
        for row in self.rows:
            for name, size in row.memory.items():
                found[name][row.type] += size
        return found

    def passes(self) -> list[tuple[Row, Phase, Pass]]:
        """Every pass of every part, the largest recoverable times first."""
        found = [(row, phase, each) for row in self.rows for phase, each in row.passes.items()]
        return sorted(found, key=lambda entry: -entry[2].recoverable)

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        inside, outside = self.seconds(True), self.seconds(False)
        return {
            **self.subject,
            "flops": self.flops,
            "seconds": dict(self.whole),
            "seconds_of_layers": inside,
            "seconds_outside": {row.name: row.seconds for row in self.rows if not row.is_inside},
            "sum_of_parts": (inside + outside) / self.whole["median"],
            "peaks": {
                "gflops": self.ceilings.arithmetic,
                "gigabytes_per_second": self.ceilings.bandwidth,
            },
            "memory": {name: dict(by_type) for name, by_type in self.memory().items()},
            "input_bytes": self.input_bytes,
            "peak": peak._asdict() | {"event": peak.event._asdict()} if (peak := self.peak) else {},
            "not_counted": {name: dict(parts) for name, parts in self.uncounted.items()},
            "layers": [row.as_dict() for row in self.rows],
        }
