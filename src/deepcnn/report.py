"""What a run shows a person: the learning curve, and lines of text."""

import os
import shlex
from pathlib import Path
from typing import Any

from deepcnn.files import replace_file
from deepcnn.predict import Answer
from deepcnn.progress import duration

Events = list[dict[str, Any]]


def epoch_in_words(event: dict[str, Any], epochs: int, seconds: float) -> str:
    """One line about an epoch, as the texts print it."""
    names = ("train_accuracy", "validation_accuracy", "test_accuracy")
    measured = [f"{name.replace('_', ' ')} {event[name]:.4f}" for name in names if name in event]
    visited = f" of {event['visited']:,} images" if "visited" in event else ""
    start = f"epoch {event['epoch']}/{epochs}  loss {event['loss']:.4f}{visited}"
    return "  ".join([start, *measured, duration(seconds)])


def learning_curve(events: Events, path: Path) -> None:
    """Draw loss within epochs and accuracies after each as a PNG. Raises OSError."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    _draw_loss(loss_axes, events)
    _draw_accuracies(accuracy_axes, events)
    save_picture(figure, path)


def save_picture(figure: Any, path: Path) -> None:
    """Write a matplotlib figure as a PNG, whole or not at all. Raises OSError."""
    from io import BytesIO

    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    replace_file(path, buffer.getvalue())


def _draw_loss(axes: Any, events: Events) -> None:
    steps = [event for event in events if event["event"] == "step"]
    numbers = [event["step"] for event in steps]
    axes.plot(numbers, [event["loss"] for event in steps], color="0.8", label="of a batch")
    axes.plot(numbers, [event["moving_loss"] for event in steps], label="moving average")
    axes.set(xlabel="update", ylabel="loss", title="Training loss")
    axes.legend()


def _draw_accuracies(axes: Any, events: Events) -> None:
    epochs = [event for event in events if event["event"] == "epoch"]
    for name in ("train", "validation", "test"):
        points = [(e["epoch"], e[f"{name}_accuracy"]) for e in epochs if f"{name}_accuracy" in e]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", label=name)
    result = next((event for event in events if event["event"] == "result"), None)
    if result and epochs:
        low, high = result["test"]["interval"]
        accuracy = result["test"]["accuracy"]
        # The weights of the result are the last ones or, where the best are kept, earlier ones.
        epoch = max((e["epoch"] for e in epochs if e["step"] <= result["step"]), default=0)
        axes.errorbar(
            [epoch], [accuracy], [[accuracy - low], [high - accuracy]],
            fmt="s", color="black", capsize=4, label=f"test, weights kept: {accuracy:.2%}",
        )  # fmt: skip
    axes.set(xlabel="epoch", title="Accuracy")
    axes.xaxis.get_major_locator().set_params(integer=True)
    if axes.get_legend_handles_labels()[0]:  # a legend of nothing makes matplotlib warn
        axes.legend(loc="lower right")


def result_in_words(folder: Path, facts: dict[str, Any], program: str = "deepcnn") -> str:
    """What a person wants to know at the end of a run, and what to do next."""
    test = facts["test"]
    low, high = test["interval"]
    return "\n".join([
        f"test accuracy  {test['accuracy']:.2%}  (95 % interval {low:.2%} to {high:.2%}, "
        f"{test['num_images']:,} images)",
        f"training time  {duration(facts['seconds'])}",
        f"run folder     {folder}{os.sep}",
        f"picture        {folder / 'learning-curve.png'}",
        f"next           {program} evaluate {shlex.quote(str(folder))}",
    ])  # fmt: skip


def evaluation_in_words(result: dict[str, Any]) -> str:
    """A result with its table of classes."""
    low, high = result["interval"]
    lines = [
        f"{result['data']}: accuracy {result['accuracy']:.2%} (95 % interval {low:.2%} to "
        f"{high:.2%}), loss {result['loss']:.4f}, {result['num_images']:,} images"
    ]
    if "top5" in result:
        lines.append(f"among the first five: {result['top5']:.2%}")
    width = max(len(name) for name in ("class", *(row["name"] for row in result["per_class"])))
    lines.append(f"{'class':<{width}}  images  recall  precision")
    lines += [
        f"{row['name']:<{width}}  {row['num_images']:>6,}  {_share(row['recall'])}  "
        f"{_share(row['precision']):>9}"
        for row in result["per_class"]
    ]
    return "\n".join(lines)


def answer_in_words(answer: Answer) -> str:
    """One line about a picture: its likeliest classes."""
    classes = "  ".join(f"{name} {value:.1%}" for name, value in answer.classes)
    return f"{answer.path}: {classes}"


def _share(value: float | None) -> str:
    return "     -" if value is None else f"{value:6.1%}"
