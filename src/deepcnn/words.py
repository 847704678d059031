"""Results as lines of text for a person."""

import math
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepcnn.forecast import foreseen
from deepcnn.predict import Answer
from deepcnn.progress import duration
from deepcnn.table import table


def epoch_in_words(event: dict[str, Any], epochs: int, seconds: float) -> str:
    """One line about an epoch, as the texts print it."""
    names = ("train_accuracy", "validation_accuracy", "test_accuracy")
    measured = [f"{name.replace('_', ' ')} {event[name]:.4f}" for name in names if name in event]
    visited = f" of {event['visited']:,} images" if "visited" in event else ""
    start = f"epoch {event['epoch']}/{epochs}  loss {event['loss']:.4f}{visited}"
    return "  ".join([start, *measured, duration(seconds)])


def result_in_words(folder: Path, facts: dict[str, Any], program: str = "deepcnn") -> str:
    """What a person wants to know at the end of a run, and what to do next."""
    test = facts["test"]
    low, high = test["interval"]
    return "\n".join([
        f"test accuracy  {test['accuracy']:.2%}  (95 % interval {low:.2%} to {high:.2%}, "
        f"{test['num_images']:,} images)",
        f"training time  {duration(facts['seconds'])}",
        *_budget(facts),
        *foreseen.in_words(facts.get("forecast", {}), facts.get("peak_memory")),
        f"run folder     {folder}{os.sep}",
        f"picture        {folder / 'learning-curve.png'}",
        f"report         {folder / 'report.html'}",
        f"next           {program} evaluate {shlex.quote(str(folder))}",
    ])  # fmt: skip


def _budget(facts: Mapping[str, Any]) -> list[str]:
    """What became of the budget, where there was one."""
    if not (budget := facts.get("budget")):
        return []
    updates, epochs = budget["updates"], budget["epochs"]
    used = f"{duration(budget['used'])} of {duration(budget['seconds'])}"
    return [f"time budget    {used} used, {updates:,} updates, {epochs:.2f} epochs"]


def evaluation_in_words(result: dict[str, Any]) -> str:
    """A result with its table of classes, how sure to be of it, and the surest mistakes."""
    low, high = result["interval"]
    loss = "-" if result["loss"] is None else f"{result['loss']:.4f}"
    lines = [
        f"{result['data']}: accuracy {result['accuracy']:.2%} (95 % interval {low:.2%} to "
        f"{high:.2%}), loss {loss}, {result['num_images']:,} images, views {result['views']}",
        f"mean recall of the classes: {result['balanced_accuracy']:.2%}",
    ]
    if "unanswered" in result:
        lines.append(f"no answer, for not every logit was finite: {result['unanswered']:,} images")
    if "top5" in result:
        lines.append(f"among the first five: {result['top5']:.2%}")
    lines += ["", classes_in_words(result["per_class"]), "", _sureness(result)]
    if result["mistakes"]:
        lines += ["", "surest mistakes", *map(_mistake, result["mistakes"])]
    if "goal" in result:
        lines += ["", _goal(result["goal"], result["run"])]
    return "\n".join(lines)


def classes_in_words(rows: Sequence[Mapping[str, Any]]) -> str:
    """How each class fares."""
    shares = ("recall", "precision", "f1")
    return table([
        ["class", "images", *shares],
        *(
            [row["name"], f"{row['num_images']:,}", *(_share(row[name]) for name in shares)]
            for row in rows
        ),
    ])  # fmt: skip


def _sureness(result: dict[str, Any]) -> str:
    """Whether confidence can be believed, and what is gained by keeping the unsure answers back."""
    line = f"calibration error {result['calibration_error']:.2%}"
    if after := result["calibrated"]:
        line += (
            f"; {after['calibration_error']:.2%} at temperature {after['temperature']:.3f}, which "
            "was fitted to held-out images and is used by predict"
        )
    rows = [["answers given", *(f"{part['coverage']:.0%}" for part in result["coverage"])]]
    rows.append(["surer than", *(f"{part['threshold']:.1%}" for part in result["coverage"])])
    rows.append(["right", *(f"{part['accuracy']:.2%}" for part in result["coverage"])])
    return f"{line}\n{table(rows)}"


def _mistake(row: Mapping[str, Any]) -> str:
    name = row["file"] or f"image {row['image']}"
    return f"{name}: {row['answer'] or 'no answer'} ({row['confidence']:.1%}), not {row['label']}"


def _goal(goal: Mapping[str, Any], run: str) -> str:
    """The threshold for what was asked for, and what it leads to."""
    held_out = goal["held_out"]
    text = (
        f"for {'an' if goal['what'] == 'accuracy' else 'a'} {goal['what']} of {goal['share']:.1%}: "
        f"answer where surer than {goal['threshold']:.1%}, chosen on held-out images "
        f"({held_out['accuracy']:.2%} of {held_out['num_images']:,} answers right, "
        f"{held_out['coverage']:.1%} answered)\n"
    )
    if goal["accuracy"] is None:
        return f"{text}here no image gets an answer then"
    low, high = goal["interval"]
    return (
        f"{text}here {goal['coverage']:.1%} get an answer, {goal['accuracy']:.2%} of them right "
        f"(95 % interval {low:.2%} to {high:.2%}): deepcnn predict {shlex.quote(run)} PICTURE "
        f"--at-least {math.floor(goal['threshold'] * 1e4) / 1e4}"
    )


def answer_in_words(answer: Answer) -> str:
    """One line about a picture: its likeliest classes."""
    classes = "  ".join(f"{name} {value:.1%}" for name, value in answer.classes)
    return f"{answer.path}: {'' if answer.is_sure else 'not sure: '}{classes}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
