"""A linear probe: the last layer of a network fitted, by itself, to what it sees of the images.

The cheapest way to use a network for other classes, and a good place to go on from: gradients of a
last layer that was drawn at random would spoil the layers before it.
N images, D features, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepcnn import interrupt
from deepcnn.data.loader import Source, in_order
from deepcnn.device import Policy
from deepcnn.errors import ConfigError
from deepcnn.models import transfer
from deepcnn.progress import reported

BATCH_SIZE = 64
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # on squared weights, of features of mean square 1
FOLDS = 5  # of the training images, where none are held out
STEPS = 100  # of L-BFGS, which converges long before


@dataclass(frozen=True)
class Probe:
    """A fitted last layer: weights K x D and biases K, for the features as they are."""

    weight: Tensor
    bias: Tensor
    penalty: float
    accuracy: float  # on held-out images, or those left out of each fold


def check(model: nn.Module, num_classes: int) -> None:
    """Raise ConfigError unless the last layer has weights and a bias for each class."""
    own = dict(transfer.head(model).named_parameters(recurse=False))
    if own.keys() != {"weight", "bias"} or len(own["weight"]) != num_classes:
        raise ConfigError(
            "transfer.probe fits the weights and biases of a last layer with an output for each "
            "class, which this network has not: choose another, or --transfer.probe false"
        )


def fit_head(model: nn.Module, train: Source, held_out: Source | None, policy: Policy) -> Probe:
    """Fit the last layer of `model` to its features of the training images, and put it in place.

    Multinomial logistic regression with an L2 penalty, the one of PENALTIES with the least loss on
    `held_out`, or in cross-validation where that is None. Changes nothing but the last layer.
    """
    seen, labels = features(model, train, policy), train.labels.cpu()
    if held_out:
        folds = [(seen, labels, features(model, held_out, policy), held_out.labels.cpu())]
    else:
        folds = [
            (seen[~left_out], labels[~left_out], seen[left_out], labels[left_out])
            for left_out in _folds(labels)
        ]
    head = transfer.head(model)
    own_weight, own_bias = head.get_parameter("weight"), head.get_parameter("bias")
    results = [_mean_result(folds, len(own_weight), penalty) for penalty in PENALTIES]
    best = min(range(len(PENALTIES)), key=lambda place: results[place][0])
    weight, bias = logistic_regression(seen, labels, len(own_weight), PENALTIES[best])
    with torch.no_grad():
        own_weight.copy_(weight.reshape(own_weight.shape))
        own_bias.copy_(bias)
    return Probe(weight, bias, PENALTIES[best], results[best][1])


def features(model: nn.Module, images: Source, policy: Policy) -> Tensor:
    """What the last layer sees of every image, float64 N x D on the CPU."""
    batches = reported(in_order(images, BATCH_SIZE), -(-len(images) // BATCH_SIZE), "features")
    found = []
    for batch in batches:
        interrupt.check()
        with policy.autocast():
            seen = transfer.features(model, policy.arrange(batch.images))
        found.append(seen.double().cpu())
    return torch.cat(found)


def logistic_regression(
    seen: Tensor, labels: Tensor, num_classes: int, penalty: float
) -> tuple[Tensor, Tensor]:
    """Weights K x D and biases K of least mean cross-entropy plus penalty times squared weights.

    Both halved as usual; features count as scaled to mean square 1. Float64, from zero, so that the
    result is a function of its input.
    """
    scale = seen.square().mean().sqrt().clamp_min(torch.finfo(torch.float64).tiny)
    inputs = seen / scale
    weight = torch.zeros(num_classes, seen.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(num_classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(inputs @ weight.T + bias, labels)
        loss = loss + penalty / 2 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(objective)  # type: ignore[no-untyped-call]
    return (weight / scale).detach(), bias.detach()


def _mean_result(
    folds: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]], num_classes: int, penalty: float
) -> tuple[float, float]:
    """Mean loss and accuracy over the images left out of each fold."""
    loss, correct, number = 0.0, 0, 0
    for seen, labels, unseen, true in folds:
        interrupt.check()
        weight, bias = logistic_regression(seen, labels, num_classes, penalty)
        logits = unseen @ weight.T + bias
        loss += float(F.cross_entropy(logits, true, reduction="sum"))
        correct += int((logits.argmax(1) == true).sum())
        number += len(true)
    return loss / number, correct / number


def _folds(labels: Tensor) -> list[Tensor]:
    """Masks of the images to leave out, every class spread evenly over the folds."""
    place = torch.empty_like(labels)
    place[labels.argsort(stable=True)] = torch.arange(len(labels)) % FOLDS
    return [place == fold for fold in range(FOLDS)]
