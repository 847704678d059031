"""A linear probe: the last layer of a network fitted, by itself, to what it sees of the images.

The cheapest way to use a network for other classes, and a good place to go on from: gradients of a
last layer that was drawn at random would spoil the layers before it.
N images, D features, K classes.
"""

from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepcnn import interrupt
from deepcnn.data.loader import Source, in_order
from deepcnn.device import Policy
from deepcnn.errors import ConfigError
from deepcnn.metrics import mean_loss, num_correct
from deepcnn.models import transfer
from deepcnn.progress import reported

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


class Judgement(NamedTuple):
    """What was said of N images by regressions that had not learnt from them: logits N K."""

    logits: Tensor
    penalty: float
    accuracy: float


def check(model: nn.Module, num_classes: int) -> None:
    """Raise ConfigError unless the last layer has weights and a bias for each class."""
    own = dict(transfer.head(model).named_parameters(recurse=False))
    if own.keys() != {"weight", "bias"} or len(own["weight"]) != num_classes:
        raise ConfigError(
            "transfer.probe fits the weights and biases of a last layer with an output for each "
            "class, which this network has not: choose another, or --transfer.probe false"
        )


def fit_head(model: nn.Module, train: Source, held_out: Source | None, policy: Policy) -> Probe:
    """Fit the last layer of `model` to its features of the training images, as `fit` does, and put
    it in place. Nothing else is changed.
    """
    head = transfer.head(model)
    own_weight, own_bias = head.get_parameter("weight"), head.get_parameter("bias")
    judged = (features(model, held_out, policy), held_out.labels.cpu()) if held_out else None
    found = fit(features(model, train, policy), train.labels.cpu(), len(own_weight), judged)
    with torch.no_grad():
        own_weight.copy_(found.weight.reshape(own_weight.shape))
        own_bias.copy_(found.bias)
    return found


def fit(
    seen: Tensor, labels: Tensor, num_classes: int, held_out: tuple[Tensor, Tensor] | None
) -> Probe:
    """A multinomial logistic regression on features N x D of images with those labels.

    Its L2 penalty is the one of PENALTIES with the least loss on the features and labels held out,
    or in cross-validation where there are none.
    """
    if held_out:
        both = torch.cat([seen, held_out[0]]), torch.cat([labels, held_out[1]])
        best = _best_penalty(*both, num_classes, [torch.arange(len(both[1])) >= len(labels)])
    else:
        best = out_of_fold(seen, labels, num_classes)
    weight, bias = logistic_regression(seen, labels, num_classes, best.penalty)
    return Probe(weight, bias, best.penalty, best.accuracy)


def out_of_fold(seen: Tensor, labels: Tensor, num_classes: int) -> Judgement:
    """What regressions say of features N x D that they did not learn from.

    Each image is left out once: of FOLDS parts with every class spread evenly, one is judged by
    what is learnt from the others.
    """
    return _best_penalty(seen, labels, num_classes, _folds(labels))


def features(model: nn.Module, images: Source, policy: Policy) -> Tensor:
    """What the last layer sees of every image, float64 N x D on the CPU."""
    number = images.at_once()
    batches = reported(in_order(images, number), -(-len(images) // number), "features")
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

    Both halved as usual; features count as scaled to mean square 1. In the precision of `seen`, and
    from zero, so that the result is a function of its input.
    """
    scale = seen.square().mean().sqrt().clamp_min(torch.finfo(seen.dtype).tiny)
    inputs = seen / scale
    weight = seen.new_zeros(num_classes, seen.shape[1], requires_grad=True)
    bias = seen.new_zeros(num_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(inputs @ weight.T + bias, labels)
        loss = loss + penalty / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(objective)
    return (weight / scale).detach(), bias.detach()


def _best_penalty(seen: Tensor, labels: Tensor, num_classes: int, folds: list[Tensor]) -> Judgement:
    """What regressions with the penalty of least loss say of the images left out of each fold."""
    judged = torch.stack(folds).any(dim=0)
    tasks = list(product(PENALTIES, folds))
    logits = {penalty: seen.new_zeros(len(labels), num_classes) for penalty in PENALTIES}
    for penalty, left_out in reported(tasks, len(tasks), "regressions"):
        interrupt.check()
        weight, bias = logistic_regression(seen[~left_out], labels[~left_out], num_classes, penalty)
        logits[penalty][left_out] = seen[left_out] @ weight.T + bias
    losses = {k: mean_loss(logits[k][judged], labels[judged]) for k in PENALTIES}
    best = min(PENALTIES, key=losses.__getitem__)
    said = logits[best][judged]
    return Judgement(said, best, num_correct(said, labels[judged]) / len(said))


def _folds(labels: Tensor) -> list[Tensor]:
    """Masks of the images to leave out, every class spread evenly over the folds."""
    place = torch.empty_like(labels)
    place[labels.argsort(stable=True)] = torch.arange(len(labels)) % FOLDS
    return [place == fold for fold in range(FOLDS)]
