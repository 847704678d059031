"""RandAugment (Cubuk 2019, arXiv:1909.13719) and TrivialAugment (Müller 2021, arXiv:2103.10158).

Operations and strengths are those of torchvision's RandAugment and TrivialAugmentWide as they come.
Where pixels move, interpolation is bilinear, as in torchvision's own training; black outside.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from deepcnn.data import colour, geometry

TOP = 30  # the highest level


class Space(NamedTuple):
    """How many operations at which levels, and how far each kind goes at the highest level."""

    operations: int
    levels: tuple[int, int]  # lowest and highest that are drawn
    shear: float  # sideways pixels for each pixel
    shift_share: float  # of the side
    shift_pixels: float
    degrees: float
    colour: float  # factors differ by so much from 1
    bits: float  # lost by posterize


SPACES = {
    "randaugment": Space(2, (9, 9), 0.3, 150 / 331, 0, 30, 0.9, 4),
    "trivialaugment": Space(1, (0, TOP), 0.99, 0, 32, 135, 0.99, 6),
}

# How far operations go, images N C H W, signed levels N.
Operation = Callable[[Space, Tensor, Tensor], Tensor]


def apply(images: Tensor, policy: str, operations: Tensor, levels: Tensor) -> Tensor:
    """Apply one operation to each image, whole numbers in float32 N C H W: its number in OPERATIONS
    and its level, N each.
    """
    space = SPACES[policy]
    table = {
        number: partial(operation, space) for number, operation in enumerate(OPERATIONS.values())
    }
    return by_group(images, operations, levels, table)


def by_group(
    images: Tensor,
    groups: Tensor,
    amounts: Tensor,
    table: Mapping[int, Callable[[Tensor, Tensor], Tensor]],
) -> Tensor:
    """Change the images of each group (N, on the CPU) at once, by the function of its number."""
    changed = images.clone()
    for number, operation in table.items():
        rows = (groups == number).nonzero()[:, 0]
        if len(rows):
            place = rows.to(images.device)
            # Whole images are copied, which indexing does number by number.
            result = operation(images.index_select(0, place), amounts[rows])
            changed.index_copy_(0, place, result)
    return changed


def _shear_x(space: Space, images: Tensor, level: Tensor) -> Tensor:
    """Move rows sideways, the uppermost edge not."""
    slope = space.shear * _share(level)
    return _moved(images, (0, 1, slope), (0, 2, slope * images.shape[-2] / 2))


def _shear_y(space: Space, images: Tensor, level: Tensor) -> Tensor:
    slope = space.shear * _share(level)
    return _moved(images, (1, 0, slope), (1, 2, slope * images.shape[-1] / 2))


def _translate_x(space: Space, images: Tensor, level: Tensor) -> Tensor:
    return _moved(images, (0, 2, -_whole_pixels(space, images.shape[-1], level)))


def _translate_y(space: Space, images: Tensor, level: Tensor) -> Tensor:
    return _moved(images, (1, 2, -_whole_pixels(space, images.shape[-2], level)))


def _rotate(space: Space, images: Tensor, level: Tensor) -> Tensor:
    angle = math.radians(space.degrees) * _share(level)
    cosine, sine = angle.cos(), angle.sin()
    return _moved(images, (0, 0, cosine), (0, 1, -sine), (1, 0, sine), (1, 1, cosine))


def _moved(images: Tensor, *entries: tuple[int, int, Tensor]) -> Tensor:
    """Map images by matrices that differ from the identity in (row, column, a number for each)."""
    matrices = torch.eye(2, 3, dtype=torch.float64).repeat(len(images), 1, 1)
    for row, column, numbers in entries:
        matrices[:, row, column] = numbers
    return geometry.affine(images, matrices)


def _whole_pixels(space: Space, side: int, level: Tensor) -> Tensor:
    return ((space.shift_share * side + space.shift_pixels) * _share(level)).trunc()


def _factor(space: Space, level: Tensor) -> Tensor:
    return 1 + space.colour * _share(level)


def _share(level: Tensor) -> Tensor:
    return level.double() / TOP


# In torchvision's order. What has no opposite goes by the level without its sign.
OPERATIONS: dict[str, Operation] = {
    "Identity": lambda _space, images, _level: images,
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateX": _translate_x,
    "TranslateY": _translate_y,
    "Rotate": _rotate,
    "Brightness": lambda space, images, level: colour.brightness(images, _factor(space, level)),
    "Color": lambda space, images, level: colour.saturation(images, _factor(space, level)),
    "Contrast": lambda space, images, level: colour.contrast(images, _factor(space, level)),
    "Sharpness": lambda space, images, level: colour.sharpness(images, _factor(space, level)),
    "Posterize": lambda space, images, level: colour.posterize(
        images, 8 - (space.bits * _share(level).abs()).round()
    ),
    "Solarize": lambda _space, images, level: colour.solarize(
        images, colour.WHITE * (TOP - level.abs()) / TOP
    ),
    "AutoContrast": lambda _space, images, _level: colour.autocontrast(images),
    "Equalize": lambda _space, images, _level: colour.equalize(images),
}
