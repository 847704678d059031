"""How the doctor's report is told: in words, and as a page with pictures."""

from collections.abc import Mapping
from typing import Any

from deepcnn.data.findings import KINDS, SEVERITIES, Finding, Picture, Report
from deepcnn.data.images import ImageSet
from deepcnn.data.show import miniature

SHOWN = 10  # examples of a finding
MATES = 4  # pictures shown of those that belong together


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
                [(_small(picture, sets), *_caption(picture)) for picture in case[:MATES]]
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
    """What was found, and how often."""
    number = sum(map(len, finding.cases))
    in_all = f" ({number:,} in all)" if number > finding.count else ""
    return f"{KINDS[finding.kind].title}: {finding.count:,}{in_all}"


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
    where = printable(picture.name) or f"{printable(picture.split)} {picture.position}"
    label = f" ({printable(picture.label)})" if picture.label else ""
    return f"{where}{label}", printable(picture.fact)


def _small(picture: Picture, sets: Mapping[str, ImageSet]) -> str:
    """Its miniature; empty where there are no pixels."""
    return miniature(sets[picture.split], picture.position) if picture.position >= 0 else ""
