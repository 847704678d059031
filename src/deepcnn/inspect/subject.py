"""`Subject`: the finished model of a run with the images of that run, to be looked at."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from deepcnn import artefact
from deepcnn.config import Config
from deepcnn.data.decode import decode
from deepcnn.data.images import ImageSet
from deepcnn.data.loader import Source, source
from deepcnn.data.order import order
from deepcnn.data.preprocess import Preprocess
from deepcnn.data.splits import Splits, load_splits
from deepcnn.device import Policy, plain_policy
from deepcnn.errors import DataError, ImageError
from deepcnn.progress import say
from deepcnn.settings import from_dict

SAMPLE_SEED = 0  # the same images in every look at a run


class Seen(NamedTuple):
    """Images as a network gets them, `inputs` N C S S on its device, each with a name."""

    names: list[str]
    inputs: Tensor


@dataclass(frozen=True)
class Subject:
    """A model in evaluation mode on its device, in fp32, and what it was made from."""

    run: Path
    model: nn.Module
    preprocess: Preprocess
    classes: tuple[str, ...]
    config: Config
    policy: Policy
    temperature: float = 1.0

    @property
    def name(self) -> str:
        """The run, as titles call it."""
        return f"{self.run.resolve().name} ({self.config.model.name})"

    @cached_property
    def splits(self) -> Splits:
        """All images of the run, read when they are first asked for."""
        return load_splits(self.config.data, self.config.train.seed, say)

    def images(self, part: Literal["train", "test"], number: int = 0) -> ImageSet:
        """Training or test images of the run: all, or so many of them at random, always the same.

        Raises DataError where they are not those that the model knows.
        """
        images = self.splits.parts()[part]
        if (images.classes, images.num_channels) != (self.classes, self.preprocess.channels):
            raise DataError(
                f"{images.name} has {images.num_channels} channels and classes "
                f"{', '.join(images.classes)}; the model of {self.run} knows "
                f"{self.preprocess.channels} channels and {', '.join(self.classes)}"
            )
        if not 0 < number < len(images):
            return images
        return images.subset(order(SAMPLE_SEED, 0, len(images))[:number].numpy(), images.name)

    def source(self, images: ImageSet) -> Source:
        """Images on the device of the model."""
        return source(images, self.preprocess, torch.device(self.policy.device))

    def seen(self, images: Sequence[str]) -> Seen:
        """Images by their places in the test set, or picture files, as the network gets them.

        Raises DataError for a place that there is not, or a file that cannot be read.
        """
        test = self.images("test") if any(map(str.isdecimal, images)) else None
        found = [
            self.at(test, int(each)) if test and each.isdecimal() else self.of_file(Path(each))
            for each in images
        ]
        return Seen([name for name, _ in found], torch.stack([pixels for _, pixels in found]))

    def at(self, images: ImageSet, place: int) -> tuple[str, Tensor]:
        """Name and network input C S S of one image of a set."""
        if place >= len(images):
            raise DataError(
                f"there is no image {place}: {images.name} has {len(images):,} images, "
                f"0 to {len(images) - 1}"
            )
        pixels = self.source(images).batch(torch.tensor([place])).images[0]
        return f"test {place}: {self.classes[images.labels[place]]}", pixels

    def of_file(self, path: Path) -> tuple[str, Tensor]:
        """Name and network input C S S of a picture file, as `deepcnn predict` reads it."""
        preprocess = self.preprocess
        try:
            picture = decode(path, preprocess.channels, preprocess.least)
        except ImageError as error:
            raise DataError(f"{error}; give a picture, or the place of a test image") from error
        return path.name, preprocess(preprocess.frame(picture)[None])[0].to(self.policy.device)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Of the classes, ... K on the CPU, as `deepcnn predict` tells them."""
        return (logits.detach().cpu()[..., : len(self.classes)] / self.temperature).softmax(dim=-1)

    def shown(self, inputs: Tensor) -> Tensor:
        """Network inputs N C S S as pictures, 0 to 1, on the CPU: the normalisation undone."""
        scale = self.preprocess.mean, self.preprocess.std
        mean, std = (torch.tensor(each)[:, None, None] for each in scale)
        return (inputs.detach().cpu() * std + mean).clamp(0, 1)


def open_run(run: Path) -> Subject:
    """The finished model of a run folder. Raises RunError where there is none."""
    found = artefact.load(run)
    policy = plain_policy("auto")
    policy.apply()
    config = from_dict(found.meta["config"], str(run))
    model = policy.place(found.model).eval().requires_grad_(False)
    return Subject(run, model, found.preprocess, found.classes, config, policy, found.temperature)
