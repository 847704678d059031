"""The beginning of a run, or of its continuation: what is checked, chosen and announced."""

import shlex
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepcnn import checkpoint, interrupt, models, preflight, probe, runlog
from deepcnn.ahead import look_ahead
from deepcnn.checkpoint import TrainState
from deepcnn.choose import Choice, choose_policy
from deepcnn.config import Config
from deepcnn.data.glance import glance
from deepcnn.data.hardest import NEVER_SEEN
from deepcnn.data.loader import source
from deepcnn.data.order import order
from deepcnn.data.splits import Splits
from deepcnn.device import Policy, machine, mix, plain_policy
from deepcnn.diagnose.start import first_look
from deepcnn.errors import RunError
from deepcnn.forecast.start import foresee
from deepcnn.models.pretrained import find_weights, load_pretrained
from deepcnn.optim import make_optimizer, tensors
from deepcnn.progress import Display
from deepcnn.run import Run

IMAGES_TO_INITIALIZE = 64

# What a checkpoint holds, and its place in an epoch, mean nothing under other values of these.
UNCHANGEABLE = tuple(
    f"{name}:"
    for name in ("data.name", "data.validation", "model.name", "optim.name", "train.batch_size",
                 "train.drop_last", "train.hardest", "transfer.stage_decay")
)  # fmt: skip


def begin(
    config: Config, folder: Path, cache: Path, accept_change: bool, began: float | None = None
) -> Run:
    """Begin a run in `folder`, whose lock is held, or go on with the one begun there. Its time
    budget, if it has one, runs since `began`, by default now.

    Raises RunError where the folder holds a finished run or one that is not this one, unless
    `accept_change` says to go on knowingly; ConfigError where the budget leaves no time to train.
    """
    began = time.perf_counter() if began is None else began
    display = Display(config.train.epochs)
    begun = runlog.is_begun(folder)
    changes = _changed_settings(folder, config, accept_change) if begun else []
    splits = preflight.load(config, display.say)
    interrupt.check()
    if begun:
        policy, then, fingerprint_then = runlog.recorded_conditions(folder)
        choice = Choice(policy.under(config.hardware), "recorded", {})
        then |= {"images": fingerprint_then[:12]}
        now = {**machine(choice.policy.device), "images": splits.fingerprint[:12]}
        changes += _changed_conditions(folder, then, now, accept_change)
    else:
        preflight.check_weights(config, splits)
        choice = choice_for(config, splits, cache, display)
    seen = glance(splits.parts(), config.data.name) if changes or not begun else []
    for line in seen:
        display.say(line)
    policy = choice.policy
    policy.apply()
    state = begin_state(config, splits, policy)
    _announce(display, config, splits, choice, state)
    if not _restore(folder / "checkpoints", state, display):
        prepare(config, splits, policy, state, display)
        if preflight.trains(config) and (warning := first_look(state.model, splits, policy)):
            command = f"deepcnn diagnose {shlex.quote(str(folder))}"
            display.say(f"warning: {warning}; `{command}` says what to do")
    log = runlog.EventLog(folder, state.events)
    run = Run(folder, config, policy, splits, state, display, log)
    _require_its_place(run)
    if changes:
        state.pieces = config.train.accumulate
    elif begun:
        state.pieces = max(state.pieces, runlog.recorded_environment(folder).get("pieces", 1))
    run.foreseen = foresee(run, may_divide=bool(changes) or not begun)
    facts = {
        "pieces": state.pieces,
        "policy": asdict(policy),
        "policy_origin": choice.origin,
        "policy_seconds": choice.seconds,
        "accepted_changes": changes,
        "data": {**splits.facts(), "glance": seen},
        "machine": machine(policy.device),
        "data_fingerprint": splits.fingerprint,
    }
    if config.train.budget:
        run.pace = look_ahead(run, facts, began)
    if changes or not begun:
        runlog.begin(folder, config, facts)
    return run


def _require_its_place(run: Run) -> None:
    """Raise RunError where a checkpoint is of no place in a run of these settings and images."""
    train, state = run.config.train, run.state
    total = run.updates(train.epochs)
    if state.step > total and not train.budget:
        raise RunError(
            f"{run.folder} is at update {state.step} already, more than the {total} of "
            f"train.epochs {train.epochs}: give more epochs, or another --out"
        )
    # At the end of its budget a run has cut its last epoch short.
    first = 0 if train.budget and state.progress >= 1 else run.updates(state.epoch)
    if not first <= state.step <= run.updates(state.epoch + 1):
        raise RunError(
            f"{run.folder} was begun with another number of training images; give another --out"
        )


def begin_state(config: Config, splits: Splits, policy: Policy) -> TrainState:
    """The first weights, a pure function of the seed, and a fresh optimiser."""
    torch.manual_seed(mix(config.train.seed, "weights"))
    model = preflight.build(config, splits)
    models.initialize(model, config.model.init, lambda: _first_images(config, splits))
    model = policy.place(model)
    device_type = torch.device(policy.device).type
    return TrainState(
        model=model,
        optimizer=make_optimizer(config.optim, model, config.transfer.stage_decay),
        scaler=torch.amp.GradScaler(device_type, enabled=policy.precision == "fp16"),
        average=tensors(model) if config.train.ema else None,
        losses=torch.full((len(splits.train),), NEVER_SEEN) if config.train.hardest < 1 else None,
        pieces=config.train.accumulate,
    )


def prepare(
    config: Config, splits: Splits, policy: Policy, state: TrainState, display: Display
) -> None:
    """Begin with the weights of a file and a fitted last layer, as far as set. A run that goes on
    from a checkpoint needs neither.
    """
    if config.model.weights:
        found = find_weights(config.model.name, config.model.weights)
        for note in filter(None, [config.model.origin, *load_pretrained(state.model, found)]):
            display.say(f"weights: {note}")
    if config.transfer.probe:
        device = torch.device(policy.device)
        train, held_out = (
            source(images, splits.preprocess, device) if images else None
            for images in (splits.train, splits.validation)
        )
        assert train is not None
        fitted = probe.fit_head(state.model, train, held_out, policy)
        display.say(
            f"linear probe: {fitted.accuracy:.2%} of the images left out for it, "
            f"penalty {fitted.penalty:g}"
        )
    if state.average is not None:
        state.average = tensors(state.model)


def _first_images(config: Config, splits: Splits) -> Tensor:
    """Training images, as the network gets them, for an initialiser that goes by data."""
    indices = order(config.train.seed, 0, len(splits.train))[:IMAGES_TO_INITIALIZE]
    return source(splits.train, splits.preprocess, torch.device("cpu")).batch(indices).images


def choice_for(config: Config, splits: Splits, cache: Path, display: Display) -> Choice:
    """How the run is to compute."""
    if not preflight.trains(config):
        plain = plain_policy(config.hardware.device).under(config.hardware)
        return Choice(plain, "nothing to train", {})
    classes, channels = len(splits.train.classes), splits.train.num_channels
    side = splits.preprocess.input_size
    return choose_policy(
        config.hardware,
        f"{config.model.name} {classes}",
        lambda: preflight.build(config, splits),
        (config.train.batch_size, channels, side, side),
        cache,
        display.say,
    )


def _changed_settings(folder: Path, config: Config, accept_change: bool) -> list[str]:
    """What differs from the settings the run was begun with; RunError unless that is accepted."""
    changes = runlog.differences(runlog.recorded_config(folder), config)
    finished = runlog.is_finished(folder)
    fixed = finished or any(change.startswith(UNCHANGEABLE) for change in changes)
    if changes and (fixed or not accept_change):
        remedy = "" if fixed else ", or --accept-change to go on with these"
        raise RunError(
            f"{folder} holds a run of other settings ({'; '.join(changes)}). "
            f"Give another --out{remedy}"
        )
    if finished:
        raise RunError(
            f"{folder} holds a finished run, so nothing was done. Look at it with "
            f"`deepcnn evaluate {folder}`, or give another --out to train again"
        )
    return changes


def _changed_conditions(
    folder: Path, then: Mapping[str, Any], now: Mapping[str, Any], accept_change: bool
) -> list[str]:
    """What differs in data and machine; RunError unless that is accepted."""
    changes = [
        f"{name}: {then.get(name)} then, {now.get(name)} now"
        for name in {**then, **now}
        if then.get(name) != now.get(name)
    ]
    if changes and not accept_change:
        raise RunError(
            f"{folder} was begun under other conditions ({'; '.join(changes)}), so it would not "
            "end in the same weights. Restore them, give another --out, or --accept-change to "
            "go on all the same"
        )
    return changes


def _restore(folder: Path, state: TrainState, display: Display) -> bool:
    """Go on from the newest checkpoint that verifies; whether there is one."""
    if not folder.exists():
        return False
    try:
        place, passed_over = checkpoint.load_newest(folder, state)
        for reason in passed_over:
            display.say(f"warning: {reason}")
        checkpoint.discard_after(folder, state.step if place else -1)
    except OSError as error:
        raise RunError(
            f"cannot read and tidy {folder}: {error}. Mend the disk and repeat the command, or "
            "give another --out"
        ) from error
    display.say(f"continuing at step {state.step}" if place else "no checkpoint: starting over")
    return place is not None


def _announce(
    display: Display,
    config: Config,
    splits: Splits,
    choice: Choice,
    state: TrainState,
) -> None:
    """Say what was derived and chosen, before any time is spent on it."""
    held_out = f", {len(splits.validation):,} held out" if splits.validation else ""
    side = splits.preprocess.input_size
    display.say(
        f"{config.data.name}: {len(splits.train):,} training images{held_out}, "
        f"{len(splits.test):,} test images; network input "
        f"{splits.preprocess.channels}x{side}x{side}"
    )
    policy = choice.policy
    for line in choice.in_words():
        display.say(line)
    display.say(
        f"{config.model.name}: {models.num_parameters(state.model):,} parameters; {policy.device}, "
        f"{policy.precision}, {policy.layout}, {policy.threads} threads ({choice.origin})"
    )
