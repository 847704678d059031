"""One recipe with several seeds and settings, run after run, told in one table and picture."""

import os
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from deepcnn import artefact, runlog
from deepcnn.config import Config
from deepcnn.curves import save_picture
from deepcnn.errors import ConfigError, RunError, look_up
from deepcnn.files import cache_folder
from deepcnn.paired import mean_interval
from deepcnn.progress import duration, say
from deepcnn.recipes import RECIPES
from deepcnn.settings import resolve
from deepcnn.table import table
from deepcnn.train import fit

Values = dict[str, str]  # settings by full name, as they were given


def sweep_recipe(
    recipe: str, settings: Mapping[str, str], seeds: int, grid: Sequence[str], out: Path
) -> dict[str, Any]:
    """Run what of a sweep is not finished yet, each in a folder of its own in `out`.

    Raises ConfigError for settings that are not legal, RunError where a folder holds another run,
    both before anything is trained.
    """
    base = (recipe, look_up("recipe", recipe, RECIPES)())
    plan: list[tuple[Values, int, Path, Config]] = []
    for values, seed in product(combinations(grid), range(seeds)):
        options = {**settings, **values, "train.seed": str(seed)}
        config, _ = resolve(base, None, os.environ, options)
        plan.append((values, seed, out / folder_name(values, seed), config))
    for _, _, folder, config in plan:
        _require_same(folder, config)
    rows = []
    for number, (values, seed, folder, config) in enumerate(plan, start=1):
        if not runlog.is_finished(folder):
            say(f"run {number} of {len(plan)}: {folder}")
            fit(config, folder, cache_folder())
        rows.append(_row(values, seed, folder))
    cells = [_cell(values, rows) for values in combinations(grid)]
    picture = out / "sweep.png"
    draw(recipe, cells, picture)
    return {"recipe": recipe, "runs": rows, "cells": cells, "picture": str(picture)}


def combinations(grid: Sequence[str]) -> list[Values]:
    """All combinations of SECTION.FIELD=VALUE,VALUE,... in order; one empty one for no grid."""
    axes: dict[str, list[str]] = {}
    for text in grid:
        name, equals, values = text.partition("=")
        axes[name] = [value.strip() for value in values.split(",") if value.strip()]
        if not equals or not axes[name]:
            raise ConfigError(
                f"--grid {text!r} is not SECTION.FIELD=VALUE,VALUE,... as in optim.lr=0.05,0.1"
            )
        if name == "train.seed":
            raise ConfigError("--grid train.seed: give --seeds NUMBER instead")
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


def folder_name(values: Values, seed: int) -> str:
    """A name that says what is special about a run."""
    parts = [f"{name.rpartition('.')[2]}-{value}" for name, value in values.items()]
    return "-".join([*parts, f"seed-{seed}"]).replace(os.sep, "_")


def _require_same(folder: Path, config: Config) -> None:
    if runlog.is_begun(folder):
        changes = runlog.differences(runlog.recorded_config(folder), config)
        if changes:
            raise RunError(
                f"{folder} holds a run of other settings ({'; '.join(changes)}): give another --out"
            )


def _row(values: Values, seed: int, folder: Path) -> dict[str, Any]:
    meta = artefact.load(folder).meta
    return {
        "values": values,
        "seed": seed,
        "run": str(folder),
        "validation": meta["validation"]["accuracy"] if "validation" in meta else None,
        "test": meta["test"]["accuracy"],
        "seconds": meta["seconds"],
    }


def _cell(values: Values, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the seeds of one combination amount to."""
    own = [row for row in rows if row["values"] == values]
    cell: dict[str, Any] = {"values": values, "n": len(own)}
    for split in ("validation", "test"):
        found = [row[split] for row in own]
        if None not in found:
            interval = mean_interval(found)
            cell[split] = {"mean": sum(found) / len(found), "interval": interval, "values": found}
    return cell | {"seconds": sum(row["seconds"] for row in own) / len(own)}


def draw(recipe: str, cells: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw accuracies by the first setting, a line for each combination of the others, as a PNG."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    split = "validation" if "validation" in cells[0] else "test"
    first = next(iter(cells[0]["values"]), None)
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for cell in cells:
        others = {name: value for name, value in cell["values"].items() if name != first}
        lines.setdefault(_named(others), []).append(cell)
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, line in lines.items():
        places, means = range(len(line)), [cell[split]["mean"] for cell in line]
        ends = [cell[split]["interval"] or (cell[split]["mean"],) * 2 for cell in line]
        halves = [(high - low) / 2 for low, high in ends]
        drawn = axes.errorbar(places, means, halves, fmt="o-", capsize=5, label=name)
        for place, cell in zip(places, line, strict=True):
            values = cell[split]["values"]
            axes.plot([place] * len(values), values, ".", color=drawn[0].get_color(), alpha=0.4)
    ticks = next(iter(lines.values()))
    axes.set_xticks(range(len(ticks)), [cell["values"].get(first, "") for cell in ticks])
    axes.set(xlabel=first or "", ylabel=f"{split} accuracy", title=recipe)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.margins(x=0.2)
    figure.supxlabel("mean with its 95 % interval, and each seed", fontsize="small")
    if len(lines) > 1:
        axes.legend()
    save_picture(figure, path)


def in_words(found: Mapping[str, Any]) -> str:
    """The sweep for a person."""
    cells = found["cells"]
    splits = [split for split in ("validation", "test") if split in cells[0]]
    header = [*cells[0]["values"], "seeds"]
    rows = [["", *header, *(f"{s} {what}" for s in splits for what in ("mean", "95 % interval")),
             "time"]]  # fmt: skip
    best = max(cells, key=lambda cell: cell["validation"]["mean"]) if splits[1:] else None
    for cell in cells:
        cells_of = ["*" if cell is best and len(cells) > 1 else "", *cell["values"].values()]
        cells_of.append(str(cell["n"]))
        for split in splits:
            interval = cell[split]["interval"]
            text = f"{interval[0]:.2%} to {interval[1]:.2%}" if interval else "-"
            cells_of += [f"{cell[split]['mean']:.2%}", text]
        rows.append([*cells_of, duration(cell["seconds"])])
    lines = [table(rows)]
    if len(cells) > 1:
        lines.append(
            "* best on validation images"
            if best
            else "No images are held out to choose by: to choose by the test set is to tune on it. "
            "Set --data.validation 0.1"
        )
    return "\n".join([*lines, f"picture  {found['picture']}"])


def _named(values: Values) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
