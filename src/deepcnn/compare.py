"""Finished runs side by side, and which of their differences are more than chance."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepcnn import artefact, cost, paired, predictions
from deepcnn.config import Config
from deepcnn.errors import ConfigError, RunError
from deepcnn.predictions import Predictions
from deepcnn.progress import duration
from deepcnn.runlog import NEUTRAL_SETTINGS
from deepcnn.settings import flat, from_dict
from deepcnn.table import table


def compare_runs(runs: Sequence[Path]) -> dict[str, Any]:
    """What finished runs reached and cost; each against the first on the same test images; and
    recipes over the seeds they share.

    Raises RunError where a run has no finished model, ConfigError for fewer than two.
    """
    if len(runs) < 2:
        raise ConfigError(f"compare needs two or more runs, got {len(runs)}")
    rows = [facts_of(run) for run in runs]
    first, *others = [_answers(run) for run in runs]
    return {
        "runs": rows,
        "on_images": [
            {"run": str(run), "against": str(runs[0]), **_on_images(first, other)}
            for run, other in zip(runs[1:], others, strict=True)
        ],
        "over_seeds": over_seeds(rows),
    }


def facts_of(run: Path) -> dict[str, Any]:
    """What is told of a run in a table; RunError if it has no finished model."""
    found = artefact.load(run)
    meta, side = found.meta, found.preprocess.input_size
    layers = cost.layers(found.model, (found.preprocess.channels, side, side))
    test = meta["test"]
    return {
        "run": str(run),
        "model": meta["model"],
        "accuracy": test["accuracy"],
        "interval": test["interval"],
        "num_images": test["num_images"],
        "validation_accuracy": meta.get("validation", {}).get("accuracy"),
        "loss": test["loss"],
        "calibration_error": test.get("calibration_error"),
        "seconds": meta["seconds"],
        "parameters": meta["num_parameters"],
        "multiply_adds": cost.multiply_adds(layers),
        "peak_memory": meta.get("peak_memory"),
        "seed": meta["config"]["train"]["seed"],
        "settings": _settings(from_dict(meta["config"], str(run))),
    }


def _settings(config: Config) -> dict[str, Any]:
    """What makes a recipe: all settings but the seed and those without effect."""
    others = {"train.seed", *NEUTRAL_SETTINGS}
    return {name: value for name, value in flat(config).items() if name not in others}


def _answers(run: Path) -> Predictions | str:
    """What the run said of its test images, or why that is not known."""
    folder = run.parent if (run / "meta.json").exists() else run
    try:
        return predictions.kept(folder)["test"]
    except (RunError, KeyError):
        return f"{run} has kept no answers to its test images"


def _on_images(first: Predictions | str, other: Predictions | str) -> dict[str, Any]:
    for answers in (first, other):
        if isinstance(answers, str):
            return {"not_compared": answers}
    assert not isinstance(first, str)
    assert not isinstance(other, str)
    if first.images != other.images:
        return {"not_compared": "they were tested on other images"}
    return {**paired.on_images(first.logits, other.logits, first.labels)}


def over_seeds(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each recipe with the first one, where two seeds or more are shared; named by the settings in
    which they differ.
    """
    recipes: list[tuple[dict[str, Any], dict[int, float]]] = []
    for row in rows:
        known = next((seeds for settings, seeds in recipes if settings == row["settings"]), None)
        if known is None:
            known = {}
            recipes.append((row["settings"], known))
        known[row["seed"]] = row["accuracy"]
    if not recipes:
        return []
    (settings, seeds), *others = recipes
    results = []
    for other_settings, other_seeds in others:
        shared = sorted(seeds.keys() & other_seeds.keys())
        if len(shared) < 2:
            continue
        differing = [name for name in settings if settings[name] != other_settings[name]]
        results.append(
            {
                "settings": {name: other_settings[name] for name in differing},
                "against": {name: settings[name] for name in differing},
                "seeds": shared,
                **paired.over_seeds(
                    [seeds[seed] for seed in shared], [other_seeds[seed] for seed in shared]
                ),
            }
        )
    return results


def in_words(found: dict[str, Any]) -> str:
    """The comparison for a person."""
    return "\n".join([table(cells(found)), "", *sentences(found)])


def cells(found: dict[str, Any]) -> list[list[str]]:
    """The runs in rows, below a row of headings."""
    rows = [["run", "network", "accuracy", "95 % interval", "loss", "calibration error", "time",
             "parameters", "multiply-adds", "memory"]]  # fmt: skip
    for row in found["runs"]:
        low, high = row["interval"]
        rows.append([
            row["run"], row["model"], f"{row['accuracy']:.2%}", f"{low:.2%} to {high:.2%}",
            "-" if row["loss"] is None else f"{row['loss']:.4f}",
            "-" if row["calibration_error"] is None else f"{row['calibration_error']:.2%}",
            duration(row["seconds"]), f"{row['parameters']:,}", f"{row['multiply_adds']:,}",
            "-" if row["peak_memory"] is None else f"{row['peak_memory'] / 1e6:,.0f} MB",
        ])  # fmt: skip
    return rows


def sentences(found: dict[str, Any]) -> list[str]:
    """What can be said of the differences."""
    lines = []
    for each in found["over_seeds"]:
        changed = ", ".join(
            f"{name} {value} instead of {each['against'][name]}"
            for name, value in each["settings"].items()
        )
        lines.append(f"{changed}, {each['n']} seeds: {_difference(each)}")
    if lines:
        return lines
    for each in found["on_images"]:
        start = f"{each['run']} against {each['against']}"
        if "not_compared" in each:
            lines.append(f"{start}: not compared image by image, for {each['not_compared']}")
            continue
        lines.append(
            f"{start}, on the same {each['n']:,} images: {_difference(each)}; "
            f"{each['only_second']:,} right that were wrong, {each['only_first']:,} the other way"
        )
    lines.append("Images tell one model from another; one recipe from another, only several seeds.")
    return lines


def _difference(each: dict[str, Any]) -> str:
    text = f"{100 * each['mean']:+.2f} points"
    if each["interval"]:
        low, high = (100 * end for end in each["interval"])
        text += f" (95 % interval {low:+.2f} to {high:+.2f})"
    if each["p_value"] is not None:
        text += f", p = {each['p_value']:.2g}"
    return text + (": a difference" if each["shown"] else ": no difference shown")
