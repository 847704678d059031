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

    Fits as `fill` does; raises ConfigError also for a file that cannot be read.
    """
    return fill(model, read(path), path)


def fill(model: nn.Module, tensors: dict[str, Tensor], path: Path) -> list[str]:
    """Fill a model with the tensors of `path`; return a sentence for each that had to be fitted.

    A first convolution for other input channels is fitted by `fit_channels`. A last layer for
    another number of classes, or one that the file lacks, keeps the weights it has; so do auxiliary
    heads for another number. Raises ConfigError, with the model as it was, for numbers that are
    not finite and, with the first keys of each kind, for tensors of another network.
    """
    _require_finite(path, tensors)
    fitted, own, notes = dict(tensors), model.state_dict(), []
    first, last = ends(model)
    key = f"{first}.weight"
    if first and key in fitted and _differ_only_at(1, fitted[key], own[key]):
        notes.append(
            f"{key} was made for {fitted[key].shape[1]} channels and is fitted to "
            f"{own[key].shape[1]}"
        )
        fitted[key] = fit_channels(fitted[key], own[key].shape[1])
    for key in _for_other_classes(last, fitted, own):
        notes.append(
            f"{key} was made for {len(fitted[key])} classes and begins anew for {len(own[key])}"
        )
        fitted[key] = own[key]
    head = [key for key in (f"{last}.weight", f"{last}.bias") if key in own]
    if head and own.keys() - fitted.keys() - _counters(own).keys() == set(head):
        notes.append(f"{path.name} has no {' and '.join(head)}: the last layer begins anew")
        fitted |= {key: own[key] for key in head}
    _require_same_keys(path, fitted, own)
    # The model's own dictionary carries the versions of its layers, without which some are refused.
    own.update(fitted)
    model.load_state_dict(own)
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


def ends(model: nn.Module) -> tuple[str, str]:
    """Names of the first convolution and the last dense layer, or convolution, of a network.

    A network with auxiliary heads has its own last layer at the top and those of the heads below.
    """
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    }
    first = next((name for name, layer in layers.items() if isinstance(layer, nn.Conv2d)), "")
    own = [name for name in layers if not (hasattr(model, "auxiliary_weight") and "." in name)]
    return first, own[-1] if own else ""


def _for_other_classes(last: str, found: dict[str, Tensor], own: dict[str, Tensor]) -> list[str]:
    """Keys of the last layers, auxiliary ones too, if the file's are for other classes."""
    key = f"{last}.weight"
    if key not in found or key not in own:
        return []
    classes = (len(found[key]), len(own[key]))
    return [
        key
        for key in own
        if key in found
        and _differ_only_at(0, found[key], own[key])
        and (len(found[key]), len(own[key])) == classes
    ]


def _require_finite(path: Path, tensors: dict[str, Tensor]) -> None:
    for key, tensor in tensors.items():
        if not tensor.float().isfinite().all():
            raise ConfigError(
                f"model.weights: {path} holds numbers in {key} that are infinite or not numbers at "
                "all, as a training that failed leaves them, or a file without this part; choose "
                "other weights"
            )


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
