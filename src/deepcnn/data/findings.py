"""What is wrong with a data set, and how it is told: as words, as data, as a page with pictures."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from deepcnn.data.images import ImageSet
from deepcnn.data.photos import Photos
from deepcnn.errors import ImageError

SHOWN = 10  # examples of a finding
MATES = 4  # pictures shown of those that belong together
THUMBNAIL = 96  # pixels, longest side
SEVERITIES = ("error", "warning", "note")


class Kind(NamedTuple):
    """How serious a finding is, what it is called, what it means and what to do."""

    severity: str
    title: str
    meaning: str


KINDS = {
    "unreadable": Kind(
        "error", "cannot be read", "They take no part in anything. Replace or remove them."
    ),
    "truncated": Kind(
        "error", "end too early", "As after a broken download. Copy them anew, or remove them."
    ),
    "leak": Kind(
        "error",
        "the same pixels in several splits",
        "What is measured on them is memory, not skill. Keep each picture in one split only: take "
        "it out of the training images.",
    ),
    "two-labels": Kind(
        "error",
        "the same pixels with several labels",
        "At least one of the labels is wrong, and nothing can be learnt from both. Decide on one.",
    ),
    "group-leak": Kind(
        "error",
        "groups with pictures in several splits",
        "What is measured on them says little about new groups. Keep each group in one split.",
    ),
    "empty-class": Kind(
        "error",
        "classes without training pictures",
        "They cannot be learnt. Add pictures to train, or take the class out.",
    ),
    "near-leak": Kind(
        "warning",
        "nearly the same look in several splits",
        "Probably copies: saved anew, resized, turned, mirrored or brightened. Where they are, "
        "take them out of the training images.",
    ),
    "near-two-labels": Kind(
        "warning",
        "nearly the same look with several labels",
        "Probably copies of one picture, of which one has the wrong label. Look at them.",
    ),
    "duplicate": Kind(
        "warning",
        "the same pixels several times in one class",
        "They count several times, in training and in what is measured. Keep one of each.",
    ),
    "missing-class": Kind(
        "warning",
        "classes missing from a split",
        "How well they are recognised is not measured there. Add pictures of them.",
    ),
    "imbalance": Kind(
        "warning",
        "far more training pictures of some classes than of others",
        "The small ones will be recognised less well, which accuracy hides: look at each class. Add "
        "pictures of them.",
    ),
    "constant": Kind(
        "warning", "one plain colour", "There is nothing to see on them. Remove them."
    ),
    "tiny": Kind(
        "warning",
        "far smaller than the others",
        "Enlarged, they are blurred; many such files are thumbnails or icons. Look for larger ones.",
    ),
    "near-duplicate": Kind(
        "note",
        "nearly the same look in one class",
        "Probably copies, or pictures in a row of one thing; they count several times.",
    ),
    "dark": Kind("note", "very dark", "Little can be seen on them. Look whether they are of use."),
    "bright": Kind(
        "note", "very bright", "Little can be seen on them. Look whether they are of use."
    ),
    "blurred": Kind(
        "note",
        "far less detail than the others",
        "Out of focus, or enlarged from a small picture. Look whether they are of use.",
    ),
    "long": Kind(
        "note",
        "more than three times as long as wide",
        "A crop sees their middle only; --data.geometry letterbox shows all of them.",
    ),
    "suffix": Kind(
        "note",
        "of another format than their name says",
        "They are read by content, here; other programs may refuse them. Rename them.",
    ),
    "rotated": Kind(
        "note",
        "turned by their EXIF data",
        "They are turned upright when they are read, here; other programs may not do that.",
    ),
    "mode": Kind(
        "note",
        "of an unusual kind of pixels",
        "They are converted: transparent parts become white, 16 bits become 8, CMYK becomes RGB "
        "without colour management. Look at some with `deepcnn data show`.",
    ),
    "left-out": Kind("note", "left out of the listing", "They are no pictures of a class."),
}


class Picture(NamedTuple):
    """One picture of a finding: its split and position there (-1 if it was left out), the name of
    its file ("" in arrays), its class, and what was found of it.
    """

    split: str
    index: int
    name: str
    label: str
    fact: str = ""


@dataclass(frozen=True)
class Finding:
    """What is wrong: each case the pictures that show it together, or a fact about no picture."""

    kind: str  # one of KINDS
    cases: tuple[tuple[Picture, ...], ...] = ()
    facts: tuple[str, ...] = ()

    @property
    def severity(self) -> str:
        """error, warning or note."""
        return KINDS[self.kind].severity

    @property
    def count(self) -> int:
        """How many cases, or else facts, there are."""
        return len(self.cases) or len(self.facts)


@dataclass(frozen=True)
class Report:
    """What was looked at, and what was found, the most serious first."""

    sets: Mapping[str, Mapping[str, Any]]  # split -> pictures, by class, sides
    findings: tuple[Finding, ...]


def as_dict(report: Report) -> dict[str, Any]:
    """The report as JSON can hold it, with all pictures; names are as the system gives them."""
    findings = [
        {
            "kind": finding.kind,
            "severity": finding.severity,
            "count": finding.count,
            "title": KINDS[finding.kind].title,
            "meaning": KINDS[finding.kind].meaning,
            "facts": list(finding.facts),
            "cases": [[picture._asdict() for picture in case] for case in finding.cases],
        }
        for finding in report.findings
    ]
    return {
        "sets": {name: dict(facts) for name, facts in report.sets.items()},
        "findings": findings,
    }


def in_words(report: Report) -> str:
    """The report for a terminal: the most serious first, at most ten examples of each finding."""
    lines = [f"{printable(name)}: {_sizes(facts)}" for name, facts in report.sets.items()]
    for finding in report.findings:
        lines += ["", f"{finding.severity.upper()}: {headline(finding)}"]
        lines += [f"  {KINDS[finding.kind].meaning}"]
        lines += [f"  {printable(fact)}" for fact in finding.facts[:SHOWN]]
        lines += [f"    {_example(case)}" for case in finding.cases[:SHOWN]]
        if finding.count > SHOWN:
            lines.append(f"    and {finding.count - SHOWN:,} more")
    return "\n".join([*lines, "", _verdict(report)])


def as_html(report: Report, sets: Mapping[str, ImageSet], title: str) -> str:
    """The report as a page of its own, with small pictures, that needs no network and no script."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("deepcnn.data"), autoescape=True, undefined=StrictUndefined
    )
    findings = [
        {
            "severity": finding.severity,
            "headline": headline(finding),
            "meaning": KINDS[finding.kind].meaning,
            "facts": [printable(fact) for fact in finding.facts[:SHOWN]],
            "cases": [
                [(_thumbnail(picture, sets), *_caption(picture)) for picture in case[:MATES]]
                for case in finding.cases[:SHOWN]
            ],
            "more": max(0, finding.count - SHOWN),
        }
        for finding in report.findings
    ]
    return environment.get_template("doctor.html").render(
        title=printable(title),
        sets=[(printable(name), _sizes(facts)) for name, facts in report.sets.items()],
        findings=findings,
        verdict=_verdict(report),
    )


def headline(finding: Finding) -> str:
    """How many of what."""
    number = sum(map(len, finding.cases))
    of = f" ({number:,} pictures)" if number > finding.count else ""
    return f"{finding.count:,} {KINDS[finding.kind].title}{of}"


def printable(text: str) -> str:
    """A name or message as it can be shown anywhere: what cannot be printed is escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _verdict(report: Report) -> str:
    if not report.findings:
        return "nothing wrong was found"
    counts = {
        severity: sum(finding.severity == severity for finding in report.findings)
        for severity in SEVERITIES
    }
    named = [f"{n} {severity}{'s' * (n > 1)}" for severity, n in counts.items() if n]
    return f"found: {', '.join(named)}"


def _sizes(facts: Mapping[str, Any]) -> str:
    """What was looked at: pictures, classes, and their sides."""
    words = f"{facts['pictures']:,} pictures, {len(facts['classes'])} classes"
    if not facts["pictures"]:
        return words
    smallest, middle, largest = (
        "{} x {}".format(*facts[key]) for key in ("least", "median", "most")
    )
    same = (
        f"{smallest} pixels"
        if smallest == largest
        else (f"sides from {smallest} to {largest} pixels, median {middle}")
    )
    return f"{words}, {same}"


def _example(case: tuple[Picture, ...]) -> str:
    shown = " = ".join(": ".join(filter(None, _caption(picture))) for picture in case[:MATES])
    return f"{shown} and {len(case) - MATES} more" if len(case) > MATES else shown


def _caption(picture: Picture) -> tuple[str, str]:
    """Where a picture is, and what was found of it."""
    where = printable(picture.name) or f"{printable(picture.split)} {picture.index}"
    label = f" ({printable(picture.label)})" if picture.label else ""
    return f"{where}{label}", printable(picture.fact)


def _thumbnail(picture: Picture, sets: Mapping[str, ImageSet]) -> str:
    """A small PNG as a data address; empty where there are no pixels."""
    from PIL import Image

    if picture.index < 0:
        return ""
    images = sets[picture.split].images
    try:
        photo = isinstance(images, Photos)
        pixels = images.pixels(picture.index).numpy() if photo else images[picture.index]
    except ImageError:  # it was there a moment ago
        return ""
    rows = np.ascontiguousarray(pixels.transpose(1, 2, 0))
    small = Image.fromarray(rows[:, :, 0] if rows.shape[2] == 1 else rows)
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    content = io.BytesIO()
    small.save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
