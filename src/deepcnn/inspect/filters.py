"""The filters of the first layer, and how they came about: Fig. 6.9 of "Dive into Deep Learning",
after Krizhevsky, Sutskever and Hinton 2012, figure 3.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deepcnn.checkpoint import read_filters
from deepcnn.errors import ConfigError, RunError
from deepcnn.inspect.panels import Colours, Panel, colours_of, figure_of
from deepcnn.inspect.subject import Subject
from deepcnn.models.weights import ends

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS, COLUMNS = 16, 24  # at most, of the evolution: epochs and filters


def draw_filters(subject: Subject) -> "Figure":
    """All filters of the first convolution. Raises ConfigError where there is none."""
    name, weight = first_layer(subject)
    columns = min(16, math.ceil(math.sqrt(2 * len(weight))))
    size = "x".join(map(str, weight.shape[2:]))
    title = f"{name}: {len(weight)} filters of {size}; middle grey is 0, each to its own scale"
    panel = Panel(title, tiles(weight), columns)
    return figure_of(f"First layer of {subject.name}", [panel])


def draw_evolution(subject: Subject) -> "Figure":
    """The first filters of the first convolution over the epochs of the run, a row each.

    Raises ConfigError where there is no convolution, RunError where nothing was kept.
    """
    name, weight = first_layer(subject)
    kept = read_filters(subject.run / "checkpoints")
    if not kept:
        raise RunError(
            f"{subject.run} holds no checkpoint with the first layer of each epoch: runs keep it "
            "that train at least one epoch; leave out --evolution to see the filters as they are"
        )
    panels = [
        Panel(f"after epoch {epoch}" if epoch else "before training", row, COLUMNS)
        for epoch, row in over_epochs(kept, ROWS, COLUMNS).items()
    ]
    number = f"{min(COLUMNS, len(weight))} of {len(weight)} filters"
    title = f"{name} of {subject.name}: {number}, each to its own scale"
    return figure_of(title, panels)


def over_epochs(kept: Mapping[int, Tensor], rows: int, columns: int) -> dict[int, Colours]:
    """The first filters after some of the epochs, evenly chosen, as pictures; each filter to its
    own scale, the same in all epochs.
    """
    picked = torch.linspace(0, len(kept) - 1, min(rows, len(kept))).round().long().tolist()
    epochs = list(kept)
    shown = {epochs[place]: kept[epochs[place]][:columns] for place in picked}
    largest = torch.stack(list(shown.values())).abs().amax((0, 2, 3, 4))
    return {epoch: tiles(weight, largest) for epoch, weight in shown.items()}


def first_layer(subject: Subject) -> tuple[str, Tensor]:
    """Name and weights N C H W of the first convolution, which sees grey or RGB pictures."""
    name = ends(subject.model)[0]
    if not name:
        raise ConfigError(
            f"{subject.config.model.name} has no convolution, so there are no filters to show"
        )
    weight = subject.model.state_dict()[f"{name}.weight"]  # some are fixed, and no parameters
    if weight.shape[1] not in (1, 3):
        raise ConfigError(f"{name} sees {weight.shape[1]} channels, which are no colours to show")
    return name, weight


def tiles(weight: Tensor, largest: Tensor | None = None) -> Colours:
    """Filters N C H W as pictures: 0 is middle grey, plus or minus `largest` N the brightest and
    darkest; by default what is largest in each.
    """
    weight = weight.detach().float()
    scale = weight.abs().amax((1, 2, 3)) if largest is None else largest
    shares = weight / scale.clamp_min(torch.finfo(torch.float32).tiny)[:, None, None, None]
    return colours_of((1 + shares) / 2)
