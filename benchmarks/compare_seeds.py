"""Recipes compared seed by seed, from the records that seeds.py wrote, with a picture.

    python benchmarks/compare_seeds.py lenet-sigmoid lenet-relu-dropout --picture docs/lenet.png

Each is compared with the one before it in the list: the mean of the differences between runs of the
same seed, with its Student t interval.
"""

import json
from itertools import pairwise
from pathlib import Path

from matplotlib.figure import Figure

import common
from deepcnn.curves import save_picture
from seeds import summary

Accuracies = dict[str, dict[int, float]]  # of each record: of each seed


def read(names: list[str], results: Path) -> Accuracies:
    """Test accuracies of finished seeds."""
    records = {
        name: json.loads((results / f"seeds-{name}.json").read_text(encoding="utf-8"))
        for name in names
    }
    return {
        name: {run["seed"]: run["accuracy"] for run in record["runs"]}
        for name, record in records.items()
    }


def differences(one: dict[int, float], other: dict[int, float]) -> list[float]:
    """What `other` has more, seed by seed."""
    return [other[seed] - one[seed] for seed in sorted(one.keys() & other.keys())]


def in_words(accuracies: Accuracies) -> str:
    """The result for a person."""
    lines = []
    for (one, first), (other, second) in pairwise(accuracies.items()):
        facts = summary(differences(first, second))
        seeds, interval = facts["n"], ""  # one pair says nothing of chance
        if facts["interval"]:
            low, high = facts["interval"]
            interval = f", 95 % interval {100 * low:+.2f} to {100 * high:+.2f}"
        lines.append(
            f"{other} - {one}: {100 * facts['mean']:+.2f} points, paired seeds: {seeds}{interval}"
        )
    return "\n".join(lines)


def draw(accuracies: Accuracies, path: Path) -> None:
    """A column of dots for each record; lines join the same seed."""
    figure = Figure(figsize=(1.5 + 2 * len(accuracies), 3.6), layout="constrained")
    axes = figure.subplots()
    columns = list(accuracies.values())
    for seed in sorted(set.intersection(*(set(column) for column in columns))):
        axes.plot([100 * column[seed] for column in columns], marker="o", label=f"seed {seed}")
    axes.set_xticks(range(len(columns)), list(accuracies))
    axes.set(ylabel="test accuracy, %", xlim=(-0.5, len(columns) - 0.5))
    axes.legend(fontsize=8)
    save_picture(figure, path)


def main() -> None:
    """Read, compare, draw."""
    parser = common.options(__doc__, rounds=0)
    parser.add_argument("names", nargs="+", help="records, without `seeds-` and `.json`")
    parser.add_argument("--picture", type=Path, help="PNG file to write")
    arguments = parser.parse_args()
    accuracies = read(arguments.names, arguments.results)
    print(in_words(accuracies))
    if arguments.picture:
        draw(accuracies, arguments.picture)


if __name__ == "__main__":
    main()
