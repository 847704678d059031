"""What all benchmarks share: the conditions, the clock, the machine's peaks, and the record.

Ways of doing the same thing are compared by taking turns, because the speed of a machine drifts
with its temperature and with its neighbours; a ratio is then taken within each round as well.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from deepcnn.device import machine
from deepcnn.files import replace_file

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results"
BUSY = 0.3  # load average per core above which a measurement is not to be trusted

CONVOLUTION = (128, 256, 384, 12)  # images, channels in and out, side: AlexNet's third, 3x3
PRODUCT = 2048  # side of the square matrices
COPY_BYTES = 1 << 28  # 256 MiB, more than any cache holds
REPEATS = 9  # of which the best counts: a peak is what the machine can do undisturbed

Peaks = dict[str, dict[str, float]]  # number format: what was computed: GFLOP/s


def options(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """A parser with what every benchmark can be told."""
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if rounds:
        parser.add_argument(
            "--rounds", type=positive, default=rounds, help="turns of each side (%(default)s)"
        )
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="folder of the JSON (benchmarks/results)"
    )
    return parser


def positive(text: str) -> int:
    """A whole number above 0, for argparse."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def conditions(device: str = "cpu") -> dict[str, Any]:
    """Hardware, versions and commit, and how busy the machine was before anything is measured."""
    load = os.getloadavg()
    if load[0] > BUSY * (os.cpu_count() or 1):
        print(f"warning: load average {load[0]:.2f}: this machine is not quiet\n", flush=True)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        **machine(device),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "load_average_before": load,
    }


def commit() -> str | None:
    """Commit of this checkout, with `+` if the code, not just its results, has been changed."""
    code = ("src", "benchmarks", "pyproject.toml", ":!benchmarks/results")
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        return f"{head}{'+' if _git('status', '--porcelain', '--', *code) else ''}"
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    answer = subprocess.run(
        ["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    return answer.stdout.strip()


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
    before: Mapping[str, Callable[[], object]] | None = None,
) -> dict[str, list[float]]:
    """Seconds of every side in every round, after a call of each that warms it up.

    Every other round goes backwards, so that a steady drift favours no side. What is in `before`
    under a side's name is called ahead of it and takes no time that counts.
    """
    prepare = before or {}
    for function in sides.values():
        function()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
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


def measured_peak(device: str = "cpu") -> Peaks:
    """The highest GFLOP/s this machine reaches, by number format.

    `convolution` is the better of a convolution's forward pass and its backward pass (gradients
    of images and weights), `product` that of square matrices.
    """
    formats = {"bf16": torch.bfloat16, "fp32": torch.float32}
    return {name: _peak(device, dtype) for name, dtype in formats.items()}


def higher(first: Peaks, second: Peaks) -> Peaks:
    """The better of two measurements of the peaks, number by number."""
    return {
        name: {what: max(value, second[name][what]) for what, value in values.items()}
        for name, values in first.items()
    }


def _peak(device: str, dtype: torch.dtype) -> dict[str, float]:
    forward, backward = _convolution_peak(device, dtype)
    matrix = torch.rand(PRODUCT, PRODUCT, device=device).to(dtype)
    return {
        "convolution": max(forward, backward),
        "convolution_forward": forward,
        "convolution_backward": backward,
        "product": 2 * PRODUCT**3 / best(lambda: matrix @ matrix) / 1e9,
    }


def _convolution_peak(device: str, dtype: torch.dtype) -> tuple[float, float]:
    number, inside, outside, side = CONVOLUTION
    layout: dict[str, Any] = {"device": device, "memory_format": torch.channels_last}
    images = torch.rand(number, inside, side, side).to(dtype=dtype, **layout).requires_grad_()
    weight = torch.rand(outside, inside, 3, 3).to(dtype=dtype, **layout).requires_grad_()
    output = F.conv2d(images, weight, padding=1)
    gradient = torch.rand_like(output)

    def backward() -> object:
        return torch.autograd.grad(output, (images, weight), gradient, retain_graph=True)

    work = 2 * number * outside * inside * 9 * side**2 / 1e9  # GFLOP, forward
    seconds = best(lambda: F.conv2d(images, weight, padding=1))
    return work / seconds, 2 * work / best(backward)


def measured_copy() -> float:
    """GB/s that this machine writes when it copies memory (it reads as many)."""
    source = torch.rand(COPY_BYTES // 4)
    target = torch.empty_like(source)
    return COPY_BYTES / best(lambda: target.copy_(source)) / 1e9


def best(function: Callable[[], object]) -> float:
    """Shortest time of several calls, after one that warms it up."""
    function()
    return min(timed(function) for _ in range(REPEATS))


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
        ])
        for row in rows
    )  # fmt: skip


def describe(facts: Mapping[str, Any]) -> str:
    """The conditions in one line."""
    return (
        f"{facts.get('gpu', facts['processor'])}, {facts['cores']} cores, {facts['threads']} "
        f"threads, torch {facts['torch']}, commit {facts['commit']}, {facts['date']}"
    )


def finish(name: str, record: Mapping[str, Any], text: str, folder: Path) -> None:
    """Write the record to `folder`; print the text for a person, then the record as one line."""
    write(name, record, folder)
    print(f"{text}\n\n{json.dumps(record)}")


def write(name: str, record: Mapping[str, Any], folder: Path) -> None:
    """Write the record to `folder` as NAME.json."""
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / f"{name}.json", json.dumps(record, indent=1).encode() + b"\n")
