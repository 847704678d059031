"""What the stages of a network make of images. Stages are those of `models.transfer`.

N images, C channels, H rows, W columns.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from deepcnn.errors import ConfigError, look_up
from deepcnn.models import transfer


@dataclass
class Stage:
    """What came of a stage: its `output`, as the next stage gets it, and its last `maps` N C H W,
    None where it has none.
    """

    name: str
    output: Tensor
    maps: Tensor | None = None


def walk(model: nn.Module, images: Tensor) -> list[Stage]:
    """The stages of a network in the order in which images N C H W meet them.

    What is handed on is taken where it comes in, so that activations and pooling between two
    stages belong to the first. The output of the last one is what the network says.
    """
    found: list[Stage] = []
    with _watched(model, found):
        logits = model(images)
    for stage, following in pairwise(found):
        stage.output = following.output  # so far that is what it was given
        if stage.maps is not None and _are_later(stage.output, stage.maps):
            stage.maps = stage.output
    found[-1].output = logits
    return found


def with_maps(stages: Iterable[Stage]) -> list[tuple[str, Tensor]]:
    """The stages that put out maps, with these: N C H W. ConfigError if there are none."""
    found = [(stage.name, stage.maps) for stage in stages if stage.maps is not None]
    if not found:
        raise ConfigError(
            "this network makes no maps of an image, as convolutions do: there is nothing to show"
        )
    return found


def of_layer(model: nn.Module, images: Tensor, name: str) -> Tensor:
    """The maps N C H W that a layer puts out, named as in `deepcnn models NAME`, or a stage.

    Raises ConfigError, with the nearest name, if there is no such layer, or if it makes no maps.
    """
    layer = look_up("layer", name, {key: each for key, each in model.named_modules() if key})
    seen: list[Any] = []
    handle = layer.register_forward_hook(lambda *call: seen.append(call[2]))
    try:
        model(images)
    finally:
        handle.remove()
    if not seen or not isinstance(seen[0], Tensor) or not has_places(seen[0]):
        raise ConfigError(f"layer {name} puts out no maps; choose one that does, a convolution")
    maps: Tensor = seen[0]
    return maps


def has_places(output: Tensor) -> bool:
    """Whether that is maps of more than one place, N C H W."""
    return output.dim() == 4 and output[0, 0].numel() > 1


def _are_later(output: Tensor, maps: Tensor) -> bool:
    """Whether an output is `maps`, activated or pooled; transformers hand on N H W C, or tokens."""
    return has_places(output) and output.shape[1] == maps.shape[1]


@contextmanager
def _watched(model: nn.Module, found: list[Stage]) -> Iterator[None]:
    """Add a stage when it is called first, with its input, and keep the last maps made since, if it
    has convolutions: what is N C H W in other layers need not be maps.
    """
    names = [name for name, _ in transfer.stages(model)]
    convolve = {name for name in names if _convolves(model.get_submodule(name))}

    def begins(name: str, inputs: tuple[Any, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor) and all(name != one.name for one in found):
            found.append(Stage(name, inputs[0]))

    def ends(output: object) -> None:
        if found and found[-1].name in convolve and isinstance(output, Tensor):
            found[-1].maps = output if has_places(output) else found[-1].maps

    handles = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, inputs, name=name: begins(name, inputs)
        )
        for name in names
    ]
    handles += [
        layer.register_forward_hook(lambda *call: ends(call[2])) for layer in model.modules()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _convolves(part: nn.Module) -> bool:
    return any(weight.dim() > 2 for weight in part.parameters())
