"""What excites the channels of a layer most: parts of images, found by what each depends on.

Zeiler and Fergus 2014, "Visualizing and Understanding Convolutional Networks", figure 2.
N images, C channels, H rows, W columns, S pixels a side; P peaks.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepcnn import interrupt
from deepcnn.data.loader import Source, in_order
from deepcnn.errors import ConfigError
from deepcnn.inspect.layers import of_layer, walk, with_maps
from deepcnn.inspect.panels import Panel, colours_of, figure_of
from deepcnn.inspect.subject import Subject
from deepcnn.progress import reported

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PATCHES = 6  # of a channel, side by side
BESIDE = 2  # channels
STAGE_CHANNELS, LAYER_CHANNELS = 4, 24  # shown of every stage, or of one layer by itself
SIDE = 64  # pixels of a patch in the picture


class Peaks(NamedTuple):
    """The highest values of some channels, each in other images, the highest first: P of each
    channel in turn. Their channels, their images and their places in the maps (row times W plus
    column), all int64.
    """

    channels: Tensor
    images: Tensor
    places: Tensor


def draw_patches(subject: Subject, layer: str | None, sample: int) -> "Figure":
    """The parts of `sample` training images that excite channels of every stage, or of one layer.

    Raises ConfigError for a layer that there is not.
    """
    if sample < 1:
        raise ConfigError(f"--sample is {sample}, expected at least 1")
    images = subject.source(subject.images("train", sample))
    panels = []
    found = find_peaks(subject.model, images, layer)
    for name, peaks in reported(found.items(), len(found), "patches"):
        interrupt.check()
        inputs = images.batch(peaks.images).images
        boxes = receptive_boxes(subject.model, inputs, peaks, name, bool(layer))
        tiles = colours_of(cut(subject.shown(inputs), boxes))
        across = BESIDE * PATCHES
        for start in range(0, len(tiles), across):
            channels = peaks.channels[start : start + across : PATCHES].tolist()
            names = [text for k in channels for text in [f"channel {k}"] + [""] * (PATCHES - 1)]
            title = "" if start else f"{name}: patches of up to {_side(boxes)} pixels a side"
            panels.append(Panel(title, tiles[start : start + across], across, names))
    return figure_of(
        f"What excites {subject.name} most, of {len(images):,} training images", panels
    )


@torch.no_grad()
def find_peaks(model: nn.Module, images: Source, layer: str | None) -> dict[str, Peaks]:
    """The peaks of the channels that differ most from image to image, by stage, or of a layer."""
    number = images.at_once()
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for batch in reported(in_order(images, number), -(-len(images) // number), "looking"):
        interrupt.check()
        for name, maps in _maps(model, batch.images, layer):
            highest = maps.flatten(2).cpu().max(dim=2)
            found.setdefault(name, []).append((highest.values, highest.indices))
    most = LAYER_CHANNELS if layer else STAGE_CHANNELS
    return {
        name: _peaks(torch.cat([v for v, _ in parts]), torch.cat([p for _, p in parts]), most)
        for name, parts in found.items()
    }


def _maps(model: nn.Module, inputs: Tensor, layer: str | None) -> list[tuple[str, Tensor]]:
    """Maps N C H W by name: of one layer, or of all stages."""
    return [(layer, of_layer(model, inputs, layer))] if layer else with_maps(walk(model, inputs))


def _peaks(values: Tensor, places: Tensor, most: int) -> Peaks:
    """The peaks of up to `most` channels, from the highest value in each image and its place, N C
    each.
    """
    patches = min(PATCHES, len(values))
    spread = values.std(dim=0, correction=0)
    channels = spread.argsort(descending=True, stable=True)[:most].sort().values
    images = values[:, channels].argsort(dim=0, descending=True, stable=True)[:patches].T.flatten()
    channels = channels.repeat_interleave(patches)
    return Peaks(channels, images, places[images, channels])


def receptive_boxes(
    model: nn.Module, inputs: Tensor, peaks: Peaks, name: str, is_layer: bool
) -> Tensor:
    """The parts of `inputs` P C S S that the places of peaks depend on in the maps of a stage or
    layer: P 4, first and last row and first and last column, int64.

    A pixel counts if the gradient of all channels there is not 0: that of one alone may be, where
    its activation is cut off, as the peaks of ReLU6 are. Without any the box is the whole image.
    """
    inputs = inputs.clone().requires_grad_()
    with torch.enable_grad():
        maps = dict(_maps(model, inputs, name if is_layer else None))[name].flatten(2)
        rows = torch.arange(len(inputs), device=inputs.device)
        values = maps[rows, :, peaks.places.to(rows.device)]
        slopes = torch.autograd.grad(values.sum(), inputs)[0]
    counts = (slopes != 0).any(dim=1).cpu()
    counts |= ~counts.any(dim=(1, 2), keepdim=True)
    bounds = []
    for along in (counts.any(dim=2), counts.any(dim=1)):
        number = along.int()
        bounds += [number.argmax(dim=1), along.shape[1] - 1 - number.flip(1).argmax(dim=1)]
    return torch.stack(bounds, dim=1)


def cut(pictures: Tensor, boxes: Tensor) -> Tensor:
    """A square around each box, as large as the largest box and within the picture, brought to
    SIDE: P C SIDE SIDE from P C S S.
    """
    side, limit = _side(boxes), pictures.shape[-1]
    found = []
    for picture, (top, bottom, left, right) in zip(pictures, boxes.tolist(), strict=True):
        row, column = (
            min(max(0, (first + last + 1 - side) // 2), limit - side)
            for first, last in ((top, bottom), (left, right))
        )
        square = picture[None, :, row : row + side, column : column + side]
        found.append(F.interpolate(square, (SIDE, SIDE), mode="area"))
    return torch.cat(found)


def _side(boxes: Tensor) -> int:
    """Of the largest box, in pixels."""
    return int((boxes[:, 1::2] - boxes[:, ::2]).max()) + 1
