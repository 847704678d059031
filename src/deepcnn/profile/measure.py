"""Counting and measuring: `profile` makes steps, first counted, then by turns watched and not."""

import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepcnn import interrupt
from deepcnn.bench.clock import spread, synchronize, timed
from deepcnn.device import is_out_of_memory
from deepcnn.errors import DeepcnnError
from deepcnn.forecast.memory import Timeline, evaluation_timeline, training_timeline
from deepcnn.profile.assemble import Times, passes, rows
from deepcnn.profile.ceilings import ceilings
from deepcnn.profile.counts import Counts, counts
from deepcnn.profile.rows import Profile
from deepcnn.profile.step import Step
from deepcnn.profile.subject import Subject
from deepcnn.profile.tally import Tally
from deepcnn.profile.trace import Key, Trace
from deepcnn.progress import reported

SECONDS = 10.0  # that measuring is to take, in as many rounds as
LEAST, MOST = 3, 25
WARM_UP = 2  # steps


def profile(
    subject: Subject, train: bool, cache: Path, say: Callable[[str], None] = lambda _: None
) -> Profile:
    """Profile the forward pass of a network, or with `train` all of an update. What the machine can
    do at best is measured once and remembered in `cache`. DeepcnnError where memory runs out.
    """
    subject.policy.apply()
    try:
        step = Step(subject, train)
        for _ in range(WARM_UP):
            interrupt.check()
            seconds = timed(step)
        trace, found = counted(step)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise DeepcnnError(
            f"not enough memory for {subject.batch_size} images at a time: lower --batch, or give "
            "smaller images with --input"
        ) from error
    formats = {work.format for works in found.flops.values() for work in works}
    best = ceilings(subject.policy, sorted(formats or {"fp32"}), cache, say)
    whole, times = measured(step, min(MOST, max(LEAST, int(SECONDS / seconds / 2))))
    return Profile(
        subject={**subject.as_dict(), "train": train, "rounds": len(whole)},
        rows=rows(step, trace, found, passes(found, times, best)),
        whole=spread(whole),
        input_bytes=step.images.nbytes,
        timeline=memory(step),
        ceilings=best,
        uncounted={
            name: {str(part): calls for part, calls in parts.items()}
            for name, parts in found.uncounted.items()
        },
    )


def counted(step: Step) -> tuple[Trace, Counts]:
    """A step whose operations are counted."""
    trace = Trace(step.model, lambda: None)
    tally = Tally(trace)
    with tally, trace.layers():
        step(trace)
    return trace, counts(tally)


def memory(step: Step) -> Timeline | None:
    """What a step has in memory, from moment to moment; None where that cannot be told."""

    def images(number: int) -> tuple[Tensor, Tensor]:
        return step.images[:1].expand(number, -1, -1, -1), step.labels[:1].expand(number)

    try:
        if not step.optimizer:
            return evaluation_timeline(step.model, images, step.policy)
        return training_timeline(step.model, images, step.policy, step.optimizer)
    except ValueError:
        return None


def measured(step: Step, rounds: int) -> tuple[list[float], Times]:
    """Seconds of whole steps that are not watched, and of the parts of those that are, by turns."""
    whole: list[float] = []
    times: defaultdict[Key, list[float]] = defaultdict(list)
    stamp, between = _clock(step.images.device)
    for _ in reported(range(rounds), rounds, "measuring"):
        interrupt.check()
        whole.append(timed(step))
        trace = Trace(step.model, stamp)
        synchronize()
        with trace.layers():
            step(trace)
        synchronize()
        for key, seconds in trace.lengths(between).items():
            times[key].append(seconds)
    return whole, times


def _clock(device: torch.device) -> tuple[Callable[[], Any], Callable[[Any, Any], float]]:
    """What tells the time, and seconds between two of its answers: a GPU's own, as it works."""
    if device.type != "cuda":
        return time.perf_counter, lambda began, ended: ended - began

    def stamp() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    return stamp, lambda began, ended: began.elapsed_time(ended) / 1e3
