"""What sort of layer something is: in the words of the texts."""

from collections.abc import Mapping

from torch import nn

from deepcnn.profile.tally import CONVOLUTION, PRODUCT

# By what a class's name contains. What multiplies with weights is known by its arithmetic instead.
CLASSES = {
    "Norm": "norm", "Pool": "pooling", "Drop": "dropout", "Flatten": "reshaping",
    "Conv": "convolution", "Linear": "dense",
}  # fmt: skip
# By the operation that touches most bytes, where no layer is called.
OPERATIONS = {
    "relu": "activation", "tanh": "activation", "sigmoid": "activation", "gelu": "activation",
    "silu": "activation", "hardswish": "activation", "hardsigmoid": "activation",
    "hardtanh": "activation", "max_pool2d_with_indices": "pooling", "avg_pool2d": "pooling",
    "_adaptive_avg_pool2d": "pooling", "mean": "pooling", "amax": "pooling", "add": "sum",
    "cat": "concatenation", "native_layer_norm": "norm",
}  # fmt: skip


def of_layer(module: nn.Module, flops: Mapping[str, int]) -> str:
    """Of a layer whose arithmetic is known by kind."""
    name = type(module).__name__
    if "Attention" in name:
        return "attention"
    if any(flops.values()):
        return "convolution" if flops.get(CONVOLUTION) else "dense"
    if type(module).__module__.endswith("modules.activation"):
        return "activation"
    return next((kind for part, kind in CLASSES.items() if part in name), "other")


def of_operations(touched: Mapping[str, int], flops: Mapping[str, int]) -> str:
    """Of operations between layers, from the bytes that each touches."""
    if any(flops.values()):
        return "products between layers" if flops.get(PRODUCT) else "convolution"
    most = max(touched, key=lambda name: touched[name])
    return OPERATIONS.get(most.removesuffix("_"), "other")
