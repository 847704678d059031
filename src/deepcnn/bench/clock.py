"""The clock, and comparisons by turns.

Ways of doing the same thing are compared by taking turns, because the speed of a machine drifts
with its temperature and with its neighbours; a ratio is then taken within each round as well.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from deepcnn.progress import reported

REPEATS = 9  # of which the best counts: a peak is what the machine can do undisturbed


def timed(function: Callable[[], object]) -> float:
    """Seconds that a call takes until the device has done all of its work."""
    synchronize()
    began = time.perf_counter()
    function()
    synchronize()
    return time.perf_counter() - began


def synchronize() -> None:
    """Wait for the GPU, if this process has used one."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def alternate(
    sides: Mapping[str, Callable[[], object]],
    rounds: int,
    what: str,
    before: Mapping[str, Callable[[], object]] | None = None,
) -> dict[str, list[float]]:
    """Seconds of every side in every round, after a call of each that warms it up.

    Every other round goes backwards, so that a steady drift favours no side. What is in `before`
    under a side's name is called ahead of it and takes no time that counts. Lines of progress name
    `what` is measured.
    """
    prepare = before or {}
    for function in sides.values():
        function()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in reported(range(rounds), rounds, what):
        for name in list(sides) if number % 2 == 0 else reversed(list(sides)):
            prepare.get(name, int)()
            seconds[name].append(timed(sides[name]))
    return seconds


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median and range, with the values themselves."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "values": list(values),
    }


def compared(slow: Sequence[float], fast: Sequence[float]) -> dict[str, float]:
    """How many times as long `slow` takes: by the medians, and round by round."""
    by_round = [a / b for a, b in zip(slow, fast, strict=True)]
    return {
        "of_medians": statistics.median(slow) / statistics.median(fast),
        "median_of_rounds": statistics.median(by_round),
        "min": min(by_round),
        "max": max(by_round),
    }


def rates(seconds: Mapping[str, Sequence[float]], number: int) -> dict[str, dict[str, Any]]:
    """How many in a second each side makes that takes so many `seconds` for `number` of them."""
    return {name: spread([number / value for value in values]) for name, values in seconds.items()}


def best(function: Callable[[], object], repeats: int = REPEATS) -> float:
    """Shortest time of several calls, after one that warms it up."""
    function()
    return min(timed(function) for _ in range(repeats))
