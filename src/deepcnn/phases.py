"""Where the time of a run goes: a stopwatch that is always at one phase of the work."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

PHASES = (
    "reading",  # files
    "decoding",  # pictures
    "augmenting",  # random changes
    "preprocessing",  # sides and scale
    "copying",  # to the device and into its layout
    "forward",
    "backward",  # with the norm of the gradients
    "optimiser",  # with averaged weights
    "evaluating",
    "checkpointing",
    "measuring",  # what limits the run, and how long it will take
    "waiting",  # for threads that read pictures, beyond what these are at
    "other",
)

SCHEDULED = Path("/proc/thread-self/schedstat")  # nanoseconds on a core, and waiting for one

CROWDED = 0.2  # share of the time without a core, from which that is worth a word

T = TypeVar("T")


class Stopwatch:
    """Seconds by phase. One phase is under way at any moment, so together they are the wall time.

    On a GPU these are the seconds that the CPU sees. The loop waits for the device twice in an
    update, for the loss and for the norm of the gradients, so the phases before those come out
    right; the optimiser's arithmetic counts in the next forward pass.
    """

    def __init__(self, phase: str = "other") -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.times = dict.fromkeys(PHASES, 0)  # that each was started
        self.threads = dict.fromkeys(PHASES, 0.0)  # seconds in each, in the mean of them
        self._phase, self._since = phase, time.perf_counter()

    def start(self, phase: str) -> None:
        """Count the time from now on as this phase."""
        self.times[phase] += 1
        self._turn(phase)

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Count the time in the block as this phase, and then go on with the one before."""
        before = self._phase
        self.start(phase)
        try:
            yield
        finally:
            self._turn(before)

    def coming(self, items: Iterable[T], phase: str) -> Iterator[T]:
        """Yield `items`; the time that each takes to come counts as this phase."""
        iterator, end = iter(items), object()
        while True:
            with self.during(phase):
                item = next(iterator, end)
            if item is end:
                return
            yield item  # type: ignore[misc]

    def add_threads(self, seconds: Mapping[str, float], number: int) -> None:
        """Note what one of `number` threads did, by phase, while this one waited for them."""
        for phase, value in seconds.items():
            self.threads[phase] += value / number

    def by_phase(self) -> dict[str, float]:
        """Seconds so far; of the time waited for threads, that which they had work for is theirs.

        Threads that read in advance, while this one computes, count as far as they are waited for.
        """
        self._turn(self._phase)
        waited, busy = self.seconds["waiting"], sum(self.threads.values())
        share = min(1.0, waited / busy) if busy else 0.0
        total = {name: self.seconds[name] + share * self.threads[name] for name in PHASES}
        return total | {"waiting": waited - share * busy}

    def elapsed(self) -> float:
        """Seconds since it began."""
        return sum(self.seconds.values()) + time.perf_counter() - self._since

    def _turn(self, phase: str) -> None:
        now = time.perf_counter()
        self.seconds[self._phase] += now - self._since
        self._phase, self._since = phase, now


def delay() -> float:
    """Seconds in which this thread was ready and other programs had its core, since it began; 0
    where the system, if it is not Linux, does not say.
    """
    try:
        return int(SCHEDULED.read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


class Crowding:
    """Whether other programs get in the way, from now on."""

    def __init__(self) -> None:
        self._since, self._before = time.perf_counter(), delay()

    def is_bad(self) -> bool:
        """Whether they have had this thread's core so long that what was measured is not true."""
        return delay() - self._before > CROWDED * (time.perf_counter() - self._since)
