"""Named ways to draw the first weights of a network.

Each takes a model, and some a batch of images, and overwrites, in place and in module order, the
weights and biases of every convolution and linear layer, drawing from torch's global generator.
Normalisation layers keep their scale of 1 and shift of 0. The fans of a convolution count its
kernel's elements: fan_in is in_channels * height * width, fan_out is out_channels * height * width.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from deepcnn.models.whitening import whitening_layer


def keep_default(model: nn.Module) -> None:
    """Keep what construction drew: as the network's source says, else PyTorch's default, which is
    uniform within 1 / sqrt(fan_in).
    """


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


def glorot_normal(model: nn.Module) -> None:
    """Glorot and Bengio 2010, as a normal distribution: variance 1 / mean(fan_in, fan_out)."""
    for layer in weighted_layers(model):
        nn.init.xavier_normal_(layer.weight)
        zero_bias(layer)


def alexnet(model: nn.Module, **deviations: float) -> None:
    """Krizhevsky et al. 2012, section 5: normal, deviation 0.01 or as given for a layer; biases
    1 in the second, fourth and fifth convolution and the hidden dense layers, by their names there,
    and 0 elsewhere.
    """
    ones = ("conv2", "conv4", "conv5", "dense6", "dense7")
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.weight, std=deviations.get(name, 0.01))
            zero_bias(layer)
            if layer.bias is not None and name in ones:
                nn.init.ones_(layer.bias)


def orthogonal(model: nn.Module) -> None:
    """Saxe et al. 2014: orthonormal rows or columns, a kernel seen as out_channels x the rest."""
    for layer in weighted_layers(model):
        nn.init.orthogonal_(layer.weight)
        zero_bias(layer)


def unit_variance(model: nn.Module, images: Tensor) -> None:
    """Mishkin and Matas 2016: orthogonal, then each layer scaled until the variance of its output
    on `images` N C H W is 1, from the first layer to the last.

    Biases are 0, so one division is exact. Dropout is off; statistics of batch norms are forgotten.
    """
    orthogonal(model)

    def rescale(layer: nn.Conv2d | nn.Linear, _: object, output: Tensor) -> Tensor:
        deviation = output.std()
        if not deviation > 0:  # nothing arrives here, so nothing can be scaled
            return output
        layer.weight.div_(deviation)
        return output / deviation

    hooks = [layer.register_forward_hook(rescale) for layer in weighted_layers(model)]
    was_training = model.training
    try:
        model.train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.eval()
        with torch.no_grad():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.reset_running_stats()
    model.train(was_training)


def whitened(model: nn.Module, images: Tensor) -> None:
    """Keep what construction drew, and set the whitening layer from `images` N C H W."""
    layer = whitening_layer(model)
    assert layer is not None
    layer.fit(images)


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
    "glorot": partial(xavier, magnitude=3.0),
    "glorot-normal": glorot_normal,
    "he": he,
    "alexnet": alexnet,
    "orthogonal": orthogonal,
}
BY_DATA: dict[str, Callable[[nn.Module, Tensor], None]] = {
    "unit-variance": unit_variance,
    "whitened": whitened,
}
