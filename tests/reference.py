"""Layers in plain NumPy, float64, one loop per index of the definition: slow and independent.

Shapes in comments: N images, C channels in, K channels out, H rows, W columns.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def conv2d(images: Array, weight: Array, bias: Array) -> Array:  # N C H W; K C kh kw; K
    num_images, _, height, width = images.shape
    num_out, _, kernel_height, kernel_width = weight.shape
    out = np.empty((num_images, num_out, height - kernel_height + 1, width - kernel_width + 1))
    for n, k, row, column in np.ndindex(*out.shape):
        window = images[n, :, row : row + kernel_height, column : column + kernel_width]
        out[n, k, row, column] = np.sum(window * weight[k]) + bias[k]
    return out


def max_pool2d(images: Array, size: int) -> Array:  # N C H W; the stride is the window's size
    num_images, channels, height, width = images.shape
    out = np.empty((num_images, channels, height // size, width // size))
    for n, c, row, column in np.ndindex(*out.shape):
        top, left = row * size, column * size
        out[n, c, row, column] = images[n, c, top : top + size, left : left + size].max()
    return out


def linear(inputs: Array, weight: Array, bias: Array) -> Array:  # N in; out in; out
    out = np.empty((len(inputs), len(weight)))
    for n, k in np.ndindex(*out.shape):
        out[n, k] = np.sum(inputs[n] * weight[k]) + bias[k]
    return out
