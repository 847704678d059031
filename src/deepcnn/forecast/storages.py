"""Each storage that a step brings into being, followed from its first to its last moment."""

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Event(NamedTuple):
    """One operation: its phase (input, forward, backward or update), layer and name."""

    phase: str
    layer: str
    operation: str


@dataclass
class Storage:
    """A storage as it was met in one step."""

    size: int
    born: int
    died: int
    phase: str
    is_gradient: bool = False


class Recorder(TorchDispatchMode):
    """Notes each operation inside, and the life of each storage that one brings into being."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.events: list[Event] = []
        self.storages: list[Storage] = []
        self.phase = "input"
        self.layers = [""]
        self._followed: dict[int, tuple[Storage, weakref.ref[Any]]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: to be left out by torch's compiler it would be loaded, which takes two seconds."""
        return False

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = operation(*args, **(kwargs or {}))
        known = set(map(_key, _tensors((args, kwargs))))
        self.events.append(Event(self.phase, self.layers[-1], operation.overloadpacket.__name__))
        for tensor in _tensors(result):
            if _key(tensor) not in known | self._followed.keys():
                self._follow(tensor)
        return result

    def _follow(self, tensor: Tensor) -> None:
        storage, key, now = tensor.untyped_storage(), _key(tensor), len(self.events)
        met = Storage(storage.nbytes(), now - 1, now, self.phase)
        self.storages.append(met)
        self._followed[key] = met, weakref.ref(storage, lambda _: self._forget(key))

    def _forget(self, key: int) -> None:
        met, _ = self._followed.pop(key)
        met.died = len(self.events)

    def close(self, gradients: Iterable[Tensor]) -> None:
        """Let all that is still there live to the end of the step."""
        for key in map(_key, gradients):
            if key in self._followed:
                self._followed[key][0].is_gradient = True
        for met, _ in self._followed.values():
            met.died = len(self.events)
        self._followed.clear()


@contextmanager
def recording(model: nn.Module) -> Iterator[Recorder]:
    """Record what is done inside, with the layer that is at work, forward and back."""
    recorder = Recorder()

    def enter(name: str, *_: Any) -> None:
        recorder.layers.append(name)

    def leave(name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        recorder.layers.pop()
        if isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(partial(come_back, name))

    def come_back(name: str, _gradient: Tensor) -> None:
        recorder.layers[-1] = name

    leaves = [(name, layer) for name, layer in model.named_modules() if not [*layer.children()]]
    handles = [
        handle
        for name, layer in leaves
        for handle in (
            layer.register_forward_pre_hook(partial(enter, name)),
            layer.register_forward_hook(partial(leave, name)),
        )
    ]
    try:
        with recorder:
            yield recorder
    finally:
        for handle in handles:
            handle.remove()


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
