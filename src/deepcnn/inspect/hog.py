"""Histograms of oriented gradients: what was given to linear classifiers before features were
learnt. Dalal and Triggs 2005, with the constants that they found best; by scikit-image.
"""

import numpy as np
import torch
from torch import Tensor

from deepcnn.errors import ConfigError

ORIENTATIONS = 9
BLOCK = 2  # cells a side that are normalised together
CELLS = 7  # along a picture: of 4 pixels at 28x28, which knows more there than 8


def hog(pictures: Tensor) -> Tensor:
    """Grey or RGB pictures N C S S, 0 to 1, as their histograms: N D.

    Raises ConfigError where scikit-image is missing.
    """
    try:
        from skimage.feature import hog as of_picture
    except ImportError as error:
        raise ConfigError(
            f"HOG features need scikit-image, which cannot be imported ({error}). Install it "
            "with: pip install 'deepcnn[inspect]'"
        ) from error
    cell = max(1, pictures.shape[-1] // CELLS)
    found = [
        of_picture(
            picture,
            orientations=ORIENTATIONS,
            pixels_per_cell=(cell, cell),
            cells_per_block=(BLOCK, BLOCK),
            channel_axis=0,
        )
        for picture in pictures.cpu().numpy()
    ]
    return torch.from_numpy(np.stack(found)).float()
