"""Changes of colour to whole batches: images N C H W, one number for each image.

Images are levels, whole numbers from 0 to 255, in float32, and so are results: bytes would be
turned into numbers and back in every step. Every function rounds to the nearest level, where
torchvision cuts off. Sums over pixels are sums of whole numbers, so that neither the
batch nor the number of threads changes a bit.

Choices between pixels are sums of products with 0 or 1: `torch.where` takes half as long again.
"""

from typing import NamedTuple

import torch
from torch import Tensor

WHITE = 255
# Luminance of ITU-R BT.601 in 65536ths, as in Pillow; products with a level are exact in float32.
LUMINANCE = (19_595, 38_470, 7_471)
UNIT = 65_536
# What a channel lacks of the brightest at a place from 0 to 6 on the colour circle, as a share of
# their difference: sign times the distance from a middle, plus a number, from 0 to 1.
WITHOUT = ((3, -1, 2), (2, 1, -1), (4, 1, -1))  # red, green, blue
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
    channels, height, width = images.shape[1:]
    # Sums of rows are exact in float32, those of images are not.
    totals = images.sum(dim=3).to(torch.int64).sum(dim=2)
    weights = LUMINANCE if channels == len(LUMINANCE) else (1,) * channels
    total = (totals * torch.tensor(weights, device=images.device)).sum(dim=1)
    return _blend(images, _each(total / (sum(weights) * height * width), images), factor)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the luminance of each pixel."""
    return _blend(images, _luminance(images).div_(UNIT), factor)


def hue(images: Tensor, turn: Tensor) -> Tensor:
    """Turn the colour circle of RGB images by a share of it, in HSV."""
    red, green, blue = images.transpose(0, 1).contiguous()  # N H W
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    # Which of them is the largest, the first if several are, as 1 or 0.
    not_red = (value - red).sign_()
    is_blue = (value - green).sign_().mul_(not_red)
    sextant = (green - blue).mul_(1 - not_red)
    sextant += (blue - red).mul_(not_red - is_blue)
    sextant += (red - green).mul_(is_blue)
    sextant /= chroma.clamp(min=1)  # grey has no hue; any will do
    sextant += 2 * (not_red + is_blue) + 6 * _each(turn, images)[:, 0]
    sextant -= (sextant / 6).floor_().mul_(6)  # the remainder, in a sixth of its time
    turned = torch.empty_like(images)
    for channel, (middle, sign, offset) in enumerate(WITHOUT):
        share = (sextant - middle).abs_().mul_(sign).add_(offset).clamp_(0, 1)
        torch.sub(value, share.mul_(chroma), out=turned[:, channel])
    return turned.round_()


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with 3x3 means, the centre counting five times; the outermost pixels stay."""
    if min(images.shape[-2:]) < 3:
        return images
    rows = images[..., :-2, :] + images[..., 1:-1, :] + images[..., 2:, :]
    box = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    blurred = images.clone()
    blurred[..., 1:-1, 1:-1] = (box + 4 * images[..., 1:-1, 1:-1]) / 13
    return _blend(images, blurred, factor)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest bits of each level."""
    step = _each(2 ** (8 - bits), images)
    return (images / step).floor_().mul_(step)


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert what is as bright as the threshold or brighter."""
    is_bright = (images >= _each(threshold, images)).float()
    return images + is_bright * (WHITE - 2 * images)


def autocontrast(images: Tensor) -> Tensor:
    """Stretch each channel of each image to the whole range, unless it has one level only."""
    darkest = images.amin(dim=(2, 3), keepdim=True)
    spread = images.amax(dim=(2, 3), keepdim=True) - darkest
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
    return equal.reshape(images.shape).float()


def _luminance(images: Tensor) -> Tensor:
    """Brightness of each pixel in 65536ths of a level, whole numbers in float32 N 1 H W: of RGB as
    the eye sees it, of other channels their mean.
    """
    if images.shape[1] != len(LUMINANCE):
        return (images.sum(dim=1, keepdim=True) * UNIT / images.shape[1]).floor_()
    red, green, blue = images.split(1, dim=1)
    of_red, of_green, of_blue = LUMINANCE
    return torch.add(of_red * red, green, alpha=of_green).add_(blue, alpha=of_blue)


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    share = _each(factor, images)
    return _rounded((images * share).add_(other * (1 - share)))


def _each(numbers: Tensor, images: Tensor) -> Tensor:
    """One number for each image, N 1 1 1 on their device."""
    return numbers.float().to(images.device)[:, None, None, None]


def _rounded(numbers: Tensor) -> Tensor:
    """The nearest levels, in place of `numbers`."""
    return numbers.round_().clamp_(0, WHITE)
