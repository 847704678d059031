"""Everything that decides a run, as frozen data that is checked when it is made."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from deepcnn.errors import ConfigError, did_you_mean

Value = bool | int | float | str | tuple[float, ...]


def setting(
    default: Value,
    description: str,
    *,
    choices: tuple[str, ...] = (),
    at_least: float = -math.inf,
    above: float = -math.inf,
    at_most: float = math.inf,
    below: float = math.inf,
) -> Any:
    """Declare one field of the configuration: its default, its help line and its legal range."""
    metadata = {
        "description": description,
        "choices": choices,
        "legal": lambda value: at_least <= value <= at_most and above < value < below,
        "range": _range_in_words(at_least, above, at_most, below),
    }
    return field(default=default, metadata=metadata)


def _range_in_words(at_least: float, above: float, at_most: float, below: float) -> str:
    bounds = (("at least", at_least), ("above", above), ("at most", at_most), ("below", below))
    words = [
        f"{word} {bound:{'.6g' if bound < 1e9 else ',d'}}"
        for word, bound in bounds
        if math.isfinite(bound)
    ]
    return " and ".join(words)


def require_legal(key: str, value: Any, item: Any) -> None:
    """Raise ConfigError unless `value` is in the range of the setting."""
    choices = item.metadata["choices"]
    if choices and value not in choices:
        expected = f"{', '.join(choices)}{did_you_mean(value, choices)}"
        raise ConfigError(f"{key} is {value!r}, expected one of {expected}")
    if isinstance(value, str):
        return
    for number in value if isinstance(value, tuple) else (value,):
        if not item.metadata["legal"](number):
            raise ConfigError(f"{key} is {number}, expected {item.metadata['range']}")


@dataclass(frozen=True)
class Section:
    """A group of settings, checked when it is made."""

    def __post_init__(self) -> None:
        for item in fields(self):
            require_legal(
                f"{type(self).__name__.lower()}.{item.name}", getattr(self, item.name), item
            )


@dataclass(frozen=True)
class Data(Section):
    """What is learnt from, and how a picture becomes numbers."""

    name: str = setting("fashion-mnist", "catalogue name, or a folder in IDX or CIFAR layout")
    root: str = setting("", "folder to look for data sets in first")
    validation: int = setting(
        5_000, "training images held out, by class, for decisions; 0: none", at_least=0
    )
    size: int = setting(
        0, "side in pixels that images are resized to; 0: their own", at_least=0, at_most=4_096
    )
    pad: int = setting(
        0, "pixels of background added on every side after resizing", at_least=0, at_most=512
    )
    pixels: str = setting(
        "standardized",
        "scale: mean 0 and deviation 1 by channel, [0, 1], or [0, 255]",
        choices=("standardized", "unit", "raw"),
    )


@dataclass(frozen=True)
class Model(Section):
    """The network and its first weights."""

    name: str = setting("compact", "network; `deepcnn models` lists them")
    init: str = setting("default", "initialiser of convolutions and linear layers")
    weights: str = setting("", "safetensors file to begin with, for this network; none: drawn")


@dataclass(frozen=True)
class Augment(Section):
    """Random changes to training images, drawn anew for each image in each epoch."""

    flip: str = setting(
        "none",
        "mirror left-right: at random, or every image in every other epoch",
        choices=("none", "random", "alternating"),
    )
    crop: int = setting(
        0, "pixels of background put around an image before a random crop", at_least=0, at_most=64
    )


@dataclass(frozen=True)
class Optim(Section):
    """The update rule and the course of the learning rate."""

    name: str = setting("sgd", "update rule", choices=("sgd", "adamw"))
    lr: float = setting(0.1, "highest learning rate", above=0, at_most=1e6)
    momentum: float = setting(0.9, "momentum of SGD", at_least=0, below=1)
    nesterov: bool = setting(False, "Nesterov's form of SGD's momentum")
    weight_decay: float = setting(0.0, "L2 penalty; not on norms and biases", at_least=0)
    l1: float = setting(0.0, "L1 penalty; not on norms and biases", at_least=0)
    schedule: str = setting(
        "constant",
        "learning rate over the run, after warm-up",
        choices=("constant", "step", "cosine", "triangular"),
    )
    warmup: float = setting(
        0.0, "share of the run over which the rate rises from 0", at_least=0, below=1
    )
    milestones: tuple[float, ...] = setting(
        (), "shares of the run at which schedule `step` divides the rate by 10", above=0, below=1
    )
    clip_norm: float = setting(0.0, "largest gradient norm; 0: any", at_least=0)


@dataclass(frozen=True)
class Train(Section):
    """How long, in which portions, and what is kept."""

    epochs: int = setting(10, "passes over the training set", at_least=1, at_most=100_000)
    batch_size: int = setting(128, "images per update", at_least=1)
    accumulate: int = setting(
        1, "pieces that a batch is computed in, to save memory; same update", at_least=1
    )
    drop_last: bool = setting(False, "leave out the last, smaller batch of an epoch")
    label_smoothing: float = setting(
        0.0, "share of the target spread over all classes", at_least=0, below=1
    )
    ema: float = setting(
        0.0,
        "decay per update of averaged weights, used for the final model; 0: off",
        at_least=0,
        below=1,
    )
    test_each_epoch: bool = setting(
        False, "measure test accuracy after each epoch, as the texts do (else once, at the end)"
    )
    seed: int = setting(0, "decides weights, order, augmentation", at_least=0, at_most=2**63 - 1)
    checkpoint_seconds: float = setting(
        60.0, "longest time between checkpoints; 0: one after every update", at_least=0
    )


@dataclass(frozen=True)
class Hardware(Section):
    """What the arithmetic runs on; `auto` measures and records its choice."""

    device: str = setting("auto", "auto, cpu, cuda, cuda:N or mps")
    precision: str = setting(
        "auto", "number format of products", choices=("auto", "fp32", "bf16", "fp16")
    )
    layout: str = setting(
        "auto", "order of images in memory", choices=("auto", "contiguous", "channels_last")
    )
    threads: int = setting(0, "threads of the CPU; 0: measured", at_least=0, at_most=4_096)


@dataclass(frozen=True)
class Config:
    """A whole run. The same `Config` on the same build and hardware gives the same bits."""

    data: Data = Data()
    model: Model = Model()
    augment: Augment = Augment()
    optim: Optim = Optim()
    train: Train = Train()
    hardware: Hardware = Hardware()

    def __post_init__(self) -> None:
        if self.optim.nesterov and not self.optim.momentum:
            raise ConfigError("optim.nesterov needs momentum: set optim.momentum above 0")
        if self.optim.milestones and self.optim.schedule != "step":
            raise ConfigError(
                f"optim.milestones belongs to optim.schedule step, not {self.optim.schedule}: "
                "set --optim.schedule step or leave the milestones out"
            )
        if self.train.accumulate > self.train.batch_size:
            raise ConfigError(
                f"train.accumulate is {self.train.accumulate}, more than the "
                f"{self.train.batch_size} images of a batch: lower it or raise train.batch_size"
            )


SECTIONS: dict[str, type[Section]] = {
    "data": Data,
    "model": Model,
    "augment": Augment,
    "optim": Optim,
    "train": Train,
    "hardware": Hardware,
}


# Every setting under its full name, such as `optim.lr`.
SETTINGS: dict[str, Any] = {
    f"{section}.{item.name}": item for section, kind in SECTIONS.items() for item in fields(kind)
}


def flat(config: Config) -> dict[str, Value]:
    """All settings under their full names, such as `optim.lr`."""
    return {
        f"{section}.{name}": value
        for section, values in asdict(config).items()
        for name, value in values.items()
    }


def descriptions() -> Iterator[tuple[str, str, str]]:
    """(full name, what is legal, help line) of every setting."""
    for name, item in SETTINGS.items():
        legal = " | ".join(item.metadata["choices"]) or item.metadata["range"]
        yield name, legal, item.metadata["description"]
