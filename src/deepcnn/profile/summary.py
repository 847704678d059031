"""What dominates: computation, memory, time, bandwidth, by type of layer."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from deepcnn.describe import scaled
from deepcnn.profile.rows import MEMORY, Pass, Profile, Row

FEW = 3  # that a sentence names
ROUNDING = 0.0005  # of a share, below which a sentence does not name it


@dataclass(frozen=True)
class OfType:
    """All layers of a type: what they compute, move, take and hold."""

    type: str
    layers: int
    parameters: int
    flops: int
    bytes: int
    seconds: float
    bound: float
    memory: Mapping[str, int]

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)


def by_type(profile: Profile) -> list[OfType]:
    """The types, the slowest first."""
    rows: dict[str, list[Row]] = {}
    for row in profile.rows:
        rows.setdefault(row.type, []).append(row)
    found = [_of_type(name, each) for name, each in rows.items()]
    return sorted(found, key=lambda each: -each.seconds)


def _of_type(name: str, rows: list[Row]) -> OfType:
    passes = [each for row in rows for each in row.passes.values()]
    return OfType(
        type=name,
        layers=len(rows),
        parameters=sum(row.parameters for row in rows),
        flops=sum(each.flops for each in passes),
        bytes=sum(each.bytes for each in passes),
        seconds=sum(each.seconds for each in passes),
        bound=sum(each.bound for each in passes),
        memory={what: sum(row.memory[what] for row in rows) for what in MEMORY},
    )


def sentences(profile: Profile) -> list[str]:
    """The questions of the texts, answered."""
    return [_computation(profile), *_memory(profile), _time(profile), _bandwidth(profile)]


def waiting(profile: Profile) -> list[tuple[Row, Pass]]:
    """The passes of the network that wait for memory rather than compute, the slowest first."""
    found = [
        (row, each)
        for row in profile.rows
        if row.is_inside
        for each in row.passes.values()
        if each.bytes and each.limited_by == "bandwidth"
    ]
    return sorted(found, key=lambda entry: -entry[1].seconds)


def _computation(profile: Profile) -> str:
    shares = Counter({each.type: each.flops for each in by_type(profile)})
    largest = max(profile.rows, key=lambda row: row.flops)
    if not profile.flops:
        return "computation: no products that are counted"
    return (
        f"computation: {scaled(profile.flops)}FLOP, {_shares(shares)}; "
        f"most in {largest.name}, {largest.flops / profile.flops:.1%}"
    )


def _memory(profile: Profile) -> list[str]:
    memory = profile.memory()
    sizes = Counter({what: by_type.total() for what, by_type in memory.items()})
    sizes["images"] = profile.input_bytes
    types = sum(memory.values(), Counter[str]())
    total = sizes.total()
    lines = [f"memory: {scaled(total)}B, {_shares(sizes)}"]
    lines.append(f"memory by type: {_shares(types, total)}")
    if peak := profile.peak:
        phase, layer, operation = peak.event
        lines.append(
            f"most memory at one moment: {scaled(peak.size)}B, {phase} in {layer or operation}; "
            f"{_shares(peak.parts)}"
        )
    return lines


def _time(profile: Profile) -> str:
    return f"time: {_shares(Counter({each.type: each.seconds for each in by_type(profile)}))}"


def _bandwidth(profile: Profile) -> str:
    found = waiting(profile)
    number = sum(len(row.passes) for row in profile.rows if row.is_inside)
    share = sum(each.seconds for _, each in found) / profile.seconds(True)
    names = list(dict.fromkeys(row.name for row, _ in found))
    named = f", most in {', '.join(names[:FEW])}" if names else ""
    balances = ", ".join(
        f"{profile.ceilings.balance(name):.1f} FLOP/byte in {name}"
        for name in profile.ceilings.arithmetic
    )
    return (
        f"bandwidth: memory limits {len(found)} of {number} passes, which compute less for each "
        f"byte than this machine needs to be busy (convolutions: {balances}); they take "
        f"{share:.1%} of the time of the layers{named}"
    )


def _shares(parts: Mapping[str, float], total: float | None = None) -> str:
    """The parts by size, as shares of their sum or of `total`."""
    whole = total or sum(parts.values())
    ordered = sorted(parts.items(), key=lambda entry: -entry[1])
    return ", ".join(
        f"{name} {size / whole:.1%}" for name, size in ordered if size > ROUNDING * whole
    )
