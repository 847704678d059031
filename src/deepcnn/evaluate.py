"""Exact evaluation: every image once, sums and counts, no augmentation."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deepcnn import artefact, interrupt, metrics
from deepcnn.config import Config
from deepcnn.data import catalog, pictures
from deepcnn.data.images import ImageSet
from deepcnn.data.loader import Source, in_order, source
from deepcnn.data.splits import load_splits
from deepcnn.data.views import mean_logits
from deepcnn.device import Policy, plain_policy
from deepcnn.errors import DataError, RunError
from deepcnn.progress import reported, say
from deepcnn.settings import from_dict

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
def predictions(
    model: nn.Module, images: Source, policy: Policy, batch_size: int = 0
) -> Predictions:
    """Run `model` over every image of the set, `batch_size` at once, 0: as `at_once` says; once,
    or in each of the views that the preprocessing names.

    Raises Interrupted between two batches.
    """
    model.eval()
    logits, labels = [], []
    views = images.preprocess.views

    def network(pixels: Tensor) -> Tensor:
        answer: Tensor = model(policy.arrange(pixels))
        return answer.float()

    batch_size = batch_size or images.at_once()
    num_batches = math.ceil(len(images) / batch_size)
    for batch in reported(in_order(images, batch_size), num_batches, "evaluating"):
        interrupt.check()
        with policy.autocast():
            logits.append(mean_logits(network, batch.images, views).cpu())
        labels.append(batch.labels.cpu())
    result = Predictions(torch.cat(logits), torch.cat(labels))
    assert len(result.labels) == len(images), "an image was left out or counted twice"
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


def evaluate_run(
    run: Path, split: str, data_name: str | None, root: str | None, device: str
) -> dict[str, Any]:
    """Measure the model of a run on a split of its own data set, or of another one.

    Raises RunError where the run has no finished model or held nothing out, DataError where the
    classes are not those of the model.
    """
    found = artefact.load(run)
    policy = plain_policy(device)
    policy.apply()
    config = from_dict(found.meta["config"], str(run))
    images = _images(config, split, data_name, root, found.preprocess.least)
    if images.classes != found.classes or images.num_channels != found.preprocess.channels:
        raise DataError(
            f"{images.name} has {images.num_channels} channels and classes "
            f"{', '.join(images.classes)}; the model of {run} knows {found.preprocess.channels} "
            f"channels and {', '.join(found.classes)}"
        )
    pixels = source(images, found.preprocess, torch.device(policy.device))
    result = summary(predictions(policy.place(found.model), pixels, policy), images.classes)
    return {"run": str(run), "data": images.name, **result}


def _images(
    config: Config, split: str, data_name: str | None, root: str | None, least: int
) -> ImageSet:
    """The split of the run's own data, held out as it was then; or of another data set, whole.

    Of other pictures in files, all are test images unless their folders say otherwise.
    """
    data = config.data if root is None else replace(config.data, root=root)
    if data_name and data_name != data.name:
        data = replace(data, name=data_name, validation=0)
        if split == "test" and catalog.is_pictures(data_name):
            return pictures.load_all(data, least, say)
    if split == "test" and not catalog.is_pictures(data.name):
        return catalog.load(data.name, "test", data.root)
    splits = load_splits(data, config.train.seed, say)
    if split == "test":
        return splits.test
    images = splits.train if split == "train" else splits.validation
    if images is None:
        raise RunError(f"no validation images are held out of {data.name}; use test or train")
    return images
