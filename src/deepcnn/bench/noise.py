"""Images whose loading and training is timed."""

import numpy as np

from deepcnn.data.images import ImageSet


def noise(number: int, channels: int, side: int, classes: int) -> ImageSet:
    """Random pixels and labels, always the same: what images show has no effect on the time."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (number, channels, side, side), dtype=np.uint8)
    labels = generator.integers(0, classes, number)
    return ImageSet("noise", pixels, labels, tuple(map(str, range(classes))))
