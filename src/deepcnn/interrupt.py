"""Ctrl-C and SIGTERM as a flag that every loop polls between two units of work."""

import signal
from types import FrameType

from deepcnn.errors import Interrupted

_received: list[int] = []


def install() -> None:
    """From here on the first Ctrl-C or SIGTERM asks to stop; a second one stops at once."""
    _received.clear()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _remember)


def check() -> None:
    """Raise Interrupted if a signal has asked to stop."""
    if _received:
        name = signal.Signals(_received[0]).name
        raise Interrupted(f"stopped by {name}", _received[0])


def _remember(number: int, _frame: FrameType | None) -> None:
    _received.append(number)
    # Whole things stand on disk at every instant, so dying here loses at most the last minute.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_DFL)
