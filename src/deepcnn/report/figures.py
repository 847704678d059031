"""The pictures of a report, each within its own address, so that the page needs no other file.

Names of classes and files are never part of a picture: they stand in the page, where they can be
read, searched and copied.
"""

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepcnn import curves
from deepcnn.calibration import Bin, Part, part
from deepcnn.curves import Events
from deepcnn.data.show import as_picture, data_address
from deepcnn.inspect.filters import over_epochs, tiles
from deepcnn.inspect.panels import Colours, mosaic
from deepcnn.metrics import wilson_interval

SIZE = 4.6, 3.2  # inches: legible when it is as wide as a phone
UNNAMED = dict.fromkeys(("Creator", "Date", "Format", "Type"))  # the same bytes at any time
POINTS = 100  # of the curve of accuracy by coverage
MATRIX = 640  # pixels, at least, of the side of a confusion matrix that is a picture
ROWS, COLUMNS = 8, 16  # epochs, and filters in a row


def training_loss(events: Events) -> str:
    """The loss within epochs."""
    return drawn(lambda axes: curves.draw_loss(axes, events))


def accuracies(events: Events) -> str:
    """Accuracies after each epoch, and the result."""
    return drawn(lambda axes: curves.draw_accuracies(axes, events))


def accuracies_of_runs(runs: Sequence[tuple[str, Events]]) -> str:
    """An accuracy of each run after each of its epochs: of validation images, else of training."""

    def draw(axes: Any) -> None:
        for letter, epochs in runs:
            name = "validation" if any("validation_accuracy" in e for e in epochs) else "train"
            values = [epoch[f"{name}_accuracy"] for epoch in epochs]
            numbers = [epoch["epoch"] for epoch in epochs]
            axes.plot(numbers, values, marker="o", markersize=3, label=f"{letter}: {name}")
        axes.set(xlabel="epoch", title="Accuracy")
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.legend()

    return drawn(draw)


def reliability(bins: Sequence[Bin], title: str) -> str:
    """Accuracy by confidence, with the 95 % interval of each bin: Guo et al. 2017, figure 1."""

    def draw(axes: Any) -> None:
        low = min(min(each["confidence"], each["accuracy"]) for each in bins)
        axes.plot(
            [low, 1], [low, 1], color="0.6", linestyle="--", linewidth=1, label="as good as it says"
        )
        shares = np.array([each["accuracy"] for each in bins])
        ends = [wilson_interval(round(each["accuracy"] * each["num_images"]), each["num_images"])
                for each in bins]  # fmt: skip
        around = np.abs(np.array(ends).T - shares)
        sure = [each["confidence"] for each in bins]
        axes.errorbar(sure, shares, around, fmt="o", markersize=4, capsize=2, label="answers")
        axes.set(xlabel="confidence", ylabel="accuracy", title=title)
        axes.legend(loc="upper left")

    return drawn(draw)


def coverage(sure: Tensor, correct: Tensor) -> str:
    """Accuracy of the surest answers by how many are given, from what `judged` gives."""
    steps = (math.ceil(len(sure) * step / POINTS) for step in range(1, POINTS + 1))
    parts: list[Part] = [part(sure, correct, number) for number in steps]

    def draw(axes: Any) -> None:
        axes.plot([each["coverage"] for each in parts], [each["accuracy"] for each in parts])
        axes.set(xlabel="share of images answered", ylabel="accuracy", title="Accuracy by coverage")

    return drawn(draw)


def confusion(matrix: Tensor) -> str:
    """Counts K K as a square of greys: a row for each label, its answers by their share of it."""
    shares = matrix / matrix.sum(dim=1, keepdim=True).clip(1)
    # By the square root, or a share of some hundredths would look like nothing.
    greys = (255 * (1 - shares.sqrt())).round().to(torch.uint8)
    scale = math.ceil(MATRIX / len(matrix))
    large = greys.repeat_interleave(scale, dim=0).repeat_interleave(scale, dim=1)
    return data_address(as_picture(large[None].numpy()).convert("L"))


def filters(weight: Tensor) -> str:
    """Filters N C H W, each to its own scale, with 0 in middle grey."""
    return _mosaic(tiles(weight), min(COLUMNS, math.ceil(math.sqrt(2 * len(weight)))))


def evolution(kept: Mapping[int, Tensor]) -> str:
    """The first filters after each of some epochs, a row each, to the scale of the whole run."""
    rows = list(over_epochs(kept, ROWS, COLUMNS).values())
    return _mosaic(np.concatenate(rows), len(rows[0]))


def _mosaic(pictures: Colours, columns: int) -> str:
    from PIL import Image

    pixels = np.round(255 * mosaic(pictures, columns)).astype(np.uint8)
    return data_address(Image.fromarray(pixels))


def drawn(draw: Callable[[Any], None], size: tuple[float, float] = SIZE) -> str:
    """What is drawn on a pair of axes of so many inches, as SVG: sharp at any size and on paper."""
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    draw(figure.subplots())
    content = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "deepcnn", "svg.fonttype": "path"}):
        figure.savefig(content, format="svg", metadata=UNNAMED)
    return f"data:image/svg+xml;base64,{base64.b64encode(content.getvalue()).decode()}"
