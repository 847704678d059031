"""Where the pixels of a batch come from: windows, shifts, affine maps, rectangles.

Images are uint8 N C H W, but for `affine`. What a picture becomes depends on its own row only: each
step is elementwise or takes each image by itself, because sums of floating-point numbers that span
a batch change in their last bits with its size.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

WINDOW_RATIO = (3 / 4, 4 / 3)  # width / height of a random crop (Szegedy 2014, arXiv:1409.4842)
ERASE_RATIO = (0.3, 3.3)  # height / width; Zhong 2017 (arXiv:1708.04896) has 1 / 0.3
ERASE_AREA = (0.02, 0.33)  # share of the area; the paper has up to 0.4. Both as in torchvision
TRIES = 10  # at a rectangle that lies within the image


def windows_within(tries: Tensor, place: Tensor, heights: Tensor, widths: Tensor) -> Tensor:
    """The first of the tries that fits into each image: float64 N 4 (top, left, height, width).

    `tries` (N T 2) has shares of the area and ratios of width to height, `place` (N 2) where in
    the room that is left, both in [0, 1). Where none fits, the largest central window of a legal
    ratio. The rule is that of torchvision's RandomResizedCrop.
    """
    image = torch.stack((heights, widths), dim=1).double()
    shares, ratios = tries.double().unbind(-1)
    area = image.prod(dim=1, keepdim=True) * shares
    sizes = torch.stack((area / ratios, area * ratios), dim=-1).sqrt().round()
    fits = ((sizes > 0) & (sizes <= image[:, None])).all(dim=-1)
    size, found = _first(sizes, fits)
    size = torch.where(found[:, None], size, _largest(image))
    room = image - size
    corner = torch.where(found[:, None], (place.double() * (room + 1)).floor(), (room / 2).floor())
    return torch.cat((corner, size), dim=1)


def rectangles_within(tries: Tensor, place: Tensor, height: int, width: int) -> Tensor:
    """The first of the tries that is lower and narrower than the image, or an empty rectangle.

    As `windows_within`, but ratios are of height to width: torchvision's RandomErasing.
    """
    image = torch.tensor([height, width], dtype=torch.float64)
    shares, ratios = tries.double().unbind(-1)
    area = height * width * shares
    sizes = torch.stack((area * ratios, area / ratios), dim=-1).sqrt().round()
    size, found = _first(sizes, (sizes < image).all(dim=-1))
    size = size * found[:, None]
    return torch.cat(((place.double() * (image - size + 1)).floor(), size), dim=1)


def _first(sizes: Tensor, fits: Tensor) -> tuple[Tensor, Tensor]:
    """The first size of each row that fits, N 2, and whether there is one."""
    first = fits.int().argmax(dim=1)
    return sizes[torch.arange(len(sizes)), first], fits.any(dim=1)


def _largest(image: Tensor) -> Tensor:
    """Height and width of the largest part of each image that is neither too narrow nor wide."""
    heights, widths = image.unbind(dim=1)
    lowest, highest = WINDOW_RATIO
    return torch.stack(
        (
            heights.minimum((widths / lowest).round()),
            widths.minimum((heights * highest).round()),
        ),
        dim=1,
    )


def enlarge(images: Tensor, windows: Tensor) -> Tensor:
    """Cut the window (N 4: top, left, height, width) out of each image; resize it to H x W.

    A window is never larger than its image, so a triangle filter is bilinear interpolation.
    """
    height, width = images.shape[-2:]
    top, left, tall, wide = windows.float().to(images.device)[:, :, None].unbind(dim=1)  # N 1
    y = _source(top, tall, height)
    x = _source(left, wide, width)
    found = _sample(
        images.float(), x[:, None, :].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)
    )
    return found.to(torch.uint8)


def _source(start: Tensor, length: Tensor, side: int) -> Tensor:
    """Where the `side` pixels of a row come from, as N S from the middle of the image.

    No further out than the middle of a window's outermost pixel: what is beyond is not looked at.
    """
    steps = torch.arange(side, device=start.device) + 0.5
    place = (start + steps * length / side).maximum(start + 0.5).minimum(start + length - 0.5)
    return place - side / 2


def affine(images: Tensor, matrices: Tensor) -> Tensor:
    """Look up each pixel at its place times `matrices` (N 2 3), in pixels from the middle.

    Bilinear interpolation; black outside. Images and results are whole numbers in float32.
    """
    height, width = images.shape[-2:]
    # Products of single numbers, not of matrices, so that the batch does not matter.
    a, b, c, d, e, f = matrices.float().to(images.device).reshape(-1, 6, 1, 1).unbind(dim=1)
    x = torch.arange(width, device=images.device) + 0.5 - width / 2  # W
    y = (torch.arange(height, device=images.device) + 0.5 - height / 2)[:, None]  # H 1
    return _sample(images, a * x + b * y + c, d * x + e * y + f)


def _sample(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The pixels at `x` and `y` (N H W), in pixels from the middle of the image."""
    height, width = images.shape[-2:]
    grid = images.new_empty(len(images), height, width, 2)
    torch.mul(x, 2 / width, out=grid[..., 0])
    torch.mul(y, 2 / height, out=grid[..., 1])
    return F.grid_sample(images, grid, mode="bilinear", align_corners=False).round_()


def mirror(images: Tensor, chosen: Tensor, axis: int) -> Tensor:
    """Mirror the images that are chosen (bool N) along an axis."""
    every_bit = (-chosen.to(images.device, torch.int8)).view(torch.uint8)[:, None, None, None]
    # A choice bit by bit, in a seventh of the time of `torch.where`.
    return ((images.flip(axis) ^ images) & every_bit) ^ images


def shift(images: Tensor, margin: int, offsets: Tensor) -> Tensor:
    """Put a black margin around each image and cut out the window at its own offset (N 2)."""
    height, width = images.shape[-2:]
    padded = F.pad(images, (margin,) * 4)
    # Whole windows are looked up, a fifth of the time that looking up every pixel takes.
    cut = padded.unfold(2, height, 1).unfold(3, width, 1)  # N C, every row and column, H W: a view
    if images.device.type == "cpu":  # where NumPy takes two fifths of PyTorch's time for it
        rows, columns = offsets.numpy().T
        return torch.from_numpy(cut.numpy()[np.arange(len(images)), :, rows, columns])
    image = torch.arange(len(images), device=images.device)
    return cut[image, :, offsets[:, 0], offsets[:, 1]]


def inside(rectangles: Tensor, height: int, width: int) -> Tensor:
    """Which pixels lie in the rectangle (N 4: top, left, height, width): bool N 1 H W."""
    top, left, tall, wide = rectangles[:, :, None].unbind(dim=1)  # N 1
    y = torch.arange(height, device=rectangles.device)
    x = torch.arange(width, device=rectangles.device)
    rows = (y >= top) & (y < top + tall)  # N H
    columns = (x >= left) & (x < left + wide)  # N W
    return (rows[:, :, None] & columns[:, None, :])[:, None]
