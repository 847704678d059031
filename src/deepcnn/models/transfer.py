"""What fine-tuning does to a network: which parts of it train, and how fast.

A stage is a part of a network, named as its layer: `conv1`, `layer1`, ... `fc` of a ResNet,
`features.0`, ... `classifier.6` of a VGG.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from deepcnn.errors import ConfigError, look_up
from deepcnn.models.weights import ends

FEW = 5  # parts: where a network has less, its largest one is taken apart


def stages(model: nn.Module) -> list[tuple[str, list[str]]]:
    """The parts of a network from the input to the head, with the names of their parameters.

    They are its children, and the children of the largest while there are few. The last layer, the
    head, is a part of its own; what holds vectors only, such as a norm, belongs to the part before.
    """
    own = dict(model.named_parameters())
    parts = {part: [key for key in keys if key in own] for part, keys in _parts(model).items()}
    return [(part, names) for part, names in parts.items() if names]


def freeze(model: nn.Module, until: str | int) -> None:
    """Let a network train from stage `until` on, a name or a place; what is before it stays.

    Parameters before it get no gradients, and norms with running statistics use and keep the ones
    they have, after `model.train()` too. 0 lets everything train again, -1 the head alone. Raises
    ConfigError for a stage that there is not.
    """
    frozen = set(_keys_before(model, until))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    for name, layer in model.named_modules():
        if not hasattr(layer, "running_mean"):
            continue
        hooks = layer._forward_pre_hooks
        for key in [key for key, hook in hooks.items() if hook is _rest]:
            del hooks[key]
        if f"{name}.running_mean" in frozen:
            layer.register_forward_pre_hook(_rest)


def place(model: nn.Module, stage: str | int) -> int:
    """Which stage that is, counted from 0: by name, `head` for the last, or by place, from the end
    if negative. Raises ConfigError if there is none.
    """
    names = [name for name, _ in stages(model)]
    if stage == "head":
        return len(names) - 1
    if isinstance(stage, str):
        return look_up("stage", stage, {name: index for index, name in enumerate(names)})
    if not -len(names) <= stage < len(names):
        raise ConfigError(
            f"there is no stage {stage}, expected a place from 0 to {len(names) - 1}, "
            f"from the end -1 to -{len(names)}, or one of: {', '.join(names)}"
        )
    return stage % len(names)


def parameter_groups(model: nn.Module, lr: float, decay: float) -> list[dict[str, Any]]:
    """Groups for an optimiser, one for each stage that trains, with its `name`.

    The head's rate is `lr`, that of each other stage is `decay` times that of the next one.
    """
    parameters = dict(model.named_parameters())
    groups = []
    rate = lr
    for stage, names in reversed(stages(model)):
        trained = [parameters[name] for name in names if parameters[name].requires_grad]
        if trained:
            groups.append({"name": stage, "params": trained, "lr": rate})
        rate *= decay
    return groups[::-1]


def plan_in_words(model: nn.Module, groups: Iterable[Mapping[str, Any]]) -> str:
    """A table of what trains: each stage, its parameters and its rate in groups of parameters."""
    rates = {
        parameter: group["lr"]
        for group in groups
        for parameter in group["params"]
        if parameter.requires_grad
    }
    parameters = dict(model.named_parameters())
    parts = stages(model)
    width = max(len("stage"), *(len(stage) for stage, _ in parts))
    lines = [f"{'stage':<{width}}   parameters  learning rate"]
    for stage, names in parts:
        count = sum(parameters[name].numel() for name in names)
        found = sorted({rates[parameters[name]] for name in names if parameters[name] in rates})
        rate = " to ".join(f"{value:.3g}" for value in found) or "frozen"
        lines.append(f"{stage:<{width}}  {count:>11,}  {rate}")
    total = sum(parameter.numel() for parameter in parameters.values())
    trained = sum(parameter.numel() for parameter in rates)
    return "\n".join([*lines, f"{trained:,} of {total:,} parameters train"])


def head(model: nn.Module) -> nn.Module:
    """The last layer with weights."""
    return model.get_submodule(ends(model)[1])


@torch.no_grad()
def features(model: nn.Module, images: Tensor) -> Tensor:  # N C H W
    """What the head sees of images, N x D, for a linear probe; puts the network into evaluation.

    Where the head is a convolution, that is the mean over the places where it is applied.
    """
    seen: list[Tensor] = []
    handle = head(model).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        model.eval()(images)
    finally:
        handle.remove()
    found = seen[0]
    return found.mean((2, 3)) if found.dim() == 4 else found


def _rest(layer: nn.Module, _: Any) -> None:
    """Before a layer computes: take it out of training, into which `model.train()` puts all."""
    layer.eval()


def _keys_before(model: nn.Module, until: str | int) -> Iterator[str]:
    """Names of all parameters and buffers of the stages before `until`."""
    parts = _parts(model)
    names = [name for name, _ in stages(model)]
    for name in names[: place(model, until)]:
        yield from parts[name]


def _parts(model: nn.Module) -> dict[str, list[str]]:
    """The parts of a network in order, with the names of their parameters and buffers."""
    head = ends(model)[1]
    names = [*_split(model, head), head]
    found: dict[str, list[str]] = {name: [] for name in names}
    current = names[0]
    for key in model.state_dict():
        # The head first, for it may lie within another part.
        inside = (name for name in reversed(names) if key.startswith(f"{name}."))
        current = next(inside, current)
        found[current].append(key)
    return found


def _split(model: nn.Module, head: str) -> list[str]:
    """Names of the parts of a network but for the head, which may lie within one of them."""
    names = _children(model, "")
    while len(names) < FEW:
        sizes = [_num_layers(model.get_submodule(name)) for name in names]
        place = sizes.index(max(sizes))
        if sizes[place] < 2:
            break
        inner = _children(model.get_submodule(names[place]), f"{names[place]}.")
        names[place : place + 1] = inner
    around = [name for name in names if f"{head}.".startswith(f"{name}.")]
    return [n for n in names if n not in around or _num_layers(model.get_submodule(n)) > 1]


def _children(module: nn.Module, prefix: str) -> list[str]:
    """Full names of the children that have more weights than vectors."""
    return [f"{prefix}{name}" for name, child in module.named_children() if _num_layers(child)]


def _num_layers(module: nn.Module) -> int:
    """Layers with a weight of two axes or more."""
    return sum(
        any(weight.dim() > 1 for weight in layer.parameters(recurse=False))
        for layer in module.modules()
    )
