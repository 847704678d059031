"""What is wrong with a data set: the kinds of findings, how serious they are, what to do."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

SEVERITIES = ("error", "warning", "note")


class Kind(NamedTuple):
    """How serious a finding is, what is found, what it means and what to do."""

    severity: str
    title: str
    meaning: str


KINDS = {  # the most serious first
    "unreadable": Kind(
        "error",
        "pictures that cannot be read",
        "They take no part in anything. Replace or remove them.",
    ),
    "truncated": Kind(
        "error",
        "pictures that end too early",
        "As after a broken download. Copy them anew, or remove them.",
    ),
    "leak": Kind(
        "error",
        "pictures that are in several splits",
        "What is measured on them is memory, not skill. Keep each in one split only: take it out "
        "of the training pictures.",
    ),
    "two-labels": Kind(
        "error",
        "pictures that have several labels",
        "At most one of the labels is right, and nothing can be learnt from all. Decide on one.",
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
        "pictures nearly alike in several splits",
        "Probably copies: saved anew, resized, turned, mirrored or brightened. Look at them, and "
        "take those that are out of the training pictures.",
    ),
    "near-two-labels": Kind(
        "warning",
        "pictures nearly alike with several labels",
        "Probably copies of one picture, of which one has the wrong label. Look at them.",
    ),
    "doubtful-label": Kind(
        "warning",
        "labels that are doubtful",
        "The model, its last layer fitted to other pictures, sees another class; the most doubtful "
        "come first. Look at them, and correct the labels that are wrong. A better model is "
        "mistaken less often.",
    ),
    "duplicate": Kind(
        "warning",
        "pictures that are several times in one class",
        "They count several times, in training and in what is measured. Keep one of each.",
    ),
    "missing-class": Kind(
        "warning",
        "classes missing from a split",
        "How well they are recognised is not measured there. Add pictures of them.",
    ),
    "imbalance": Kind(
        "warning",
        "classes with a tenth of the training pictures of the largest, or less",
        "They will be recognised less well, which accuracy hides. Add pictures; look at each class "
        "when you measure.",
    ),
    "constant": Kind(
        "warning",
        "pictures of one plain colour",
        "There is nothing to see on them. Remove them.",
    ),
    "tiny": Kind(
        "warning",
        "pictures far smaller than the others",
        "Enlarged, they are blurred; such files are often icons. Look for larger ones.",
    ),
    "near-duplicate": Kind(
        "note",
        "pictures nearly alike in one class",
        "Probably copies, or one thing photographed in a row; they count several times.",
    ),
    "dark": Kind(
        "note",
        "very dark pictures",
        "Little can be seen on them. Look whether they are of use.",
    ),
    "bright": Kind(
        "note",
        "very bright pictures",
        "Little can be seen on them. Look whether they are of use.",
    ),
    "blurred": Kind(
        "note",
        "pictures with far less detail than the others",
        "Out of focus, or enlarged from small ones. Look whether they are of use.",
    ),
    "long": Kind(
        "note",
        "pictures more than three times as long as wide",
        "A crop sees their middle only; --data.geometry letterbox shows all of them.",
    ),
    "suffix": Kind(
        "note",
        "pictures of another format than their names say",
        "They are read by content, here; other programs may refuse them. Rename them.",
    ),
    "rotated": Kind(
        "note",
        "pictures turned by their EXIF data",
        "They are turned upright when they are read, here; other programs may not do that.",
    ),
    "mode": Kind(
        "note",
        "pictures of an unusual kind of pixels",
        "They are converted: transparent parts become white, 16 bits become 8, CMYK becomes RGB "
        "without colour management. Look whether that suits them.",
    ),
    "left-out": Kind(
        "note",
        "kinds of things left out",
        "They are taken for no pictures of a class.",
    ),
}


class Picture(NamedTuple):
    """One picture of a finding: its split and position there (-1 if it was left out), the name of
    its file ("" in arrays), its class, and what was found of it.
    """

    split: str
    position: int
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

    def plus(self, finding: Finding) -> "Report":
        """The same with another finding in its place, if it is one."""
        order = list(KINDS)
        findings = [*self.findings, finding] if finding.count else self.findings
        return replace(self, findings=tuple(sorted(findings, key=lambda f: order.index(f.kind))))


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
