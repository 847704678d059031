"""Changes of colour to whole batches: images uint8 N C H W, one number for each image.

Every function rounds to the nearest level, where torchvision cuts off. Sums over pixels are sums of
whole numbers, so that neither the batch nor the number of threads changes a bit.
"""

from typing import NamedTuple

import torch
from torch import Tensor

WHITE = 255
# Luminance of ITU-R BT.601 in 65536ths, as in Pillow; products with a level are exact in float32.
LUMINANCE = (19_595, 38_470, 7_471)
UNIT = 65_536
IMAGES_AT_ONCE = 256  # as float64; all of a large set would not fit into the memory


class Components(NamedTuple):
    """Principal components of colours in [0, 1]: variances, C, and directions in columns, C C."""

    values: Tensor
    vectors: Tensor


def pixel_components(images: Tensor) -> Components:
    """The eigenvalues, ascending, and eigenvectors of the covariance of the channels of all pixels.

    `images` is uint8 N C H W; the results are float64 on the CPU.
    """
    channels = images.shape[1]
    total = torch.zeros(channels, dtype=torch.float64)
    products = torch.zeros(channels, channels, dtype=torch.float64)
    for part in torch.split(images, IMAGES_AT_ONCE):
        pixels = part.cpu().transpose(0, 1).reshape(channels, -1).double()
        total += pixels.sum(dim=1)
        products += pixels @ pixels.T
    count = images.numel() // channels
    mean = total / count
    covariance = (products / count - mean[:, None] * mean) / WHITE**2
    values, vectors = torch.linalg.eigh(covariance)
    return Components(values.clamp(min=0), vectors)


def add(images: Tensor, levels: Tensor) -> Tensor:
    """Add `levels` (N C) to the channels of each image."""
    return _rounded(images + levels.to(images.device)[:, :, None, None])


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with black."""
    return _rounded(images * _each(factor, images))


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean luminance of each image."""
    total = _luminance(images).sum(dim=(1, 2, 3), keepdim=True, dtype=torch.int64)
    mean = total / (UNIT * images.shape[-2] * images.shape[-1])
    return _blend(images, mean.float(), factor)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the luminance of each pixel."""
    return _blend(images, _luminance(images) / UNIT, factor)


def hue(images: Tensor, turn: Tensor) -> Tensor:
    """Turn the colour circle of RGB images by a share of it, in HSV."""
    red, green, blue = images.float().unbind(dim=1)
    value, least = images.float().amax(dim=1), images.float().amin(dim=1)
    chroma = value - least
    divisor = chroma.clamp(min=1)  # grey has no hue; any will do
    sextant = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    turned = sextant[:, None] + 6 * _each(turn, images)  # N 1 H W
    corners = torch.tensor([5.0, 3.0, 1.0], device=images.device)[:, None, None]
    distance = turned + corners
    distance = distance - 6 * (distance / 6).floor()  # the remainder, in a sixth of its time
    share = distance.minimum(4 - distance).clamp(0, 1)
    return _rounded(value[:, None] - chroma[:, None] * share)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with 3x3 means, the centre counting five times; the outermost pixels stay."""
    if min(images.shape[-2:]) < 3:
        return images
    pixels = images.float()
    rows = pixels[..., :-2, :] + pixels[..., 1:-1, :] + pixels[..., 2:, :]
    box = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    blurred = pixels.clone()
    blurred[..., 1:-1, 1:-1] = (box + 4 * pixels[..., 1:-1, 1:-1]) / 13
    return _blend(images, blurred, factor)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest bits of each level."""
    masks = (WHITE << (8 - bits.long())) & WHITE
    return images & masks.to(torch.uint8).to(images.device)[:, None, None, None]


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert what is as bright as the threshold or brighter."""
    return torch.where(images >= _each(threshold, images), WHITE - images, images)


def autocontrast(images: Tensor) -> Tensor:
    """Stretch each channel of each image to the whole range, unless it has one level only."""
    darkest = images.amin(dim=(2, 3), keepdim=True).float()
    spread = images.amax(dim=(2, 3), keepdim=True).float() - darkest
    stretched = _rounded((images - darkest) * WHITE / spread.clamp(min=1))
    return torch.where(spread == 0, images, stretched)


def equalize(images: Tensor) -> Tensor:
    """Make all levels of each channel of each image about equally frequent, by Pillow's rule."""
    planes = images.flatten(0, 1).flatten(1).long()  # NC HW
    first = torch.arange(len(planes), device=images.device)[:, None] * (WHITE + 1)
    counts = torch.bincount((planes + first).flatten(), minlength=len(planes) * (WHITE + 1))
    counts = counts.reshape(-1, WHITE + 1)
    brightest = counts.gather(1, planes.amax(dim=1, keepdim=True))
    step = (planes.shape[1] - brightest) // WHITE  # pixels for each level of the result
    below = counts.cumsum(dim=1) - counts
    table = ((below + step // 2) // step.clamp(min=1)).clamp(max=WHITE)
    equal = torch.where(step == 0, planes, table.gather(1, planes))
    return equal.reshape(images.shape).to(torch.uint8)


def _luminance(images: Tensor) -> Tensor:
    """Brightness of each pixel in 65536ths of a level, whole numbers in float32 N 1 H W: of RGB as
    the eye sees it, of other channels their mean.
    """
    levels = images.float()
    if images.shape[1] != len(LUMINANCE):
        return (levels.sum(dim=1, keepdim=True) * UNIT / images.shape[1]).floor()
    red, green, blue = levels.unbind(dim=1)
    of_red, of_green, of_blue = LUMINANCE
    return (of_red * red + of_green * green + of_blue * blue)[:, None]


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    share = _each(factor, images)
    return _rounded(images * share + other * (1 - share))


def _each(numbers: Tensor, images: Tensor) -> Tensor:
    """One number for each image, N 1 1 1 on their device."""
    return numbers.float().to(images.device)[:, None, None, None]


def _rounded(levels: Tensor) -> Tensor:
    return levels.round().clamp(0, WHITE).to(torch.uint8)
