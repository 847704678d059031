"""Rows of a CSV file, read strictly: a line with two possible meanings is named and refused."""

import csv
import io
from collections.abc import Collection, Iterator
from pathlib import Path

from deepcnn.errors import DataError

DELIMITERS = ",;\t"
SHOWN = 200  # characters of a header in a message; what is no CSV file may have long ones
Row = tuple[int, dict[str, str]]  # line where it begins, fields by column


def read_table(file: Path, required: Collection[str]) -> tuple[list[str], Iterator[Row]]:
    """Column names, among them the `required` ones, and the rows of a CSV file in UTF-8.

    The delimiter (comma, semicolon or tab) is the one that finds those columns in the first line.
    Empty rows are left out. Raises DataError, for the rows while they are read.
    """
    text = _text(file)
    rows = _split(file, text, _delimiter(text, required))
    line, fields = next(rows, (1, []))
    header = [name.strip() for name in fields]
    where = f"{str(file)!r}, line {line}"
    if missing := [name for name in required if name not in header]:
        raise DataError(
            f"{where}: columns {repr(header)[:SHOWN]}, but no {', '.join(missing)}; expected a "
            f"header with {', '.join(required)}"
        )
    if twice := [name for name in header if name and header.count(name) > 1]:
        raise DataError(f"{where}: column {twice[0]!r} is there twice; rename one")
    return header, _named(file, header, rows)


def _text(file: Path) -> str:
    try:
        if not file.is_file():
            raise DataError(f"{str(file)!r} is not a file; expected a CSV file")
        content = file.read_bytes()
    except OSError as error:
        raise DataError(
            f"{str(file)!r} cannot be read ({error.strerror}); give yourself the right to read it"
        ) from error
    try:
        text, place = content.decode("utf-8-sig"), content.find(b"\0")
    except UnicodeDecodeError as error:
        text, place = "", len(content) - len(error.object) + error.start  # past a mark at byte 0
    if place >= 0:
        line = len((content[:place] + b"-").splitlines())
        raise DataError(
            f"{str(file)!r}, line {line}: byte {content[place]:#04x} is no text in UTF-8; save the "
            "file as CSV in UTF-8"
        )
    return text


def _delimiter(text: str, required: Collection[str]) -> str:
    def fits(delimiter: str) -> bool:
        # Not strictly: quotes that another delimiter puts at the wrong places are no fault.
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        try:
            return {name.strip() for name in next(filter(any, rows), [])}.issuperset(required)
        except csv.Error:
            return False

    return next(filter(fits, DELIMITERS), DELIMITERS[0])


def _split(file: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """First line and fields of each row that is not empty."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            reason = str(error).replace("\t", "tab")
            raise DataError(
                f"{str(file)!r}, line {line}: {reason}; close each double quote, and write one "
                "within a field twice"
            ) from error
        if any(fields):
            yield line, fields


def _named(file: Path, header: list[str], rows: Iterator[tuple[int, list[str]]]) -> Iterator[Row]:
    for line, fields in rows:
        if len(fields) != len(header):
            raise DataError(
                f"{str(file)!r}, line {line}: {len(fields)} fields, expected the {len(header)} of "
                "the header; put a field that holds the delimiter in double quotes"
            )
        yield line, dict(zip(header, fields, strict=True))
