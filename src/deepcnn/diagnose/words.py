"""How a diagnosis is told: in words, and as a picture."""

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deepcnn.curves import save_picture
from deepcnn.diagnose.diagnosis import Diagnosis

WIDTH = 100
INDENT = 16


def in_words(found: Diagnosis, name: str) -> str:
    """The findings with what to do, then what else was measured."""
    lines = [_headline(found, name)]
    for place, finding in enumerate(found.findings, start=1):
        about = finding.as_dict()
        lines += ["", f"{place}. {about['title']}"]
        for word, key in (("measured", "measured"), ("normal", "normal"),
                          ("likely cause", "cause"), ("try", "change")):  # fmt: skip
            lines += _paragraph(word, about[key])
    lines += ["", "measured:"]
    for word, text in _measurements(found):
        lines += _paragraph(word, text)
    if found.is_short:
        lines += ["", "No updates were tried: first mend what is above, then diagnose again."]
    return "\n".join(lines)


def _headline(found: Diagnosis, name: str) -> str:
    number = len(found.findings)
    if not number:
        return f"{name}: nothing wrong was found"
    return f"{name}: {number} finding{'s' * (number > 1)}, the most likely cause first"


def _paragraph(word: str, text: str) -> list[str]:
    first = f"   {word:<{INDENT}}"
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=" " * len(first))


def _measurements(found: Diagnosis) -> Iterator[tuple[str, str]]:
    facts: dict[str, Any] = found.measured
    yield (
        "first loss",
        f"{facts['first_loss']:.3g}; all classes alike: {facts['loss_of_chance']:.3g}",
    )
    layers = found.signals.layers
    yield "gradients", f"k is {facts['k']:.3g} from layer to layer, over {len(layers)} layers"
    if layers:
        sizes = [layer.signal for layer in layers]
        yield "signals", f"sizes {min(sizes):.2g} to {max(sizes):.2g}"
    yield "dead units", f"{facts['dead_units']:.0%} in the worst layer"
    if "update_ratio" in facts:
        yield "updates", f"change weights by up to {facts['update_ratio']:.2g} of their size"
    if found.rates:
        yield "learning rate", _rates(found)
    for text in facts.get("by_heart", ()):
        yield "by heart", text
    for key, word in (("labels", "labels"), ("labels_shuffled", "shuffled")):
        if key in facts:
            right, number = facts[key]["others"], facts[key]["num_others"]
            yield (
                word,
                f"{right / number:.0%} of {number} other images, chance {facts[key]['chance']:.0%}",
            )


def _rates(found: Diagnosis) -> str:
    assert found.rates
    if not found.rates.suggestion:
        return "the loss does not fall within so few updates at any rate"
    best, suggestion = found.rates.best, found.rates.suggestion
    return f"lowest loss at {best:.2g}; begin with {suggestion:.2g} to {best:.2g}"


def draw(found: Diagnosis, path: Path, lr: float) -> None:
    """Draw the rates that were tried, and gradients layer by layer, as a PNG. Raises OSError."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_rates(left, found, lr)
    _draw_layers(right, found)
    save_picture(figure, path)


def _draw_rates(axes: Any, found: Diagnosis, lr: float) -> None:
    tried = found.rates
    axes.set(title="Learning rates", xlabel="learning rate", ylabel="loss, moving average")
    if tried is None or not tried.losses:
        axes.text(0.5, 0.5, "not tried", ha="center", transform=axes.transAxes)
        return
    axes.plot(tried.rates, tried.losses)
    axes.axvline(lr, color="black", linestyle=":", label=f"optim.lr {lr:g}")
    if tried.suggestion:
        axes.axvspan(tried.suggestion, tried.best, alpha=0.2, color="tab:green", label="suggested")
    top = 1.2 * max(tried.losses[0], min(tried.losses))
    axes.set(xscale="log", ylim=(0, top))
    axes.legend(loc="lower left")


def _draw_layers(axes: Any, found: Diagnosis) -> None:
    layers = found.signals.layers
    places = range(len(layers))
    axes.plot(
        places, [layer.signal for layer in layers], marker="o", label="output, root mean square"
    )
    axes.plot(
        places, [layer.gradient or None for layer in layers], marker="s", label="gradient, norm"
    )
    axes.set(title="Layers, input to output", yscale="log")
    few = range(0, len(layers), max(1, len(layers) // 12))
    axes.set_xticks(list(few), [layers[k].name for k in few], rotation=60, ha="right", fontsize=7)
    axes.legend()
