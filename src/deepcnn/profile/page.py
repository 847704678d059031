"""A profile as a page: names of layers and operations are data, and pass through its templates."""

from typing import Any

from deepcnn.profile.roofline import roofline
from deepcnn.profile.rows import Pass, Profile, Row
from deepcnn.profile.summary import by_type, sentences
from deepcnn.profile.timeline import timeline
from deepcnn.profile.trace import Phase
from deepcnn.profile.words import conditions, remarks, title
from deepcnn.report.page import rendered


def page(profile: Profile) -> str:
    """The page, which needs no other file and no network."""
    whole = profile.whole
    inside = profile.seconds(True) / whole["median"]
    return rendered(
        "profile.html",
        refresh=0,
        title=f"{profile.subject['network']}: profile",
        headline=title(profile),
        notes=remarks(profile),
        tiles=[
            (
                "the whole",
                f"{1e3 * whole['median']:,.1f} ms",
                f"{profile.subject['rounds']} rounds",
            ),
            ("all layers", f"{inside:.1%}", "of that time"),
            ("arithmetic", f"{profile.flops / 1e9:,.2f} GFLOP", _rate(profile)),
            ("memory", f"{_memory(profile) / 1e6:,.1f} MB", "counted, without workspace"),
        ],
        conditions=conditions(profile),
        sentences=[sentence.partition(": ")[::2] for sentence in sentences(profile)],
        types=by_type(profile),
        roofline=roofline(profile),
        timeline=timeline(profile),
        passes=[_cells(*entry) for entry in profile.passes()],
    )


def _rate(profile: Profile) -> str:
    return f"{profile.flops / profile.whole['median'] / 1e9:,.1f} GFLOP/s"


def _memory(profile: Profile) -> int:
    return profile.input_bytes + sum(each.total() for each in profile.memory().values())


def _cells(row: Row, phase: Phase, each: Pass) -> dict[str, Any]:
    output = "x".join(map(str, row.output)) if row.output else None
    return {"row": row, "phase": phase, "each": each, "output": output}
