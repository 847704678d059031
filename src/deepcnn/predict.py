"""A finished model applied to picture files, by the preprocessing that it carries."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from deepcnn import interrupt
from deepcnn.artefact import Artefact
from deepcnn.data.decode import decode
from deepcnn.data.views import own_views
from deepcnn.errors import ImageError


@dataclass(frozen=True)
class Answer:
    """What the model says of one file: (class, probability), likeliest first; or what is wrong."""

    path: Path
    classes: tuple[tuple[str, float], ...] = ()
    error: str = ""
    is_sure: bool = True

    def as_dict(self) -> dict[str, object]:
        """The answer as it is printed for machines."""
        classes = [{"class": name, "probability": value} for name, value in self.classes]
        return {
            "image": str(self.path),
            "classes": classes,
            "sure": self.is_sure and not self.error,
            "error": self.error or None,
        }


@torch.no_grad()
def predict(
    artefact: Artefact, paths: Iterable[Path], top: int, at_least: float = 0.0
) -> Iterator[Answer]:
    """Answer for each file in turn with the `top` likeliest classes, which is sure if the first is
    `at_least` as probable as that; a bad file stops nothing.
    """
    preprocess = artefact.preprocess
    averaged = own_views(preprocess)
    artefact.model.eval()
    for path in paths:
        interrupt.check()
        try:
            picture = decode(path, preprocess.channels, preprocess.least)
        except ImageError as error:
            yield Answer(path, error=str(error))
            continue
        pixels = preprocess(preprocess.frame(picture)[None])
        logits = averaged(artefact.model, pixels)[0]
        probabilities = (logits.double() / artefact.temperature).softmax(dim=0)
        best = probabilities.sort(descending=True, stable=True)
        ranked = zip(best.indices.tolist()[:top], best.values.tolist()[:top], strict=True)
        classes = tuple((artefact.classes[k], value) for k, value in ranked)
        yield Answer(path, classes, is_sure=classes[0][1] >= at_least)
