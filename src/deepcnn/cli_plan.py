"""The part of the command line that says what a run will take."""

import os
import time
from json import dumps as to_json
from pathlib import Path

from deepcnn.cli_data import Flag, Settings
from deepcnn.cli_diagnose import DataName, RecipeOrRun, base_of
from deepcnn.files import cache_folder
from deepcnn.settings import resolve


def plan(
    what: RecipeOrRun = "fashion-mnist",
    /,
    *,
    data: DataName = None,
    memory: str | None = None,
    json: Flag = False,
    settings: Settings,
) -> int:
    """Say what a run will take before it is begun: memory, time and disk; whether it fits, and the
    largest batch that would.

    Makes some updates in memory, for a few seconds, and writes nothing but the
    policy that it has measured. The exit code is 1 where the run does not fit.
    Any setting can be changed as with `deepcnn train`. Examples:

    deepcnn plan alexnet-fashion-mnist
    deepcnn plan fashion-mnist --model.name vgg16 --data.size 64 --memory 4GiB
    deepcnn plan runs/fashion-mnist --train.epochs 100 --json

    Parameters
    ----------
    memory
        What it may take, such as 8GiB; short for --hardware.memory.
    json
        Print the plan as JSON.
    """
    began = time.perf_counter()
    base, folder = base_of(what)
    given = {"data.name": data, "hardware.memory": memory}
    short = {key: value for key, value in given.items() if value is not None}
    config, _ = resolve(base, None, os.environ, short | settings)
    from deepcnn.forecast import plan as forecast

    found = forecast.plan(config, folder or Path("runs") / what, cache_folder(), began)
    print(to_json(found.as_dict(), ensure_ascii=False) if json else forecast.in_words(found))
    return 0 if found.pieces and found.disk["needed"] <= found.disk["free"] else 1
