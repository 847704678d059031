"""A recipe with several seeds, through the real command, one after another.

    python benchmarks/seeds.py --recipe fashion-mnist --seeds 10 --train.epochs 5

Options that are not listed below go to `deepcnn train` as they are. The record is written after
every seed; repeating the command goes on with the seeds that are missing, as long as the package's
code, the options and the machine are the same.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import common
import deepcnn
from deepcnn.device import find_device, machine
from deepcnn.paired import mean_interval
from deepcnn.table import table

COMMAND = str(Path(sys.executable).with_name("deepcnn"))


def identity(recipe: str, further: Sequence[str]) -> dict[str, Any]:
    """What must be the same for two seeds to belong to one result."""
    return {
        "recipe": recipe,
        "options": without_root(further),
        "code": code_digest(),
        "machine": machine(find_device("auto")),
    }


def without_root(further: Sequence[str]) -> list[str]:
    """Options less the folder the data lie in, which says nothing about the result."""
    options = list(further)
    if "--data.root" in options:
        place = options.index("--data.root")
        del options[place : place + 2]
    return options


def code_digest() -> str:
    """SHA-256 over the package's source files: like a commit, but right in a changed checkout."""
    folder = Path(deepcnn.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def finished_seeds(path: Path, wanted: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """The seeds in a record of the same identity; none where it is another or there is no file."""
    if not path.exists():
        return {}
    record = json.loads(path.read_text())
    changes = [
        f"{key}: {record['identity'].get(key)} then, {value} now"
        for key, value in wanted.items()
        if record["identity"].get(key) != value
    ]
    if changes:
        note(f"{path.name} is of other conditions ({'; '.join(changes)}): starting over")
        return {}
    return {row["seed"]: row for row in record["runs"]}


def train(recipe: str, seed: int, further: Sequence[str], runs: Path | None) -> dict[str, Any]:
    """One run of the command; its folder stays where `runs` is given, else it is removed."""
    load, began = os.getloadavg(), time.perf_counter()
    with nullcontext(runs) if runs else TemporaryDirectory() as place:
        folder = Path(place) / f"{recipe}-seed-{seed}"
        continued = folder.exists()
        command = [COMMAND, "train", recipe, "--seed", str(seed), "--out", str(folder), "--json"]
        answer = subprocess.run([*command, *further], stdout=subprocess.PIPE, text=True)
    if answer.returncode:
        raise SystemExit(answer.returncode)  # the command has said why
    facts = json.loads(answer.stdout)
    return {
        "seed": seed,
        "accuracy": facts["test"]["accuracy"],
        "loss": facts["test"]["loss"],
        "validation_accuracy": facts.get("validation", {}).get("accuracy"),
        "seconds": facts["seconds"],
        "command_seconds": None if continued else time.perf_counter() - began,
        "policy": facts["policy"],
        "commit": common.commit(),
        "load_average_before": load,
    }


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Mean with its interval, deviation between seeds (n - 1), range."""
    mean, number = statistics.fmean(values), len(values)
    interval = mean_interval(values)
    return {
        "n": number,
        "mean": mean,
        "standard_deviation": statistics.stdev(values) if number > 1 else None,
        "interval": interval and list(interval),
        "min": min(values),
        "max": max(values),
    }


def completed(record: dict[str, Any], runs: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """The record with its runs so far and what they amount to."""
    rows = [runs[seed] for seed in sorted(runs)]
    return record | {
        "accuracy": summary([row["accuracy"] for row in rows]),
        "seconds": summary([row["seconds"] for row in rows]),
        "runs": rows,
    }


def in_words(record: dict[str, Any]) -> str:
    """The result for a person."""
    rows = [["seed", "test accuracy", "training seconds"]]
    rows += [
        [str(row["seed"]), f"{row['accuracy']:.2%}", f"{row['seconds']:.1f}"]
        for row in record["runs"]
    ]
    accuracy, seconds = record["accuracy"], record["seconds"]
    command = " ".join(["deepcnn train", record["identity"]["recipe"]])
    lines = [
        common.describe(record["conditions"]),
        " ".join([command, *record["identity"]["options"]]),
        table(rows),
        f"mean {accuracy['mean']:.3%} over {accuracy['n']} seeds, "
        f"{accuracy['min']:.2%} to {accuracy['max']:.2%}; "
        f"{seconds['mean']:.1f} s ({seconds['min']:.1f} to {seconds['max']:.1f})",
    ]
    if accuracy["interval"]:
        low, high = accuracy["interval"]
        lines.append(
            f"standard deviation {accuracy['standard_deviation']:.3%}, 95 % interval of the mean "
            f"{low:.3%} to {high:.3%}"
        )
    return "\n".join(lines)


def note(message: str) -> None:
    """Say something that is not part of the result."""
    print(message, file=sys.stderr, flush=True)


def arguments() -> tuple[argparse.Namespace, list[str]]:
    """Our own options, and those for the command."""
    parser = common.options(__doc__, rounds=0)
    parser.add_argument("--recipe", default="fashion-mnist", help="(%(default)s)")
    parser.add_argument("--suffix", default="", help="of the record's name, for other options")
    parser.add_argument("--seeds", type=common.positive, default=5, help="0, 1, ... (%(default)s)")
    parser.add_argument(
        "--runs", type=Path, help="keep run folders here; a run that was stopped goes on"
    )
    return parser.parse_known_args()


def main() -> None:
    """Train what is missing, print, record."""
    chosen, further = arguments()
    name = f"seeds-{chosen.recipe}{chosen.suffix}"
    record: dict[str, Any] = {
        "name": name,
        "conditions": common.conditions(find_device("auto")),
        "identity": identity(chosen.recipe, further),
    }
    runs = finished_seeds(chosen.results / f"{name}.json", record["identity"])
    for seed in range(chosen.seeds):
        if seed in runs:
            note(f"seed {seed} is finished already")
            continue
        note(f"seed {seed}")
        runs[seed] = train(chosen.recipe, seed, further, chosen.runs)
        common.write(name, completed(record, runs), chosen.results)
    record = completed(record, runs)
    common.finish(name, record, in_words(record), chosen.results)


if __name__ == "__main__":
    main()
