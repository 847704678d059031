"""Pages about networks: the list of all, and one of them layer by layer beside its sources."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

import torch

from deepcnn import cost, models
from deepcnn.errors import ConfigError
from deepcnn.models.card import Card, Landmark

LARGEST_INPUT = 4_096  # pixels, as for data.size
PAPER_WIDTH = 60  # columns of a line in the list
SHAPE = re.compile(r"(\d{1,4})x(\d{1,4})x(\d{1,4})")


@dataclass(frozen=True)
class Description:
    """A network for images of one shape and a number of classes."""

    name: str
    card: Card
    input: tuple[int, int, int]
    num_classes: int
    layers: list[cost.Layer]
    parameters: int  # trained, with auxiliary heads, which `layers` leaves out

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        card = self.card
        return {
            **summary(self),
            "classes": self.num_classes,
            "title": card.title,
            "neurons": cost.neurons(self.layers),
            "reported": card.reported,
            "training": card.training,
            "differences": card.differences,
            "licence": card.licence,
            "layers": [
                {
                    "name": layer.name,
                    "kind": layer.kind,
                    "output": layer.output,
                    "parameters": layer.parameters,
                    "multiply_adds": layer.multiply_adds,
                    "activation_bytes": layer.activation_bytes,
                }
                for layer in self.layers
            ],
        }


def describe(
    name: str, shape: tuple[int, int, int] | None = None, num_classes: int | None = None
) -> Description:
    """A network as it was published, or for other images and classes; ConfigError if it takes them
    not. Nothing is computed: it runs on the meta device, on shapes.
    """
    landmark, shape, classes = as_asked(name, shape, num_classes)
    with torch.device("meta"):
        model = landmark.build(classes, *shape[:2])
    table = cost.layers(model, shape)
    return Description(name, landmark.card, shape, classes, table, models.num_parameters(model))


def as_asked(
    name: str, shape: tuple[int, int, int] | None, num_classes: int | None
) -> tuple[Landmark, tuple[int, int, int], int]:
    """The named network, with the images and the number of classes that were asked for, or it was
    published for; ConfigError if it takes them not.
    """
    landmark = models.find(name)
    channels, side = landmark.card.input
    channels, height, width = shape or (channels, side, side)
    classes = landmark.card.classes if num_classes is None else num_classes
    if height != width:
        raise ConfigError(f"the input is {channels}x{height}x{width}, expected a square such as "
                          f"{channels}x{height}x{height}")  # fmt: skip
    is_published = shape is None and num_classes is None and name in models.MODELS
    if not is_published:  # a network of the table takes what its card says
        models.check_input(name, classes, channels, height)
    return landmark, (channels, height, width), classes


def parse_shape(text: str) -> tuple[int, int, int]:
    """`1x224x224` as channels, height, width; ConfigError for anything else."""
    match = SHAPE.fullmatch(text)
    channels, height, width = map(int, match.groups()) if match else (0, 0, 0)
    if not (channels and 0 < height <= LARGEST_INPUT and 0 < width <= LARGEST_INPUT):
        raise ConfigError(
            f"the input is {text!r}, expected CHANNELSxHEIGHTxWIDTH such as 3x224x224, sides up to "
            f"{LARGEST_INPUT}"
        )
    return channels, height, width


def summary(description: Description) -> dict[str, Any]:
    """A row of the list of networks."""
    return {
        "name": description.name,
        "year": description.card.year,
        "parameters": description.parameters,
        "multiply_adds": cost.multiply_adds(description.layers),
        "input": "x".join(map(str, description.input)),
        "paper": description.card.paper,
    }


def list_in_words() -> Iterator[str]:
    """The networks as published, a line each, as they are counted."""
    width = max(map(len, models.MODELS))
    yield f"{'name':<{width}}  year   parameters  multiply-adds  input      paper"
    for name in models.MODELS:
        row = summary(describe(name))
        paper = shorten(row["paper"], PAPER_WIDTH, placeholder=" ...")
        yield (
            f"{row['name']:<{width}}  {row['year']:<4}  {row['parameters']:>11,}  "
            f"{scaled(row['multiply_adds']):>13}  {row['input']:<9}  {paper}"
        )


def in_words(description: Description) -> str:
    """The page of one network."""
    card = description.card
    shape = "x".join(map(str, description.input))
    lines = [
        f"{description.name}: {card.title}",
        f"{card.paper}" + (f" ({card.year})" if card.year else ""),
        f"input {shape}, {description.num_classes:,} classes",
        "",
        *_table(description),
    ]
    for title, entries in (
        ("Reported", card.reported),
        ("Training", card.training),
        ("Differences", card.differences),
        ("Licence of the weights", (card.licence,) if card.licence else ()),
    ):
        if entries:
            lines += ["", title, *(f"  - {entry}" for entry in entries)]
    return "\n".join(lines)


def _table(description: Description) -> list[str]:
    layers = description.layers
    width = max(len(layer.name) for layer in layers)
    kind = max(len(layer.kind) for layer in layers)
    lines = [
        f"{'layer':<{width}}  {'kind':<{kind}}  output           parameters  multiply-adds  "
        "activations"
    ]
    lines += [
        f"{layer.name:<{width}}  {layer.kind:<{kind}}  {'x'.join(map(str, layer.output)):<14}  "
        f"{layer.parameters:>11,}  {layer.multiply_adds:>13,}  {_kilobytes(layer):>11}"
        for layer in layers
    ]
    total = sum(layer.parameters for layer in layers)
    memory = sum(layer.activation_bytes for layer in layers)
    lines.append(
        f"{'total':<{width}}  {'':<{kind}}  {'':<14}  {total:>11,}  "
        f"{cost.multiply_adds(layers):>13,}  {scaled(memory)}B"
    )
    if description.parameters != total:
        lines.append(
            f"with what an evaluated image does not pass, such as auxiliary heads: "
            f"{description.parameters:,} parameters"
        )
    lines.append(f"neurons (outputs of layers with weights): {cost.neurons(layers):,}")
    return lines


def scaled(number: int) -> str:
    """A count in thousands, millions or milliards, three digits."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number} "


def _kilobytes(layer: cost.Layer) -> str:
    return f"{layer.activation_bytes / 1e3:,.1f} kB"
