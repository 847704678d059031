"""From what was counted and measured to rows."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn

from deepcnn.bench.clock import spread
from deepcnn.profile import kinds
from deepcnn.profile.counts import Counts
from deepcnn.profile.rows import Ceilings, Pass, Row
from deepcnn.profile.step import Step
from deepcnn.profile.trace import BETWEEN, LAYER, Key, Part, Phase, Trace

IDLE = Part("framework")  # Python and torch
NAMED = 3  # operations between layers that a row names
UNUSED = "parameters of no layer that was called"

Times = Mapping[Key, Sequence[float]]


def passes(counts: Counts, times: Times, best: Ceilings) -> dict[Key, Pass]:
    """What was counted and measured of each part in each direction."""
    found = {}
    for key, values in times.items():
        work, size = counts.flops.get(key, Counter()), counts.moved.get(key, 0)
        seconds = spread(values)
        found[key] = Pass(
            flops=sum(work.values()),
            bytes=size,
            seconds=seconds["median"],
            least=seconds["min"],
            most=seconds["max"],
            arithmetic=sum(
                number / best.arithmetic[each.format][each.kind] / 1e9
                for each, number in work.items()
            ),
            traffic=size / best.bandwidth / 1e9,
        )
    return found


def rows(step: Step, trace: Trace, counts: Counts, found: Mapping[Key, Pass]) -> list[Row]:
    """The parts in the order of the forward pass. Where nothing is computed between layers, Python
    and torch are still at work, which makes one part of all these places.
    """
    parts: defaultdict[Part, dict[Phase, Pass]] = defaultdict(dict)
    idle: dict[Phase, Pass] = {}
    for (part, phase), each in found.items():
        if part.what == BETWEEN and not counts.of_part(part).operations:
            idle[phase] = _together(idle[phase], each) if phase in idle else each
        else:
            parts[part][phase] = each
    owned, kept = _owned(step.model, trace), counts.kept
    made = [
        _row(step, part, trace, counts, each, owned.pop(part, []), kept.get(part, 0))
        for part, each in {**parts, IDLE: idle}.items()
    ]
    rest = [parameter for own in owned.values() for parameter in own]
    if rest:
        made.append(
            Row(LAYER, UNUSED, "", "other", None, _number(rest), _memory(step, rest, 0), {})
        )
    return made


def _row(
    step: Step,
    part: Part,
    trace: Trace,
    counts: Counts,
    found: dict[Phase, Pass],
    parameters: list[Tensor],
    kept: int,
) -> Row:
    work = counts.of_part(part)
    if part.what == LAYER:
        module, output = trace.modules[part]
        kind, sort = type(module).__name__, kinds.of_layer(module, work.flops)
    else:
        output, kind = None, _named(work.operations)
        sort = kinds.of_operations(*work) if part.what == BETWEEN else part.what
    number, memory = _number(parameters), _memory(step, parameters, kept)
    return Row(part.what, str(part), kind, sort, output, number, memory, found)


def _named(touched: Counter[str]) -> str:
    """The operations that touch most bytes, in order."""
    most = {name for name, _ in touched.most_common(NAMED)}
    return ", ".join(name for name in touched if name in most)


def _together(first: Pass, second: Pass) -> Pass:
    """Two passes after each other."""
    return Pass(*(a + b for a, b in zip(vars(first).values(), vars(second).values(), strict=True)))


def _owned(model: nn.Module, trace: Trace) -> dict[Part, list[Tensor]]:
    """The parameters of each part; those of layers that were not called under one more."""
    left: dict[Tensor, None] = dict.fromkeys(model.parameters())
    found: dict[Part, list[Tensor]] = {
        part: [each for each in module.parameters(recurse=False) if left.pop(each, each) is None]
        for part, (module, _) in sorted(trace.modules.items(), key=lambda entry: entry[0].call)
    }
    return {**found, Part(UNUSED): list(left)}


def _number(parameters: Sequence[Tensor]) -> int:
    """As `models.num_parameters` counts."""
    return sum(each.numel() for each in parameters if each.requires_grad)


def _memory(step: Step, parameters: Sequence[Tensor], kept: int) -> dict[str, int]:
    """Bytes that a step needs for some parameters, and of activations."""
    state = step.optimizer.state if step.optimizer else {}
    return {
        "parameters": sum(each.nbytes for each in parameters),
        "gradients": sum(
            each.nbytes for each in parameters if each.requires_grad and step.optimizer
        ),
        "optimiser state": sum(
            value.nbytes for each in parameters for value in _tensors(state.get(each, {}))
        ),
        "activations": kept,
    }


def _tensors(state: Mapping[str, object]) -> Iterator[Tensor]:
    return (value for value in state.values() if isinstance(value, Tensor))
