"""Batch size against accuracy, time and memory: an exercise of the texts.

    python benchmarks/batch_sizes.py --recipe fashion-mnist --train.epochs 2

Each run is a new process of the real command, with the learning rate of the recipe at every size,
as the exercise has it. Options that are not listed below go to `deepcnn train` as they are. Draws a
picture.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from matplotlib.figure import Figure

import common
from deepcnn.curves import save_picture
from deepcnn.device import find_device
from deepcnn.table import table

COMMAND = str(Path(sys.executable).with_name("deepcnn"))
SIZES = (32, 64, 128, 256, 512)
PICTURE = common.REPOSITORY / "docs" / "batch-sizes.png"


def train(recipe: str, size: int, further: Sequence[str]) -> dict[str, Any]:
    """One run: accuracy, seconds of training and the process's largest memory."""
    with TemporaryDirectory() as place:
        folder, answer = Path(place) / "run", Path(place) / "answer.json"
        command = [COMMAND, "train", recipe, "--train.batch_size", str(size), "--json"]
        with answer.open("wb") as file:
            process = subprocess.Popen([*command, "--out", str(folder), *further], stdout=file)
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)  # or Popen would wait once more
        if process.returncode:
            raise SystemExit(process.returncode)  # the command has said why
        facts = json.loads(answer.read_text())
        events = [json.loads(line) for line in (folder / "events.jsonl").open()]
    epochs = [event for event in events if event["event"] == "epoch"]
    return {
        "batch_size": size,
        "validation_accuracy": facts.get("validation", {}).get("accuracy"),
        "accuracy": facts["test"]["accuracy"],
        "interval": facts["test"]["interval"],
        "train_loss": epochs[-1]["loss"],
        "seconds_per_epoch": facts["seconds"] / len(epochs),
        "peak_bytes": 1024 * usage.ru_maxrss,
        "policy": facts["policy"],
    }


def in_words(record: dict[str, Any]) -> str:
    """The result for a person."""
    rows = [["batch size", "loss, last epoch", "test accuracy", "s an epoch", "peak memory, MB"]]
    rows += [
        [
            str(run["batch_size"]), f"{run['train_loss']:.4f}", f"{run['accuracy']:.2%}",
            f"{run['seconds_per_epoch']:.1f}", f"{run['peak_bytes'] / 1e6:,.0f}",
        ]
        for run in record["runs"]
    ]  # fmt: skip
    command = " ".join(["deepcnn train", record["recipe"], *record["options"]])
    return "\n".join([common.describe(record["conditions"]), command, table(rows)])


def draw(runs: list[dict[str, Any]], path: Path) -> None:
    """Accuracy, time and memory over the batch size."""
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    courses = (
        ("test accuracy", [run["accuracy"] for run in runs]),
        ("seconds an epoch", [run["seconds_per_epoch"] for run in runs]),
        ("peak memory, MB", [run["peak_bytes"] / 1e6 for run in runs]),
    )
    for axes, (title, values) in zip(figure.subplots(1, 3), courses, strict=True):
        axes.plot([run["batch_size"] for run in runs], values, marker="o")
        axes.set_xscale("log", base=2)
        axes.set(title=title, xlabel="batch size")
    save_picture(figure, path)


def arguments() -> tuple[argparse.Namespace, list[str]]:
    """Our own options, and those for the command."""
    parser = common.options(__doc__, rounds=0)
    parser.add_argument("--recipe", default="fashion-mnist", help="(%(default)s)")
    return parser.parse_known_args()


def main() -> None:
    """Train with every size, print, record, draw."""
    chosen, further = arguments()
    record: dict[str, Any] = {
        "name": "batch-sizes",
        "conditions": common.conditions(find_device("auto")),
        "recipe": chosen.recipe,
        "options": further,
        "runs": [],
    }
    for size in SIZES:
        print(f"batches of {size}", file=sys.stderr, flush=True)
        record["runs"].append(train(chosen.recipe, size, further))
        common.write("batch-sizes", record, chosen.results)
    draw(record["runs"], PICTURE)
    common.finish("batch-sizes", record, in_words(record), chosen.results)


if __name__ == "__main__":
    main()
