"""What is in memory from the first operation of a step to the last."""

from typing import Any

from deepcnn.profile.rows import Profile
from deepcnn.report.figures import drawn

SIZE = 7.6, 3.4  # inches


def timeline(profile: Profile) -> str:
    """Bytes by kind at each operation, as the address of an SVG; nothing where it is unknown."""
    return drawn(lambda axes: draw(axes, profile), SIZE) if profile.timeline else ""


def draw(axes: Any, profile: Profile) -> None:
    """Draw it on a pair of axes."""
    assert profile.timeline
    live = profile.timeline.live(profile.subject["batch_size"])
    used = {kind: sizes / 1e6 for kind, sizes in live.items() if sizes.any()}
    events = profile.timeline.events
    axes.stackplot(
        range(len(events)), *used.values(), labels=[*used], step="post", linewidth=0, alpha=0.85
    )
    phases = [event.phase for event in events]
    for phase in ("forward", "backward"):
        if phase not in phases:
            continue
        axes.axvline(phases.index(phase), color="0.35", linewidth=0.8)
        axes.annotate(
            phase, (phases.index(phase), 1), xytext=(3, -3), textcoords="offset points",
            xycoords=("data", "axes fraction"), va="top", fontsize=8,
        )  # fmt: skip
    axes.set(xlabel="operation", ylabel="MB", title="Memory during a step", xmargin=0)
    axes.set_ylim(top=axes.get_ylim()[1] * 1.1)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False,
                reverse=True)  # fmt: skip
