"""The part of the command line that finds out why a network does not learn."""

import os
from json import dumps as to_json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from deepcnn.cli_data import Flag, Settings
from deepcnn.config import Config
from deepcnn.errors import RunError, look_up
from deepcnn.files import cache_folder
from deepcnn.recipes import RECIPES
from deepcnn.settings import resolve

RecipeOrRun = Annotated[str, Parameter(help="Recipe, or run folder.")]
DataName = Annotated[
    str | None, Parameter(help="Data set by name or folder; short for --data.name.")
]


def diagnose(
    what: RecipeOrRun,
    /,
    *,
    data: DataName = None,
    plot: Path | None = None,
    json: Flag = False,
    settings: Settings,
) -> int:
    """Find out why a network does not learn: what was measured, what is normal, the likely cause,
    what to try; the most likely cause first.

    Looks at images, first weights, signals and gradients; then makes a few
    updates: learns fifty images by heart, tries learning rates, labels drawn at
    random. Of a run, also at its last weights. Nothing is changed. The exit code
    is 1 where something was found. Any setting can be changed as with `deepcnn
    train`. Examples:

    deepcnn diagnose fashion-mnist --optim.lr 10
    deepcnn diagnose lenet-fashion-mnist --data photos --plot rates.png
    deepcnn diagnose runs/fashion-mnist --json

    Parameters
    ----------
    plot
        Draw losses by learning rate, and gradients by layer, into this PNG file.
    json
        Print all that was measured as JSON.
    """
    base, folder = base_of(what)
    short = {"data.name": data} if data else {}
    config, _ = resolve(base, None, os.environ, short | settings)
    from deepcnn.diagnose import words
    from deepcnn.diagnose.diagnosis import diagnose

    found = diagnose(config, cache_folder(), folder)
    if plot:
        try:
            words.draw(found, plot, config.optim.lr)
        except OSError as error:
            reason = f"cannot write {plot}: {error.strerror}; give another file"
            raise RunError(reason) from error
    told = {"what": what, **found.as_dict()}
    print(to_json(told, ensure_ascii=False) if json else words.in_words(found, what))
    return 1 if found.findings else 0


def base_of(what: str) -> tuple[tuple[str, Config], Path | None]:
    """The settings to begin with, and where they are from; the folder, of a run."""
    folder = Path(what)
    if what in RECIPES or not (folder.exists() or os.sep in what):
        return (what, look_up("recipe", what, RECIPES)()), None
    if not (folder / "config.json").is_file():
        raise RunError(
            f"{what} is no run folder, it has no config.json: give a folder made by `deepcnn "
            "train`, or a recipe by name"
        )
    from deepcnn.runlog import recorded_config

    return ("as begun", recorded_config(folder)), folder
