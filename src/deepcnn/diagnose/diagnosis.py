"""The diagnosis: what is looked at, in which order, and what is left out where."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from deepcnn import artefact, checkpoint, preflight, runlog
from deepcnn.begin import choice_for
from deepcnn.by_heart import NUMBER, Memory, attempts, draw, plain, safe_learners
from deepcnn.config import Config
from deepcnn.data import glance
from deepcnn.data.loader import Batch
from deepcnn.data.order import order
from deepcnn.data.splits import Splits
from deepcnn.device import Policy
from deepcnn.diagnose import judge
from deepcnn.diagnose.findings import Finding, ranked
from deepcnn.diagnose.inputs import check_channels, check_inputs, some
from deepcnn.diagnose.network import check_dead, check_network
from deepcnn.diagnose.signal import Signals, measure
from deepcnn.diagnose.trials import Range, learn_labels, run_in_short, try_rates
from deepcnn.errors import DataError, RunError
from deepcnn.progress import Display
from deepcnn.rehearsal import rehearse
from deepcnn.run import Run

IN_A_BATCH = 64  # images that are sent through the network to look at it
MORE, MOST = 60, 200  # updates of a trial with labels: above what learning by heart took, in all


@dataclass
class Diagnosis:
    """The findings, the most likely cause first, what else was measured, and whether the trials
    were left out because of what was found before.
    """

    findings: list[Finding]
    measured: dict[str, Any] = field(default_factory=dict)
    signals: Signals = field(default_factory=Signals)
    rates: Range | None = None
    is_short: bool = False

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON can hold it."""
        layers = [vars(layer) for layer in self.signals.layers]
        curve = vars(self.rates) | {"suggestion": self.rates.suggestion} if self.rates else None
        if curve and math.isinf(curve["diverged"]):
            curve["diverged"] = None
        findings = [finding.as_dict() for finding in self.findings]
        told = {"measured": self.measured, "layers": layers, "learning_rates": curve}
        return {"findings": findings, **told, "trials_left_out": self.is_short}


def diagnose(config: Config, cache: Path, folder: Path | None = None) -> Diagnosis:
    """Find out why a run of these settings would not learn, or does not, if `folder` is that of a
    run begun with them. Nothing is written but what `cache` remembers of this machine.

    Raises ConfigError, DataError or RunError where there is nothing that could be trained.
    """
    splits = preflight.load(config)
    if len(splits.train) < 2 or len(splits.train.classes) < 2:
        raise DataError(
            f"{config.data.name} has {len(splits.train)} training images and "
            f"{len(splits.train.classes)} classes: expected at least two of both"
        )
    if folder:
        _check_classes(folder, splits)
        policy = runlog.recorded_conditions(folder)[0].under(config.hardware)
    else:
        policy = choice_for(config, splits, cache, Display(0)).policy
    policy.apply()
    found = Diagnosis([*_of_data(splits), *judge.penalties(config.optim)])
    obstacles = [*_of_images(splits), *_of_network(found, config, splits, policy)]
    if folder:
        obstacles += _of_last_weights(folder, rehearse(config, splits, policy))
    found.findings += obstacles
    found.is_short = any(each.kind not in judge.HARMLESS for each in obstacles)
    if not found.is_short:
        found.findings += _of_trials(found, config, splits, policy)
    found.findings = ranked(found.findings)
    return found


def _of_data(splits: Splits) -> list[Finding]:
    return [Finding(kind, line) for kind, line in glance.symptoms(splits.parts())]


def _of_images(splits: Splits) -> Iterator[Finding]:
    images = some(splits.train, splits.preprocess).images
    yield from check_inputs(images, splits.preprocess)
    yield from check_channels(splits, images)


def _batch(run: Run) -> Batch:
    chosen = order(run.config.train.seed, 0, len(run.splits.train))[:IN_A_BATCH]
    few = run.splits.train.subset(chosen.numpy(), run.splits.train.name)
    return run.source(few).batch(torch.arange(len(few)))


def _of_network(
    found: Diagnosis, config: Config, splits: Splits, policy: Policy
) -> Iterator[Finding]:
    run = rehearse(config, splits, policy)
    run.reach(0)
    batch = _batch(run)
    signals = found.signals = measure(run, batch)
    found.measured |= {
        "first_loss": float(torch.nn.functional.cross_entropy(signals.logits, batch.labels)),
        "loss_of_chance": math.log(len(splits.train.classes)),
        "k": signals.growth,
        "dead_units": max(signals.dead.values(), default=0.0),
    }
    yield from check_network(run, batch, signals)


def _of_trials(
    found: Diagnosis, config: Config, splits: Splits, policy: Policy
) -> Iterator[Finding]:
    found.rates = try_rates(rehearse(config, splits, policy))
    run = rehearse(config, splits, policy)
    short = run_in_short(run)
    died = [] if short.trouble else check_dead(measure(run, _batch(run)), "")
    found.measured["update_ratio"] = short.ratio
    yield from judge.rates(config.optim, found.rates, short, list(died))

    few = draw(splits, min(NUMBER, len(splits.train)), config.train.seed)
    own = plain(config, len(few.train))
    tried = list(attempts([*safe_learners(own), own], few, policy))
    found.measured["by_heart"] = [memory.in_words() for memory in tried]
    yield from judge.memory(tried)
    if tried[-1].is_whole:
        yield from _of_labels(found, tried[-1], splits, policy)


def _of_labels(
    found: Diagnosis, memory: Memory, splits: Splits, policy: Policy
) -> Iterator[Finding]:
    number = min(memory.updates + MORE, MOST)
    for name, shuffled in (("labels", False), ("labels_shuffled", True)):
        learnt = learn_labels(memory.learner, splits, policy, number, shuffled)
        found.measured[name] = vars(learnt)
        yield from judge.labels(learnt, shuffled, len(splits.train.classes))


def _of_last_weights(folder: Path, run: Run) -> Iterator[Finding]:
    """Look at the network as the run left it."""
    try:
        place, _ = checkpoint.load_newest(folder / "checkpoints", run.state)
    except (OSError, RuntimeError, LookupError, ValueError) as error:
        first_line = str(error).partition("\n")[0]
        raise RunError(
            f"the weights of {folder} cannot be used with these settings and data ({first_line}): "
            "give those it was begun with"
        ) from error
    if place is None:
        return
    updates = run.state.step
    signals = measure(run, _batch(run))
    if signals.began:
        yield Finding("non-finite", f"they begin in {signals.began}, after {updates:,} updates")
    else:
        yield from check_dead(signals, f" after {updates:,} updates")


def _check_classes(folder: Path, splits: Splits) -> None:
    """Refuse data of other classes than those of a finished run."""
    if not runlog.is_finished(folder):
        return
    classes, images = artefact.load(folder).classes, splits.train
    if classes != images.classes:
        raise DataError(
            f"{images.name} has the classes {', '.join(images.classes)}; those of {folder} are "
            f"{', '.join(classes)}: give data of these, or a recipe instead of the run"
        )
