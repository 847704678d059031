"""Which part of a network is at work at each moment of a step, forward and backward.

Forward, hooks on layers say where one begins and ends; what is computed between two of them,
such as the sum at the end of a residual block, is a part of its own. Backward, autograd's nodes
say when they begin and end, and the number that each was given when it was made says in whose
forward pass that was. So every moment of a step belongs to exactly one part, and parts add up.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from deepcnn import cost

Phase = Literal["forward", "backward", "update"]
PHASES: tuple[Phase, ...] = get_args(Phase)
LAYER, BETWEEN = "layer", "between layers"
LOSS, AUTOGRAD, OPTIMIZER = "loss", "autograd", "optimiser"


class Part(NamedTuple):
    """A call of a layer, or what is computed after it and before the next, or what is outside."""

    what: str
    name: str = ""
    call: int = 0

    def __str__(self) -> str:
        """As a person calls it."""
        if self.what not in (LAYER, BETWEEN):
            return self.what
        name = f"{self.name} ({self.call + 1})" if self.call else self.name
        if self.what == LAYER:
            return name or "the network"
        return f"after {name}" if name else "before the layers"


Key = tuple[Part, Phase]
AFTER_NODE: Key = Part(AUTOGRAD), "backward"


class Trace:
    """Marks where parts of one step begin: `stamp` tells the time, or whatever is wanted of it."""

    def __init__(self, model: nn.Module, stamp: Callable[[], Any]) -> None:
        self.model, self.stamp = model, stamp
        self.marks: list[tuple[Key | None, Any]] = []
        self.modules: dict[Part, tuple[nn.Module, tuple[int, ...] | None]] = {}  # output shapes
        self._calls: Counter[str] = Counter()
        self._open: list[Part] = []
        self._numbers: list[int] = []  # of autograd's nodes: the first that a part may have made
        self._parts: list[Part] = []

    def forward(self, part: Part) -> None:
        """From now on `part` is at work, forward."""
        self._numbers.append(torch.autograd._get_sequence_nr())  # type: ignore[attr-defined]
        self._parts.append(part)
        self._mark((part, "forward"))

    def update(self) -> None:
        """From now on the optimiser is at work."""
        self._mark((Part(OPTIMIZER), "update"))

    def end(self) -> None:
        """From now on nobody is."""
        self._mark(None)

    def backward(self, loss: Tensor) -> None:
        """Watch the nodes that lead to `loss`; from now on those are at work, and autograd, which
        sums gradients where branches meet.
        """
        self._mark(None)
        for node, part in self._nodes(loss):
            node.register_prehook(lambda _, part=part: self._enter_node(part))
            node.register_hook(lambda *_: self._mark(AFTER_NODE))
        self._mark(AFTER_NODE)

    def lengths(self, between: Callable[[Any, Any], float]) -> dict[Key, float]:
        """How long each part was at work: `between` takes two stamps."""
        found: Counter[Key] = Counter()
        for (key, began), (_, ended) in pairwise(self.marks):
            if key:
                found[key] += between(began, ended)  # type: ignore[assignment]
        return dict(found)

    @contextmanager
    def layers(self) -> Iterator[None]:
        """Watch the layers within the block, at the beginning of which the step begins."""
        handles = []
        for name, module in cost.leaves(self.model):
            if isinstance(module, nn.Identity) or (not name and list(module.children())):
                continue
            handles += [
                module.register_forward_pre_hook(lambda *_, name=name: self._enter(name)),
                module.register_forward_hook(lambda m, _, output: self._leave(m, output)),
            ]
        try:
            self.forward(Part(BETWEEN))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, name: str) -> None:
        part = Part(LAYER, name, self._calls[name])
        self._calls[name] += 1
        self._open.append(part)
        self.forward(part)

    def _leave(self, module: nn.Module, output: Any) -> None:
        part = self._open.pop()
        self.modules[part] = module, tuple(output.shape[1:]) if isinstance(output, Tensor) else None
        self.forward(self._open[-1] if self._open else part._replace(what=BETWEEN))

    def _enter_node(self, part: Part) -> None:
        key: Key = part, "backward"
        if self.marks[-1][0] == AFTER_NODE and self.marks[-2][0] == key:
            self.marks[-1] = key, self.marks[-1][1]  # it has been at work all the time
        self._mark(key)

    def _mark(self, key: Key | None) -> None:
        self.marks.append((key, self.stamp()))

    def _nodes(self, loss: Tensor) -> Iterator[tuple[Any, Part]]:
        """All nodes, with the part that made each; what accumulates a gradient, and has no number,
        goes to where it is used.
        """
        stack: list[tuple[Any, Part]] = [(loss.grad_fn, Part(LOSS))]
        seen: set[Any] = set()
        while stack:
            node, user = stack.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            part = user
            if not hasattr(node, "variable"):
                part = self._parts[bisect_right(self._numbers, node._sequence_nr()) - 1]
            yield node, part
            stack += [(before, part) for before, _ in node.next_functions]
