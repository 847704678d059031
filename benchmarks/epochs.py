"""Test accuracy after every epoch of several runs in one picture, from what the runs recorded.

    python benchmarks/epochs.py AlexNet=runs/a LeNet=runs/b --picture docs/alexnet-lenet.png

Runs measure every epoch with `--train.test_each_epoch true`.
"""

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from deepcnn.curves import save_picture

Curve = list[tuple[int, float]]  # epoch, test accuracy


def named(text: str) -> tuple[str, Path]:
    """NAME=FOLDER, for argparse."""
    name, _, folder = text.partition("=")
    if not (Path(folder) / "events.jsonl").is_file():
        raise argparse.ArgumentTypeError(f"expected NAME=FOLDER with the folder of a run: {text!r}")
    return name, Path(folder)


def curve(folder: Path) -> Curve:
    """What a run measured after its epochs; SystemExit if it did not."""
    lines = (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    epochs = [event for event in events if event["event"] == "epoch"]
    if not epochs or "test_accuracy" not in epochs[0]:
        raise SystemExit(f"{folder} has not measured its epochs: add --train.test_each_epoch true")
    return [(event["epoch"], event["test_accuracy"]) for event in epochs]


def draw(curves: dict[str, Curve], path: Path) -> None:
    """A line for each run."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, points in curves.items():
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
    axes.set(xlabel="epoch", ylabel="test accuracy")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="lower right")
    save_picture(figure, path)


def main() -> None:
    """Read, print, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("runs", nargs="+", type=named, metavar="NAME=FOLDER")
    parser.add_argument("--picture", type=Path, required=True, help="PNG file to write")
    arguments = parser.parse_args()
    curves = {name: curve(folder) for name, folder in arguments.runs}
    for name, points in curves.items():
        print(f"{name}: {', '.join(f'{accuracy:.4f}' for _, accuracy in points)}")
    draw(curves, arguments.picture)


if __name__ == "__main__":
    main()
