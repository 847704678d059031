"""The command line: parse, import lazily, call one function, print. Nothing else is done here."""

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter

from deepcnn import __version__, interrupt
from deepcnn.settings import resolve, to_toml
from deepcnn.errors import ConfigError, DeepcnnError, ImageError, Interrupted, did_you_mean
from deepcnn.recipes import RECIPES

Settings = Annotated[dict[str, str], Parameter(parse=False)]
Json = Annotated[bool, Parameter(negative=())]

app = App(
    name="deepcnn",
    version=__version__,
    help="Train deep convolutional image classifiers, measure them and use them.",
    help_format="plaintext",
)
data = App(name="data", help="List, fetch and look at data sets.", help_format="plaintext")
app.command(data)


def main(arguments: list[str] | None = None) -> None:
    """Run one command and exit: 0 done, 1 failed, 2 bad request, 130 Ctrl-C, 143 SIGTERM."""
    interrupt.install()
    tokens = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in tokens
    try:
        tokens, settings = take_settings([token for token in tokens if token != "--debug"])
        command, bound, injected = app.parse_args(tokens, exit_on_error=False, print_error=False)
        if settings and "settings" not in injected:
            raise ConfigError(f"--{next(iter(settings))} is a setting of `deepcnn train` only")
        extra = {"settings": settings} if "settings" in injected else {}
        sys.exit(command(*bound.args, **bound.kwargs, **extra) or 0)
    except CycloptsError as error:
        _fail(str(error).splitlines()[0], 2)
    except DeepcnnError as error:
        if debug:
            raise
        _fail(str(error), error.exit_code)
    except BrokenPipeError:
        # The reader of our output has gone, as in `deepcnn data list | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def take_settings(tokens: list[str]) -> tuple[list[str], dict[str, str]]:
    """Part `--section.field VALUE` and `--section.field=VALUE` from all other arguments."""
    rest: list[str] = []
    settings: dict[str, str] = {}
    stream = iter(tokens)
    for token in stream:
        name, equals, value = token.removeprefix("--").partition("=")
        if not token.startswith("--") or "." not in name:
            rest.append(token)
            continue
        if not equals:
            value = next(stream, "")
            if not value:
                raise ConfigError(f"--{name} needs a value: --{name} VALUE")
        settings[name] = value
    return rest, settings


@app.command
def train(
    recipe: str = "fashion-mnist",
    /,
    *,
    data: str | None = None,
    out: Path | None = None,
    config: Path | None = None,
    device: str | None = None,
    precision: str | None = None,
    seed: str | None = None,
    print_config: Json = False,
    accept_change: Json = False,
    json: Json = False,
    settings: Settings,
) -> None:
    """Train a network; repeat the command to continue a run that was stopped, however it was.

    Any setting can be changed by --section.field VALUE, such as --optim.lr 0.02 or
    --train.epochs 5; --print-config lists all of them with where each value comes from, and
    `deepcnn settings` explains them. Examples:

    deepcnn train
    deepcnn train lenet-mnist --out runs/first --train.epochs 3
    deepcnn train --data FOLDER --model.name lenet --data.pad 2
    deepcnn train --config run.toml --print-config

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
    seed
        Short for --train.seed.
    print_config
        Print the settings and stop.
    accept_change
        Continue a run although its settings, data or machine are not what they were.
    json
        Print the result as JSON.
    """
    short = {
        "data.name": data,
        "hardware.device": device,
        "hardware.precision": precision,
        "train.seed": seed,
    }
    options = {key: value for key, value in short.items() if value is not None} | settings
    resolved, origins = resolve((recipe, _recipe(recipe)), config, os.environ, options)
    if print_config:
        print(to_toml(resolved, origins))
        return
    from deepcnn.train import fit

    folder = out or Path("runs") / recipe
    try:
        facts = fit(resolved, folder, cache_folder(), accept_change)
    except Interrupted as stop:
        command = shlex.join(["deepcnn", *sys.argv[1:]])
        raise Interrupted(f"{stop}; continue with: {command}", stop.exit_code - 128) from stop
    _report(folder, facts, json)


def _report(folder: Path, facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"run": str(folder), **facts}))
        return
    print(facts["test"]["accuracy"], facts["seconds"])


def cache_folder() -> Path:
    """Where things that can be made again are kept: $DEEPCNN_CACHE or the platform's place."""
    from platformdirs import user_cache_dir

    return Path(os.environ.get("DEEPCNN_CACHE") or user_cache_dir("deepcnn"))


def _recipe(name: str) -> Any:
    if name not in RECIPES:
        raise ConfigError(
            f"unknown recipe {name}{did_you_mean(name, RECIPES)}; recipes: {', '.join(RECIPES)}"
        )
    return RECIPES[name]()


def _fail(message: str, exit_code: int) -> None:
    print(f"deepcnn: {message}", file=sys.stderr)
    sys.exit(exit_code)
