"""Named ways to draw the first weights of a network.

Each takes a model and overwrites, in place and in module order, the weights and biases of every
convolution and linear layer, drawing from torch's global generator. Normalisation layers keep
their scale of 1 and shift of 0. The fans of a convolution count its kernel's elements: fan_in is
in_channels * height * width, fan_out is out_channels * height * width.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial

from torch import nn


def keep_default(model: nn.Module) -> None:
    """Keep what PyTorch drew at construction: all uniform within 1 / sqrt(fan_in)."""


def xavier(model: nn.Module, magnitude: float) -> None:
    """Glorot and Bengio 2010: uniform within sqrt(magnitude / mean(fan_in, fan_out)), biases 0.

    Magnitude 3 is the paper's, and the default of MXNet's `init.Xavier`.
    """
    for layer in weighted_layers(model):
        # PyTorch's bound is gain * sqrt(3 / mean(fan_in, fan_out)).
        nn.init.xavier_uniform_(layer.weight, gain=math.sqrt(magnitude / 3))
        zero_bias(layer)


def he(model: nn.Module) -> None:
    """He et al. 2015: normal with variance 2 / fan_in, biases 0."""
    for layer in weighted_layers(model):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        zero_bias(layer)


def weighted_layers(model: nn.Module) -> Iterator[nn.Conv2d | nn.Linear]:
    """Convolutions and linear layers, in module order."""
    return (layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear))


def zero_bias(layer: nn.Conv2d | nn.Linear) -> None:
    """Set the bias to 0 where there is one."""
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


INITIALIZERS: dict[str, Callable[[nn.Module], None]] = {
    "default": keep_default,
    "xavier": partial(xavier, magnitude=3.0),
    "xavier-2.24": partial(xavier, magnitude=2.24),
    "he": he,
}
