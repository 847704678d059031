"""The exceptions a person can meet, each a sentence with what happened, what was expected, the fix.

DeepcnnError                exit code 1: something failed
|-- NonFiniteError          the loss or a gradient stopped being a number
|-- SaveError               the finished model could not be written
|-- ImageError              one picture could not be read; the others are still answered
|-- Interrupted             Ctrl-C (130) or SIGTERM (143), after a checkpoint
`-- UserError               exit code 2: the request cannot be carried out as it stands
    |-- ConfigError         a setting is unknown, of the wrong type or out of range
    |-- DataError           a data set is unknown, missing or damaged
    `-- RunError            a run folder cannot be used for this
"""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TypeVar

FEW = 12  # names that a line can hold

T = TypeVar("T")


class DeepcnnError(Exception):
    """Base of everything that ends a command with one line instead of a traceback."""

    exit_code = 1


class NonFiniteError(DeepcnnError):
    """The loss or a gradient is infinite or not a number; no update was made with it."""


class SaveError(DeepcnnError):
    """The finished model could not be written to disk."""


class ImageError(DeepcnnError):
    """A single picture could not be read."""


class Interrupted(DeepcnnError):
    """A signal asked the command to stop; `exit_code` is 128 plus its number."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number


class UserError(DeepcnnError):
    """The request itself has to change."""

    exit_code = 2


class ConfigError(UserError):
    """A setting is unknown, of the wrong type or out of range."""


class DataError(UserError):
    """A data set is unknown, missing or damaged."""


class RunError(UserError):
    """A run folder cannot be used for what was asked."""


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the nearest known one, or nothing."""
    near = get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def look_up(kind: str, name: str, table: Mapping[str, T]) -> T:
    """The table's entry; ConfigError with the nearest name if there is none, and with all names
    where they are few or none is near.
    """
    if name in table:
        return table[name]
    hint = did_you_mean(name, table)
    if hint and len(table) > FEW:
        raise ConfigError(f"unknown {kind} {name!r}{hint}")
    raise ConfigError(f"unknown {kind} {name!r}{hint or '.'} Choose one of: {', '.join(table)}")
