"""Real photos for the tests, where there are any."""

import tarfile
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

DATA = Path(__file__).parents[2] / "shared/data"


def first_photos(count: int) -> list[tuple[str, Image.Image]]:
    """Pictures of ImageNet in RGB with the numbers of their classes; skips where there are none."""
    path = DATA / "imagenet-200.tar"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    found = []
    with tarfile.open(path) as archive:
        for member in islice((member for member in archive if member.isfile()), count):
            with archive.extractfile(member) as file, Image.open(file) as image:  # type: ignore[union-attr]
                found.append((Path(member.name).name[:9], image.convert("RGB")))
    return found


def squeezed(count: int) -> Tensor:  # count 3 224 224
    """The same at 224x224, whatever their shape, about standardised."""
    pixels = [np.array(image.resize((224, 224)), np.float32) for _, image in first_photos(count)]
    return (torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 255 - 0.45) / 0.226
