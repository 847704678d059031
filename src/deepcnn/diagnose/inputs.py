"""What the network gets to see: scale, channels, contrast."""

from collections.abc import Iterator
from itertools import permutations

import torch
from torch import Tensor

from deepcnn.data.images import ImageSet
from deepcnn.data.loader import Batch, source
from deepcnn.data.order import order
from deepcnn.data.preprocess import Preprocess
from deepcnn.data.splits import Splits
from deepcnn.diagnose.findings import Finding

LOOKED_AT = 512  # images of a split
LEAST_SPREAD = 2 / 255  # what is left of a plain picture saved as JPEG: as in data.symptoms
# Standardised pixels deviate by 1 and those in [0, 1] by 0.1 (dark photos) to 0.35 (Fashion-MNIST);
# in [0, 255] they deviate by 25 to 90, and divided by 255 once too often by 0.0004 to 0.0014.
LEAST_DEVIATION, MOST = 0.02, 10.0
# Means of channels, in [0, 1]: red and blue of natural images are 0.04 to 0.08 apart (CIFAR-10
# 0.491 and 0.447, ImageNet 0.485 and 0.406), so swapped they are off by 0.06 to 0.11 in length.
APART, FITS = 0.03, 1 / 3


def some(images: ImageSet, preprocess: Preprocess, number: int = LOOKED_AT) -> Batch:
    """Images drawn from a set as a network gets them, on the CPU."""
    chosen = order(0, 0, len(images))[:number]
    few = images.subset(chosen.numpy(), images.name)
    return source(few, preprocess, torch.device("cpu")).batch(torch.arange(len(few)))


def check_inputs(pixels: Tensor, preprocess: Preprocess) -> Iterator[Finding]:
    """Look at the scale of images N C H W, and at whether there is anything to see on them."""
    values = pixels.transpose(0, 1).flatten(1)  # C, N * H * W
    mean, deviation = values.mean(1), values.std(1)
    measured = f"mean {_listed(mean)}, deviation {_listed(deviation)} by channel"
    if not values.isfinite().all():
        yield Finding("non-finite", f"the network's input: {measured}")
        return
    seen = deviation * torch.tensor(preprocess.std)
    plain = (seen < LEAST_SPREAD).nonzero().flatten().tolist()
    alike = float((pixels - pixels[:1]).abs().max())
    if plain:
        yield Finding("input-constant", f"channel {_listed(plain)} of {len(values)}; {measured}")
    elif len(pixels) > 1 and alike == 0:
        yield Finding("input-constant", f"{len(pixels)} images are all equal; {measured}")
    elif deviation.min() < LEAST_DEVIATION or deviation.max() > MOST or mean.abs().max() > MOST:
        yield Finding("input-scale", measured)


def check_channels(splits: Splits, train: Tensor) -> Iterator[Finding]:
    """Compare the order of channels with that of the statistics in use, and of test images."""
    if train.shape[1] != 3:
        return
    preprocess = splits.preprocess
    mean = _pixel_means(train, preprocess)
    test = _pixel_means(some(splits.test, preprocess).images, preprocess)
    for what, other in (("of test images", test), ("in data.mean", torch.tensor(preprocess.mean))):
        if other.any() and _is_swapped(mean, other):
            measured = f"means of channels {_listed(mean)} of training images, {_listed(other)}"
            yield Finding("channels-swapped", f"{measured} {what}")


def _pixel_means(pixels: Tensor, preprocess: Preprocess) -> Tensor:
    """Means of channels before normalisation, in [0, 1]."""
    return pixels.mean((0, 2, 3)) * torch.tensor(preprocess.std) + torch.tensor(preprocess.mean)


def _is_swapped(mean: Tensor, other: Tensor) -> bool:
    """Whether means agree in another order of channels far better than in theirs; brightness, in
    which sets differ more than in colour, does not count.
    """
    mean, other = mean - mean.mean(), other - other.mean()
    misfits = [float((mean[list(each)] - other).norm()) for each in permutations(range(3))]
    return misfits[0] > APART and min(misfits) < FITS * misfits[0]


def _listed(numbers: Tensor | list[int]) -> str:
    return ", ".join(f"{number:.3g}" for number in list(numbers))
