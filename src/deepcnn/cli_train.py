"""The part of the command line that trains: `deepcnn train` and `deepcnn finetune`."""

import os
import shlex
import shutil
import sys
from json import dumps as to_json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from deepcnn.budget import command_start, seconds
from deepcnn.cli_data import Flag, Settings
from deepcnn.config import Config
from deepcnn.errors import ConfigError, Interrupted, look_up
from deepcnn.files import cache_folder
from deepcnn.recipes import RECIPES
from deepcnn.settings import resolve, to_toml

# Options that both commands have.
Seed = Annotated[str | None, Parameter(help="Short for --train.seed.")]
Budget = Annotated[
    str | None,
    Parameter(
        help="Time for the whole command, such as 90s, 10m or 1.5h: it trains as long as leaves "
        "time for evaluation, model and report. Short for --train.budget SECONDS."
    ),
]
Live = Annotated[
    Flag,
    Parameter(help="Write RUN/report.html anew after each epoch; a browser that shows it follows."),
]
PrintConfig = Annotated[
    Flag, Parameter(help="Print the settings, with where each comes from, and stop.")
]
AcceptChange = Annotated[
    Flag,
    Parameter(help="Continue a run although its settings, data or machine are not what they were."),
]
Json = Annotated[Flag, Parameter(help="Print the result as JSON.")]
# Options of `finetune`.
Pictures = Annotated[str, Parameter(help="Folder or CSV file of pictures.")]
Pretrained = Annotated[
    str,
    Parameter(help="Network that has weights. `deepcnn models` lists those of this package."),
]
Weights = Annotated[
    str,
    Parameter(
        help="A file, or a name such as IMAGENET1K_V1; `default` is the library's own choice."
    ),
]
ProbeOnly = Annotated[Flag, Parameter(help="Fit the last layer only, in seconds.")]
Freeze = Annotated[
    str | None,
    Parameter(
        help="Stage before which nothing trains; head, the default, stands for the last layer."
    ),
]
UnfreezeAt = Annotated[
    str | None,
    Parameter(
        help="Share of the run by which all stages train, one after another from the last; "
        "0: never."
    ),
]
ClassWeights = Annotated[
    Flag, Parameter(help="Count each class alike, however few pictures it has.")
]
FinetuneOut = Annotated[Path | None, Parameter(help="Run folder; default runs/finetune-DATA.")]


def train(
    recipe: str = "fashion-mnist",
    /,
    *,
    data: str | None = None,
    out: Path | None = None,
    config: Path | None = None,
    device: str | None = None,
    precision: str | None = None,
    device_policy: str | None = None,
    seed: Seed = None,
    budget: Budget = None,
    overfit: int | None = None,
    live: Live = False,
    print_config: PrintConfig = False,
    accept_change: AcceptChange = False,
    json: Json = False,
    settings: Settings,
) -> int:
    """Train a network; repeat the command to continue a run that was stopped, however it was.

    Any setting can be changed by --section.field VALUE; `deepcnn settings` explains them. Examples:

    deepcnn train lenet-mnist --live --out runs/first --train.epochs 3
    deepcnn train --data FOLDER --model.name lenet --data.pad 2
    deepcnn train fashion-mnist --budget 10m
    deepcnn train lenet-mnist --overfit 50

    Parameters
    ----------
    recipe
        Where to start from; `deepcnn recipes` lists them.
    data
        Data set by name (`deepcnn data list`) or folder; short for --data.name.
    out
        Run folder; default runs/RECIPE.
    config
        TOML file of settings, as --print-config writes it.
    device
        auto, cpu, cuda, cuda:N or mps; short for --hardware.device.
    precision
        auto, fp32, bf16 or fp16; short for --hardware.precision.
    device_policy
        measured, or off: plain fp32 unless set otherwise; short for --hardware.policy.
    overfit
        Only learn so many images by heart, such as 50, and write nothing; 1 if it cannot.
    """
    short = {
        "data.name": data,
        "hardware.device": device,
        "hardware.precision": precision,
        "hardware.policy": device_policy,
        "train.seed": seed,
        "train.budget": _in_seconds(budget),
    }
    resolution = resolve(_named(recipe), config, os.environ, _given(short) | settings)
    if overfit is not None and not print_config:
        return _overfit(resolution[0], overfit, out, json)
    return _fit(resolution, out or Path("runs") / recipe, print_config, accept_change, live, json)


def finetune(
    data: Pictures,
    /,
    *,
    model: Pretrained = "timm/mobilenetv2_100",
    weights: Weights = "default",
    probe_only: ProbeOnly = False,
    freeze: Freeze = None,
    unfreeze_at: UnfreezeAt = None,
    class_weights: ClassWeights = False,
    seed: Seed = None,
    budget: Budget = None,
    out: FinetuneOut = None,
    live: Live = False,
    print_config: PrintConfig = False,
    accept_change: AcceptChange = False,
    json: Json = False,
    settings: Settings,
) -> None:
    """Fit a pretrained network to your own pictures; repeat the command to continue a run.

    DATA is a folder with a folder of pictures for each class, or with such
    folders in train, val and test; or a CSV file with the columns path and
    label. With fewer than 500 pictures only the last layer is fitted, which is
    soon done and hard to beat; --train.epochs 5 tunes all of it, and so does
    --budget, and the better of both on pictures held out is kept. Any setting
    can be changed as with `deepcnn train`. Examples:

    deepcnn finetune photos
    deepcnn finetune photos --model torchvision/resnet18
    deepcnn finetune photos --model timm/mobilenetv2_100 --weights FILE.safetensors
    deepcnn finetune photos --probe-only --seed 1
    deepcnn finetune photos --budget 10m
    """
    from deepcnn.runlog import is_begun, recorded_config

    if probe_only and budget:
        raise ConfigError(
            "--probe-only makes no updates that a --budget could be for: leave one out"
        )
    short = {
        "transfer.freeze": freeze,
        "transfer.unfreeze_at": unfreeze_at,
        "train.class_weights": "true" if class_weights else None,
        "train.epochs": "0" if probe_only else None,
        "train.seed": seed,
        "train.budget": _in_seconds(budget),
    }
    folder = out or Path("runs") / f"finetune-{Path(data).resolve().name.removesuffix('.csv')}"
    if is_begun(folder):  # then the weights have been read, and may be gone
        base = ("as begun", recorded_config(folder))
        short |= {"data.name": data, "model.name": model, "model.weights": weights}
    else:
        base = _to_finetune(data, model, weights, _given(short) | settings)
    resolution = resolve(base, None, os.environ, _given(short) | settings)
    _fit(resolution, folder, print_config, accept_change, live, json)


def _named(recipe: str) -> tuple[str, Config]:
    """The settings of a recipe, with its name."""
    return recipe, look_up("recipe", recipe, RECIPES)()


def _to_finetune(data: str, model: str, weights: str, given: dict[str, str]) -> tuple[str, Config]:
    """The settings to fine-tune with: others, where few pictures are to be learnt from in updates,
    which somebody asks for.
    """
    from deepcnn.finetune import plan, with_updates

    config = plan(data, model, weights)
    asked = resolve(("finetune", config), None, os.environ, given)[0].train
    needs_updates = not config.train.epochs and (asked.epochs or asked.budget)
    return "finetune", with_updates(config) if needs_updates else config


def _in_seconds(budget: str | None) -> str | None:
    """A budget as --train.budget takes it."""
    return None if budget is None else str(seconds(budget))


def _given(short: dict[str, str | None]) -> dict[str, str]:
    """The settings among short options that were given."""
    return {key: value for key, value in short.items() if value is not None}


def _fit(
    resolution: tuple[Config, dict[str, str]],
    folder: Path,
    print_config: bool,
    accept_change: bool,
    live: bool,
    json: bool,
) -> int:
    """Train and print what came of it, or print the settings only."""
    config, origins = resolution
    if print_config:
        print(to_toml(config, origins))
        return 0
    from deepcnn.train import fit
    from deepcnn.words import result_in_words

    try:
        facts = fit(config, folder, cache_folder(), accept_change, live, command_start())
    except Interrupted as stop:
        command = f"{_program()} {shlex.join(sys.argv[1:])}"
        message = f"{stop}; continue with: {command}"
        raise Interrupted(message, stop.signal_number) from stop
    print(
        to_json({"run": str(folder), **facts}, ensure_ascii=False)
        if json
        else result_in_words(folder, facts, _program())
    )
    return 0


def _overfit(config: Config, number: int, out: Path | None, json: bool) -> int:
    """Learn some images by heart and print what was tried; 0 if they are known, 1 if not."""
    from deepcnn.by_heart import learn_by_heart, set_for_this
    from deepcnn.progress import say

    if config.train.budget:
        raise ConfigError("--overfit ends when the images are known: leave --budget out")
    if out:
        raise ConfigError("--overfit writes nothing, so there is no folder for --out: give one")
    changed = (f"{key} {value}" for key, value in set_for_this(config, number).items())
    say(f"{config.model.name}, set for {number} images: {', '.join(changed)}; dropout stays")
    tried = []
    for memory in learn_by_heart(config, number, cache_folder()):
        tried.append(memory)
        if not json:
            print(memory.in_words(), flush=True)
    learnt = tried[-1].is_whole
    if json:
        told = [memory.as_dict() for memory in tried]
        print(to_json({"learnt": learnt, "num_images": number, "tried": told}))
    elif not learnt:
        print("not learnt by heart: something is wrong, which `deepcnn diagnose` may find")
    return 0 if learnt else 1


def _program() -> str:
    """How to call this command again: by its path where its folder is not searched for commands."""
    if shutil.which("deepcnn") or Path(sys.argv[0]).name != "deepcnn":
        return "deepcnn"
    return shlex.quote(os.path.relpath(sys.argv[0]))
