"""Networks of torchvision and timm by name: `torchvision/resnet50`, `timm/resnet50`.

timm's names may end in the tag of one set of weights, `timm/resnet50.a1_in1k`: the network is the
same, its card is of those weights. No weights are loaded here.

Neither library is needed for anything else: each is imported when it is asked for.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from deepcnn.errors import ConfigError, look_up
from deepcnn.models.card import Card, Landmark

# Networks that give more than logits while they train, with the weight of each further loss: for
# GoogLeNet the paper's, for Inception v3 that of TF-Slim, where it comes from. torchvision itself
# has none: its reference script cannot train these two.
AUXILIARY_WEIGHTS = {"googlenet": 0.3, "inception_v3": 0.4}
ANY_SIDE = range(1, 1 << 16)  # pixels
TRANSFORM_INPUT = (
    "transform_input is off: torchvision turns it on with its weights, to bring images normalised "
    "by ImageNet's statistics to mean 0.5 and deviation 0.5; normalise so instead"
)


def landmark(name: str) -> Landmark:
    """The network that `torchvision/NAME` or `timm/NAME` names, and its card.

    Raises ConfigError for an unknown name, with the nearest ones, or if the library is missing.
    """
    library, _, network = name.partition("/")
    return look_up("library", library, LIBRARIES)(network)


def torchvision_names() -> list[str]:
    """What torchvision calls its classification networks."""
    models = load("torchvision.models")
    found: list[str] = models.list_models(module=models)
    return found


def timm_names() -> list[str]:
    """What timm calls its networks, without the encoders, which end before a classifier."""
    return [name for name in load("timm").list_models() if not name.endswith("_enc")]


def torchvision_landmark(name: str) -> Landmark:
    """The named network of torchvision."""
    check_name("torchvision", name, torchvision_names())
    return Landmark(partial(build_torchvision, name), torchvision_card(name), takes_side=True)


def timm_landmark(name: str) -> Landmark:
    """The named network of timm, with or without a tag."""
    known = timm_names()
    tagged = [tag for tag in load("timm").list_pretrained() if tag.partition(".")[0] in known]
    check_name("timm", name, known + tagged)
    return Landmark(partial(build_timm, name), timm_card(name), takes_side=True)


LIBRARIES: dict[str, Callable[[str], Landmark]] = {
    "torchvision": torchvision_landmark,
    "timm": timm_landmark,
}


def load(module: str) -> ModuleType:
    """Import a library, or a part of it; ConfigError with the command to install it."""
    try:
        return import_module(module)
    except ImportError as error:
        library = module.partition(".")[0]
        raise ConfigError(
            f"networks of {library} need {library}, which cannot be imported ({error}). "
            "Install it with: pip install 'deepcnn[zoo]'"
        ) from error


def check_name(library: str, name: str, known: Sequence[str]) -> None:
    """Raise ConfigError with the nearest names unless the library has a network of this name."""
    if name in known:
        return
    near = ", ".join(f"{library}/{other}" for other in get_close_matches(name, known, cutoff=0.5))
    hint = f"did you mean one of: {near}" if near else f"{library} has none with a name like it"
    raise ConfigError(f"unknown model '{library}/{name}'; {hint}")


def check_side(name: str, side: int, legal: range) -> None:
    """Raise ConfigError with the sides that work unless `side` is one of them."""
    if side in legal:
        return
    size = f"{legal.start}x{legal.start}"
    wanted = f"{size} images only" if len(legal) == 1 else f"images of at least {size}"
    raise ConfigError(
        f"{name} takes {wanted}, not {side}x{side}. Resize them with --data.size {legal.start}."
    )


def build_torchvision(
    name: str, num_classes: int = 1000, in_channels: int = 3, side: int | None = None
) -> nn.Module:
    """Return a network of torchvision with weights as it draws them.

    In training, GoogLeNet and Inception v3 return a tuple with the auxiliary logits last.
    Raises ConfigError for a side that the network does not take; None is a legal one.
    """
    if side is not None:
        check_side(f"torchvision/{name}", side, torchvision_sides(name))
    options: dict[str, Any] = {}
    if name in AUXILIARY_WEIGHTS:
        options["init_weights"] = True  # the default, of which they warn that it will change
    # RegNet computes its widths with tensors and reads them, which the meta device does not allow.
    tables: AbstractContextManager[object] = nullcontext()
    if name.startswith("regnet"):
        tables = TablesOnCPU()
    with tables:
        models = load("torchvision.models")
        model = models.get_model(name, weights=None, num_classes=num_classes, **options)
    if name in AUXILIARY_WEIGHTS:
        model.auxiliary_weight = AUXILIARY_WEIGHTS[name]
    if in_channels != 3:
        change_channels(model, in_channels)
    network: nn.Module = model
    return network


def torchvision_sides(name: str) -> range:
    """The sides a network of torchvision is built for; most take all, but for very small ones."""
    if name == "inception_v3":
        return ANY_SIDE[298:]  # below 299 its auxiliary head has too little left to pool
    return range(224, 225) if name.startswith(("vit_", "maxvit_")) else ANY_SIDE


def build_timm(
    name: str, num_classes: int = 1000, in_channels: int = 3, side: int | None = None
) -> nn.Module:
    """Return a network of timm with weights as it draws them.

    Raises ConfigError for a side that the network does not take; None is a legal one.
    """
    timm = load("timm")
    config = timm.get_pretrained_cfg(name)
    if side is not None and config.fixed_input_size:
        width = config.input_size[-1]
        check_side(f"timm/{name}", side, range(width, width + 1))
    network: nn.Module = timm.create_model(
        name, pretrained=False, num_classes=num_classes, in_chans=in_channels
    )
    return network


class TablesOnCPU(TorchFunctionMode):
    """Within it, `torch.arange` and `torch.tensor` make real tensors, whatever the device is."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call `function`, on the CPU if it is one of the two."""
        device = {"device": "cpu"} if function in (torch.arange, torch.tensor) else {}
        return function(*args, **device | (kwargs or {}))


def change_channels(model: nn.Module, in_channels: int) -> None:
    """Let the first convolution see `in_channels` instead of 3.

    Its weights are drawn anew, normal, with the standard deviation that the library gave them.
    """
    convolutions = (layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    first = next(layer for layer in convolutions if layer.in_channels == 3)
    shape = (first.out_channels, in_channels, *first.kernel_size)
    first.in_channels = in_channels
    first.weight = nn.Parameter(torch.randn(shape) * first.weight.detach().std())


def torchvision_card(name: str) -> Card:
    """What torchvision says of a network and its weights."""
    models = load("torchvision.models")
    weights = list(models.get_model_weights(name))
    paper = documented_paper(models.get_model_builder(name).__doc__ or "")
    docs = f"https://docs.pytorch.org/vision/stable/models/generated/torchvision.models.{name}.html"
    return Card(
        title=f"{name} of torchvision",
        year=year_of(paper),
        paper=f"{paper}; {docs}" if paper else docs,
        # The smallest: some networks have weights tuned at a larger size as well.
        input=(3, min(weight.transforms().crop_size[0] for weight in weights)),
        classes=len(weights[0].meta["categories"]),
        reported=tuple(reported_by(weight) for weight in weights),
        training=tuple(f"{weight.name}: {weight.meta['recipe']}" for weight in weights),
        differences=(TRANSFORM_INPUT,) if name in AUXILIARY_WEIGHTS else (),
        licence="code BSD-3-Clause; weights may carry terms of their own, SWAG's are CC-BY-NC 4.0: "
        "https://github.com/pytorch/vision#pre-trained-model-license",
    )


def reported_by(weight: Any) -> str:
    """The accuracy that torchvision states for one set of its weights."""
    (data, metrics), *_ = weight.meta["_metrics"].items()
    side = weight.transforms().crop_size[0]
    figures = f"top-1 {metrics['acc@1']:.3f} %, top-5 {metrics['acc@5']:.3f} %"
    return f"{data} validation, centre crop {side}, weights {weight.name}: {figures}"


def documented_paper(text: str) -> str:
    """Title and address of the first arXiv paper that a docstring links to, or nothing."""
    link = re.search(r"`([^`]+?)\s*<(https?://arxiv\.org/[^>\s]+)>`", text)
    return f"{' '.join(link[1].split())}, {link[2]}" if link else ""


def year_of(paper: str) -> int:
    """The year in the first arXiv number of a text, 0 if there is none."""
    number = re.search(r"\b(\d\d)\d\d\.\d{4,5}\b", paper)
    return 2000 + int(number[1]) if number else 0


def timm_card(name: str) -> Card:
    """What timm says of a network and of the weights its name or its default tag stands for."""
    config = load("timm").get_pretrained_cfg(name)
    channels, height, width = config.input_size
    hub = f"https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else ""
    tag = f", weights {config.tag}" if config.tag else ""
    # timm names the paper of the weights, which need not be the network's, so there is no year.
    source = ", ".join(filter(None, (config.paper_name, config.paper_ids, config.origin_url)))
    return Card(
        title=f"{config.architecture} of timm{tag}",
        year=0,
        paper=hub or "https://huggingface.co/docs/timm",
        input=(channels, width),
        classes=config.num_classes,
        training=(f"weights: {source}",) if source else (),
        differences=(f"takes {height}x{width} images only",) if config.fixed_input_size else (),
        licence=config.license or "",
    )
