"""A profile for a person at a terminal."""

from deepcnn.profile.rows import Pass, Profile, Row
from deepcnn.profile.summary import by_type, sentences
from deepcnn.profile.trace import Phase
from deepcnn.table import table

OUTSIDE = {
    "autograd": "autograd with its sums of gradients",
    "framework": "Python and torch between layers",
}
SHOWN = 30  # rows of the table: the largest recoverable times
COLUMNS = [
    "layer", "kind", "output", "parameters", "pass", "GFLOP", "MB", "FLOP/B", "ms", "min to max",
    "GFLOP/s", "GB/s", "bound ms", "of bound", "to recover ms",
]  # fmt: skip


def in_words(profile: Profile) -> str:
    """The page for a terminal."""
    passes = profile.passes()
    rest = passes[SHOWN:]
    lines = [
        title(profile),
        *conditions(profile),
        "",
        table([COLUMNS, *(_line(*each) for each in passes[:SHOWN])]),
    ]
    if rest:
        seconds = sum(each.seconds for _, _, each in rest)
        lines.append(f"and {len(rest)} more passes, {1e3 * seconds:,.1f} ms: --html or --json")
    return "\n".join([*lines, "", types(profile), "", *sentences(profile), *remarks(profile)])


def title(profile: Profile) -> str:
    """What was profiled."""
    facts = profile.subject
    what = "training step" if facts["train"] else "forward pass"
    return (
        f"{facts['network']}: {what} of {facts['batch_size']} images {facts['input']}, "
        f"{facts['classes']:,} classes"
    )


def conditions(profile: Profile) -> list[str]:
    """How, what the machine can do, and how the parts add up."""
    facts, policy, best = profile.subject, profile.subject["policy"], profile.ceilings
    peaks = "; ".join(
        f"{name} convolution {each['convolution']:,.0f}, product {each['product']:,.0f} GFLOP/s"
        for name, each in best.arithmetic.items()
    )
    whole = profile.whole
    return [
        f"computed on {policy['device']} in {policy['precision']}, {policy['layout']}, "
        f"{policy['threads']} threads",
        f"peaks of this machine: {peaks}; memory {best.bandwidth:.1f} GB/s, read and written",
        f"the whole, nothing watched: {1e3 * whole['median']:,.2f} ms "
        f"({1e3 * whole['min']:,.2f} to {1e3 * whole['max']:,.2f}, {facts['rounds']} rounds), "
        f"{profile.flops / whole['median'] / 1e9:,.1f} GFLOP/s",
        addition(profile),
    ]


def addition(profile: Profile) -> str:
    """The sum of the layers beside the whole, and what the difference is."""
    inside, whole = profile.seconds(True), profile.whole["median"]
    outside = [row for row in profile.rows if not row.is_inside]
    named = [f"{OUTSIDE.get(row.name, row.name)} {1e3 * row.seconds:,.2f} ms" for row in outside]
    rest = whole - inside - profile.seconds(False)
    named.append(f"watching and chance {1e3 * rest:+,.2f} ms")
    return (
        f"all layers: {1e3 * inside:,.2f} ms, {inside / whole:.1%} of the whole; outside of them: "
        + ", ".join(named)
    )


def types(profile: Profile) -> str:
    """A line for each type."""
    rows = [
        ["type", "parts", "parameters", "GFLOP", "MB moved", "ms", "bound ms", "weights MB",
         "activations MB"],
    ]  # fmt: skip
    for each in by_type(profile):
        activations = each.memory["activations"]
        weights = sum(each.memory.values()) - activations
        rows.append([
            each.type, f"{each.layers}", f"{each.parameters:,}", f"{each.flops / 1e9:,.3f}",
            f"{each.bytes / 1e6:,.1f}", f"{1e3 * each.seconds:,.2f}", f"{1e3 * each.bound:,.2f}",
            f"{weights / 1e6:,.2f}", f"{activations / 1e6:,.2f}",
        ])  # fmt: skip
    return table(rows)


def remarks(profile: Profile) -> list[str]:
    """What the figures do not tell."""
    lines = []
    for name, parts in profile.uncounted.items():
        where = ", ".join(parts)
        calls = sum(parts.values())
        lines.append(
            f"not counted: {name}, called {calls} times in {where}; nobody has a formula for its "
            "FLOPs, so totals and bounds are too low"
        )
    if any(each.efficiency > 1 for _, _, each in profile.passes()):
        lines.append(
            "more than 100 % of a bound: what is worked on is in a cache, or more is read than "
            "written, and both are faster than the copies that memory is measured with; or the "
            "peaks were measured on a busy machine"
        )
    if not profile.subject["train"]:
        lines.append("gradients, optimiser state and activations kept: with --train")
    return lines


def _line(row: Row, phase: Phase, each: Pass) -> list[str]:
    output = "x".join(map(str, row.output)) if row.output else ""
    return [
        row.name, row.kind, output, f"{row.parameters:,}" if row.parameters else "", phase,
        f"{each.flops / 1e9:,.3f}" if each.flops else "",
        f"{each.bytes / 1e6:,.2f}", f"{each.intensity:,.1f}" if each.flops else "",
        f"{1e3 * each.seconds:,.2f}", f"{1e3 * each.least:,.2f} to {1e3 * each.most:,.2f}",
        f"{each.gflops:,.1f}" if each.flops else "", f"{each.gigabytes:,.1f}",
        f"{1e3 * each.bound:,.2f}", f"{each.efficiency:.0%}", f"{1e3 * each.recoverable:,.2f}",
    ]  # fmt: skip
