"""The answers of a finished run to its test images: by class, the confusions, and single images."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepcnn import calibration, metrics
from deepcnn.data.images import ImageSet
from deepcnn.data.photos import Photos
from deepcnn.data.show import miniature
from deepcnn.predictions import Predictions
from deepcnn.report import figures
from deepcnn.report.gather import Record

SHOWN = 20  # images of a gallery
PAIRS = 12  # of the classes that are confused most often
IN_CELLS = 20  # classes, at most, whose confusions are a table; of more they are a picture
SHADES = 9

Context = dict[str, Any]


def rows_of_classes(rows: Iterable[Mapping[str, Any]]) -> list[Context]:
    """How each class fares, with the interval of its recall."""
    return [
        {
            "name": row["name"],
            "num_images": row["num_images"],
            "interval": metrics.wilson_interval(row["correct"], row["num_images"])
            if row["num_images"]
            else None,
            **{name: row.get(name) for name in ("recall", "precision", "f1")},
        }
        for row in rows
    ]


def confusion(record: Record) -> Context | None:
    """Labels against answers; None where no answers are kept."""
    if not (said := record.answers.get("test")):
        return None
    matrix = metrics.confusion_matrix(said.logits, said.labels)
    few = len(matrix) <= IN_CELLS
    return {
        "classes": record.classes,
        "cells": _cells(matrix) if few else [],
        "picture": "" if few else figures.confusion(matrix),
        "pairs": _pairs(matrix, record.classes),
    }


def _cells(matrix: Tensor) -> list[list[tuple[int, str]]]:
    """Each count with the name of its shade."""
    # By the square root, or a share of some hundredths would look like nothing.
    shades = SHADES * (matrix / matrix.sum(dim=1, keepdim=True).clip(1)).sqrt()
    return [
        [
            (count, f"{'right' if label == answer else 'wrong'}-{shade:.0f}")
            for answer, (count, shade) in enumerate(zip(counts, row, strict=True))
        ]
        for label, (counts, row) in enumerate(zip(matrix.tolist(), shades.tolist(), strict=True))
    ]


def _pairs(matrix: Tensor, classes: tuple[str, ...]) -> list[Context]:
    """The confusions that happen most often."""
    wrong = matrix.clone().fill_diagonal_(0).flatten()
    order = wrong.argsort(descending=True, stable=True)[:PAIRS].tolist()
    totals = matrix.sum(dim=1).tolist()
    cells = [(divmod(cell, len(matrix)), int(wrong[cell])) for cell in order if wrong[cell]]
    return [
        {
            "label": classes[label],
            "answer": classes[answer],
            "count": count,
            "share": count / totals[label],
        }
        for (label, answer), count in cells
    ]


def gallery(record: Record, images: ImageSet | str) -> list[Context]:
    """The surest mistakes, and the images that lie nearest to a boundary between two classes."""
    if not record.finished or not (said := record.answers.get("test")):
        return []
    temperature = record.finished.temperature
    surest, _ = calibration.surest_mistakes(said.logits, said.labels, temperature, SHOWN)
    nearest = calibration.nearest_boundary(said.logits, SHOWN)
    parts = (
        ("Surest mistakes", "Wrong answers that the network was surest of. "
         "Look at their labels too: some may be wrong.", surest),
        ("Near a boundary", "Images whose two likeliest classes are nearest to each other.",
         nearest),
    )  # fmt: skip
    return [
        {
            "title": title,
            "text": text,
            "cards": [_card(said, record, images, index) for index in chosen.tolist()],
        }
        for title, text, chosen in parts
        if len(chosen)
    ]


def _card(said: Predictions, record: Record, images: ImageSet | str, index: int) -> Context:
    """One image with its label and what the network said of it."""
    assert record.finished
    shares = (said.logits[index].double() / record.finished.temperature).softmax(dim=0)
    order = shares.argsort(descending=True, stable=True)[:2].tolist()
    answered = bool(torch.isfinite(said.logits[index]).all())
    return {
        "source": "" if isinstance(images, str) else miniature(images, index),
        "where": _where(images, index, record.config.data.name),
        "label": record.classes[said.labels[index]],
        "answers": [(record.classes[each], float(shares[each])) for each in order if answered],
    }


def _where(images: ImageSet | str, index: int, data: str) -> str:
    """The file of an image within its data set, or else its place."""
    photos = None if isinstance(images, str) else images.images
    if not isinstance(photos, Photos):
        return f"test image {index}"
    folder = Path(data).expanduser()
    folder = folder if folder.is_dir() else folder.parent
    return photos.name(index).removeprefix(f"{folder}{os.sep}")
