"""The loss of a run by its formula: mixed images, smoothed labels, weights of classes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.nn import functional as F

from deepcnn import runlog
from deepcnn.begin import begin
from deepcnn.data.images import ImageSet
from deepcnn.data.loader import Batch
from deepcnn.objective import forward, mean_loss
from deepcnn.run import Run
from faults import (
    SMALL,
    Settings,
    config_of,
    prepared,
    read_events,
    torch_restored,
    train_here,
    write_images,
)

Array = NDArray[np.float64]
COUNTS = np.array([1, 9, 30])  # training images of each class


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "images", side=32)


@pytest.fixture(scope="module")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return begun(images, tmp_path_factory.mktemp("run"), {"train.class_weights": True})


def begun(images: Path, folder: Path, more: Settings) -> Run:
    config = config_of(SMALL | {"data.name": str(images)} | more)
    with prepared(), torch_restored(), runlog.opened(folder):
        return begin(config, folder, folder / "cache", accept_change=False)


def unbalanced(run: Run, counts: NDArray[np.int64], smoothing: float = 0.0) -> Run:
    """The run with other training images."""
    labels = np.repeat(np.arange(len(counts)), counts)
    pixels = np.zeros((len(labels), 1, 32, 32), np.uint8)
    train = ImageSet("unbalanced", pixels, labels, run.splits.train.classes)
    config = replace(run.config, train=replace(run.config.train, label_smoothing=smoothing))
    return replace(run, splits=replace(run.splits, train=train), config=config)


def by_formula(logits: Array, labels: NDArray[np.int64], weights: Array, smoothing: float) -> Array:
    """Loss of each image, N."""
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    logarithms = np.log(shares / shares.sum(axis=1, keepdims=True))
    targets = np.full(logits.shape, smoothing / logits.shape[1])
    targets[np.arange(len(labels)), labels] += 1 - smoothing
    return np.asarray(-(targets * weights * logarithms).sum(axis=1))


@settings(max_examples=60)
@given(
    st.booleans(), st.booleans(), st.sampled_from([0.0, 0.1]), st.integers(0, 1),
    st.integers(1, 9), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_the_loss_by_its_formula(
    run: Run, weighted: bool, mixed: bool, smoothing: float, further: int, number: int, seed: int
) -> None:
    """`further`: logits of no class, as LeNet-5 has one."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 4, (number, 3 + further))
    labels, partners = rng.integers(0, 3, (2, number))
    share = rng.uniform(0, 1, number) if mixed else np.ones(number)
    weights = np.append(COUNTS.sum() / (3 * COUNTS), [1.0] * further)
    if not weighted:
        weights = np.ones_like(weights)
    own, others = (by_formula(logits, each, weights, smoothing) for each in (labels, partners))
    expected = np.mean(share * own + (1 - share) * others)
    changed = unbalanced(run, COUNTS, smoothing)
    train = replace(changed.config.train, class_weights=weighted)
    changed = replace(changed, config=replace(changed.config, train=train))
    mixture = (torch.from_numpy(share).float(), torch.from_numpy(partners)) if mixed else ()
    batch = Batch(torch.empty(0), torch.from_numpy(labels), torch.empty(0), *mixture)
    found = mean_loss(torch.from_numpy(logits).float(), batch, changed)
    assert float(found) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_weights_are_1_in_the_mean_and_the_same_for_all_classes_together(run: Run) -> None:
    weights = unbalanced(run, COUNTS).class_weights(torch.empty(1, 3)).double().numpy()
    np.testing.assert_allclose(weights * COUNTS, COUNTS.sum() / 3)
    np.testing.assert_allclose((weights * COUNTS).sum(), COUNTS.sum())


def test_a_balanced_set_gives_the_plain_loss(run: Run) -> None:
    logits, labels = torch.randn(7, 3), torch.arange(7) % 3
    batch = Batch(torch.empty(0), labels, torch.empty(0))
    even = unbalanced(run, np.array([5, 5, 5]))
    torch.testing.assert_close(mean_loss(logits, batch, even), F.cross_entropy(logits, labels))


def test_a_class_without_training_images_is_no_infinity(run: Run) -> None:
    few = unbalanced(run, np.array([4, 6, 0]), smoothing=0.1)
    weights = few.class_weights(torch.empty(1, 4))
    assert torch.isfinite(weights).all()
    batch = Batch(torch.empty(0), torch.tensor([0, 1]), torch.empty(0))
    assert torch.isfinite(mean_loss(torch.randn(2, 3), batch, few))


def test_the_further_logit_of_lenet5_counts_once(images: Path, tmp_path: Path) -> None:
    more: Settings = {"model.name": "lenet5", "train.class_weights": True}
    run = unbalanced(begun(images, tmp_path, more), COUNTS)
    generator = torch.Generator().manual_seed(0)
    pixels, labels = torch.randn(5, 1, 32, 32, generator=generator), torch.tensor([0, 1, 2, 2, 1])
    with torch.no_grad():
        loss, logits = forward(run, Batch(pixels, labels, torch.arange(5)))
        everything = run.state.model(pixels)
    assert (logits.shape, everything.shape) == ((5, 3), (5, 4))
    weights = np.append(COUNTS.sum() / (3 * COUNTS), 1.0)
    expected = by_formula(everything.double().numpy(), labels.numpy(), weights, 0.0).mean()
    assert float(loss) == pytest.approx(expected, rel=1e-5)


# Whole runs

PERCEPTRON: Settings = {  # no batch statistics: pieces of a batch must not change anything
    "model.name": "mlp", "train.batch_size": 13, "train.epochs": 2, "augment.mixup": 0.4,
    "augment.cutmix": 1.0, "train.class_weights": True, "train.label_smoothing": 0.1,
}  # fmt: skip


def losses(run: Path) -> list[float]:
    return [event["loss"] for event in read_events(run) if event["event"] == "step"]


def test_pieces_are_no_part_of_a_mixed_batch(images: Path, tmp_path: Path) -> None:
    found: dict[int, list[float]] = {}
    for pieces in (1, 2, 4):
        more: Settings = {"data.name": str(images), "train.accumulate": pieces}
        train_here(SMALL | PERCEPTRON | more, tmp_path / str(pieces))
        found[pieces] = losses(tmp_path / str(pieces))
    assert found[2] == pytest.approx(found[1], rel=1e-4)
    assert found[4] == pytest.approx(found[1], rel=1e-4)
    train_here(SMALL | PERCEPTRON | {"data.name": str(images), "augment.mixup": 0}, tmp_path / "no")
    assert losses(tmp_path / "no") != pytest.approx(found[1], rel=1e-2)
