"""Augmentation of whole batches on the device, as a pure function of (seed, epoch, sample).

`draw` makes the parameters of an epoch at once, one row per sample of the whole training set;
`augment` applies the rows of a batch. So the same picture comes out whatever the batch size, and
a run continued in the middle of an epoch sees what the uninterrupted run sees.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Generator, Tensor

from deepcnn.config import Augment
from deepcnn.data import colour, geometry, policy
from deepcnn.data.colour import Components
from deepcnn.device import generator, mix
from deepcnn.errors import ConfigError

RGB = 3

Parameters = dict[str, Tensor]
Streams = Callable[[str], Generator]

# Numbered as in ColorJitter: what each does to a batch with one number for each image.
JITTER = {
    "brightness": colour.brightness,
    "contrast": colour.contrast,
    "saturation": colour.saturation,
    "hue": colour.hue,
}


def check(settings: Augment, channels: int) -> None:
    """Raise ConfigError for settings that mean nothing for images of so many channels."""
    for name in ("saturation", "hue"):
        if getattr(settings, name) and channels != RGB:
            raise ConfigError(
                f"augment.{name} changes colours of RGB images, and these have {channels} "
                f"channel{'s' * (channels != 1)}: set it to 0"
            )


def draw(
    settings: Augment,
    seed: int,
    epoch: int,
    num_images: int,
    components: Components | None = None,
) -> Parameters:
    """Draw one row for each image, as far as the settings need it.

    Each kind has its own stream of random numbers, so that none changes with the others' settings.
    `components`, of `pixel_components`, are needed for `pca_noise`.

    Rows, N each: `flip`, `flip_vertical`, `erase`, `cut` bool; `shift` int64 N 2 (rows, columns);
    `window`, `erase_area` N T 2 (tries at area and ratio) with `window_place`, `erase_place` N 2;
    `affine` N 2 2; `operation`, `level` int64 N K; `jitter` N 4 (three factors and a turn) and its
    `order` N 4; `light` N C (levels); `share` of the own image, `centre` N 2.
    """

    def stream(use: str) -> Generator:
        return generator(seed, use, epoch)

    return {
        **_draw_flips(settings, seed, epoch, num_images),
        **_draw_windows(settings, num_images, stream),
        **_draw_affine(settings, num_images, stream),
        **_draw_policy(settings, num_images, stream),
        **_draw_colours(settings, num_images, stream),
        **_draw_light(settings, num_images, stream, components),
        **_draw_erasing(settings, num_images, stream),
        **_draw_mixing(settings, seed, epoch, num_images),
    }


def pick(parameters: Parameters, indices: Tensor) -> Parameters:
    """The rows of a batch."""
    return {name: rows[indices] for name, rows in parameters.items()}


def windows(rows: Parameters, heights: Tensor, widths: Tensor) -> Tensor | None:
    """The random crop of each image of a batch, float64 N 4: top, left, height, width in pixels.

    `heights` and `widths` (N) are those of the pictures, which may differ. None without
    `crop_area`. Who reads files cuts, resizes and mirrors them; `augment` is then told so.
    """
    if "window" not in rows:
        return None
    return geometry.windows_within(rows["window"], rows["window_place"], heights, widths)


def mirrors(rows: Parameters, num_images: int) -> Tensor:
    """Whether each image of a batch is turned upside down, and left to right: bool N 2."""
    never = torch.zeros(num_images, dtype=torch.bool)
    return torch.stack([rows.get(name, never) for name in ("flip_vertical", "flip")], dim=1)


def augment(
    images: Tensor, settings: Augment, parameters: Parameters, is_placed: bool = False
) -> Tensor:
    """Apply one row of `parameters` to each image of uint8 N C H W, the steps in this order.

    `is_placed`: the images are the `windows` of their pictures and mirrored already. Mixing, which
    needs two images, comes last and is `mix.mixed`.
    """
    rows = parameters
    if not is_placed:
        images = _placed(images, rows)
    if "shift" in rows:
        images = geometry.shift(images, settings.crop, rows["shift"].to(images.device))
    if rows.keys() & {"affine", "operation", "order", "light"}:
        images = _computed(images.float(), settings, rows).to(torch.uint8)
    return _erased(images, rows) if "erase" in rows else images


def _placed(images: Tensor, rows: Parameters) -> Tensor:
    if "window" in rows:
        sides = torch.tensor([images.shape[-2:]]).expand(len(images), 2)
        found = geometry.windows_within(rows["window"], rows["window_place"], *sides.unbind(1))
        images = geometry.enlarge(images, found)
    for name, axis in (("flip", -1), ("flip_vertical", -2)):
        if name in rows:
            images = geometry.mirror(images, rows[name], axis)
    return images


def _computed(images: Tensor, settings: Augment, rows: Parameters) -> Tensor:
    """The steps that compute, on levels in float32."""
    if "affine" in rows:
        images = geometry.affine(images, torch.nn.functional.pad(rows["affine"], (0, 1)))
    if "operation" in rows:
        for operation, level in zip(rows["operation"].T, rows["level"].T, strict=True):
            images = policy.apply(images, settings.policy, operation, level)
    if "order" in rows:
        images = _jitter(images, settings, rows["order"], rows["jitter"])
    return colour.add(images, rows["light"]) if "light" in rows else images


def _jitter(images: Tensor, settings: Augment, orders: Tensor, amounts: Tensor) -> Tensor:
    """Apply what is in use of JITTER to each image, in its own order (N 4)."""
    table = {
        number: function
        for number, (name, function) in enumerate(JITTER.items())
        if getattr(settings, name)
    }
    for numbers in orders.T:
        chosen = amounts.gather(1, numbers[:, None])[:, 0]
        images = policy.by_group(images, numbers, chosen, table)
    return images


def _erased(images: Tensor, rows: Parameters) -> Tensor:
    chosen, device = rows["erase"].nonzero()[:, 0], images.device
    height, width = images.shape[-2:]
    areas, places = rows["erase_area"][chosen], rows["erase_place"][chosen]
    boxes = geometry.rectangles_within(areas, places, height, width).float().to(device)
    black, chosen = geometry.inside(boxes, height, width), chosen.to(device)
    return images.index_copy(0, chosen, images.index_select(0, chosen) * ~black)


def _draw_flips(settings: Augment, seed: int, epoch: int, num_images: int) -> Parameters:
    rows: Parameters = {}
    if settings.flip == "random":
        rows["flip"] = _coin(num_images, generator(seed, "flip", epoch))
    if settings.flip == "alternating":
        # Each image is seen mirrored in every other epoch (Jordan 2024, arXiv:2404.00498, 3.6).
        rows["flip"] = _coin(num_images, generator(seed, "flip", 0)) ^ bool(epoch % 2)
    if settings.flip_vertical:
        rows["flip_vertical"] = _coin(num_images, generator(seed, "flip_vertical", epoch))
    return rows


def _draw_windows(settings: Augment, num_images: int, stream: Streams) -> Parameters:
    rows: Parameters = {}
    if settings.crop_area:
        source = stream("window")
        areas = (settings.crop_area, 1.0)
        rows["window"] = _tries(num_images, areas, geometry.WINDOW_RATIO, source)
        rows["window_place"] = torch.rand(num_images, 2, generator=source)
    if settings.crop:
        size = (num_images, 2)
        rows["shift"] = torch.randint(2 * settings.crop + 1, size, generator=stream("crop"))
    return rows


def _draw_affine(settings: Augment, num_images: int, stream: Streams) -> Parameters:
    """Matrices that give for a place in the result the place in the image."""
    if not settings.rotate and not settings.zoom:
        return {}
    angle = _around(0, math.radians(settings.rotate), num_images, stream("rotate"))
    scale = _around(1, settings.zoom, num_images, stream("zoom"))
    cosine, sine = angle.cos() / scale, angle.sin() / scale
    return {"affine": torch.stack((cosine, sine, -sine, cosine), dim=1).reshape(-1, 2, 2)}


def _draw_policy(settings: Augment, num_images: int, stream: Streams) -> Parameters:
    if settings.policy == "none":
        return {}
    source = stream("policy")
    size = (num_images, policy.SPACES[settings.policy].operations)
    operation = torch.randint(len(policy.OPERATIONS), size, generator=source)
    sign = 1 - 2 * torch.randint(2, size, generator=source)
    lowest, highest = policy.SPACES[settings.policy].levels
    level = torch.randint(lowest, highest + 1, size, generator=source)
    return {"operation": operation, "level": sign * level}


def _draw_colours(settings: Augment, num_images: int, stream: Streams) -> Parameters:
    """Factors from 1 - x, at least 0, to 1 + x; turns from -x to x."""
    if not any(getattr(settings, name) for name in JITTER):
        return {}
    amounts = [
        _between(max(0, 1 - amount), 1 + amount, num_images, stream(name))
        for name, amount in (
            ("brightness", settings.brightness),
            ("contrast", settings.contrast),
            ("saturation", settings.saturation),
        )
    ]
    amounts.append(_around(0, settings.hue, num_images, stream("hue")))
    order = torch.rand(num_images, len(JITTER), generator=stream("order of colours")).argsort(1)
    return {"jitter": torch.stack(amounts, dim=1), "order": order}


def _draw_light(
    settings: Augment, num_images: int, stream: Streams, components: Components | None
) -> Parameters:
    """AlexNet's colour noise, as section 4.1 of the paper of 2012 has it.

    Normal numbers times the eigenvalues, along the eigenvectors. The paper does not give the range
    of its pixels; with 0 to 255 noise of 0.1 would be a thousand levels, so it is [0, 1]. The
    authors' code has roots of eigenvalues instead, on 0 to 255, and divides the image by 1.1.
    """
    if not settings.pca_noise:
        return {}
    assert components is not None, "pca_noise needs the components of the training images"
    size = (num_images, len(components.values))
    normal = torch.randn(size, generator=stream("light"), dtype=torch.float64)
    along = settings.pca_noise * normal * components.values
    return {"light": (colour.WHITE * along @ components.vectors.T).float()}


def _draw_erasing(settings: Augment, num_images: int, stream: Streams) -> Parameters:
    if not settings.erase:
        return {}
    source = stream("erase")
    return {
        "erase": torch.rand(num_images, generator=source) < settings.erase,
        "erase_area": _tries(num_images, geometry.ERASE_AREA, geometry.ERASE_RATIO, source),
        "erase_place": torch.rand(num_images, 2, generator=source),
    }


def _draw_mixing(settings: Augment, seed: int, epoch: int, num_images: int) -> Parameters:
    """With both kinds in use a coin decides for each image."""
    rows: Parameters = {}
    if settings.mixup:
        rows["share"] = _beta(num_images, settings.mixup, mix(seed, "mixup", epoch))
    if settings.cutmix:
        share = _beta(num_images, settings.cutmix, mix(seed, "cutmix", epoch))
        source = generator(seed, "cut", epoch)
        rows["centre"] = torch.rand(num_images, 2, generator=source)
        rows["cut"] = torch.ones(num_images, dtype=torch.bool)
        if settings.mixup:
            rows["cut"] = _coin(num_images, source)
            share = torch.where(rows["cut"], share, rows["share"])
        rows["share"] = share
    return rows


def _coin(num_images: int, source: Generator) -> Tensor:
    return torch.randint(2, (num_images,), generator=source).bool()


def _between(low: float, high: float, num_images: int, source: Generator) -> Tensor:
    return low + (high - low) * torch.rand(num_images, generator=source, dtype=torch.float64)


def _around(middle: float, reach: float, num_images: int, source: Generator) -> Tensor:
    return _between(middle - reach, middle + reach, num_images, source)


def _tries(
    num_images: int, areas: tuple[float, float], ratios: tuple[float, float], source: Generator
) -> Tensor:
    """Shares of an area, uniform, and ratios of sides, log-uniform: float32 N T 2."""
    uniform = torch.rand(num_images, geometry.TRIES, 2, generator=source)
    area = areas[0] + (areas[1] - areas[0]) * uniform[..., 0]
    low, high = math.log(ratios[0]), math.log(ratios[1])
    return torch.stack((area, (low + (high - low) * uniform[..., 1]).exp()), dim=-1)


def _beta(num_images: int, alpha: float, seed: int) -> Tensor:
    # NumPy's, because PyTorch's draws from its global generator only.
    source = np.random.Generator(np.random.Philox(seed))
    return torch.from_numpy(source.beta(alpha, alpha, num_images)).float()
