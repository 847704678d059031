"""A picture of an architecture as SVG: a box for each shape of map on the way through it."""

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from itertools import groupby
from math import log2

from deepcnn.cost import Layer
from deepcnn.describe import Description, scaled

TOP = 40  # pixels above the tallest box, for the title
TALLEST, NARROWEST = 180, 8
CAPTIONS = 130  # below it
GAP = 26
CAPTION = 80  # pixels a box needs for its text
MANY = 24  # boxes, above which a picture says less than a coarser one
COLOURS = {"map": "#4c78a8", "dense": "#e0913a", "input": "#b8b8b8"}


@dataclass(frozen=True)
class Box:
    """Layers in a row whose outputs have one shape."""

    shape: tuple[int, ...]
    kinds: tuple[str, ...]  # what they are, such as "2 Conv2d"
    parameters: int

    @property
    def colour(self) -> str:
        """Of maps or of features."""
        return COLOURS["map" if len(self.shape) == 3 else "dense"]

    @property
    def size(self) -> tuple[float, float]:
        """Width for channels and height for sides, on logarithmic scales: they span factors of
        hundreds.
        """
        channels, side = (self.shape[0], self.shape[-1]) if len(self.shape) == 3 else (1, 0)
        if not side:
            return NARROWEST * 2, TALLEST * min(1.0, log2(1 + self.shape[0]) / 13)
        return NARROWEST + 5 * log2(channels), max(10.0, TALLEST * log2(1 + side) / 8)


def svg(description: Description) -> str:
    """The whole picture, without anything it would have to load."""
    boxes = [Box(description.input, ("input",), 0), *boxes_of(description.layers)]
    parts: list[str] = []
    x = float(GAP)
    for number, box in enumerate(boxes):
        slot = max(box.size[0], CAPTION)
        parts += _drawn(box, x + slot / 2, COLOURS["input"] if not number else box.colour)
        if number:
            parts.append(_arrow(x))
        x += slot + GAP
    title = (f"{description.name}: {scaled(description.parameters)} parameters, "
             f"input {'x'.join(map(str, description.input))}")  # fmt: skip
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {x:.0f} {TOP + TALLEST + CAPTIONS}" '
        'font-family="sans-serif" font-size="11" text-anchor="middle">',
        f"<title>{escape(title)}</title>",
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{x / 2:.0f}" y="20" font-size="14">{escape(title)}</text>',
        *parts,
        "</svg>\n",
    ])  # fmt: skip


def boxes_of(layers: list[Layer]) -> list[Box]:
    """Layers with one shape of output become one box, in deep networks those with one size of map;
    it names what multiplies or pools.
    """
    boxes = [_box(list(group)) for _, group in groupby(layers, key=lambda layer: layer.output)]
    if len(boxes) > MANY:
        by_size = groupby(layers, key=lambda layer: layer.output[1:])
        boxes = [_box(list(group)) for _, group in by_size]
    return boxes


def _box(members: list[Layer]) -> Box:
    kinds = [m.kind for m in members if m.multiply_adds or "Pool" in m.kind]
    counts = {kind: kinds.count(kind) for kind in kinds}
    words = tuple(kind if n == 1 else f"{n} {kind}" for kind, n in counts.items())
    widest = max(members, key=lambda layer: layer.output[0])
    return Box(widest.output, words or (members[0].kind,), sum(m.parameters for m in members))


def _drawn(box: Box, middle: float, colour: str) -> Iterator[str]:
    width, height = box.size
    top = TOP + (TALLEST - height) / 2
    yield (
        f'<rect x="{middle - width / 2:.1f}" y="{top:.1f}" width="{width:.1f}" '
        f'height="{height:.1f}" fill="{colour}" stroke="#333"/>'
    )
    y = TOP + TALLEST + 20
    lines = ["x".join(map(str, box.shape)), *box.kinds]
    if box.parameters:
        lines.append(scaled(box.parameters).strip())
    for number, line in enumerate(lines):
        yield f'<text x="{middle:.1f}" y="{y + 14 * number}">{escape(line)}</text>'


def _arrow(x: float) -> str:
    y = TOP + TALLEST / 2
    return f'<path d="M{x - GAP:.1f} {y} h{GAP - 8} m-5 -4 l5 4 l-5 4" fill="none" stroke="#333"/>'
