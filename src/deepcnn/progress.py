"""What a person sees while a run goes on: a bar on a terminal, a plain line every few seconds
elsewhere. Everything goes to stderr; stdout is for results.
"""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

LINE_SECONDS = 5.0  # between two plain lines
FIRST_LINE_SECONDS = 2.0  # what is over sooner needs none

T = TypeVar("T")


class Display:
    """Lines, and between `following` and its end the progress of a run."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.console = Console(stderr=True)
        can_draw = self.console.is_terminal and not self.console.is_dumb_terminal
        self.bar = _bar(self.console) if can_draw else None

    @contextmanager
    def following(self, done: int, total: int) -> Iterator[None]:
        """Show progress from update `done` to `total` inside the block."""
        self.first, self.total = done, total
        self.began = self.last_line = time.perf_counter()
        self.images = 0
        if not self.bar:
            yield
            return
        self.task = self.bar.add_task("", total=total, completed=done, facts="")
        with self.bar:
            yield

    def expect(self, total: int, epochs: int) -> None:
        """Show progress towards another end from now on."""
        self.total, self.epochs = total, epochs
        if self.bar:
            self.bar.update(self.task, total=total)

    def step(self, step: int, epoch: int, facts: str, num_images: int) -> None:
        """Show the state after update number `step`, made from `num_images` images."""
        self.images += num_images
        now = time.perf_counter()
        facts = f"{facts}  {self.images / (now - self.began):,.0f} images/s"
        where = f"epoch {epoch + 1}/{self.epochs}"
        if self.bar:
            self.bar.update(self.task, completed=step, description=where, facts=facts)
        elif now - self.last_line >= LINE_SECONDS:
            self.last_line = now
            left = (self.total - step) * (now - self.began) / (step - self.first)
            self.say(f"{where}  step {step}/{self.total}  {facts}  {duration(left)} left")

    def say(self, line: str) -> None:
        """Print a line above the bar, as it is."""
        if not self.bar:
            say(line)
            return
        with suppress(OSError):
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)


class Silent(Display):
    """Shows nothing."""

    def say(self, line: str) -> None:
        """Do not print it."""

    def step(self, step: int, epoch: int, facts: str, num_images: int) -> None:
        """Do not show it."""


def reported(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Yield `items`, `total` of them, with a line on stderr every few seconds if it takes long."""
    began = last_line = time.perf_counter()
    for done, item in enumerate(items):
        now = time.perf_counter()
        if done and now - last_line >= (LINE_SECONDS if last_line > began else FIRST_LINE_SECONDS):
            last_line = now
            left = duration((total - done) * (now - began) / done)
            say(f"{what}: {done / total:.0%}, {left} left")
        yield item


def duration(seconds: float) -> str:
    """Seconds as a person says them: 8 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def say(line: str) -> None:
    """Print a line on stderr, as it is."""
    with suppress(OSError):  # a full disk behind stderr is no reason to stop a training run
        print(line, file=sys.stderr, flush=True)  # noqa: T201


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.completed}/{task.total}  {task.fields[facts]}"),
        TimeRemainingColumn(),
        console=console,
    )
