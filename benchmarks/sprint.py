"""A recipe against the clock: seconds from first weights to test accuracy, over several seeds.

    python benchmarks/sprint.py --recipe fashion-mnist-sprint --seeds 20

The data are in memory when the clock starts; it holds drawing the first weights, every update, the
checkpoint after each epoch, and evaluation of the final weights on the test set in fp32. What the
command takes besides, from the shell to its result, is measured beside it.
"""

import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import common
import texts
from deepcnn.bench import clock
from deepcnn.bench.sprint import over_seeds
from deepcnn.device import find_device
from deepcnn.recipes import RECIPES
from deepcnn.table import table
from seeds import COMMAND, summary


class Target(NamedTuple):
    """Mean test accuracy, seconds within which it must be reached, seconds of the whole command
    where some are set.
    """

    accuracy: float
    seconds: float
    command: float | None = None


TARGETS = {
    "fashion-mnist-sprint": Target(0.866, 1.2, 8),
    "fashion-mnist-93": Target(0.93, 30),
    "fashion-mnist-945": Target(0.945, 300),
    "mnist-99": Target(0.99, 2),
}


def whole_command(recipe: str, place: Path, number: int) -> float:
    """Seconds from the shell to the result, in a new process."""
    command = [COMMAND, "train", recipe, "--data.root", str(texts.DATASETS)]
    out = ["--out", str(place / f"command-{number}")]
    return clock.timed(partial(subprocess.run, [*command, *out], check=True, capture_output=True))


def measure(recipe: str, num_seeds: int, num_commands: int) -> dict[str, Any]:
    """Every seed once, then the command, as often as said."""
    config = RECIPES[recipe]()
    config = replace(config, data=replace(config.data, root=str(texts.DATASETS)))
    accuracies, seconds = over_seeds(config, num_seeds)
    with TemporaryDirectory() as place:
        commands = [whole_command(recipe, Path(place), number) for number in range(num_commands)]
    return {
        "recipe": recipe,
        "accuracy": summary(accuracies),
        "seconds": clock.spread(seconds),
        "command_seconds": clock.spread(commands) if commands else None,
        "accuracies": accuracies,
    }


def judged(record: dict[str, Any]) -> dict[str, Any]:
    """The record with the targets, if the recipe has some, and whether they are met."""
    target = TARGETS.get(record["recipe"])
    if target is None:
        return record
    met = {
        "accuracy": record["accuracy"]["mean"] >= target.accuracy,
        "seconds": record["seconds"]["median"] <= target.seconds,
    }
    if target.command and record["command_seconds"]:
        met["command"] = record["command_seconds"]["median"] <= target.command
    return record | {"target": target._asdict(), "met": met}


def in_words(record: dict[str, Any]) -> str:
    """The result for a person."""
    accuracy, target = record["accuracy"], record.get("target", {})
    rows = [["", "", "lowest", "highest", "target", ""]]
    shown = {
        "accuracy": ({"median": accuracy["mean"], **accuracy}, "mean accuracy", "{:.2%}"),
        "seconds": (record["seconds"], "median seconds", "{:.2f}"),
    }
    if record["command_seconds"]:
        shown["command"] = (record["command_seconds"], "seconds of the command", "{:.1f}")
    for name, (values, title, form) in shown.items():
        cells = [form.format(values[key]) for key in ("median", "min", "max")]
        judgement = ["", ""]
        if name in record.get("met", {}):
            judgement = [form.format(target[name]), "met" if record["met"][name] else "MISSED"]
        rows.append([title, *cells, *judgement])
    interval = ""
    if accuracy["interval"]:
        low, high = accuracy["interval"]
        interval = f", 95 % interval of the mean {low:.2%} to {high:.2%}"
    return "\n".join([
        common.describe(record["conditions"]),
        f"{record['recipe']}, {accuracy['n']} seeds{interval}",
        table(rows),
    ])  # fmt: skip


def main() -> None:
    """Measure, print, record."""
    parser = common.options(__doc__, rounds=0)
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="fashion-mnist-sprint")
    parser.add_argument("--seeds", type=common.positive, default=20, help="0, 1, ... (%(default)s)")
    parser.add_argument(
        "--commands", type=int, default=5, help="whole commands to time besides (%(default)s)"
    )
    arguments = parser.parse_args()
    record: dict[str, Any] = {
        "name": f"sprint-{arguments.recipe}",
        "conditions": common.conditions(find_device("auto")),
    }
    record = judged(record | measure(arguments.recipe, arguments.seeds, arguments.commands))
    common.finish(record["name"], record, in_words(record), arguments.results)


if __name__ == "__main__":
    main()
