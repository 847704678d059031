"""The update rule, the course of the learning rate, and averaged weights."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from deepcnn.config import Optim
from deepcnn.models import transfer

LR_DROP = 0.1  # what a milestone multiplies the rate by: Krizhevsky et al. 2012, section 5


def make_optimizer(
    settings: Optim, model: nn.Module, stage_decay: float = 1.0
) -> torch.optim.Optimizer:
    """SGD or AdamW over all parameters; norms and biases (one axis) are not decayed.

    With a `stage_decay` below 1 each stage has groups of its own, whose `factor` of the learning
    rate is that share of the next stage's; the last layer's is 1.
    """
    stages: list[dict[str, Any]] = [{"params": list(model.parameters()), "lr": 1.0}]
    if stage_decay < 1:
        stages = transfer.parameter_groups(model, 1.0, stage_decay)
    groups = [
        {
            "params": [p for p in stage["params"] if (p.ndim > 1) == is_decayed],
            "weight_decay": settings.weight_decay if is_decayed else 0.0,
            "factor": stage["lr"],
        }
        for stage in stages
        for is_decayed in (True, False)
    ]
    # One pass over memory instead of four; MPS has no such kernel for SGD.
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, fused=fused)
    optimizer = torch.optim.SGD(
        groups,
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        fused=fused,
    )
    if settings.momentum:  # one kernel takes no parameters of which some have moved and some not
        for parameter in model.parameters():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


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
