"""Whether settings, images and network fit each other, before any time is spent on them."""

import math
from collections.abc import Callable

import torch
from torch import nn

from deepcnn import models, probe
from deepcnn.config import Config
from deepcnn.data.augment import check
from deepcnn.data.hardest import num_visited
from deepcnn.data.preprocess import small_side
from deepcnn.data.splits import Splits, load_splits
from deepcnn.device import find_device
from deepcnn.errors import ConfigError
from deepcnn.forecast import process
from deepcnn.forecast.memory import size_of, state_bytes
from deepcnn.models import transfer
from deepcnn.models.pretrained import find_weights, load_pretrained
from deepcnn.models.whitening import whitening_layer
from deepcnn.optim import make_optimizer
from deepcnn.progress import say
from deepcnn.sizes import in_bytes, limit


def trains(config: Config) -> bool:
    """Whether any update is to be made."""
    return config.train.epochs > 0 or config.train.budget > 0


def build(config: Config, splits: Splits) -> nn.Module:
    """The network for these classes, channels and sides, with weights as construction draws."""
    classes, preprocess = len(splits.train.classes), splits.preprocess
    return models.build(config.model.name, classes, preprocess.channels, preprocess.input_size)


def load(config: Config, report: Callable[[str], None] = say) -> Splits:
    """The images of a run whose settings fit them and its network; ConfigError or DataError.

    `report` is told what was decided about pictures in files.
    """
    _check_names(config)
    splits = load_splits(config.data, config.train.seed, report)
    _check_fit(config, splits)
    _check_model(config, splits)
    return splits


def _check_names(config: Config) -> None:
    """Refuse what is not there before any data set is fetched and read."""
    models.find(config.model.name)
    models.check_initializer(config.model.init)
    find_device(config.hardware.device)


def _check_fit(config: Config, splits: Splits) -> None:
    """Refuse batches, random changes and sides that the images do not allow."""
    if config.train.batch_size > len(splits.train):
        raise ConfigError(
            f"train.batch_size is {config.train.batch_size}, but there are only "
            f"{len(splits.train)} training images: choose at most that many"
        )
    if config.train.batch_size > num_visited(len(splits.train), config.train.hardest, epoch=1):
        raise ConfigError(
            f"train.hardest {config.train.hardest} leaves fewer of {len(splits.train)} training "
            f"images than the {config.train.batch_size} of a batch: raise it, or lower "
            "train.batch_size"
        )
    check(config.augment, splits.train.num_channels)
    models.check_input(
        config.model.name,
        len(splits.train.classes),
        splits.train.num_channels,
        splits.preprocess.input_size,
        config.data.pad,
    )


def _check_model(config: Config, splits: Splits) -> None:
    """Refuse, before any time is spent, what the network or the images have not got."""
    with torch.device("meta"):
        model = build(config, splits)
    models.check_initializer(config.model.init, model)
    if config.optim.name == "muon" and all(p.ndim != 4 for p in model.parameters()):
        raise ConfigError(
            f"optim.name muon is for convolutions, and {config.model.name} has none: choose sgd or "
            "adamw"
        )
    _check_small(config, splits, model)
    layer = whitening_layer(model)
    if config.optim.whiten_until < 1 and (layer is None or layer.bias is None):
        raise ConfigError(
            f"optim.whiten_until is for a whitening layer with a bias, which {config.model.name} "
            "has not got: leave it at 1, or choose speedy"
        )
    _check_memory(config, model)
    if config.transfer.freeze:
        transfer.place(model, config.transfer.freeze)
    if config.transfer.probe:
        probe.check(model, len(splits.train.classes))
    goes_by_validation = config.train.keep == "best" or config.train.patience
    if trains(config) and goes_by_validation and not splits.validation:
        raise ConfigError(
            "train.keep best and train.patience go by validation images, but none are held out: "
            "set --data.validation 0.1, or --train.keep last and --train.patience 0"
        )


def _check_small(config: Config, splits: Splits, model: nn.Module) -> None:
    """Refuse small images at first for a network that takes images of one side only."""
    if not config.augment.small_until:
        return
    side, channels = small_side(splits.preprocess.input_size), splits.preprocess.channels
    if not models.runs_on(model, channels, side):
        raise ConfigError(
            f"augment.small_until {config.augment.small_until:g} begins with images of "
            f"{side}x{side} pixels, which {config.model.name} for "
            f"{splits.preprocess.input_size}x{splits.preprocess.input_size} cannot take: set it to "
            "0, or choose a network that ends in a pool over all places, such as compact"
        )


def _check_memory(config: Config, model: nn.Module) -> None:
    """Refuse a limit that leaves no room for the numbers that training keeps of the network."""
    most = limit(config.hardware.memory)
    if most is None or not config.train.epochs:
        return
    with torch.device("meta"):
        optimizer = make_optimizer(config.optim, model)
    weights, state = size_of(model.state_dict().values()), state_bytes(optimizer)
    before = 0 if find_device(config.hardware.device).startswith("cuda") else process.resident()
    needed = before + 2 * weights + state
    if needed > most:
        raise ConfigError(
            f"hardware.memory is {config.hardware.memory}, but before the first image is computed "
            f"{in_bytes(before)} are in use and {config.model.name} takes "
            f"{in_bytes(2 * weights + state)}, gradients and optimiser included: give at least "
            f"{math.ceil(needed / 2**20)}MiB, or choose a smaller network"
        )


def check_weights(config: Config, splits: Splits) -> None:
    """Refuse weights of another network before anything is measured or written."""
    if config.model.weights:
        found = find_weights(config.model.name, config.model.weights)
        load_pretrained(build(config, splits), found)
