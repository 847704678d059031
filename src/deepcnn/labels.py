"""Labels that may be wrong, by what a trained model sees of the pictures.

Confident learning: Northcutt, Jiang and Chuang 2021, arXiv:1911.00068. N pictures, K classes.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from deepcnn import artefact, probe
from deepcnn.artefact import Artefact
from deepcnn.data.findings import Finding, Picture, Report
from deepcnn.data.images import ImageSet
from deepcnn.data.loader import source
from deepcnn.data.photos import Photos
from deepcnn.data.preprocess import Preprocess
from deepcnn.data.splits import check_data
from deepcnn.device import plain_policy
from deepcnn.errors import DataError
from deepcnn.progress import say


def check_labels(name: str, root: str, group: str, run: Path) -> tuple[Report, dict[str, ImageSet]]:
    """What the data doctor has to say of a data set, with the labels that the model of a run
    doubts, and the images that both looked at.

    Raises RunError where the run has no finished model, and as `doubtful_labels` does.
    """
    trained = artefact.load(run)
    report, sets = check_data(name, root, group)
    return report.plus(doubtful_labels(sets, trained, Path(name).expanduser())), sets


def doubtful_labels(sets: Mapping[str, ImageSet], trained: Artefact, data: Path) -> Finding:
    """The pictures of all splits whose labels are doubtful, the most doubtful first.

    Each is judged by a regression on the model's features of other pictures, so the classes that
    the model was made for do not matter. Files are named from folder (or CSV file) `data` on.
    Raises DataError for pictures of other channels than the model takes.
    """
    _require_channels(sets, trained.preprocess)
    names = np.concatenate([np.array(images.classes)[images.labels] for images in sets.values()])
    judged = np.flatnonzero(_has_company(names))
    if not len(judged):
        return Finding("doubtful-label")
    classes, numbers = np.unique(names[judged], return_inverse=True)
    labels = torch.from_numpy(numbers)
    seen = _features(sets, trained)[torch.from_numpy(judged)]
    said = probe.out_of_fold(seen, labels, len(classes))
    probabilities = said.logits.softmax(dim=1)
    rows, suggested = doubts(probabilities, labels)
    cases = []
    for row, label in zip(rows.tolist(), suggested.tolist(), strict=True):
        fact = f"looks like {str(classes[label])!r} ({100 * probabilities[row, label]:.0f} %)"
        cases.append((_picture(sets, int(judged[row]), data, fact),))
    share = f"the model would give {100 * said.accuracy:.0f} % of all pictures the label they have"
    return Finding("doubtful-label", tuple(cases), (share,) if cases else ())


def doubts(probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of `probabilities` (N K) whose labels are doubtful, the most doubtful first, and the
    class that each looks like.

    The threshold of a class is its mean probability over the pictures labelled so; one without
    pictures has none and is never suggested. A label is doubtful if the likeliest of the classes
    that reach their thresholds is likelier than it. (The paper asks only that it is another, which
    has classes of few pictures, whose thresholds are near 0, suggested at 1 %.) Order: the
    probability of the label less the largest other one.
    """
    own = F.one_hot(labels, probabilities.shape[1]).bool()
    sums, counts = (probabilities * own).sum(dim=0), own.sum(dim=0)
    thresholds = torch.where(counts > 0, sums / counts.clamp_min(1), torch.inf)
    most, likeliest = probabilities.where(probabilities >= thresholds, -torch.inf).max(dim=1)
    labelled = probabilities[own]
    rows = (most > labelled).nonzero()[:, 0]
    margins = labelled - probabilities.masked_fill(own, -torch.inf).amax(dim=1)
    rows = rows[margins[rows].argsort(stable=True)]
    return rows, likeliest[rows]


def _require_channels(sets: Mapping[str, ImageSet], preprocess: Preprocess) -> None:
    for images in sets.values():
        if images.num_channels != preprocess.channels:
            raise DataError(
                f"{images.name} has {images.num_channels} channels, the model of --labels takes "
                f"{preprocess.channels}; give a run that learnt from such pictures"
            )


def _has_company(names: NDArray[np.str_]) -> NDArray[np.bool_]:
    """Whether each picture has another of its class, from which it can be told what that is."""
    _, numbers, counts = np.unique(names, return_inverse=True, return_counts=True)
    found: NDArray[np.bool_] = counts[numbers] > 1
    if alone := int((~found).sum()):
        say(f"labels not judged: {alone:,}, of pictures that are the only ones of their classes")
    return found


def _features(sets: Mapping[str, ImageSet], trained: Artefact) -> Tensor:
    """What the last layer sees of all pictures, N D."""
    policy = plain_policy("auto")
    policy.apply()
    model, device = policy.place(trained.model), torch.device(policy.device)
    sources = (
        source(images, trained.preprocess, device) for images in sets.values() if len(images)
    )
    return torch.cat([probe.features(model, each, policy) for each in sources])


def _picture(sets: Mapping[str, ImageSet], row: int, data: Path, fact: str) -> Picture:
    """The picture at a row of all splits, as other findings name it."""
    ends = np.cumsum([len(images) for images in sets.values()])
    place = int(np.searchsorted(ends, row, side="right"))
    split, images = list(sets.items())[place]
    position = row - int(ends[place]) + len(images)
    name, photos = "", images.images
    if isinstance(photos, Photos):
        folder = data if data.is_dir() else data.parent
        name = photos.name(position)
        name = name if photos.scan.spots.are_shards else name.removeprefix(f"{folder}/")
    return Picture(split, position, name, images.classes[images.labels[position]], fact)
