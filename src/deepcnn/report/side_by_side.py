"""Several finished runs as one page. They are called A, B, C, as their names may be long."""

import shlex
from collections.abc import Sequence
from typing import Any

from deepcnn.compare import cells, compare_runs, sentences
from deepcnn.report import figures
from deepcnn.report.gather import Record
from deepcnn.report.page import rendered, result_of
from deepcnn.settings import flat

FACTS = ("run", "model", "accuracy", "interval", "loss", "calibration_error", "seconds",
         "parameters", "multiply_adds", "peak_memory")  # fmt: skip


def comparison_page(records: Sequence[Record]) -> str:
    """The page of two runs or more. Raises RunError where one has no finished model."""
    found = compare_runs([record.folder for record in records])
    letters = [letter_of(index) for index in range(len(records))]
    head, *rows = cells(found)
    values = [[_sorted_by(facts[name]) for name in FACTS] for facts in found["runs"]]
    curves = [(letter, record.epochs) for letter, record in zip(letters, records, strict=True)
              if record.epochs]  # fmt: skip
    return rendered(
        "comparison.html",
        title=f"{len(records)} runs side by side",
        refresh=0,
        head=head,
        rows=[
            (letter, list(zip(row, numbers, strict=True)))
            for letter, row, numbers in zip(letters, rows, values, strict=True)
        ],
        sentences=sentences(found),
        curves=[(figures.accuracies_of_runs(curves), "accuracy by epoch")] if curves else [],
        settings=differing(records),
        classes=recalls(records),
        commands=[f"deepcnn report {shlex.quote(str(record.folder))}" for record in records],
    )


def letter_of(index: int) -> str:
    """A, B, ... Z, AA, AB, ..."""
    before, place = divmod(index, 26)
    return (letter_of(before - 1) if before else "") + chr(ord("A") + place)


def differing(records: Sequence[Record]) -> list[tuple[str, list[str]]]:
    """The settings that are not the same in all runs, with their value in each."""
    all_settings = [flat(record.config) for record in records]
    return [
        (name, [str(settings[name]) for settings in all_settings])
        for name in all_settings[0]
        if any(settings[name] != all_settings[0][name] for settings in all_settings)
    ]


def recalls(records: Sequence[Record]) -> list[tuple[str, int, list[float | None]]]:
    """Each class with its number of test images and its recall by each run; nothing where the runs
    know different classes, or were tested on different numbers of their images.
    """
    tables = [result["per_class"] for record in records if (result := result_of(record, "test"))]
    found = []
    for rows in zip(*tables, strict=False):
        first = rows[0]
        if any((row["name"], row["num_images"]) != (first["name"], first["num_images"])
               for row in rows):  # fmt: skip
            return []
        recall = [row["recall"] for row in rows]
        found.append((first["name"], first["num_images"], recall))
    return found if len({len(table) for table in tables}) == 1 else []


def _sorted_by(value: Any) -> float | None:
    """The number that a cell is sorted by; None where it goes by its text."""
    value = value[0] if isinstance(value, list) else value
    return None if isinstance(value, str) else value
