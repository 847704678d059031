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


def average_pool2d(images: Array, size: int) -> Array:  # N C H W; the stride is the window's size
    num_images, channels, height, width = images.shape
    out = np.empty((num_images, channels, height // size, width // size))
    for n, c, row, column in np.ndindex(*out.shape):
        top, left = row * size, column * size
        window = images[n, c, top : top + size, left : left + size]
        out[n, c, row, column] = np.sum(window) / size**2
    return out


def subsample2d(images: Array, coefficient: Array, bias: Array) -> Array:  # N C H W; C; C
    """LeCun et al. 1998, II-B: four inputs added, times a coefficient, plus a bias."""
    num_images, channels, height, width = images.shape
    out = np.empty((num_images, channels, height // 2, width // 2))
    for n, c, row, column in np.ndindex(*out.shape):
        top, left = 2 * row, 2 * column
        total = images[n, c, top, left] + images[n, c, top, left + 1]
        total += images[n, c, top + 1, left] + images[n, c, top + 1, left + 1]
        out[n, c, row, column] = coefficient[c] * total + bias[c]
    return out


def rbf(inputs: Array, prototypes: Array) -> Array:  # N in; K in
    """LeCun et al. 1998, equation 7."""
    out = np.empty((len(inputs), len(prototypes)))
    for n, k in np.ndindex(*out.shape):
        out[n, k] = np.sum((inputs[n] - prototypes[k]) ** 2)
    return out


def batch_moments(images: Array) -> tuple[Array, Array]:  # N C H W
    """Mean and biased variance of each channel over a minibatch."""
    count = len(images) * images.shape[2] * images.shape[3]
    mean, variance = np.empty((2, images.shape[1]))
    for c in range(images.shape[1]):
        mean[c] = np.sum(images[:, c]) / count
        variance[c] = np.sum((images[:, c] - mean[c]) ** 2) / count
    return mean, variance


def batch_norm2d(
    images: Array, mean: Array, variance: Array, scale: Array, offset: Array, epsilon: float
) -> Array:  # N C H W; the rest C
    """Ioffe and Szegedy 2015, algorithm 1: epsilon is added to the variance, under the root."""
    out = np.empty(images.shape)
    for c in range(images.shape[1]):
        normalised = (images[:, c] - mean[c]) / np.sqrt(variance[c] + epsilon)
        out[:, c] = scale[c] * normalised + offset[c]
    return out


def local_response_norm(images: Array, size: int, alpha: float, beta: float, k: float) -> Array:
    """Krizhevsky et al. 2012, section 3.3: the sum runs over maps i - n/2 to i + n/2."""
    num_maps, reach = images.shape[1], size // 2
    out = np.empty(images.shape)
    for n, i, row, column in np.ndindex(*images.shape):
        total = 0.0
        for j in range(max(0, i - reach), min(num_maps - 1, i + reach) + 1):
            total += images[n, j, row, column] ** 2
        out[n, i, row, column] = images[n, i, row, column] / (k + alpha * total) ** beta
    return out
