"""Sheets that show what training does to pictures: what a geometry keeps of them, and how random
changes look. Both by the code that training uses.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from deepcnn.config import Augment, Config
from deepcnn.data.augment import check, draw
from deepcnn.data.colour import pixel_components
from deepcnn.data.images import ImageSet
from deepcnn.data.loader import epoch_batches, source
from deepcnn.data.photos import Photos
from deepcnn.data.preprocess import FRAMES, Preprocess
from deepcnn.data.show import PAPER, as_picture, contact_sheet, write_line
from deepcnn.data.splits import load_part, make_preprocess, sample
from deepcnn.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

GAP, TITLE = 6, 28  # pixels: between pictures, and the line above them


def draw_sheet(
    config: Config, split: Literal["train", "test"], what: str, per_class: int
) -> tuple["Image", dict[str, int]]:
    """Draw one of the sheets: geometry, augment, or else the first of each class; also the counts
    of the classes.
    """
    images = load_part(config.data.name, split, config.data.root)
    counts = dict(zip(images.classes, images.class_counts().tolist(), strict=True))
    if what == "geometry":
        return geometry_sheet(images, make_preprocess(config.data, images)), counts
    if what == "augment":
        preprocess = make_preprocess(config.data, images)
        return augment_sheet(images, preprocess, config.augment, config.train.seed), counts
    return contact_sheet(images, per_class), counts


def geometry_sheet(images: ImageSet, preprocess: Preprocess, number: int = 8) -> "Image":
    """Draw `number` of the pictures whole, and what each geometry makes of them."""
    photos = images.images
    if not isinstance(photos, Photos):
        raise DataError(f"{images.name} has equal squares, which need no geometry")
    names = {"letterbox": "letterbox: all of it", "crop": "crop", "squash": "squash"}
    framed = {name: replace(preprocess, geometry=name) for name in FRAMES}
    rows = []
    for index in np.linspace(0, len(images) - 1, min(number, len(images))).astype(int):
        picture = photos.pixels(int(index))
        rows.append([framed[name].frame(picture) for name in names])
    return _sheet(torch.stack([torch.stack(row) for row in rows]), list(names.values()))


def augment_sheet(
    images: ImageSet, preprocess: Preprocess, settings: Augment, seed: int, number: int = 4
) -> "Image":
    """Draw `number` of the images, each as it is and as seven epochs would see it."""
    check(settings, images.num_channels)
    plain = replace(
        preprocess, mean=(0.0,) * preprocess.channels, std=(1.0,) * preprocess.channels, pad=0
    )
    pixels = source(images, plain, torch.device("cpu"))
    chosen = torch.linspace(0, len(images) - 1, min(number, len(images))).long()
    components = pixel_components(torch.from_numpy(sample(images, preprocess)))
    columns = [pixels.batch(chosen).images]
    for epoch in range(7):
        rows = draw(settings, seed, epoch, len(images), components)
        order = torch.arange(len(images))
        columns.append(next(epoch_batches(pixels, order, [chosen], settings, rows)).images)
    squares = (255 * torch.stack(columns, dim=1)).round().clamp(0, 255).to(torch.uint8)
    return _sheet(squares, ["as it is", *(f"epoch {epoch + 1}" for epoch in range(7))])


def _sheet(squares: Tensor, titles: list[str]) -> "Image":
    """Lay out squares, rows R x columns K x C x S x S, under a title for each column."""
    from PIL import Image

    rows, columns, _, side, _ = squares.shape
    sheet = Image.new("RGB", (GAP + columns * (side + GAP), TITLE + rows * (side + GAP)), PAPER)
    for column, title in enumerate(titles):
        write_line(sheet, title, GAP + column * (side + GAP), TITLE - 8, side)
        for row in range(rows):
            place = (GAP + column * (side + GAP), TITLE + row * (side + GAP))
            sheet.paste(as_picture(squares[row, column].numpy()), place)
    return sheet
