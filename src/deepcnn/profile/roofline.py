"""Every pass of a network below the roofs of this machine.

Williams, Waterman and Patterson 2009: Roofline, an insightful visual performance model.
"""

from typing import Any

from deepcnn.profile.rows import Profile
from deepcnn.report.figures import drawn

SIZE = 7.6, 4.4  # inches
MARKERS = {"forward": "o", "backward": "^", "update": "s"}
STYLES = {"convolution": "-", "product": "--"}  # of the roofs


def roofline(profile: Profile) -> str:
    """GFLOP/s by FLOPs for each byte, of all passes that have FLOPs, as the address of an SVG."""
    return drawn(lambda axes: draw(axes, profile), SIZE)


def draw(axes: Any, profile: Profile) -> None:
    """Draw it on a pair of axes."""
    from matplotlib.lines import Line2D

    best, points = profile.ceilings, [entry for entry in profile.passes() if entry[2].flops]
    types = dict.fromkeys(row.type for row, _, _ in points)
    colours = {name: f"C{number}" for number, name in enumerate(types)}
    for row, phase, each in points:
        axes.plot(
            each.intensity, each.gflops, MARKERS[phase], color=colours[row.type], alpha=0.7,
            markersize=5, markeredgewidth=0,
        )  # fmt: skip
    highest = max(max(each[kind] for kind in STYLES) for each in best.arithmetic.values())
    lowest = min([1.0, *(each.intensity for *_, each in points)]) / 2
    last = max([4 * highest / best.bandwidth, *(2 * each.intensity for *_, each in points)])
    roofs = []
    for name, peaks in best.arithmetic.items():
        for kind, style in STYLES.items():
            label = f"{kind} in {name}, {peaks[kind]:,.0f} GFLOP/s"
            ends = [peaks[kind] / best.bandwidth, last]
            roofs += axes.plot(
                ends, [peaks[kind]] * 2, style, color="0.35", linewidth=1, label=label
            )
    slope = [lowest, highest / best.bandwidth]
    axes.plot(slope, [best.bandwidth * each for each in slope], color="0.35", linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="FLOPs for each byte", ylabel="GFLOP/s",
             title=f"The slope is memory at {best.bandwidth:,.0f} GB/s")  # fmt: skip
    entries = [
        Line2D([], [], color=colour, marker="o", linestyle="", markersize=5, label=name)
        for name, colour in colours.items()
    ]
    entries += [
        Line2D([], [], color="0.5", marker=MARKERS[phase], linestyle="", markersize=5, label=phase)
        for phase in dict.fromkeys(phase for _, phase, _ in points)
    ]
    axes.legend(handles=[*entries, *roofs], loc="center left", bbox_to_anchor=(1.01, 0.5),
                fontsize=8, frameon=False)  # fmt: skip
