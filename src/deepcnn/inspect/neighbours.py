"""The training images nearest to an image in the last hidden layer: Krizhevsky, Sutskever and
Hinton 2012, figure 4, right.

N images, M training images, D features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deepcnn import probe
from deepcnn.data.images import ImageSet
from deepcnn.errors import ConfigError
from deepcnn.inspect.panels import Panel, colours_of, figure_of
from deepcnn.inspect.subject import Seen, Subject
from deepcnn.models import transfer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 7  # neighbours of each image
BY_DEFAULT = 6  # test images


@dataclass(frozen=True)
class Neighbours:
    """For each of the images `seen`, the places in `train` of the nearest, N SHOWN, the nearest
    first, and their distances in the last hidden layer.
    """

    seen: Seen
    train: ImageSet
    places: Tensor
    distances: Tensor

    def as_dicts(self) -> list[dict[str, Any]]:
        """For machines: each image with its neighbours."""
        classes, labels = self.train.classes, self.train.labels
        return [
            {
                "image": name,
                "neighbours": [
                    {"class": classes[labels[place]], "distance": distance}
                    for place, distance in zip(places, distances, strict=True)
                ],
            }
            for name, places, distances in zip(
                self.seen.names, self.places.tolist(), self.distances.tolist(), strict=True
            )
        ]


def find_neighbours(subject: Subject, images: Sequence[str], sample: int) -> Neighbours:
    """The nearest of `sample` training images (0: of all) to the given images, or to some test
    images. Raises DataError for an image that there is not.
    """
    if sample < 0:
        raise ConfigError(f"--sample is {sample}, expected at least 1, or 0 for all images")
    if not images:
        last = len(subject.images("test")) - 1
        places = torch.linspace(0, last, min(BY_DEFAULT, last + 1)).round().long()
        images = [str(place) for place in places.tolist()]
    seen = subject.seen(images)
    train = subject.images("train", sample)
    known = probe.features(subject.model, subject.source(train), subject.policy)
    asked = transfer.features(subject.model, seen.inputs).double().cpu()
    return Neighbours(seen, train, *nearest(asked, known, SHOWN))


def nearest(asked: Tensor, known: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Rows of `known` M D nearest to each row of `asked` N D, by Euclidean distance, and the
    distances: N `number` each, the nearest first; of equal ones, that of the lower row.
    """
    distances = torch.cdist(asked, known, compute_mode="donot_use_mm_for_euclid_dist")
    ordered = distances.sort(dim=1, stable=True)
    return ordered.indices[:, :number], ordered.values[:, :number]


def draw_neighbours(subject: Subject, found: Neighbours) -> "Figure":
    """A row for each image: itself, and its neighbours."""
    pixels = subject.source(found.train)
    panels = []
    for row, name in enumerate(found.seen.names):
        places = found.places[row].tolist()
        around = pixels.batch(found.places[row]).images.to(found.seen.inputs.device)
        shown = subject.shown(torch.cat([found.seen.inputs[row : row + 1], around]))
        known = [
            f"{found.train.classes[found.train.labels[place]]}, {distance:.3g}"
            for place, distance in zip(places, found.distances[row].tolist(), strict=True)
        ]
        panels.append(Panel("", colours_of(shown), 1 + SHOWN, [name, *known]))
    return figure_of(
        f"Nearest of {len(found.train):,} training images, and their distances in the last hidden "
        f"layer of {subject.name}",
        panels,
    )
