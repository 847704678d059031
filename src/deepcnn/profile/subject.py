"""What is profiled: a network by name, or that of a run, and how it computes."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from deepcnn import models, runlog
from deepcnn.choose import choose_policy
from deepcnn.config import Config, Optim
from deepcnn.describe import as_asked
from deepcnn.device import Policy, find_device
from deepcnn.errors import ConfigError, RunError
from deepcnn.report.gather import read_record


@dataclass(frozen=True)
class Subject:
    """A network for images C H W of so many classes, and a batch of them."""

    network: str
    input: tuple[int, int, int]
    num_classes: int
    batch_size: int
    policy: Policy
    optim: Optim

    def build(self) -> nn.Module:
        """The network with weights as it draws them."""
        channels, side, _ = self.input
        return models.build(self.network, self.num_classes, channels, side)

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        return {
            "network": self.network,
            "input": "x".join(map(str, self.input)),
            "classes": self.num_classes,
            "batch_size": self.batch_size,
            "policy": asdict(self.policy),
        }


def of_network(
    name: str,
    shape: tuple[int, int, int] | None,
    num_classes: int | None,
    config: Config,
    cache: Path,
    say: Callable[[str], None] = lambda _: None,
) -> Subject:
    """A network as published, or for other images and classes, which computes as training would.

    Raises ConfigError if there is none of this name, or it does not take such images.
    """
    _, shape, classes = as_asked(name, shape, num_classes)
    channels, side, _ = shape
    _check_device(find_device(config.hardware.device))
    choice = choose_policy(
        config.hardware,
        f"{name} {classes}",
        lambda: models.build(name, classes, channels, side),
        (config.train.batch_size, *shape),
        cache,
        say,
    )
    return Subject(name, shape, classes, config.train.batch_size, choice.policy, config.optim)


def of_run(
    run: Path, shape: tuple[int, int, int] | None, num_classes: int | None, config: Config
) -> Subject:
    """The network of a run, for its images, as it was computed there; `config` is that of the run
    with what has been asked for. RunError where the folder does not tell.
    """
    record = read_record(run)
    policy = runlog.recorded_conditions(run)[0].under(config.hardware)
    _check_device(find_device(policy.device))
    if num_classes is None:
        num_classes = len(record.classes) or None
    if num_classes is None or not (shape or record.input):
        raise RunError(f"{run} does not say what images it takes: give --input and --classes")
    channels, height, width = shape or record.input
    name = config.model.name
    _, checked, classes = as_asked(name, (channels, height, width), num_classes)
    return Subject(name, checked, classes, config.train.batch_size, policy, config.optim)


def _check_device(device: str) -> None:
    if device == "mps":
        raise ConfigError("a profile is measured on cpu or cuda, not on mps: give --device cpu")
