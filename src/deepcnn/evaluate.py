"""Exact evaluation: every image once, sums and counts, no augmentation."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from deepcnn import artefact, calibration, interrupt, metrics
from deepcnn.artefact import Artefact
from deepcnn.config import Config
from deepcnn.data import catalog, pictures
from deepcnn.data.images import ImageSet
from deepcnn.data.loader import Source, in_order, source
from deepcnn.data.photos import Photos
from deepcnn.data.preprocess import Preprocess
from deepcnn.data.splits import load_splits
from deepcnn.data.views import (
    VIEWS,
    Averaged,
    mean_logits,
    mean_probabilities,
    multi_scale,
    own_views,
    ten_crop,
)
from deepcnn.device import Policy, plain_policy
from deepcnn.errors import ConfigError, DataError, RunError, look_up
from deepcnn.predictions import Predictions
from deepcnn.progress import reported, say
from deepcnn.settings import from_dict

MIN_CLASSES_FOR_TOP_5 = 10  # with fewer, five guesses are hardly a test
SUREST = 10  # mistakes that are named
TEN_CROP = 256 / 224  # side of what windows are cut from: Krizhevsky et al. 2012, section 4.1
SCALES = (224, 256, 384, 480, 640)  # He et al. 2015, section 3.4, for a network of 224


class Goal(NamedTuple):
    """What the answers that are given are to reach: an `accuracy` or a `coverage` of `share`."""

    what: str
    share: float


@torch.no_grad()
def predictions(
    model: nn.Module,
    images: Source,
    policy: Policy,
    batch_size: int = 0,
    averaged: Averaged | None = None,
) -> Predictions:
    """Run `model` over every image of the set, `batch_size` at once, 0: as `at_once` says.

    `averaged` says in which views; if not given, those that the preprocessing names. Raises
    Interrupted between two batches.
    """
    model.eval()
    logits, labels = [], []
    averaged = averaged or own_views(images.preprocess)

    def network(pixels: Tensor) -> Tensor:
        answer: Tensor = model(policy.arrange(pixels))
        return answer.float()

    batch_size = batch_size or images.at_once()
    num_batches = math.ceil(len(images) / batch_size)
    for batch in reported(in_order(images, batch_size), num_batches, "evaluating"):
        interrupt.check()
        with policy.autocast():
            logits.append(averaged(network, batch.images).cpu())
        labels.append(batch.labels.cpu())
    result = Predictions(torch.cat(logits), torch.cat(labels))
    assert len(result.labels) == len(images), "an image was left out or counted twice"
    return result


def summary(
    result: Predictions, classes: tuple[str, ...], temperature: float | None = None
) -> dict[str, Any]:
    """The result as it is printed and stored: accuracy with its 95 % interval, loss, calibration
    before and after logits are divided by the `temperature`, each class.
    """
    logits, labels, number = result.logits, result.labels, len(result.labels)
    correct = metrics.num_correct(logits, labels)
    report: dict[str, Any] = {
        "accuracy": correct / number,
        "interval": list(metrics.wilson_interval(correct, number)),
        "num_images": number,
        "balanced_accuracy": metrics.balanced_accuracy(logits, labels),
        **_believed(result, 1.0),
        "calibrated": None,
    }
    if temperature:
        report["calibrated"] = {"temperature": temperature, **_believed(result, temperature)}
    if unanswered := int((metrics.answers(logits) < 0).sum()):
        report["unanswered"] = unanswered
    if len(classes) >= MIN_CLASSES_FOR_TOP_5:
        report["top5"] = metrics.num_correct(logits, labels, top=5) / number
    report["per_class"] = metrics.per_class(logits, labels, classes)
    return report


def _believed(result: Predictions, temperature: float) -> dict[str, Any]:
    """Loss and calibration error; a loss that is infinite is no number of JSON."""
    loss = metrics.mean_loss(result.logits / temperature, result.labels)
    bins = calibration.reliability(*calibration.judged(result.logits, result.labels, temperature))
    return {
        "loss": loss if math.isfinite(loss) else None,
        "calibration_error": calibration.calibration_error(bins),
    }


def details(result: Predictions, images: ImageSet, temperature: float) -> dict[str, Any]:
    """What is to be known beyond the summary: confusions, reliability, accuracy by coverage, and
    the surest mistakes.
    """
    judged = calibration.judged(result.logits, result.labels, temperature)
    return {
        "confusion": metrics.confusion_matrix(result.logits, result.labels).tolist(),
        "reliability": calibration.reliability(*judged),
        "coverage": calibration.accuracy_by_coverage(*judged),
        "mistakes": mistakes(result, images, temperature),
    }


def mistakes(result: Predictions, images: ImageSet, temperature: float) -> list[dict[str, Any]]:
    """The wrong answers that the network was surest of: each with its image (from 0) and, where it
    has one, its file.
    """
    surest, confidence = calibration.surest_mistakes(
        result.logits, result.labels, temperature, SUREST
    )
    predicted = metrics.answers(result.logits)
    files = images.images if isinstance(images.images, Photos) else None
    return [
        {
            "image": index,
            "file": files.name(index) if files else None,
            "label": images.classes[result.labels[index]],
            "answer": images.classes[answer] if (answer := int(predicted[index])) >= 0 else None,
            "confidence": sure,
        }
        for index, sure in zip(surest.tolist(), confidence.tolist(), strict=True)
    ]


def evaluate_run(
    run: Path,
    split: str,
    device: str,
    data: str | None = None,
    root: str | None = None,
    views: str | None = None,
    goal: Goal | None = None,
) -> dict[str, Any]:
    """Measure the model of a run on a split of its own data set, or of another one: `data` names
    it, and `root` is the folder to look in first.

    Raises RunError where the run has no finished model or held nothing out, DataError where the
    classes are not those of the model.
    """
    found = artefact.load(run)
    policy = plain_policy(device)
    policy.apply()
    model = policy.place(found.model)
    config = from_dict(found.meta["config"], str(run))
    preprocess, averaged = named_views(found, views)
    if preprocess.size != found.preprocess.size:  # for which pictures in files are decoded
        larger = replace(config.data, size=preprocess.size, keep=preprocess.keep)
        config = replace(config, data=larger)

    def measured(images: ImageSet) -> Predictions:
        pixels = source(images, preprocess, torch.device(policy.device))
        return predictions(model, pixels, policy, averaged=averaged)

    images = _images(config, split, data, root, preprocess.least)
    if images.classes != found.classes or images.num_channels != found.preprocess.channels:
        raise DataError(
            f"{images.name} has {images.num_channels} channels and classes "
            f"{', '.join(images.classes)}; the model of {run} knows {found.preprocess.channels} "
            f"channels and {', '.join(found.classes)}"
        )
    held_out = _images(config, "validation", None, root, 0) if goal else None
    result = measured(images)
    report = {
        "run": str(run),
        "data": images.name,
        "views": views or found.preprocess.views,
        **summary(result, images.classes, found.meta.get("temperature")),
        **details(result, images, found.temperature),
    }
    if goal and held_out:
        report["goal"] = threshold(goal, measured(held_out), result, found.temperature)
    return report


def threshold(
    goal: Goal, held_out: Predictions, result: Predictions, temperature: float
) -> dict[str, Any]:
    """The confidence below which to give no answer, by held-out images, and what it leads to.

    Raises ConfigError where no answers are right as often as that.
    """
    judged = calibration.judged(held_out.logits, held_out.labels, temperature)
    if goal.what == "coverage":
        chosen = calibration.part(*judged, math.ceil(goal.share * len(judged[0])))
    elif not (found := calibration.threshold_for_accuracy(*judged, goal.share)):
        raise ConfigError(
            f"--accuracy {goal.share:g} is more than even the surest of {len(judged[0]):,} answers "
            "to held-out images reach: ask for less"
        )
    else:
        chosen = found
    confidence, correct = calibration.judged(result.logits, result.labels, temperature)
    answered = confidence >= chosen["threshold"]
    number, hits = int(answered.sum()), int(correct[answered].sum())
    return {
        **goal._asdict(),
        "threshold": chosen["threshold"],
        "held_out": chosen,
        "num_images": number,
        "coverage": number / len(confidence),
        "accuracy": hits / number if number else None,
        "interval": list(metrics.wilson_interval(hits, number)) if number else None,
    }


def named_views(found: Artefact, name: str | None) -> tuple[Preprocess, Averaged]:
    """How pictures are prepared for the views of that name, None: the model's own; ConfigError."""
    preprocess = found.preprocess
    if name is None:
        return preprocess, own_views(preprocess)
    name = name.replace("-", "_")
    if name == "ten_crop":
        larger = enlarged(preprocess, TEN_CROP)
        windows = ten_crop(preprocess.input_size, larger.input_size)
        return larger, partial(mean_probabilities, views=windows)
    if name == "multi_scale":
        sides = [round(preprocess.input_size * scale / SCALES[0]) for scale in SCALES]
        _require_any_side(found, sides)
        largest = enlarged(preprocess, SCALES[-1] / SCALES[0])
        return largest, partial(mean_probabilities, views=multi_scale(sides))
    look_up("views", name, {**VIEWS, "ten_crop": (), "multi_scale": ()})
    return preprocess, partial(mean_logits, views=VIEWS[name])


def enlarged(preprocess: Preprocess, factor: float) -> Preprocess:
    """The same for larger squares, to cut windows from or to resize: nothing is cut off before."""
    size = round(preprocess.size * factor)
    pad, keep = round(preprocess.pad * factor), min(1.0, preprocess.keep * factor)
    least = round(preprocess.least * factor)
    return replace(preprocess, size=size, pad=pad, keep=keep, least=least)


def _require_any_side(found: Artefact, sides: list[int]) -> None:
    found.model.eval()
    device = next(found.model.parameters()).device
    for side in sides:
        try:
            with torch.no_grad():
                found.model(torch.zeros(1, found.preprocess.channels, side, side, device=device))
        except RuntimeError as error:
            raise ConfigError(
                f"views multi_scale need a network for images of any size, and "
                f"{found.meta['model']} takes none of side {side}: choose ten_crop"
            ) from error


def _images(config: Config, split: str, name: str | None, root: str | None, least: int) -> ImageSet:
    """The split of the run's own data, held out as it was then; or of another data set, whole.

    Of other pictures in files, all are test images unless their folders say otherwise.
    """
    data = config.data if root is None else replace(config.data, root=root)
    if name and name != data.name:
        data = replace(data, name=name, validation=0)
        if split == "test" and catalog.is_pictures(name):
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
