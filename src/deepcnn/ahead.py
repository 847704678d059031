"""What a run within a time budget has ahead of it: measured before its first update, and again
where updates turn out slower or faster.

The end is not guessed: it is rehearsed with a few images in a folder of its own, model and report
included. Evaluation of all images follows from the speed of a piece of it.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from deepcnn import runlog
from deepcnn.budget import Pace
from deepcnn.config import Config
from deepcnn.errors import ConfigError, RunError
from deepcnn.files import STAGING_PREFIX
from deepcnn.finish import finish
from deepcnn.forecast.time import part_of, seconds_per_image
from deepcnn.progress import Silent, duration
from deepcnn.run import Run

FEW = 16  # images that the end is rehearsed with
PASSES = 3  # a first guess at an update: forward, and backward with twice the products


def look_ahead(run: Run, conditions: Mapping[str, Any], began: float) -> Pace:
    """Measure what is to come, and plan the run; its process began at `began`.

    `conditions` are what is written down at its beginning. Raises ConfigError where the budget
    leaves no time for an update of a run that has none yet.
    """
    config, state = run.config, run.state
    end, save = rehearse_end(run, conditions)
    image = seconds_per_image(run, run.policy.exact())
    num_held_out = len(run.splits.validation) if run.splits.validation else 0
    num_test = len(run.splits.test)
    update = PASSES * config.train.batch_size * image
    pace = Pace(
        budget=config.train.budget,
        update=update,
        pause=save + image * (num_held_out + num_test * config.train.test_each_epoch),
        end=end,
        image=image,
        end_images=num_held_out + num_test,
        save=save,
        save_every=config.train.checkpoint_seconds,
        began=began - used_before(run),
        # The first updates of a network that thaws stage by stage, or of small images, say little
        # of the later ones.
        least_update=update if _settled_at(config) else 0.0,
    )
    if not state.step:
        _require_room(pace)
    elif not state.progress:  # the run was begun without a budget
        state.progress = min(1.0, state.step / max(1, run.updates(config.train.epochs)))
    pace.total = state.step + _updates_left(run, pace)
    return pace


def replanned(run: Run, total: int) -> int:
    """How many updates the run has in all: `total`, or within a budget what there is time for."""
    pace, state = run.pace, run.state
    if not pace:
        return total
    pace.learn(time.perf_counter(), state.epoch, run.saving(), pace.total - state.step)
    if state.progress >= _settled_at(run.config):
        pace.least_update = 0.0  # so what was measured is true
    has_news = pace.has_news(pace.used())
    if has_news and pace.told:
        # What has slowed updates down slows evaluation, too, unless they have more to do now.
        grows = run.config.transfer.freeze or run.config.augment.small_until
        pace.slow_down(seconds_per_image(run, run.policy.exact()) if grows else None)
        pace.mark = (time.perf_counter(), state.epoch, run.saving())
    pace.total = state.step + _updates_left(run, pace)
    if has_news:
        pace.told = pace.update
        _tell(run, pace)
    run.display.expect(pace.total, run.num_epochs())
    return pace.total


def used_before(run: Run) -> float:
    """Seconds of the budget that were used when the run was interrupted, as far as is recorded."""
    try:
        events = runlog.recorded_events(run.folder)
    except RunError:  # the checkpoint knows of nearly all of it
        events = []
    return max(run.state.used, *(float(event.get("used", 0)) for event in events), 0.0)


def rehearse_end(run: Run, conditions: Mapping[str, Any]) -> tuple[float, float]:
    """Seconds that the end of the run takes with a few images, and those of a checkpoint."""
    splits = run.splits
    held_out = part_of(splits.validation, FEW) if splits.validation else None
    few = replace(splits, validation=held_out, test=part_of(splits.test, FEW))
    config = replace(run.config, train=replace(run.config.train, keep="last"))
    state = replace(run.state, events=list(run.state.events))
    with TemporaryDirectory(prefix=STAGING_PREFIX, dir=run.folder) as place:
        folder = Path(place)
        runlog.begin(folder, config, conditions)
        log = runlog.EventLog(folder, state.events)
        trial = Run(folder, config, run.policy, few, state, Silent(0), log)
        trial.save()
        began = time.perf_counter()
        finish(trial)
        return time.perf_counter() - began, trial.saving()


def _require_room(pace: Pace) -> None:
    """Raise ConfigError where there is no time for an update."""
    missing = pace.update - pace.room(pace.used())
    if missing > 0:
        raise ConfigError(
            f"a budget of {duration(pace.budget)} leaves no time to train: starting took "
            f"{duration(pace.used())}, evaluation, model and report take about "
            f"{duration(pace.after())}, an update {duration(pace.update)}. Give at least --budget "
            f"{math.ceil(1.1 * (pace.budget + missing))}s"
        )


def _settled_at(config: Config) -> float:
    """Progress from which updates take as long as at the end: all stages train, on whole images."""
    return max(config.transfer.unfreeze_at, config.augment.small_until)


def _updates_left(run: Run, pace: Pace) -> int:
    left_of_epoch = run.updates(run.state.epoch + 1) - run.state.step
    return pace.updates_left(pace.used(), left_of_epoch, len(run.slices(1)))


def _tell(run: Run, pace: Pace) -> None:
    """Show and record the plan."""
    epochs = run.epochs_in(pace.total)
    plan = {"updates": pace.total, "epochs": round(epochs, 3)}
    run.record(event="plan", step=run.state.step, **plan, update=pace.update, after=pace.after())
    part = ", a part of the first" if epochs < 1 else ""
    run.display.say(
        f"plan for {duration(pace.budget)}, of which {duration(pace.used())} are used: "
        f"{pace.total:,} updates of {1e3 * pace.update:,.3g} ms, {epochs:.2f} epochs{part}; "
        f"{duration(pace.after())} for all that follows"
    )
