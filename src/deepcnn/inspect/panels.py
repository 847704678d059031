"""Small pictures laid out in panels of one figure.

N pictures of H rows and W columns; colours are shares, 0 to 1.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 10.0  # inches, of every figure
HEAD, LINE, NAMES = 0.5, 0.3, 0.2  # inches: for the title, that of a panel, and names of tiles
ROW = 150  # letters of names beside each other
LEAST = 24  # pixels, of a tile
GAP = 0.08  # between tiles, a share of their side
COLOURS = "inferno"  # of numbers; its order is seen in grey too

Colours = NDArray[np.float32]


class Panel(NamedTuple):
    """Tiles N H W 3 under a title, so many in a row; names are of the tiles of the first row."""

    title: str
    tiles: Colours
    columns: int
    names: Sequence[str] = ()


def colours_of(pictures: Tensor) -> Colours:
    """Grey or RGB pictures N C H W as tiles N H W 3."""
    pixels = pictures.detach().cpu().float().numpy().transpose(0, 2, 3, 1)
    return np.broadcast_to(pixels, (*pixels.shape[:3], 3))


def heat_of(numbers: Tensor, largest: float) -> Colours:
    """Numbers N H W from 0 to `largest` in COLOURS, as tiles; what is below or above, at an end."""
    import matplotlib

    largest = largest if largest > 0 else 1.0
    shares = (numbers.detach().cpu().float() / largest).clamp(0, 1).numpy()
    colours: Colours = matplotlib.colormaps[COLOURS](shares)[..., :3].astype(np.float32)
    return colours


def mosaic(tiles: Colours, columns: int) -> Colours:
    """Tiles N H W 3 in rows of `columns`, white between them and where there are no more; small
    ones enlarged by a whole number.
    """
    scale = -(-LEAST // max(tiles.shape[1:3]))
    tiles = tiles.repeat(scale, axis=1).repeat(scale, axis=2)
    number, height, width, _ = tiles.shape
    gap = round(GAP * max(height, width))
    rows = -(-number // columns)
    paper = np.ones((rows * (height + gap), columns * (width + gap), 3), np.float32)
    for index, tile in enumerate(tiles):
        top, left = (place * (side + gap) for place, side in
                     zip(divmod(index, columns), (height, width), strict=True))  # fmt: skip
        paper[top : top + height, left : left + width] = tile
    return paper


def figure_of(title: str, panels: Sequence[Panel]) -> "Figure":
    """Panels one below the other, each as wide as the figure or as its tiles need be."""
    from matplotlib.figure import Figure

    pictures = [mosaic(panel.tiles, panel.columns) for panel in panels]
    heights = [_height(panel, picture) for panel, picture in zip(panels, pictures, strict=True)]
    total = HEAD + sum(heights)
    figure = Figure(figsize=(WIDTH, total))
    figure.text(0.02, 1 - 0.3 / total, title, fontsize=12, va="center", parse_math=False)
    top = total - HEAD
    for panel, picture, height in zip(panels, pictures, heights, strict=True):
        body = height - _room(panel)
        width = body * picture.shape[1] / picture.shape[0]
        axes = figure.add_axes((0.02, (top - height + 0.05) / total, width / WIDTH, body / total))
        axes.imshow(picture, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        line = (top - LINE / 2) / total
        figure.text(0.02, line, panel.title, fontsize=9, va="center", parse_math=False)
        _name_tiles(axes, panel, picture.shape[1])
        top -= height
    return figure


def _room(panel: Panel) -> float:
    """Inches above the tiles."""
    return (LINE if panel.title else 0.05) + (NAMES if panel.names else 0)


def _height(panel: Panel, picture: Colours) -> float:
    """Inches of a panel with what is above its tiles."""
    height, width, _ = map(float, picture.shape)
    return min(0.96 * WIDTH * height / width, WIDTH) + _room(panel)


def _name_tiles(axes: Any, panel: Panel, width: int) -> None:
    most = ROW // panel.columns
    for place, name in enumerate(panel.names):
        text = name if len(name) <= most else f"{name[: most - 1]}…"
        left = place * width / panel.columns
        axes.text(left, -1, text, fontsize=7, va="bottom", parse_math=False)
