"""What a run took: what its network costs, where the time went, how fast it was."""

from typing import Any

from deepcnn import cost, models
from deepcnn.forecast.foreseen import off_by
from deepcnn.progress import duration
from deepcnn.report.gather import Record
from deepcnn.sizes import in_bytes

Context = dict[str, Any]


def speed(record: Record) -> str:
    """Images a second in training, where it is known how many there are."""
    seconds = record.epochs[-1]["seconds"] if record.epochs else 0
    number = record.data.get("images", {}).get("train")
    if number is None and record.finished:
        number = record.finished.meta["num_train_images"]
    if not seconds or number is None:
        return ""
    visited = sum(epoch.get("visited", number) for epoch in record.epochs)
    return f"{visited / seconds:,.0f} images a second"


def cost_of(record: Record) -> list[tuple[str, str]]:
    """What the network costs, and what training it took."""
    rows = []
    if network := record.network():
        channels, height, width = record.input
        layers = cost.layers(network, (channels, height, width))
        kept = sum(layer.activation_bytes for layer in layers)
        rows += [
            ("parameters", f"{models.num_parameters(network):,}"),
            ("multiply-adds of an image", f"{cost.multiply_adds(layers):,}"),
            ("activations of an image", f"{kept:,} bytes in fp32"),
        ]
    if record.finished and (peak := record.finished.meta.get("peak_memory")):
        rows.append(("most memory", f"{in_bytes(peak)}{_off_by(record, 'memory')}"))
    if record.epochs:
        seconds, number = record.epochs[-1]["seconds"], len(record.epochs)
        rows.append(("training", duration(seconds)))
        rows.append(("an epoch", f"{duration(seconds / number)} in the mean of {number}"))
    if text := speed(record):
        rows.append(("speed", text))
    if record.finished and (budget := record.finished.meta.get("budget")):
        used = f"{duration(budget['used'])} of {duration(budget['seconds'])} before this page"
        rows.append(("time budget", f"{used}, {budget['epochs']:.2f} epochs"))
    return rows


def _off_by(record: Record, what: str) -> str:
    """How far what was foretold of memory was from it."""
    facts = record.finished.meta.get("forecast", {}) if record.finished else {}
    error = facts.get(f"{what}_error")
    return "" if error is None else f", {off_by(error)} in what was foretold"


def time_of(record: Record) -> Context:
    """Where the time of training went, the longest first, and what limits it; nothing of a run of
    an earlier version.
    """
    facts = record.finished.meta if record.finished else (record.epochs or [{}])[-1]
    phases = dict(facts.get("phases", {}))
    total = sum(phases.values())
    longest = sorted(phases.items(), key=lambda item: item[1], reverse=True)
    rows = [(name, duration(seconds), seconds / total) for name, seconds in longest]
    return {"phases": rows, "bottleneck": facts.get("bottleneck", {}).get("sentence")}
