"""The part of the command line that measures models: `deepcnn evaluate`, `compare` and `sweep`."""

from json import dumps as to_json
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from deepcnn.cli_data import Flag, Settings
from deepcnn.errors import ConfigError, Interrupted


def evaluate(
    run: Path,
    /,
    *,
    split: Literal["test", "validation", "train"] = "test",
    data: str | None = None,
    root: str | None = None,
    views: str | None = None,
    accuracy: float | None = None,
    coverage: float | None = None,
    device: str = "auto",
    json: Flag = False,
) -> None:
    """Measure a finished model on every image of a set, once each, in fp32.

    Examples:

    deepcnn evaluate runs/fashion-mnist
    deepcnn evaluate runs/fashion-mnist --split validation --json
    deepcnn evaluate runs/fashion-mnist --accuracy 0.99
    deepcnn evaluate runs/photos --data FOLDER --views ten-crop

    Parameters
    ----------
    run
        Run folder, or its model folder.
    split
        test, validation (what the run held out) or train (what it learnt from).
    data
        Another data set than the run's, by name or folder, with the same classes.
    root
        Folder to look for data sets in first.
    views
        Views of an image to average: plain, flip, flip-shift, ten-crop (as AlexNet was tested) or
        multi-scale (as ResNet); default: the model's own.
    accuracy
        Say below which confidence to give no answer so that this share of the answers is right, by
        what the run held out.
    coverage
        The same so that this share of the images gets an answer.
    device
        auto, cpu, cuda, cuda:N or mps.
    json
        Print the result as JSON.
    """
    goals = {"accuracy": accuracy, "coverage": coverage}
    wanted = {name: share for name, share in goals.items() if share is not None}
    if len(wanted) > 1:
        raise ConfigError("--accuracy and --coverage are two goals: give one")
    for name, share in wanted.items():
        if not 0 < share <= 1:
            raise ConfigError(f"--{name} is {share:g}, expected a share above 0, at most 1")
    from deepcnn.evaluate import Goal, evaluate_run
    from deepcnn.words import evaluation_in_words

    goal = next((Goal(name, share) for name, share in wanted.items()), None)
    result = evaluate_run(run, split, device, data, root, views, goal)
    print(to_json(result, ensure_ascii=False) if json else evaluation_in_words(result))


def compare(*runs: Path, json: Flag = False) -> None:
    """Put finished runs side by side, and say which differences are more than chance.

    Runs on the same test images are compared image by image; recipes of which the same seeds were
    run, seed by seed. Memory is the most that the process of a run had, in a sweep with all runs
    before. Example:

    deepcnn compare runs/lenet runs/alexnet

    Parameters
    ----------
    runs
        Run folders, two or more; differences are told from the first one.
    json
        Print the comparison as JSON.
    """
    from deepcnn.compare import compare_runs, in_words

    found = compare_runs(runs)
    print(to_json(found, ensure_ascii=False) if json else in_words(found))


def sweep(
    recipe: str = "fashion-mnist",
    /,
    *,
    seeds: int = 1,
    grid: Annotated[
        tuple[str, ...], Parameter(consume_multiple=True, negative=(), show_default=False)
    ] = (),
    out: Path | None = None,
    json: Flag = False,
    settings: Settings,
) -> None:
    """Train a recipe with several seeds or settings, one run after another, and tell the results.

    Repeat the command to go on where it was stopped. Any setting is changed for all runs by
    --section.field VALUE. Examples:

    deepcnn sweep fashion-mnist --seeds 5
    deepcnn sweep lenet-mnist --grid optim.lr=0.02,0.05,0.1 train.batch_size=64,128

    Parameters
    ----------
    recipe
        Where to start from; `deepcnn recipes` lists them.
    seeds
        How many seeds of each: 0, 1, ...
    grid
        Settings with the values to try, SECTION.FIELD=VALUE,VALUE,...; all combinations are run.
    out
        Folder of the run folders; default runs/sweep-RECIPE.
    json
        Print the results as JSON.
    """
    if seeds < 1:
        raise ConfigError(f"--seeds is {seeds}, expected at least 1")
    from deepcnn.sweep import in_words, sweep_recipe

    folder = out or Path("runs") / f"sweep-{recipe}"
    try:
        found = sweep_recipe(recipe, settings, seeds, grid, folder)
    except Interrupted as stop:
        message = f"{stop}; repeat the command to go on"
        raise Interrupted(message, stop.signal_number) from stop
    print(to_json(found, ensure_ascii=False) if json else in_words(found))
