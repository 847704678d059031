"""Pictures with heat laid over them, for views that say which part of an image counts."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from deepcnn.inspect.panels import Colours, Panel, colours_of, heat_of

COLUMNS = 4


def beside(picture: Tensor, heats: Tensor) -> list[Colours]:
    """Tiles of a picture C S S, 0 to 1, and of each of the heats N H W over it.

    Heat is brought to the size of the picture; each has its own scale, from 0 to what is largest.
    """
    side = picture.shape[-1]
    heats = F.interpolate(heats[None], (side, side), mode="bilinear", align_corners=False)[0]
    grey = colours_of(picture.mean(0)[None, None])[0]
    over = [0.4 * grey + 0.6 * heat_of(heat[None], float(heat.max()))[0] for heat in heats]
    return [colours_of(picture[None])[0], *over]


def rows_of(tiles: Sequence[Colours], names: Sequence[str], columns: int = COLUMNS) -> list[Panel]:
    """Tiles in rows, each tile under its name."""
    starts = range(0, len(tiles), columns)
    return [
        Panel("", np.stack(tiles[k : k + columns]), columns, names[k : k + columns]) for k in starts
    ]
