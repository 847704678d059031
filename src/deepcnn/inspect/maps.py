"""The feature maps of one image, layer by layer."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deepcnn.inspect.layers import of_layer, walk, with_maps
from deepcnn.inspect.panels import Panel, colours_of, figure_of, heat_of
from deepcnn.inspect.subject import Subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 12  # maps of a row
MOST_ROWS = 8  # of a layer that is shown by itself


@torch.no_grad()
def draw_maps(subject: Subject, image: str, layer: str | None = None) -> "Figure":
    """An image, and maps of every stage or of one layer, those that vary most first.

    Raises DataError for an image that there is not, ConfigError for such a layer.
    """
    names, inputs = subject.seen([image])
    if layer:
        shown, most = [(layer, of_layer(subject.model, inputs, layer))], MOST_ROWS * COLUMNS
    else:
        shown, most = with_maps(walk(subject.model, inputs)), COLUMNS
    picture = Panel(names[0], colours_of(subject.shown(inputs)), COLUMNS)
    panels = [_panel(name, maps[0], most) for name, maps in shown]
    return figure_of(f"Feature maps of {subject.name}", [picture, *panels])


def _panel(name: str, maps: Tensor, most: int) -> Panel:
    chosen = most_varied(maps, most)
    title = (
        f"{name}: {len(chosen)} of {len(maps)} maps, {'x'.join(map(str, maps.shape[1:]))}; "
        f"black is 0 or less, the brightest {float(maps[chosen].max()):.3g}"
    )
    return Panel(title, heat_of(maps[chosen], float(maps[chosen].max())), COLUMNS)


def most_varied(maps: Tensor, number: int) -> Tensor:
    """Which of maps C H W differ most from place to place, in falling order."""
    return maps.flatten(1).std(dim=1).argsort(descending=True, stable=True)[:number]
