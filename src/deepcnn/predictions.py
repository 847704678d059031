"""`Predictions`: what a network said of images whose labels are known, and the file they are kept
in, so that results can be compared and looked at again without computing anything.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from deepcnn import metrics
from deepcnn.errors import RunError
from deepcnn.files import replace_file

FILE = "predictions.safetensors"  # in a run folder


@dataclass(frozen=True)
class Predictions:
    """What a network said: `logits` float32 N K and `labels` int64 N, on the CPU, as stored.

    `images` is the fingerprint of the images, so that two networks are compared on the same ones.
    """

    logits: Tensor
    labels: Tensor
    images: str = ""

    def accuracy(self) -> float:
        """Share of images whose highest logit is their label."""
        return metrics.num_correct(self.logits, self.labels) / len(self.labels)


def keep(run: Path, parts: Mapping[str, Predictions]) -> None:
    """Write the predictions of a finished run by the name of their split. Raises OSError."""
    tensors = {
        f"{name}.{what}": tensor
        for name, part in parts.items()
        for what, tensor in (("logits", part.logits), ("labels", part.labels))
    }
    # One entry, for the library writes several in any order.
    images = json.dumps({name: part.images for name, part in parts.items()})
    replace_file(run / FILE, safetensors.torch.save(tensors, metadata={"images": images}))


def kept(run: Path) -> dict[str, Predictions]:
    """The predictions of a run by the name of their split; RunError if they cannot be read."""
    path = run / FILE
    try:
        # Not by its name, which the library takes for UTF-8.
        content = path.read_bytes()
        tensors = safetensors.torch.load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        return {
            name: Predictions(tensors[f"{name}.logits"], tensors[f"{name}.labels"], images)
            for name, images in json.loads(header["__metadata__"]["images"]).items()
        }
    except (LookupError, OSError, SafetensorError, TypeError, ValueError) as error:
        raise RunError(
            f"{path}, where a finished run keeps its answers, cannot be read: {error}. "
            f"`deepcnn evaluate {run}` measures the model again"
        ) from error
