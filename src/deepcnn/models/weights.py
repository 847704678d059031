"""Weights from a file into a network, fitted to other channels and classes.

Files are safetensors, which hold numbers and nothing that is executed.
"""

from collections.abc import Iterable
from pathlib import Path

import safetensors.torch
from torch import Tensor, nn

from deepcnn.errors import ConfigError

SHOWN = 10  # keys of each kind in a message


def load_weights(model: nn.Module, path: Path) -> list[str]:
    """Fill a model from a safetensors file; return a sentence for each thing that had to be fitted.

    A first convolution for other input channels is fitted by `fit_channels`. A last layer for
    another number of classes keeps the weights it has. Raises ConfigError for a file that cannot
    be read and, with the first keys of each kind, for one that belongs to another network.
    """
    tensors, own, notes = read(path), model.state_dict(), []
    first, last = _ends(model)
    key = f"{first}.weight"
    if first and key in tensors and _differ_only_at(1, tensors[key], own[key]):
        notes.append(
            f"{key} was made for {tensors[key].shape[1]} channels and is fitted to "
            f"{own[key].shape[1]}"
        )
        tensors[key] = fit_channels(tensors[key], own[key].shape[1])
    for key in (f"{last}.weight", f"{last}.bias"):
        if last and key in tensors and key in own and _differ_only_at(0, tensors[key], own[key]):
            notes.append(
                f"{key} was made for {len(tensors[key])} classes and begins anew for "
                f"{len(own[key])}"
            )
            tensors[key] = own[key]
    _require_same_keys(path, tensors, own)
    model.load_state_dict({**_counters(own), **tensors})
    return notes


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; ConfigError if it is none."""
    if not path.is_file():
        raise ConfigError(f"model.weights: {path} is no file; give a .safetensors file")
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise ConfigError(
            f"model.weights: {path} cannot be read as safetensors ({error}). Files of torch.save "
            "are not opened, because they can run code; convert them where you trust them: "
            "safetensors.torch.save_file(torch.load(FILE, weights_only=True), NEW_FILE)"
        ) from error


def fit_channels(weight: Tensor, channels: int) -> Tensor:
    """A first convolution's weight, out x in x height x width, for another number of channels.

    For one channel the sum over the old ones, which gives what the old weight gave for a grey
    picture in every channel. For other numbers the old channels over and over, scaled by old / new:
    for a multiple of the old number, equal channels again give the same.
    """
    old = weight.shape[1]
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    repeated = weight.repeat(1, -(-channels // old), 1, 1)[:, :channels]
    return repeated * (old / channels)


def _ends(model: nn.Module) -> tuple[str, str]:
    """Names of the first convolution and the last dense layer, or convolution, of a network."""
    layers = [
        (name, layer)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    first = next((name for name, layer in layers if isinstance(layer, nn.Conv2d)), "")
    return first, layers[-1][0] if layers else ""


def _differ_only_at(dimension: int, one: Tensor, other: Tensor) -> bool:
    if one.dim() != other.dim() or one.shape == other.shape:
        return False
    same = [a == b for a, b in zip(one.shape, other.shape, strict=True)]
    return not same.pop(dimension) and all(same)


def _counters(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What old files lack and evaluation does not need: how many batches a norm has seen."""
    return {key: value for key, value in state.items() if key.endswith("num_batches_tracked")}


def _require_same_keys(path: Path, found: dict[str, Tensor], own: dict[str, Tensor]) -> None:
    missing = own.keys() - found.keys() - _counters(own).keys()
    unexpected = found.keys() - own.keys()
    shapes = [
        f"{key} {tuple(found[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in found and found[key].shape != own[key].shape
    ]
    problems = [
        _some(words, keys)
        for words, keys in (
            ("missing", [key for key in own if key in missing]),
            ("unexpected", [key for key in found if key in unexpected]),
            ("of another shape", shapes),
        )
        if keys
    ]
    if problems:
        raise ConfigError(
            f"model.weights: {path} belongs to another network: {'; '.join(problems)}. Choose the "
            "network it was made for with --model.name"
        )


def _some(words: str, keys: Iterable[str]) -> str:
    keys = list(keys)
    more = f", and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return f"{len(keys)} {words} ({', '.join(keys[:SHOWN])}{more})"
