"""What this machine can do at best: products, convolutions, copies."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from deepcnn.bench.clock import best
from deepcnn.device import DTYPES

CONVOLUTION = (128, 256, 384, 12)  # images, channels in and out, side: AlexNet's third, 3x3
PRODUCT = 2048  # side of the square matrices
COPY_BYTES = 1 << 28  # 256 MiB, more than any cache holds

Peaks = dict[str, dict[str, float]]  # number format: what was computed: GFLOP/s


def measured_peak(device: str = "cpu", formats: Iterable[str] = ("bf16", "fp32")) -> Peaks:
    """The highest GFLOP/s this machine reaches, by number format.

    `convolution` is the better of a convolution's forward pass and its backward pass (gradients
    of images and weights), `product` that of square matrices.
    """
    return {name: _peak(device, DTYPES[name]) for name in formats}


def higher(first: Peaks, second: Peaks) -> Peaks:
    """The better of two measurements of the peaks, number by number."""
    return {
        name: {what: max(value, second[name][what]) for what, value in values.items()}
        for name, values in first.items()
    }


def _peak(device: str, dtype: torch.dtype) -> dict[str, float]:
    forward, backward = _convolution_peak(device, dtype)
    matrix = torch.rand(PRODUCT, PRODUCT, device=device).to(dtype)
    return {
        "convolution": max(forward, backward),
        "convolution_forward": forward,
        "convolution_backward": backward,
        "product": 2 * PRODUCT**3 / best(lambda: matrix @ matrix) / 1e9,
    }


def convolution_forward(device: str, dtype: torch.dtype, repeats: int) -> float:
    """GFLOP/s of a convolution's forward pass, the best of so many."""
    images, weight, work = _convolution(device, dtype)
    return work / best(lambda: F.conv2d(images, weight, padding=1), repeats)


def _convolution_peak(device: str, dtype: torch.dtype) -> tuple[float, float]:
    images, weight, work = _convolution(device, dtype)
    output = F.conv2d(images.requires_grad_(), weight.requires_grad_(), padding=1)
    gradient = torch.rand_like(output)

    def backward() -> object:
        return torch.autograd.grad(output, (images, weight), gradient, retain_graph=True)

    seconds = best(lambda: F.conv2d(images, weight, padding=1))
    return work / seconds, 2 * work / best(backward)


def _convolution(device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, float]:
    """Images and weights, and the GFLOP of the forward pass."""
    number, inside, outside, side = CONVOLUTION
    layout: dict[str, Any] = {"device": device, "memory_format": torch.channels_last}
    images = torch.rand(number, inside, side, side).to(dtype=dtype, **layout)
    weight = torch.rand(outside, inside, 3, 3).to(dtype=dtype, **layout)
    return images, weight, 2 * number * outside * inside * 9 * side**2 / 1e9


def measured_copy(device: str = "cpu") -> float:
    """GB/s that this machine writes when it copies memory (it reads as many)."""
    source = torch.rand(COPY_BYTES // 4, device=device)
    target = torch.empty_like(source)
    return COPY_BYTES / best(lambda: target.copy_(source)) / 1e9
