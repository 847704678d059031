"""The command line: parse, import lazily, call one function, print. Nothing else is done here."""

import inspect
import io
import os
import shlex
import sys
from contextlib import suppress
from json import dumps as to_json
from pathlib import Path
from typing import NoReturn

from cyclopts import App, CycloptsError, UnknownOptionError, UnusedCliTokensError

from deepcnn import __version__, interrupt
from deepcnn.cli_bench import bench
from deepcnn.cli_data import Flag, data, write
from deepcnn.cli_diagnose import diagnose
from deepcnn.cli_evaluate import compare, evaluate, sweep
from deepcnn.cli_inspect import views
from deepcnn.cli_plan import plan
from deepcnn.cli_profile import profile
from deepcnn.cli_report import report
from deepcnn.cli_train import finetune, train
from deepcnn.errors import ConfigError, DeepcnnError, look_up
from deepcnn.recipes import RECIPES
from deepcnn.settings import descriptions

app = App(
    name="deepcnn",
    version=__version__,
    help="Train deep convolutional image classifiers, measure them and use them.",
    help_epilogue="`deepcnn COMMAND --help` explains a command; --debug shows tracebacks.",
    help_format="plaintext",
)
for command in (
    train, finetune, plan, diagnose, evaluate, compare, sweep, report, views, profile, bench, data,
):  # fmt: skip
    app.command(command)


def program() -> NoReturn:
    """The installed command: `main`, and the end of the process without taking all that it has
    loaded apart first, which would take one to four seconds.
    """
    try:
        main()
    except SystemExit as stop:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):  # which `main` has told of
                stream.flush()
        os._exit(int(stop.code or 0))


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run one command and exit: 0 done, 1 failed, 2 bad request, 130 Ctrl-C, 143 SIGTERM."""
    interrupt.install()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be no legal text
    tokens = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in tokens
    try:
        exit_code = run_command([token for token in tokens if token != "--debug"])
        sys.stdout.flush()
    except (CycloptsError, DeepcnnError, OSError) as error:
        if debug:
            raise
        exit_code = explain(error)
    sys.exit(exit_code)


def run_command(tokens: list[str]) -> int:
    """Parse a command, carry it out, and return its exit code."""
    tokens, settings = take_settings(tokens)
    command, bound, injected = app.parse_args(tokens, exit_on_error=False, print_error=False)
    if settings and "settings" not in injected:
        raise ConfigError(
            f"--{next(iter(settings))} is a setting of training: of `deepcnn train`, `finetune`, "
            "`plan`, `diagnose` and `data show`"
        )
    extra = {"settings": settings} if "settings" in injected else {}
    return command(*bound.args, **bound.kwargs, **extra) or 0


def explain(error: CycloptsError | DeepcnnError | OSError) -> int:
    """Say in one line on stderr what went wrong; returns the exit code."""
    if isinstance(error, CycloptsError):
        _say(_in_words(error))
        return 2
    if isinstance(error, DeepcnnError):
        _say(str(error))
        return error.exit_code
    if not isinstance(error, BrokenPipeError):  # the reader has gone, as in `deepcnn ... | head`
        _say(f"{error.filename or 'cannot write the output'}: {error.strerror}")
    try:
        sys.stdout.flush()
    except OSError:  # nor could Python write what is left when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def take_settings(tokens: list[str]) -> tuple[list[str], dict[str, str]]:
    """Part `--section.field VALUE` and `--section.field=VALUE` from all other arguments."""
    rest: list[str] = []
    settings: dict[str, str] = {}
    stream = iter(tokens)
    for token in stream:
        name, equals, value = token.removeprefix("--").partition("=")
        if token == "--":  # all that follows is no option, whatever it looks like
            return [*rest, token, *stream], settings
        if not token.startswith("--") or "." not in name:
            rest.append(token)
            continue
        try:
            settings[name] = value if equals else next(stream)
        except StopIteration:
            raise ConfigError(f"--{name} needs a value: --{name} VALUE") from None
    return rest, settings


@app.command
def predict(
    run: Path, /, *images: Path, top: int = 3, at_least: float = 0.0, json: Flag = False
) -> int:
    """Say what is on pictures: PNG, JPEG, WebP, GIF, BMP or TIFF of any size, grey or colour.

    Examples:

    deepcnn predict runs/fashion-mnist shoe.png shirt.jpg --top 2
    deepcnn predict runs/fashion-mnist *.png --at-least 0.9

    Parameters
    ----------
    run
        Run folder, or its model folder.
    images
        Picture files. One that cannot be read is named on stderr; the others are still answered.
    top
        How many classes to name for each picture.
    at_least
        Probability below which an answer is not given; `deepcnn evaluate RUN --accuracy 0.99`
        finds one.
    json
        Print one JSON object for each picture, a line each.
    """
    from deepcnn import artefact
    from deepcnn.predict import predict
    from deepcnn.words import answer_in_words

    if not images:
        raise ConfigError("no pictures given: deepcnn predict RUN PICTURE ...")
    if top < 1:
        raise ConfigError(f"--top is {top}, expected at least 1")
    if not 0 <= at_least <= 1:
        raise ConfigError(f"--at-least is {at_least:g}, expected a probability from 0 to 1")
    failed = False
    for answer in predict(artefact.load(run), images, top, at_least):
        if answer.error:
            failed = True
            _say(answer.error)
        if json:
            print(to_json(answer.as_dict(), ensure_ascii=False))
        elif not answer.error:
            print(answer_in_words(answer))
    return 1 if failed else 0


@app.command
def recipes(name: str | None = None, /) -> None:
    """List the recipes, or explain one: what it does and where it departs from its text.

    Parameters
    ----------
    name
        Recipe to explain.
    """
    if name:
        recipe = look_up("recipe", name, RECIPES)
        print(inspect.getdoc(recipe))
        return
    width = max(map(len, RECIPES))
    for each, recipe in RECIPES.items():
        print(f"{each:<{width}}  {(inspect.getdoc(recipe) or '').splitlines()[0]}")


@app.command
def models(
    name: str | None = None,
    /,
    *,
    input: str | None = None,  # noqa: A002
    classes: int | None = None,
    svg: Path | None = None,
    json: Flag = False,
) -> None:
    """List the networks, or show one: layer by layer, with what its sources say.

    Examples:

    deepcnn models
    deepcnn models alexnet
    deepcnn models resnet18 --input 1x28x28 --classes 10 --svg resnet18.svg
    deepcnn models timm/convnext_tiny

    Parameters
    ----------
    name
        Network to show; also torchvision/NAME and timm/NAME, where these are installed.
    input
        Channels, height and width of its images, such as 3x224x224; default as published.
    classes
        Number of classes; default as published.
    svg
        Draw a picture of it into this file.
    json
        Print JSON.
    """
    from deepcnn.describe import describe, in_words, list_in_words, parse_shape, summary
    from deepcnn.models import MODELS
    from deepcnn.progress import reported

    if not name:
        if input or classes is not None or svg:
            raise ConfigError("--input, --classes and --svg need a NAME: deepcnn models NAME ...")
        if json:
            counted = reported(MODELS, len(MODELS), "counting")
            rows = [summary(describe(each)) for each in counted]
            print(to_json(rows, ensure_ascii=False))
            return
        for line in list_in_words():
            print(line, flush=True)
        return
    description = describe(name, parse_shape(input) if input else None, classes)
    if svg:
        from deepcnn.diagram import svg as drawn

        write(svg, drawn(description).encode())
    print(to_json(description.as_dict(), ensure_ascii=False) if json else in_words(description))


@app.command
def settings() -> None:
    """Explain every setting, which `deepcnn train --SETTING VALUE` changes."""
    for name, legal, description in descriptions():
        print(f"{name:<26}{description}{f' ({legal})' if legal else ''}")


def _in_words(error: CycloptsError) -> str:
    """What the parser has to say, and the setting that may have been meant."""
    if isinstance(error, UnusedCliTokensError):
        return f"more arguments than expected: {shlex.join(error.unused_tokens or ())}"
    message = str(error).splitlines()[0]
    if isinstance(error, UnknownOptionError) and error.command_chain == ("train",):
        option = error.token.keyword or error.token.value
        word = option.removeprefix("--").partition("=")[0].replace("-", "_")
        meant = [name for name, _, _ in descriptions() if word in name.split(".")]
        if meant:
            return f"{message} Did you mean --{meant[0]}?"
    return message


def _say(message: str) -> None:
    print(f"deepcnn: {' '.join(message.splitlines())}", file=sys.stderr)
