"""Data to look at: a sheet with the first pictures of every class.

N images, C channels, H rows, W columns, K classes; all lengths in pixels.
"""

import base64
import functools
import io
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from deepcnn.data.images import ImageSet
from deepcnn.data.photos import Photos
from deepcnn.errors import DataError, ImageError

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

THUMBNAIL = 64  # largest side of a picture
MINIATURE = 96  # the same on pages
GAP = 4  # between pictures and between rows
MARGIN = 24  # around the sheet and between its columns
TITLE_HEIGHT = 48
COLUMN_HEIGHT = 3_800  # the sheet stays below 4,000, which every viewer can show
NAME_WIDTH = 180  # a longer class name is cut
MAX_NAME = 200  # characters looked at when a name is cut
PAPER, EMPTY, INK, FAINT = "#ffffff", "#f3f3f3", "#1f1f1f", "#767676"


def contact_sheet(images: ImageSet, per_class: int = 10) -> "Image":
    """Draw a row for every class: its name, its number of images and the first `per_class`."""
    from PIL import Image

    if per_class < 1 or images.num_channels not in (1, 3):
        raise DataError(
            f"cannot show {per_class} images a class with {images.num_channels} channels; "
            "expected at least 1 image, grey or RGB"
        )
    rows = _rows(images, per_class)
    width, height = rows[0].width + MARGIN, rows[0].height + GAP
    num_columns = math.ceil(len(rows) * height / COLUMN_HEIGHT)
    column_length = math.ceil(len(rows) / num_columns)
    size = (MARGIN + num_columns * width, TITLE_HEIGHT + column_length * height + MARGIN)
    sheet = Image.new("RGB", size, PAPER)
    for index, row in enumerate(rows):
        column, place = divmod(index, column_length)
        sheet.paste(row, (MARGIN + column * width, TITLE_HEIGHT + place * height))
    _draw_title(sheet, images)
    return sheet


def _rows(images: ImageSet, per_class: int) -> list["Image"]:
    """Draw the rows of all classes, alike in size."""
    names = [_fit(name, _font(15), NAME_WIDTH) for name in images.classes]
    counts = [f"{count:,}" for count in images.class_counts()]
    label_width = math.ceil(max(_font(15).getlength(text) for text in (*names, *counts)))
    rows = []
    for label, (name, count) in enumerate(zip(names, counts, strict=True)):
        indices = np.flatnonzero(images.labels == label)[:per_class]
        pictures = _pictures(images, indices)
        row = _strip(pictures, per_class, pictures.shape[2], label_width + MARGIN // 2)
        _draw_label(row, name, count)
        rows.append(row)
    return rows


def _pictures(images: ImageSet, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Some of the pictures, N C H W; those of different sizes whole, on white squares."""
    from deepcnn.data.preprocess import Preprocess

    photos = images.images
    if not isinstance(photos, Photos):
        return photos[indices]
    channels = images.num_channels
    white = Preprocess(channels, THUMBNAIL, 0, (1.0,) * channels, (1.0,) * channels, "letterbox")
    squares = [white.frame(photos.pixels(int(index))).numpy() for index in indices]
    return np.stack([*squares, np.zeros((channels, THUMBNAIL, THUMBNAIL), np.uint8)])[:-1]


def _strip(pictures: NDArray[np.uint8], num_cells: int, side: int, left: int) -> "Image":
    """Set `pictures` (N C H W) side by side from `left` on, in a row of `num_cells` cells."""
    from PIL import Image

    cell = _thumbnail(np.zeros((1, side, side), np.uint8)).height
    row = Image.new("RGB", (left + num_cells * (cell + GAP) - GAP, cell), PAPER)
    for place in range(num_cells):
        picture = _thumbnail(pictures[place]) if place < len(pictures) else None
        box = (left + place * (cell + GAP), 0)
        row.paste(picture or Image.new("RGB", (cell, cell), EMPTY), box)
    return row


def _thumbnail(pixels: NDArray[np.uint8]) -> "Image":
    """Scale a picture (C H W) by a whole number, up without smoothing or down by averaging."""
    from PIL import Image

    picture = as_picture(pixels)
    largest = max(picture.size)
    if largest > THUMBNAIL:
        return picture.reduce(math.ceil(largest / THUMBNAIL))
    scale = THUMBNAIL // largest
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def as_picture(pixels: NDArray[np.uint8]) -> "Image":
    """Grey or RGB pixels, C H W, as a picture."""
    from PIL import Image

    rgb = np.broadcast_to(pixels, (3, *pixels.shape[1:])).transpose(1, 2, 0)  # H W C
    return Image.fromarray(np.ascontiguousarray(rgb))


def miniature(images: ImageSet, position: int) -> str:
    """A small picture for a page, as `data_address` gives it; empty where it cannot be read."""
    photos = images.images
    try:
        pixels = photos.pixels(position).numpy() if isinstance(photos, Photos) else photos[position]
    except ImageError:  # it was there a moment ago
        return ""
    picture = as_picture(pixels)
    picture.thumbnail((MINIATURE, MINIATURE))
    return data_address(picture.convert("L") if len(pixels) == 1 else picture)


def data_address(picture: "Image") -> str:
    """A picture as a PNG within its own address, which a page can hold."""
    content = io.BytesIO()
    picture.save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def write_line(sheet: "Image", text: str, left: int, baseline: int, width: int) -> None:
    """Write a line on a sheet, cut to `width` pixels."""
    _pen(sheet).text((left, baseline), _fit(text, _font(13), width), INK, _font(13), anchor="ls")


def _draw_label(row: "Image", name: str, count: str) -> None:
    pen, middle = _pen(row), row.height // 2
    pen.text((0, middle - 3), name, INK, _font(15), anchor="ls")
    pen.text((0, middle + 15), count, FAINT, _font(12), anchor="ls")


def _draw_title(sheet: "Image", images: ImageSet) -> None:
    """Write the name of the set and, as far as there is room, what is in it."""
    pen, baseline = _pen(sheet), TITLE_HEIGHT - 18
    name = _fit(images.name, _font(18), sheet.width - 2 * MARGIN)
    start = MARGIN + math.ceil(_font(18).getlength(name)) + MARGIN // 2
    side = f"{images.size} x {images.size} pixels" if images.size else "of several sizes"
    facts = f"{len(images):,} images, {len(images.classes)} classes, {side}"
    pen.text((MARGIN, baseline), name, INK, _font(18), anchor="ls")
    facts = _fit(facts, _font(13), sheet.width - MARGIN - start)
    pen.text((start, baseline), facts, FAINT, _font(13), anchor="ls")


def _fit(text: str, font: "FreeTypeFont", width: float) -> str:
    """Cut `text` to `width`, with an ellipsis; what cannot be printed becomes a question mark."""
    text = "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
    if len(text) <= MAX_NAME and font.getlength(text) <= width:
        return text
    text = text[:MAX_NAME]
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text.rstrip()}…"


def _pen(picture: "Image") -> "ImageDraw":
    from PIL import ImageDraw

    return ImageDraw.Draw(picture)


@functools.cache
def _font(size: int) -> "FreeTypeFont":
    """Load the typeface that comes with matplotlib: the same everywhere, with many scripts."""
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(
        Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size
    )
