"""The update rule, the course of the learning rate, and averaged weights."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from deepcnn.config import Optim
from deepcnn.models import transfer
from deepcnn.muon import Muon

BESIDE_MUON = 0.85  # momentum of what Muon does not take: airbench94
LR_DROP = 0.1  # what a milestone multiplies the rate by: Krizhevsky et al. 2012, section 5


def make_optimizer(
    settings: Optim, model: nn.Module, stage_decay: float = 1.0
) -> torch.optim.Optimizer:
    """SGD, AdamW or Muon over all parameters; norms and biases (one axis) are not decayed.

    Each group has a `factor` of the learning rate: with a `stage_decay` below 1 that share of the
    next stage's, and 1 in the last; times what `settings` say of norms, biases and the last layer.
    """
    stages: list[dict[str, Any]] = [{"params": list(model.parameters()), "lr": 1.0}]
    if stage_decay < 1:
        stages = transfer.parameter_groups(model, 1.0, stage_decay)
    head = set(transfer.head(model).parameters()) if settings.head_factor != 1 else set()

    def kind(parameter: Tensor) -> tuple[bool, bool, float]:
        """Whether it is a vector, whether Muon takes it, its factor."""
        if parameter.ndim <= 1:
            return True, False, settings.bias_factor
        is_filter = settings.name == "muon" and parameter.ndim == 4
        return False, is_filter, settings.head_factor if parameter in head else 1.0

    groups = [
        {
            "params": [p for p in stage["params"] if kind(p) == each],
            "weight_decay": 0.0 if is_vector or is_filter else settings.weight_decay,
            "factor": stage["lr"] * factor,
            **(_inertia(settings.momentum) if is_filter else {}),
        }
        for stage in stages
        for each in sorted({kind(p) for p in stage["params"]})
        for is_vector, is_filter, factor in [each]
    ]
    # One pass over memory instead of four; MPS has no such kernel for SGD.
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, fused=fused)
    rule, momentum, nesterov = torch.optim.SGD, settings.momentum, settings.nesterov
    if settings.name == "muon":
        rule, momentum, nesterov = Muon, BESIDE_MUON, True
    optimizer = rule(groups, lr=settings.lr, momentum=momentum, nesterov=nesterov, fused=fused)
    if momentum:  # one kernel takes no parameters of which some have moved and some not
        for parameter in model.parameters():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def _inertia(momentum: float) -> dict[str, Any]:
    """What makes a group Muon's: it keeps the momentum, and SGD has none."""
    return {"inertia": momentum, "momentum": 0.0, "nesterov": False}


def lr_factor(settings: Optim, progress: float) -> float:
    """Learning rate as a share of its peak when `progress` (0 to 1) of the run is done."""
    if progress < settings.warmup:
        return progress / settings.warmup
    remaining = (1 - progress) / (1 - settings.warmup)
    if settings.schedule == "cosine":
        return (1 - math.cos(math.pi * remaining)) / 2
    if settings.schedule == "triangular":
        return remaining
    if settings.schedule == "step":
        return float(LR_DROP ** sum(milestone <= progress for milestone in settings.milestones))
    return 1.0


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Use `lr` in the next update, in each group by its factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["factor"]


def l1_norm(model: nn.Module) -> Tensor:
    """Sum of absolute weights, without norms and biases."""
    return torch.stack([p.abs().sum() for p in model.parameters() if p.ndim > 1]).sum()


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers by name."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@torch.no_grad()
def update_average(
    average: Mapping[str, Tensor], model: nn.Module, decay: float, step: int
) -> None:
    """Move `average` towards the model's weights and buffers after update number `step`.

    The first updates weigh more, (1 + step) / (10 + step), or the first weights would linger.
    """
    weight = 1 - min(decay, (1 + step) / (10 + step))
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            average[name].lerp_(tensor, weight)
        else:
            average[name].copy_(tensor)
