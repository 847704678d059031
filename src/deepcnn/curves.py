"""The learning curve of a run as a picture."""

from pathlib import Path
from typing import Any

from deepcnn.files import replace_file

Events = list[dict[str, Any]]


def learning_curve(events: Events, path: Path) -> None:
    """Draw loss within epochs and accuracies after each as a PNG. Raises OSError."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    draw_loss(loss_axes, events)
    draw_accuracies(accuracy_axes, events)
    save_picture(figure, path)


def save_picture(figure: Any, path: Path) -> None:
    """Write a matplotlib figure as the name says, .png or .svg, whole or not at all.

    Raises OSError.
    """
    from io import BytesIO

    buffer = BytesIO()
    figure.savefig(buffer, format=path.suffix[1:].lower(), dpi=120)
    replace_file(path, buffer.getvalue())


def draw_loss(axes: Any, events: Events) -> None:
    """The loss of batches, and its moving average."""
    steps = [event for event in events if event["event"] == "step"]
    numbers = [event["step"] for event in steps]
    axes.plot(numbers, [event["loss"] for event in steps], color="0.8", label="of a batch")
    axes.plot(numbers, [event["moving_loss"] for event in steps], label="moving average")
    axes.set(xlabel="update", ylabel="loss", title="Training loss")
    axes.legend()


def draw_accuracies(axes: Any, events: Events) -> None:
    """Accuracies after each epoch, and that of the test set with its interval."""
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
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    if axes.get_legend_handles_labels()[0]:  # a legend of nothing makes matplotlib warn
        axes.legend(loc="lower right")
