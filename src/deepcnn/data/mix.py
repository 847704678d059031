"""Two training images in one: mixup (Zhang 2017, arXiv:1710.09412), CutMix (Yun 2019,
arXiv:1905.04899).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from deepcnn.data.geometry import inside


def partner_positions(positions: Tensor, num_images: int) -> Tensor:
    """The position in an epoch's order of each position's partner: its neighbour in pairs.

    Batches of even size hold whole pairs. The last of an odd number is its own partner.
    """
    neighbours = positions ^ 1
    return torch.where(neighbours < num_images, neighbours, positions)


def mixed(images: Tensor, partners: Tensor, rows: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Mix each image with its partner; also the weight of its own label, float32 N.

    Both are N C H W, already augmented, and may be bytes, then rounded to the nearest level, or
    floating-point numbers; the result is of their type. `rows` are those of `draw` for `images`:
    `share` N, and with CutMix `cut` N and `centre` N 2. Without `share` nothing is mixed.
    """
    device, (height, width) = images.device, images.shape[-2:]
    if "share" not in rows:
        return images, torch.ones(len(images), device=device)
    share = rows["share"].to(device)
    kept = share[:, None, None, None]  # of each pixel of the own image
    if "cut" in rows:
        cut = rows["cut"].to(device)
        boxes = cut_boxes(rows["share"], rows["centre"], height, width).to(device)
        outside = ~inside(boxes, height, width)
        kept = torch.where(cut[:, None, None, None], outside.float(), kept)
        pasted = boxes[:, 2] * boxes[:, 3] / (height * width)
        share = torch.where(cut, 1 - pasted, share)
    mixture = images * kept + partners * (1 - kept)
    if not images.is_floating_point():
        mixture = mixture.round()
    return mixture.to(images.dtype), share


def cut_boxes(share: Tensor, centre: Tensor, height: int, width: int) -> Tensor:
    """The rectangles that come from the partner: float32 N 4 (top, left, height, width).

    As high and wide as the root of 1 - `share` makes them, around `centre` (N 2, in [0, 1)), as far
    as they lie in the image.
    """
    image = torch.tensor([height, width], dtype=torch.float64)
    middle = (centre.double() * image).floor()
    half = (0.5 * (1 - share.double()).sqrt()[:, None] * image).floor()
    start = (middle - half).clamp(min=0)
    return torch.cat((start, (middle + half).minimum(image) - start), dim=1).float()
