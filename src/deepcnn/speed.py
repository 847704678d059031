"""How fast a run goes and what limits it: judged as it goes on, said once, written down."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from deepcnn import cost, models
from deepcnn.bench import limits
from deepcnn.bottleneck import Evidence, Room, Trial, Verdict, verdict
from deepcnn.data import kept
from deepcnn.data.loader import Batch, Source
from deepcnn.data.photos import Photos
from deepcnn.device import DTYPES, available_threads
from deepcnn.files import cache_folder
from deepcnn.objective import forward
from deepcnn.phases import Stopwatch, delay
from deepcnn.run import Run

LONG, SHORT = 20.0, 10.0  # seconds of training to be sure after: in an epoch, at the end of one
TIMES = 4  # between the two sizes of a trial
LEAST = 2  # images in it, for batch statistics
AROUND = ("reading", "decoding", "augmenting", "preprocessing", "copying", "optimiser", "waiting")
SOON = 0.02  # seconds of a piece, up to which a larger one is tried, and else a smaller one
ROUNDS, SECONDS = 20, 0.3  # of a trial at most, but three rounds in any case
SMALL = 0.2  # of the time left for updates within a budget, which a trial may take at most


def tell(run: Run, images: Source, after: float) -> None:
    """Say once what limits the run, when `after` seconds of it are measured; no bit changes.

    Not within a time budget of which too little is left for a trial.
    """
    if run.trial is None and run.watch.elapsed() >= after and _has_time(run):
        run.trial = try_sizes(run, images)
        run.display.say(f"speed: {judged(run).in_words()}")


def _has_time(run: Run) -> bool:
    """Whether a trial, of a second and three rounds, takes little of what a budget has left."""
    pace = run.pace
    return pace is None or 1 + 3 * pace.update < SMALL * pace.room(pace.used())


def facts(run: Run) -> dict[str, Any]:
    """Seconds by phase so far, and the verdict on them once there is one, for the record."""
    seconds = {name: round(value, 4) for name, value in run.watch.by_phase().items() if value}
    return {"phases": seconds} | ({"bottleneck": judged(run).as_dict()} if run.trial else {})


def judged(run: Run) -> Verdict:
    """The verdict on a run of which a part has been tried."""
    assert run.trial
    splits, model, times = run.splits, run.state.model, run.watch.times
    updates, number = times["optimiser"], models.num_parameters(model)
    dense = sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, nn.Linear))
    evaluated = len(splits.test) + len(splits.validation or ())
    return verdict(
        Evidence(
            config=run.config,
            seconds=run.watch.by_phase(),
            updates=updates,
            pieces=times["forward"],
            saves=times["checkpointing"],
            epochs=updates // len(run.slices(1)),
            trial=run.trial,
            num_images=len(splits.train),
            tested=len(splits.test) / evaluated,
            num_parameters=number,
            dense=dense / number,
            cores=available_threads(),
            delayed=delay() - run.delay_before,
            room=_room(splits.train.images),
        )
    )


class Piece(NamedTuple):
    """Seconds of a piece of a batch: to make it, and of its forward and backward pass."""

    loading: float
    computing: float


def try_sizes(run: Run, images: Source) -> Trial:
    """Compute a piece of a batch and a larger one by themselves, and leave all as it was; where
    that would take long, only a part of a piece.

    A line through the seconds of both says what a piece costs whatever its size.
    """
    pieces, policy = run.state.pieces, run.policy
    number = min(len(images), max(LEAST, run.config.train.batch_size // pieces))
    sizes = [number, min(len(images), TIMES * number)]
    if run.fastest > pieces * SOON:
        sizes = [max(LEAST, number // TIMES)]
    buffers = [(buffer, buffer.clone()) for buffer in run.state.model.buffers()]
    with torch.random.fork_rng(), run.watch.during("measuring"):
        peak = limits.convolution_forward(policy.device, DTYPES[policy.precision], repeats=1)
        found = _tried(run, replace(images, watch=Stopwatch()), sizes)
    for buffer, value in buffers:
        buffer.copy_(value)
    in_run = _in_run(run)
    found.setdefault(number, in_run)
    computing = _fixed({size: piece.computing for size, piece in found.items()})
    # What the loop takes more comes from its calls, and from caches that are cold in it.
    beside = max(0.0, in_run.computing - found[number].computing)
    computing = (computing + beside) / (found[number].computing + beside)
    loading = 0.0
    if not isinstance(images.images, Photos):
        loading = _fixed({size: piece.loading for size, piece in found.items()})
        loading /= found[number].loading
    return Trial(min(1.0, computing), min(1.0, loading), _gflop(run), peak)


def _in_run(run: Run) -> Piece:
    """Of the fastest update so far, in which all but the passes took what it takes in the mean."""
    seconds, times = run.watch.by_phase(), run.watch.times
    updates, pieces = times["optimiser"], times["forward"]
    mean = (seconds["forward"] + seconds["backward"]) / updates
    computing = min(mean, run.fastest - sum(seconds[phase] for phase in AROUND) / updates)
    return Piece(_loading(seconds) / pieces, computing * updates / pieces)


def _tried(run: Run, images: Source, sizes: Sequence[int]) -> dict[int, Piece]:
    """Of so many images each, by turns. The best of some rounds: other work only slows them."""
    found: dict[int, list[Piece]] = {number: [] for number in sizes}
    end = time.perf_counter() + SECONDS
    for made in range(ROUNDS):
        if made > 2 and time.perf_counter() > end:
            break
        for number, pieces in found.items():
            before = _loading(images.watch.by_phase())
            batch = images.batch(torch.arange(number))
            loading = _loading(images.watch.by_phase()) - before
            began = time.perf_counter()
            _both_passes(run, batch)
            pieces.append(Piece(loading, time.perf_counter() - began))
    return {number: Piece(*map(min, zip(*each, strict=True))) for number, each in found.items()}


def _loading(seconds: Mapping[str, float]) -> float:
    return seconds["copying"] + seconds["preprocessing"]


def _fixed(seconds: Mapping[int, float]) -> float:
    """The seconds at which the line through those of few and of many images begins."""
    few, many = min(seconds), max(seconds)
    if few == many:
        return 0.0
    return max(0.0, (seconds[few] * many - seconds[many] * few) / (many - few))


def _both_passes(run: Run, batch: Batch) -> None:
    """Forward and backward pass as in an update, which waits for loss and norm of the gradients."""
    run.state.model.train()
    objective, logits = forward(run, batch)
    hits = (logits.argmax(dim=1) == batch.labels).sum()
    torch.stack([objective.detach(), hits]).tolist()
    trained = [each for each in run.state.model.parameters() if each.requires_grad]
    # Not `backward`, so that gradients of the run are neither changed nor kept.
    gradients = torch.autograd.grad(objective, trained, allow_unused=True)
    float(torch.nn.utils.get_total_norm([each for each in gradients if each is not None]))


def _gflop(run: Run) -> float:
    """Of an image: two for a multiply-add, and the backward pass has twice those of the forward."""
    side = run.side()
    layers = cost.layers(run.state.model, (run.splits.preprocess.channels, side, side))
    return 3 * 2 * cost.multiply_adds(layers) / 1e9


def _room(images: object) -> Room | None:
    """What keeping decoded pictures would take, where they are in files and not kept."""
    if not isinstance(images, Photos) or images.scan.kept.pixels is not None:
        return None
    needed = images.channels * int(images.scan.sizes.prod(axis=1, dtype=np.int64).sum())
    return Room(needed, kept.disk_room(cache_folder()), kept.memory_room())
