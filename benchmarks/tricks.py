"""What each trick of a sprint is worth: the recipe without it, seed by seed.

    python benchmarks/tricks.py --seeds 6

Accuracy is that on 10,000 training images held out; the test set is not read. Every seed is trained
with all tricks and without each in turn, so differences are between runs of the same seed and of
the same minutes. Where a trick saves time, the time is told too: it is a trade or none.
"""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import common
import texts
from deepcnn.bench import clock
from deepcnn.bench.sprint import timed_run
from deepcnn.config import Config
from deepcnn.device import find_device
from deepcnn.recipes import RECIPES
from deepcnn.settings import override
from deepcnn.table import table
from seeds import summary

HELD_OUT = 10_000
ALL = "all tricks"
WITHOUT: dict[str, dict[str, dict[str, object]]] = {
    "fashion-mnist-93": {
        "16-bit products": {"hardware.precision": "fp32"},
        "channels last": {"hardware.layout": "contiguous"},
        "Muon": {
            "optim.name": "sgd", "optim.momentum": 0.9, "optim.nesterov": True, "optim.lr": 0.1,
            "optim.bias_factor": 1, "optim.head_factor": 1,
        },
        # One epoch and four halves are three epochs: as many images.
        "hardest half": {"train.hardest": 1, "train.epochs": 3},
        "whitened filters": {"model.init": "default"},
        "alternating flip": {"augment.flip": "random"},
        "flip in the test": {"data.views": "plain"},
    },
}  # fmt: skip


def variants(recipe: str) -> dict[str, Config]:
    """The recipe with images held out, and without each trick."""
    config = override(RECIPES[recipe](), {"data.validation": HELD_OUT}, "this script")
    config = replace(config, data=replace(config.data, root=str(texts.DATASETS)))
    less = {
        f"without {name}": override(config, changes, "this script")
        for name, changes in WITHOUT[recipe].items()
    }
    return {ALL: config, **less}


def measure(recipe: str, num_seeds: int) -> dict[str, Any]:
    """Every seed with every variant, in turns."""
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in variants(recipe)}
    with TemporaryDirectory() as place:
        for seed in range(num_seeds):
            for name, config in variants(recipe).items():
                seeded = replace(config, train=replace(config.train, seed=seed))
                folder = Path(place) / f"{name} {seed}"
                run = timed_run(seeded, folder, Path(place) / "cache", split="validation")
                results[name].append(run)
                print(f"seed {seed}, {name}: {run[0]:.2%} in {run[1]:.1f} s", flush=True)
    record: dict[str, Any] = {"recipe": recipe, "held_out": HELD_OUT, "variants": {}}
    for name, runs in results.items():
        pairs = [all_of[0] - this[0] for all_of, this in zip(results[ALL], runs, strict=True)]
        record["variants"][name] = {
            "accuracy": summary([accuracy for accuracy, _ in runs]),
            "gain": summary(pairs),
            "seconds": clock.spread([seconds for _, seconds in runs]),
        }
    return record


def in_words(record: dict[str, Any]) -> str:
    """The result for a person."""
    rows = [["", "held out", "gain of the trick", "95 % interval", "seconds", "times"]]
    fast = record["variants"][ALL]["seconds"]["median"]
    for name, facts in record["variants"].items():
        low, high = facts["gain"]["interval"] or (float("nan"),) * 2
        seconds = facts["seconds"]["median"]
        cells = ["", "", f"{seconds:.1f}", ""]
        if name != ALL:
            gain = 100 * facts["gain"]["mean"]
            cells = [f"{gain:+.2f}", f"{100 * low:+.2f} to {100 * high:+.2f}", cells[2],
                     f"{seconds / fast:.2f}"]  # fmt: skip
        rows.append([name, f"{facts['accuracy']['mean']:.2%}", *cells])
    number = record["variants"][ALL]["accuracy"]["n"]
    return "\n".join([
        common.describe(record["conditions"]),
        f"{record['recipe']}, {number} paired seeds, {record['held_out']:,} images held out",
        table(rows),
    ])  # fmt: skip


def main() -> None:
    """Measure, print, record."""
    parser = common.options(__doc__, rounds=0)
    parser.add_argument("--recipe", choices=sorted(WITHOUT), default="fashion-mnist-93")
    parser.add_argument("--seeds", type=common.positive, default=6, help="0, 1, ... (%(default)s)")
    arguments = parser.parse_args()
    record: dict[str, Any] = {
        "name": f"tricks-{arguments.recipe}",
        "conditions": common.conditions(find_device("auto")),
    }
    record |= measure(arguments.recipe, arguments.seeds)
    common.finish(record["name"], record, in_words(record), arguments.results)


if __name__ == "__main__":
    main()
