"""How separable the classes become with depth: a linear classifier on what each stage puts out,
beside the same on pixels and on HOG features.

Alain and Bengio 2016, "Understanding intermediate layers using linear classifier probes",
arXiv:1610.01644. N images, D features, K classes.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from deepcnn import interrupt, probe
from deepcnn.data.images import ImageSet, split_off
from deepcnn.data.loader import in_order
from deepcnn.errors import ConfigError, DataError
from deepcnn.inspect.hog import hog
from deepcnn.inspect.layers import Stage, walk
from deepcnn.inspect.subject import SAMPLE_SEED, Subject
from deepcnn.metrics import num_correct, wilson_interval
from deepcnn.progress import reported, say
from deepcnn.table import table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEWEST = 10  # training images from which a classifier can be fitted and its penalty chosen
HELD_OUT = 5  # one in so many training images is for the choice of the penalty
# More numbers than these would take long to fit: maps are averaged over windows, long vectors over
# neighbours. AlexNet's dense layers stay whole.
MAP_NUMBERS, VECTOR_NUMBERS = 2_048, 4_096

Features = dict[str, Tensor]  # by what they are of: N D


@dataclass(frozen=True)
class Separability:
    """How a linear classifier on `numbers` features fares on test images; None: the network."""

    features: str
    numbers: int | None
    accuracy: float
    interval: tuple[float, float]  # 95 %
    num_images: int


def measure_separability(subject: Subject, sample: int) -> list[Separability]:
    """Fit and test on at most `sample` training and test images each, 0: on all.

    Pixels first, then HOG features where scikit-image is there, the stages in order, and the
    network itself. Raises DataError where there are too few training images.
    """
    if sample < 0:
        raise ConfigError(f"--sample is {sample}, expected at least 1, or 0 for all images")
    images = subject.images("train", sample)
    if len(images) < FEWEST:
        raise DataError(
            f"{images.name} has {len(images)} images of {sample or 'all'} asked for; a classifier "
            f"needs at least {FEWEST}"
        )
    test = subject.images("test", sample)
    kept, held_out = split_off(images, len(images) // HELD_OUT, SAMPLE_SEED)
    baselines: dict[str, Callable[[Tensor], Tensor]] = {"pixels": few, "HOG": hog}
    try:
        hog(torch.zeros(1, 1, 28, 28))
    except ConfigError as error:
        say(f"left out: {error}")
        del baselines["HOG"]
    parts = [features(subject, part, baselines) for part in (kept, held_out, test)]
    labels = [torch.from_numpy(part.labels) for part in (kept, held_out, test)]
    *names, network = parts[0]
    rows = [_probed(name, [part[name] for part in parts], labels) for name in names]
    return [*rows, _row("the network", None, parts[-1][network], labels[-1])]


@torch.no_grad()
def features(
    subject: Subject, images: ImageSet, baselines: dict[str, Callable[[Tensor], Tensor]]
) -> Features:
    """What baselines make of images, and each stage but the last; then the logits."""
    pixels = subject.source(images)
    number = pixels.at_once()
    found: dict[str, list[Tensor]] = {}
    batches = in_order(pixels, number)
    for batch in reported(batches, -(-len(images) // number), f"features of {images.name}"):
        interrupt.check()
        shown = subject.shown(batch.images)
        for name, of_pictures in baselines.items():
            found.setdefault(name, []).append(of_pictures(shown))
        *stages, last = walk(subject.model, batch.images)
        for stage in stages:
            found.setdefault(stage.name, []).append(few(as_maps(stage)).cpu())
        found.setdefault(last.name, []).append(last.output[:, : len(subject.classes)].cpu())
    return {name: torch.cat(parts) for name, parts in found.items()}


def as_maps(stage: Stage) -> Tensor:
    """The output of a stage; where that is its maps in one row, the maps."""
    maps = stage.maps
    return stage.output if maps is None or maps.numel() != stage.output.numel() else maps


def few(output: Tensor) -> Tensor:
    """Maps N C H W, tokens N T D or vectors N D as vectors of not too many numbers."""
    if output.dim() == 4:
        side = max(1, math.isqrt(MAP_NUMBERS // output.shape[1]))
        height, width = output.shape[2:]
        output = F.adaptive_avg_pool2d(output, (min(side, height), min(side, width)))
    elif output.dim() == 3:
        output = output.mean(dim=1)
    vectors = output.flatten(1)
    if vectors.shape[1] > VECTOR_NUMBERS:
        vectors = F.adaptive_avg_pool1d(vectors, VECTOR_NUMBERS)
    return vectors


def _probed(name: str, parts: list[Tensor], labels: list[Tensor]) -> Separability:
    """The classifier on features of kept, held-out and test images."""
    kept, held_out, test = parts
    num_classes = 1 + int(max(each.max() for each in labels))
    fitted = probe.fit(kept, labels[0], num_classes, (held_out, labels[1]))
    return _row(name, kept.shape[1], test @ fitted.weight.T + fitted.bias, labels[2])


def _row(name: str, numbers: int | None, logits: Tensor, labels: Tensor) -> Separability:
    correct, number = num_correct(logits, labels), len(labels)
    interval = wilson_interval(correct, number)
    return Separability(name, numbers, correct / number, interval, number)


def as_dicts(rows: list[Separability]) -> list[dict[str, Any]]:
    """For machines."""
    return [asdict(row) for row in rows]


def in_words(rows: list[Separability]) -> str:
    """A table."""
    cells = [
        [
            row.features,
            "" if row.numbers is None else f"{row.numbers:,}",
            f"{row.accuracy:.2%}",
            "{:.2%} to {:.2%}".format(*row.interval),
        ]
        for row in rows
    ]
    lines = table([["features", "numbers", "accuracy", "95 % interval"], *cells])
    return f"{lines}\nof {rows[0].num_images:,} test images"


def draw_separability(subject: Subject, rows: list[Separability]) -> "Figure":
    """The table as a picture: accuracies with their intervals, from the pixels to the network."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.4 + 0.32 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(rows):
        low, high = row.interval
        colour = "0.4" if row.features in ("pixels", "HOG") else "tab:blue"
        axes.errorbar(
            row.accuracy, place, xerr=[[row.accuracy - low], [high - row.accuracy]],
            fmt="o", color=colour, capsize=3,
        )  # fmt: skip
        axes.annotate(f"{row.accuracy:.1%}", (high, place), (6, 0), textcoords="offset points",
                      va="center", fontsize=8, color=colour)  # fmt: skip
    axes.axvline(rows[-1].accuracy, color="0.8", zorder=0)
    axes.set_yticks(range(len(rows)), [row.features for row in rows], parse_math=False)
    axes.invert_yaxis()
    axes.set_xlabel(f"accuracy on {rows[0].num_images:,} test images, 95 % intervals")
    axes.set_title(
        f"A linear classifier on each stage of {subject.name}", parse_math=False, loc="left"
    )
    axes.margins(x=0.12)
    return figure
