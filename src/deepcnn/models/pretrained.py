"""Published weights by name, with what it takes to use them as they were trained.

The files are in the libraries' own caches (`models/cache.py`). timm's are safetensors;
torchvision's are pickles, which are opened as data only.
"""

import math
import os
import pickle
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from torch import Tensor, nn

from deepcnn.errors import ConfigError, look_up
from deepcnn.models import zoo
from deepcnn.models.cache import hub_file, torchvision_file, verify
from deepcnn.models.weights import fill, read

# Networks of this package whose layers are torchvision's by name and shape.
MUSEUM = {
    "alexnet-owt": "alexnet",
    "vgg11": "vgg11",
    "vgg13": "vgg13",
    "vgg16": "vgg16",
    "vgg19": "vgg19",
    "vgg11-bn": "vgg11_bn",
    "vgg13-bn": "vgg13_bn",
    "vgg16-bn": "vgg16_bn",
    "vgg19-bn": "vgg19_bn",
    "googlenet-bn": "googlenet",
    "resnet18": "resnet18",
    "resnet34": "resnet34",
    "resnet50": "resnet50",
    "resnet101": "resnet101",
    "resnet152": "resnet152",
}
DEFAULT = "default"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Pretrained:
    """Weights with all that is needed to use them as they were trained."""

    path: Path  # the file, verified
    model: str
    licence: str
    source: str  # where they come from, for people
    mean: tuple[float, ...]  # of pixels from 0 to 1, by channel
    std: tuple[float, ...]
    side: int  # pixels
    interpolation: Literal["bilinear", "bicubic"]
    crop: float  # share of the short side that the centre crop keeps
    num_classes: int


def find_weights(model: str, weights: str) -> Pretrained:
    """The weights of that name for a network, fetched if they are not on this machine.

    `weights` is a tag of timm's, a name of torchvision's such as IMAGENET1K_V1, the path of a
    safetensors file, or `default` for the library's own choice. With a file, images are prepared as
    the network is published, but with the mean and deviation that the file states. Raises
    ConfigError for unknown names, for weights that cannot be had safely, and where a file is
    neither here nor within reach.
    """
    is_file = weights.endswith(".safetensors") or os.sep in weights
    if not is_file:
        return _published(model, "" if weights == DEFAULT else weights, None)
    file = Path(weights)
    read(file)
    return _as_stated(_published(model, "", file))


def load_pretrained(network: nn.Module, found: Pretrained) -> list[str]:
    """Fill a network with what `find_weights` found; return a sentence for each thing fitted.

    Raises ConfigError as `models.weights.fill` does.
    """
    tensors = _unpickled(found) if found.path.suffix == ".pth" else read(found.path)
    if found.model != "googlenet-bn":
        return fill(network, tensors, found.path)
    kept = {key: tensor for key, tensor in tensors.items() if not key.startswith("aux")}
    notes = ["the auxiliary heads in the file, which are not trained, are left out"]
    return notes * (len(kept) < len(tensors)) + fill(network, kept, found.path)


def _published(model: str, weights: str, file: Path | None) -> Pretrained:
    """The named weights, or `file` with how images are prepared for the default ones."""
    library, _, name = model.rpartition("/")
    if library:
        zoo.landmark(model)  # refuses unknown names
    if library == "timm":
        return _of_timm(model, weights, file)
    if library:
        return _of_torchvision(model, name, weights, file)
    if file:
        return _as_usual(model, file)
    if model not in MUSEUM:
        raise ConfigError(
            f"there are no published weights for {model}; give the path of a .safetensors file, "
            f"or choose one of: {', '.join(MUSEUM)}, torchvision/NAME, timm/NAME"
        )
    return _of_torchvision(model, MUSEUM[model], weights, None)


def _as_stated(found: Pretrained) -> Pretrained:
    """The same with the mean and deviation that the file itself states, if it does.

    They are in its metadata as `mean` and `std`, numbers with commas between.
    """
    with safe_open(found.path, "pt") as file:
        facts = file.metadata() or {}
    if not {"mean", "std"} <= facts.keys():
        return found
    try:
        mean, std = (tuple(map(float, facts[key].split(","))) for key in ("mean", "std"))
    except ValueError:
        mean = std = ()
    if not (mean and len(mean) == len(std) and all(0 < x < math.inf for x in std)
            and all(map(math.isfinite, mean))):  # fmt: skip
        raise ConfigError(
            f"model.weights: the metadata of {found.path} have mean {facts['mean']!r} and std "
            f"{facts['std']!r}, expected a number for each channel, with commas between, such as "
            "0.485,0.456,0.406; write the file anew"
        )
    source = f"{found.source}; mean and deviation as the file states"
    return replace(found, mean=mean, std=std, source=source)


def _as_usual(model: str, file: Path) -> Pretrained:
    return Pretrained(
        path=file,
        model=model,
        licence="not known",
        source=f"{file}, with the mean, deviation, size and crop that are usual for ImageNet",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        side=224,
        interpolation="bilinear",
        crop=0.875,
        num_classes=1000,
    )


def _of_torchvision(model: str, name: str, weights: str, file: Path | None) -> Pretrained:
    member = _member(name, "" if file else weights)
    preset = member.transforms()
    # What torchvision's `transform_input` makes of images normalised as its preset has it.
    by_half = name in zoo.AUXILIARY_WEIGHTS
    licence = member.meta.get("license") or zoo.torchvision_card(name).licence
    return Pretrained(
        path=file or torchvision_file(member.url),
        model=model,
        licence="not known" if file else licence,
        source=f"{file}, prepared for as {member}" if file else f"{member}, {member.url}",
        mean=(0.5,) * 3 if by_half else tuple(preset.mean),
        std=(0.5,) * 3 if by_half else tuple(preset.std),
        side=preset.crop_size[0],
        interpolation=preset.interpolation.value,
        crop=preset.crop_size[0] / preset.resize_size[0],
        num_classes=len(member.meta["categories"]),
    )


def _member(name: str, weights: str) -> Any:
    """The named weights of a network of torchvision, or its default ones.

    Some are of another side than the network is built for here, and some lack dense layers; these
    count as unknown.
    """
    published = zoo.load("torchvision.models").get_model_weights(name).__members__
    sides = zoo.torchvision_sides(name)
    members = {
        key: member
        for key, member in published.items()
        if member.meta["categories"] and member.transforms().crop_size[0] in sides
    }
    default = "DEFAULT" if "DEFAULT" in members else next(iter(members))
    return look_up(f"weights for {name}", weights or default, members)


def _of_timm(model: str, tag: str, file: Path | None) -> Pretrained:
    name = model.removeprefix("timm/")
    if tag and not file:
        name = f"{name.partition('.')[0]}.{tag}"
        zoo.landmark(f"timm/{name}")  # refuses unknown tags
    config = zoo.load("timm").get_pretrained_cfg(name)
    path, address = (file, "") if file else _hub_file(model, config)
    return Pretrained(
        path=path,
        model=model,
        licence="not known" if file else config.license or "not stated",
        source=f"{file}, prepared for as timm's {name}" if file else address,
        mean=tuple(config.mean),
        std=tuple(config.std),
        side=config.input_size[-1],
        interpolation=config.interpolation,
        crop=config.crop_pct,
        num_classes=config.num_classes,
    )


def _hub_file(model: str, config: Any) -> tuple[Path, str]:
    """The file of these weights of timm's, and its address."""
    name = config.hf_hub_filename or "model.safetensors"
    if not config.hf_hub_id or not name.endswith(".safetensors"):
        raise ConfigError(
            f"timm has no weights for {model} as safetensors ({config.url or 'none at all'}), and "
            "others are not opened, because they can run code; choose another network"
        )
    return hub_file(config.hf_hub_id, name)


def _unpickled(found: Pretrained) -> dict[str, Tensor]:
    """The tensors of a file of torchvision's, under the names that its layers have today."""
    verify(found.path)
    with found.path.open("rb") as file:
        mappable = file.read(2) == b"PK"  # not so in files from before 2020
    try:
        # A pickle can run code when it is opened. So it is one whose hash torchvision published,
        # checked just above, and `weights_only` builds nothing but tensors and containers: the hash
        # in the name is too short to keep out somebody who means it.
        state = torch.load(found.path, map_location="cpu", weights_only=True, mmap=mappable)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ConfigError(
            f"model.weights: {found.path} holds other things than weights, or none, and is not "
            "opened; choose other weights"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(x, Tensor) for x in state.values()):
        raise ConfigError(f"model.weights: {found.path} is no state of a network; choose others")
    name = MUSEUM.get(found.model, found.model.removeprefix("torchvision/"))
    return _as_named_today(name, found.num_classes, state)


def _as_named_today(name: str, num_classes: int, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as the library's network holds them once it has loaded an older file."""
    if name.startswith("densenet"):  # names from when they could hold dots
        dots = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(\d)")
        state = {dots.sub(r"\1\2", key): tensor for key, tensor in state.items()}
    with torch.device("meta"):
        network = zoo.build_torchvision(name, num_classes)
    try:
        network.load_state_dict(state, assign=True)
    except (RuntimeError, ValueError):
        return state  # of another network: `fill` says in what it differs
    return network.state_dict()
