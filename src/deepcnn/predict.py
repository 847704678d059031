"""A finished model applied to picture files, by the preprocessing that it carries."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from deepcnn import interrupt
from deepcnn.artefact import Artefact
from deepcnn.data.decode import decode
from deepcnn.data.views import mean_logits
from deepcnn.errors import ImageError


@dataclass(frozen=True)
class Answer:
    """What the model says of one file: (class, probability), likeliest first; or what is wrong."""

    path: Path
    classes: tuple[tuple[str, float], ...] = ()
    error: str = ""

    def as_dict(self) -> dict[str, object]:
        """The answer as it is printed for machines."""
        classes = [{"class": name, "probability": value} for name, value in self.classes]
        return {"image": str(self.path), "classes": classes, "error": self.error or None}


@torch.no_grad()
def predict(artefact: Artefact, paths: Iterable[Path], top: int) -> Iterator[Answer]:
    """Answer for each file in turn with the `top` likeliest classes; a bad file stops nothing."""
    preprocess = artefact.preprocess
    artefact.model.eval()
    for path in paths:
        interrupt.check()
        try:
            picture = decode(path, preprocess.channels, preprocess.least)
        except ImageError as error:
            yield Answer(path, error=str(error))
            continue
        pixels = preprocess(preprocess.frame(picture)[None])
        logits = mean_logits(artefact.model, pixels, preprocess.views)[0]
        probabilities = logits.double().softmax(dim=0)
        best = probabilities.sort(descending=True, stable=True)
        ranked = zip(best.indices.tolist()[:top], best.values.tolist()[:top], strict=True)
        yield Answer(path, tuple((artefact.classes[k], value) for k, value in ranked))
