"""The part of the command line that measures the machine: `deepcnn bench`."""

from collections.abc import Callable
from dataclasses import replace
from json import dumps as to_json
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from deepcnn.cli_data import Flag
from deepcnn.config import Config
from deepcnn.errors import ConfigError, look_up
from deepcnn.files import cache_folder
from deepcnn.recipes import RECIPES

bench = App(name="bench", help_format="plaintext")


@bench.default
def measure(
    what: Literal["step", "data", "sprint", "all"] = "all",
    /,
    *,
    network: Annotated[
        tuple[str, ...], Parameter(consume_multiple=True, negative=(), show_default=False)
    ] = (),
    recipe: str = "fashion-mnist-sprint",
    seeds: int = 5,
    rounds: int = 5,
    root: str = "",
    json: Flag = False,
) -> None:
    """Measure this machine: training steps, loading, and sprints.

    step: networks in this package's training loop and in a plain one (bf16,
    channels last, fused SGD), which take turns. data: small images with
    every change, loader alone, beside torchvision's. sprint: a recipe, from
    first weights to its test accuracy. Examples:

    deepcnn bench
    deepcnn bench step --network resnet18 lenet
    deepcnn bench sprint --recipe fashion-mnist-93 --seeds 3 --json

    Parameters
    ----------
    what
        step, data, sprint or all.
    network
        Networks of step; all that it knows by default.
    recipe
        Recipe of sprint.
    seeds
        How many runs of sprint.
    rounds
        Turns of each side in step and data.
    root
        Folder to look for data sets in first.
    json
        Print what was measured as JSON.
    """
    for name, number in (("seeds", seeds), ("rounds", rounds)):
        if number < 1:
            raise ConfigError(f"--{name} is {number}, expected at least 1")
    config = look_up("recipe", recipe, RECIPES)()
    config = replace(config, data=replace(config.data, root=root))
    parts: dict[str, Callable[[], Any]] = {
        "step": lambda: _steps(network, rounds, json),
        "data": lambda: _data(rounds, json),
        "sprint": lambda: _sprint(recipe, config, seeds, json),
    }
    measured = {name: part() for name, part in parts.items() if what in (name, "all")}
    if json:
        print(to_json(measured))


def _steps(networks: tuple[str, ...], rounds: int, json: bool) -> list[dict[str, Any]]:
    from deepcnn.bench import step, words
    from deepcnn.config import Hardware

    works = [look_up("network", name, step.WORK) for name in networks or step.WORK]
    records = [step.compare(work, Hardware(), rounds, cache_folder()) for work in works]
    _print(json, words.steps(records))
    return records


def _data(rounds: int, json: bool) -> list[dict[str, Any]]:
    from deepcnn.bench import loading, words

    records = [loading.compare(name, rounds) for name in loading.CHANGES]
    _print(json, words.data(records))
    return records


def _sprint(name: str, config: Config, seeds: int, json: bool) -> dict[str, Any]:
    from deepcnn.bench import sprint, words

    record = sprint.measure(name, config, seeds)
    _print(json, words.sprint(record))
    return record


def _print(json: bool, text: str) -> None:
    if not json:
        print(text, flush=True)
