"""The names of classes: a file with one a line, or else what the labels themselves say."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepcnn.data.arrays import CLASS_NAMES_FILE
from deepcnn.errors import DataError, did_you_mean


class Classes:
    """A number for each class: those of a list in its order, or without one as they are seen."""

    def __init__(self, listed: Sequence[str]) -> None:
        self.listed = tuple(listed)
        self.numbers: dict[int | str, int] = {}
        for number, name in enumerate(listed):
            self.numbers |= {number: number, name: number}

    def number(self, label: int | str, where: str) -> int:
        """The number of a label, itself a number or a name; DataError if there can be none."""
        if label in self.numbers:
            return self.numbers[label]
        if self.listed:
            hint = did_you_mean(label, self.listed) if isinstance(label, str) else ""
            hint = hint or f", which has {len(self.listed)} lines"
            raise DataError(f"{where} is of class {label!r}, not in {CLASS_NAMES_FILE}{hint}")
        if self.numbers and type(label) is not type(next(iter(self.numbers))):
            others = "names" if isinstance(label, int) else "numbers"
            raise DataError(
                f"{where} is of class {label!r}, but the classes before are {others}; say which "
                f"number is which name in {CLASS_NAMES_FILE}: a name a line, the first is 0"
            )
        self.numbers[label] = len(self.numbers)
        return self.numbers[label]

    def final(self) -> tuple[tuple[str, ...], NDArray[np.int64]]:
        """The names of all classes and the label of each number; without a list they are sorted,
        numbers by value.
        """
        if self.listed:
            return self.listed, np.arange(len(self.listed))
        order = sorted(self.numbers)  # all are numbers or all are names
        return tuple(map(str, order)), np.argsort([self.numbers[label] for label in order])


def read_class_names(folder: Path) -> tuple[str, ...]:
    """The lines of the folder's classes.txt, none if there is no such file."""
    path = folder / CLASS_NAMES_FILE
    try:
        return _parse(path.read_bytes(), path)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}); check the disk and rights") from error


def class_names_file(names: Sequence[str], path: Path) -> bytes:
    """What to write to `path`; DataError if the names would not be read from it as they are."""
    content = "".join(f"{name}\n" for name in names).encode("utf-8", "surrogateescape")
    if _parse(content, path) != tuple(names):
        raise _unfit(path)
    return content


def _parse(content: bytes, path: Path) -> tuple[str, ...]:
    try:
        lines = content.decode("utf-8-sig").rstrip().split("\n")
    except UnicodeDecodeError:
        raise _unfit(path) from None
    names = tuple(line.strip() for line in lines)
    # A blank line is not passed over, because the number of a line is a label.
    if not all(names) or len(set(names)) < len(names):
        raise _unfit(path)
    return names


def _unfit(path: Path) -> DataError:
    return DataError(
        f"{path} must hold one class name a line in UTF-8, at least one, none blank and none twice"
    )
