"""The part of the command line that measures the layers of a network: `deepcnn profile`."""

import os
from dataclasses import replace
from json import dumps as to_json
from pathlib import Path
from typing import TYPE_CHECKING

from deepcnn.cli_data import Flag, Settings, write
from deepcnn.config import Config, Train
from deepcnn.errors import RunError
from deepcnn.files import cache_folder
from deepcnn.settings import resolve

if TYPE_CHECKING:
    from deepcnn.profile.subject import Subject

BATCH_SIZE = 32  # of a network, whose batch size nobody has chosen


def profile(
    what: str,
    /,
    *,
    input: str | None = None,  # noqa: A002
    classes: int | None = None,
    batch: str | None = None,
    train: Flag = False,
    device: str | None = None,
    precision: str | None = None,
    json: Flag = False,
    html: Path | None = None,
    settings: Settings,
) -> None:
    """Profile a network layer by layer: what it computes and moves, how long that takes, and how
    much faster this machine could be.

    The bound of a layer is the time of its arithmetic at this machine's peak, or of its bytes at
    the speed of memory. Peaks are measured once. The longest times above bounds come first.
    Settings of hardware and optim can be changed as with `deepcnn train`. Examples:

    deepcnn profile alexnet --train --batch 128
    deepcnn profile timm/resnet18 --input 3x64x64 --classes 10 --html resnet18.html
    deepcnn profile runs/fashion-mnist --train --json

    Parameters
    ----------
    what
        Network, as `deepcnn models` lists them, or run folder.
    input
        Channels, height and width of its images, such as 3x224x224; else as published, or run.
    classes
        Number of classes; else as published, or as in the run.
    batch
        Images of a step; short for --train.batch_size; default 32, or as in the run.
    train
        Profile whole updates: forward, backward and optimiser; else the forward pass of evaluation.
    device
        auto, cpu, cuda or cuda:N; short for --hardware.device.
    precision
        auto, fp32, bf16 or fp16; short for --hardware.precision.
    json
        Print all that was counted and measured as JSON.
    html
        Write a page with all layers and pictures into this file.
    """
    short = {"train.batch_size": batch, "hardware.device": device, "hardware.precision": precision}
    given = {name: value for name, value in short.items() if value is not None}
    subject = _subject(what, input, classes, given | settings)
    from deepcnn.profile.measure import profile
    from deepcnn.profile.words import in_words
    from deepcnn.progress import say

    found = profile(subject, train, cache_folder(), say)
    if html:
        from deepcnn.profile.page import page

        write(html, page(found).encode())
    print(to_json(found.as_dict(), ensure_ascii=False) if json else in_words(found))


def _subject(
    what: str, shape: str | None, classes: int | None, settings: dict[str, str]
) -> "Subject":
    """The network to profile, of that name or of a run."""
    from deepcnn.describe import parse_shape
    from deepcnn.models.zoo import LIBRARIES
    from deepcnn.profile.subject import of_network, of_run
    from deepcnn.progress import say
    from deepcnn.runlog import recorded_config

    wanted, run = parse_shape(shape) if shape else None, Path(what)
    if (run / "config.json").is_file():
        config, _ = resolve(("as begun", recorded_config(run)), None, os.environ, settings)
        return of_run(run, wanted, classes, config)
    if run.exists() or (os.sep in what and what.partition("/")[0] not in LIBRARIES):
        raise RunError(
            f"{what} is no run folder, it has no config.json: give a folder made by `deepcnn "
            "train`, or a network by name"
        )
    plain = replace(Config(), train=Train(batch_size=BATCH_SIZE))
    config, _ = resolve(("profile", plain), None, os.environ, settings)
    return of_network(what, wanted, classes, config, cache_folder(), say)
