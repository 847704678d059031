"""A run worked out before it is begun: memory, time and disk."""

import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deepcnn import preflight
from deepcnn.begin import choice_for
from deepcnn.bottleneck import Verdict
from deepcnn.checkpoint import KEPT
from deepcnn.config import Config
from deepcnn.data.photos import Photos
from deepcnn.errors import ConfigError
from deepcnn.forecast.run import Forecast, Memory, memory_of
from deepcnn.forecast.start import memory_limit
from deepcnn.forecast.time import lengths_of
from deepcnn.models import num_parameters
from deepcnn.preview import look
from deepcnn.progress import Display, duration, say
from deepcnn.rehearsal import rehearse
from deepcnn.run import Run
from deepcnn.sizes import in_bytes
from deepcnn.table import table

SECONDS = 4.0  # of real updates that are timed, the first ones to warm up
PAGE = 5 * 10**6  # bytes of curve, report and record


@dataclass(frozen=True)
class Plan:
    """What a run is and what it will take, in bytes and seconds."""

    data: dict[str, Any]
    network: dict[str, Any]
    policy: dict[str, Any]
    updates: int
    pieces: int | None  # None: not even two images at once fit
    memory: dict[str, Any]
    seconds: dict[str, float] | None  # None where it does not fit
    bottleneck: dict[str, Any] | None
    disk: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)


def plan(config: Config, folder: Path, cache: Path, began: float) -> Plan:
    """Work a run out that is to be written to `folder`; its command began at `began`, on the clock
    of `time.perf_counter`.

    Raises ConfigError or DataError where it could not be begun, and ConfigError where nothing is to
    be trained or the network's memory cannot be foretold.
    """
    if not config.train.epochs:
        raise ConfigError("train.epochs is 0: there is nothing to plan")
    splits = preflight.load(config, say)
    preflight.check_weights(config, splits)
    choice = choice_for(config, splits, cache, Display(config.train.epochs))
    choice.policy.apply()
    start = time.perf_counter() - began
    run = rehearse(config, splits, choice.policy)
    try:
        memory = memory_of(run)
    except ValueError as reason:
        raise ConfigError(f"memory cannot be foretold for {config.model.name}: {reason}") from None
    limit, batch = memory_limit(run), config.train.batch_size
    pieces = memory.fewest_pieces(batch, limit) if limit else 1
    run.state.pieces = max(pieces or 1, run.state.pieces)
    network = {"name": config.model.name, "parameters": num_parameters(run.state.model)}
    asked, taken = _memory_facts(memory, run, limit), _disk(memory, run, folder)
    seconds, found = _measured(run, start) if pieces else (None, None)
    return Plan(
        data={"name": config.data.name, **splits.facts()},
        network=network,
        policy={**asdict(choice.policy), "origin": choice.origin},
        updates=run.updates(config.train.epochs),
        pieces=pieces,
        memory=asked,
        seconds=seconds,
        bottleneck=found.as_dict() if found else None,
        disk=taken,
    )


def _measured(run: Run, start: float) -> tuple[dict[str, float], Verdict]:
    """What a run takes that started for so many seconds, and what limits it: from some updates,
    which are made.
    """
    say(f"making updates for about {SECONDS:.0f} s")
    found = look(run, SECONDS)
    times, by_phase = run.watch.times, run.watch.by_phase()
    update = (sum(by_phase.values()) - by_phase["measuring"]) / times["optimiser"]
    lengths = lengths_of(run, update, first=0)
    run.state.step = 0  # nothing of it is made yet
    return {
        "start": start,
        "update": update,
        "epoch": lengths.epoch(run),
        "total": start + lengths.rest(run),
        "updates_timed": times["optimiser"],
    }, found


def _memory_facts(memory: Memory, run: Run, limit: int | None) -> dict[str, Any]:
    """The forecast with what there is, and the largest batch that would fit."""
    found: Forecast = memory.forecast(run.config.train.batch_size, run.state.pieces)
    most = len(run.splits.train)
    return {
        "peak": found.size,
        "phase": found.phase,
        "parts": found.parts,
        "layer": found.layer,
        "limit": limit,
        "largest_batch": memory.largest_batch(limit, most) if limit else None,
    }


def _disk(memory: Memory, run: Run, folder: Path) -> dict[str, int]:
    """Bytes that the run will have on the disk at once, by what they are, and what is free there.

    The newest checkpoints and the best are kept while one more is written.
    """
    splits, weights = run.splits, memory.step.peak(2).parts["parameters"]
    images = splits.train.images
    kept = images.scan.kept.pixels if isinstance(images, Photos) else None
    asked = sum(len(part) for name, part in splits.parts().items() if name != "train")
    parts = {
        "checkpoints": (KEPT + 1 + bool(splits.validation)) * (memory.constant + memory.to_come),
        "model": weights,
        "predictions and report": 4 * asked * len(splits.train.classes) + PAGE,
        "decoded pictures in the cache": 0 if kept is None else kept.nbytes,
    }
    place = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    return {**parts, "needed": sum(parts.values()), "free": shutil.disk_usage(place).free}


def in_words(plan: Plan) -> str:
    """The plan for a person."""
    memory, seconds, disk = plan.memory, plan.seconds, plan.disk
    images = ", ".join(f"{number:,} {name}" for name, number in plan.data["images"].items())
    policy = "{device}, {precision}, {layout}, {threads} threads ({origin})".format(**plan.policy)
    lines = [
        f"data     {plan.data['name']}: {images} images, {'x'.join(map(str, plan.data['input']))}",
        f"network  {plan.network['name']}: {plan.network['parameters']:,} parameters",
        f"policy   {policy}",
        "",
        f"memory   {in_bytes(memory['peak'])} at most, in {memory['phase']}; a step has its peak "
        f"at {memory['layer'] or 'the input'}",
        table([["  " + name, in_bytes(size)] for name, size in memory["parts"].items() if size]),
    ]
    if memory["limit"]:
        lines.append(
            f"of       {in_bytes(memory['limit'])}; the largest batch that fits has "
            f"{memory['largest_batch']:,} images"
        )
    if plan.pieces is None and memory["largest_batch"]:
        lines.append("         batches as set do not fit, not even in pieces of two images")
    elif plan.pieces is None:
        lines.append("         not even two images at once fit: choose a smaller network or side")
    elif plan.pieces > 1:
        lines.append(f"         batches would be computed in {plan.pieces} pieces")
    lines.append("")
    if seconds and plan.bottleneck:
        lines += [
            f"time     {duration(seconds['total'])} in all: {1e3 * seconds['update']:,.3g} ms an "
            f"update, {duration(seconds['epoch'])} an epoch, {plan.updates:,} updates",
            f"speed    {plan.bottleneck['sentence']}",
        ]
    return "\n".join([
        *lines,
        f"disk     {in_bytes(disk['needed'])}, {in_bytes(disk['checkpoints'])} of it for "
        f"checkpoints; {in_bytes(disk['free'])} are free",
    ])  # fmt: skip
