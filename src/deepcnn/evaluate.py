"""Exact evaluation: every image once, sums and counts, no augmentation."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deepcnn import interrupt, metrics
from deepcnn.data.loader import Source, in_order
from deepcnn.device import Policy

MIN_CLASSES_FOR_TOP_5 = 10  # with fewer, five guesses are hardly a test


@dataclass(frozen=True)
class Predictions:
    """What a network said: `logits` float32 N K and `labels` int64 N, on the CPU, as stored."""

    logits: Tensor
    labels: Tensor

    def accuracy(self) -> float:
        """Share of images whose highest logit is their label."""
        return metrics.num_correct(self.logits, self.labels) / len(self.labels)


@torch.no_grad()
def predictions(model: nn.Module, images: Source, policy: Policy, batch_size: int) -> Predictions:
    """Run `model` over every image of the set once; Interrupted between two batches."""
    model.eval()
    logits, labels = [], []
    for batch in in_order(images, batch_size):
        interrupt.check()
        with policy.autocast():
            logits.append(model(policy.arrange(batch.images)).float().cpu())
        labels.append(batch.labels.cpu())
    result = Predictions(torch.cat(logits), torch.cat(labels))
    assert len(result.labels) == len(images.images), "an image was left out or counted twice"
    return result


def summary(result: Predictions, classes: tuple[str, ...]) -> dict[str, Any]:
    """The result as it is printed and stored: accuracy with its 95 % interval, loss, each class."""
    number = len(result.labels)
    correct = metrics.num_correct(result.logits, result.labels)
    report: dict[str, Any] = {
        "accuracy": correct / number,
        "interval": list(metrics.wilson_interval(correct, number)),
        "num_images": number,
        "loss": metrics.mean_loss(result.logits, result.labels),
    }
    if len(classes) >= MIN_CLASSES_FOR_TOP_5:
        report["top5"] = metrics.num_correct(result.logits, result.labels, top=5) / number
    report["per_class"] = metrics.per_class(result.logits, result.labels, classes)
    return report
