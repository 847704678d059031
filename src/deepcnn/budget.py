"""A time budget: how many updates there is room for, from what everything has taken so far.

`Pace` looks at no run: seconds go in, updates and progress come out.
"""

import math
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from deepcnn.errors import ConfigError

UNITS = {"s": 1, "m": 60, "h": 3600}
# Kept back for what was not foreseen: of the budget, and of what comes after the last update.
SPARE, SPARE_OF_END = 0.01, 0.25
# What an update takes is a mean over those made last, so many of them as this share of those to
# come: a long run is not to hear every noise, and a run that is about to end must.
MEMORY = 0.1
MOST_NEW = 0.7  # weight of the newest update in that mean, at most
HICCUP = 4.0  # an update counts as at most so many times what was expected, or so small a part
NEWS = 1.25  # by this factor updates must have become slower or faster to be worth a word
NEAR = 0.1  # with so small a part of the budget left for updates there is none
EXIT = 0.2  # seconds in which a process ends that has loaded torch: 0.1 to 0.3 were measured
SETTLED = 3  # updates after which a pace can be told


def seconds(text: str) -> float:
    """The length of a budget such as 90s, 10m or 1.5h. Raises ConfigError."""
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+)([smh])", text.strip(), re.ASCII)
    value = float(found[1]) * UNITS[found[2]] if found else 0.0
    if not 0 < value < math.inf:
        raise ConfigError(
            f"--budget is {text!r}, expected a time above 0 in s, m or h, such as 90s, 10m or 1.5h"
        )
    return value


def command_start() -> float:
    """When the time of this command began to run, on the clock of `time.perf_counter`: with its
    process, and earlier by what it will take to exit.
    """
    return process_start() - EXIT


def process_start() -> float:
    """When this process began, on the same clock."""
    now = time.perf_counter()
    try:  # Linux: field 22 of proc_pid_stat(5), in ticks since the machine was started
        fields = Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        ticks = os.sysconf("SC_CLK_TCK")
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / ticks
    except (OSError, ValueError, AttributeError):
        age = time.process_time()  # elsewhere: it has hardly waited for anything yet
    return now - age


@dataclass
class Pace:
    """What a run within a budget takes, all in seconds: as forecast, then as measured."""

    budget: float
    update: float
    pause: float  # between two epochs, and after the last: validation, checkpoint
    end: float  # after that, without evaluation: model and report
    image: float  # evaluation of an image
    end_images: int  # how many are evaluated at the end
    save: float  # a checkpoint by the clock
    save_every: float
    began: float  # when the budget would have begun if the run had never been interrupted
    total: int = 0  # updates of the whole run, as planned last
    num_seen: int = 0
    least_update: float = 0.0  # to be expected of those to come, whatever was measured
    told: float = 0.0  # what an update took when that was told last
    surprise: float = 1.0  # by this factor the last pause was longer than expected, if it matters
    # When the run was followed last, in which epoch, after how many seconds of checkpoints.
    mark: tuple[float, int, float] | None = None

    def used(self) -> float:
        """Seconds of the budget that are gone."""
        return time.perf_counter() - self.began

    def after(self) -> float:
        """Seconds of all that comes after the last update."""
        return self.pause + self.end + self.end_images * self.image

    def room(self, used: float) -> float:
        """Seconds for the updates and the pauses between them."""
        return (1 - SPARE) * self.budget - used - (1 + SPARE_OF_END) * self.after()

    def updates_left(self, used: float, in_epoch: int, per_epoch: int) -> int:
        """How many updates there is time for: `in_epoch` are left of the epoch under way,
        `per_epoch` make the next ones. At least 1, or 2 before any has been measured.
        """
        room, update = self.room(used), max(self.update, self.least_update)
        update += self.save * min(1, update / max(self.save_every, 1e-9))
        if room <= in_epoch * update:
            return max(1 if self.num_seen else 2, int(room / update))
        cycles, rest = divmod(room - in_epoch * update, self.pause + per_epoch * update)
        return in_epoch + int(cycles) * per_epoch + int(max(0.0, rest - self.pause) / update)

    def see_update(self, seconds: float, updates_left: int) -> None:
        """Learn from the update just made, `updates_left` before the last."""
        self.num_seen += 1
        if self.num_seen == 1 and seconds > self.update:
            return  # the first one also warms up
        of_all = 1 / max(1, self.num_seen - 1)
        weight = max(of_all, min(MOST_NEW, 1 / (MEMORY * max(1, updates_left))))
        self.update *= min(max(seconds / self.update, 1 / HICCUP), HICCUP) ** weight

    def see_pause(self, seconds: float) -> None:
        """Learn from the pause between two epochs just made."""
        matters = seconds > NEWS * self.pause and seconds - self.pause > SPARE * self.budget
        self.surprise = seconds / self.pause if matters else 1.0
        self.pause = (self.pause + seconds) / 2

    def slow_down(self, image: float | None) -> None:
        """Expect evaluation to have become slower or faster: as what it takes for an `image` by
        now; or if that is not known, half-way as updates since that was told, or the last pause,
        for a busy core hits the many short products of an update harder.
        """
        if image is None:
            seen = self.surprise if self.surprise > 1 else self.update / self.told
            factor = math.sqrt(seen)
        else:
            factor = min(max(image / self.image, 1 / HICCUP), HICCUP)
        self.image *= factor
        self.least_update *= factor
        if self.surprise == 1:  # otherwise a pause as it is by now has been seen
            self.pause *= factor
        self.surprise = 1.0

    def learn(self, now: float, epoch: int, saving: float, updates_left: int) -> None:
        """Learn from what has happened since the `mark`: an update, perhaps a checkpoint, which has
        a forecast of its own, or the pause after an epoch.
        """
        if self.mark:
            then, epoch_then, saving_then = self.mark
            if epoch > epoch_then:
                self.see_pause(now - then - self.update)
            else:
                self.see_update(now - then - (saving - saving_then), updates_left)
        self.mark = (now, epoch, saving)

    def has_news(self, used: float) -> bool:
        """Whether it is time to tell the plan, or updates have become slower or faster since then,
        or the last pause was a surprise, and the end is not near.
        """
        if not self.told:
            return self.num_seen >= SETTLED
        changed = self.surprise > 1 or not self.told / NEWS < self.update < self.told * NEWS
        return changed and self.room(used) > NEAR * self.budget


def advance(progress: float, updates_left: int) -> tuple[float, float]:
    """Progress (0 to 1) in the middle of the next update and after it, in equal parts for all that
    are left: exactly 1 after the last.
    """
    share = (1 - progress) / updates_left
    return progress + share / 2, progress + share if updates_left > 1 else 1.0
