"""What a person sees while a run goes on: a bar on a terminal, a plain line every few seconds
elsewhere. Everything goes to stderr; stdout is for results.
"""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

LINE_SECONDS = 5.0  # between two plain lines


class Display:
    """Progress of a run of `total` updates, `batch_size` images each."""

    def __init__(self, epochs: int, total: int, done: int) -> None:
        self.epochs, self.total = epochs, total
        self.console = Console(stderr=True)
        self.bar = _bar(self.console) if self.console.is_terminal else None
        self.task = (
            self.bar.add_task("", total=total, completed=done, facts="") if self.bar else None
        )
        self.began = time.perf_counter()
        self.first_step = done
        self.last_line = self.began

    def __enter__(self) -> "Display":
        if self.bar:
            self.bar.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if self.bar:
            self.bar.stop()

    def step(self, step: int, epoch: int, loss: float, accuracy: float, rate: float) -> None:
        """Show the state after update number `step`; `rate` in images per second."""
        facts = f"loss {loss:.4f}  accuracy {accuracy:.3f}  {rate:,.0f} images/s"
        where = f"epoch {epoch + 1}/{self.epochs}"
        if self.bar and self.task is not None:
            self.bar.update(self.task, completed=step, description=where, facts=facts)
            return
        now = time.perf_counter()
        if now - self.last_line >= LINE_SECONDS:
            self.last_line = now
            left = (self.total - step) * (now - self.began) / max(1, step - self.first_step)
            self.say(f"{where}  step {step}/{self.total}  {facts}  {duration(left)} left")

    def say(self, line: str) -> None:
        """Print a line above the bar, as it is."""
        if self.bar:
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)  # noqa: T201


def duration(seconds: float) -> str:
    """Seconds as a person says them: 8 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.completed}/{task.total}  {task.fields[facts]}"),
        TimeRemainingColumn(),
        console=console,
    )
