"""What all benchmarks share: the conditions, the record, and the clock of the package."""

import argparse
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from deepcnn.device import machine
from deepcnn.files import replace_file

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results"
BUSY = 0.3  # load average per core above which a measurement is not to be trusted


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
