"""The linear probe against scikit-learn, and against what it must leave alone."""

import signal
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from torch import nn

from deepcnn import interrupt, probe
from deepcnn.data.images import ImageSet
from deepcnn.data.loader import Source, source
from deepcnn.data.preprocess import Preprocess
from deepcnn.device import Policy
from deepcnn.errors import ConfigError, Interrupted
from deepcnn.evaluate import predictions
from deepcnn.models import MODELS, build, find, transfer
from deepcnn.probe import PENALTIES, Probe, fit_head, logistic_regression
from faults import at_call, signals_restored

Array = NDArray[np.float64]
PLAIN = Policy("cpu", "fp32", "contiguous", threads=1)
CPU = torch.device("cpu")


def table(number: int, width: int, classes: int, seed: int) -> tuple[Array, NDArray[np.int64]]:
    """Features, none negative as behind a ReLU, and labels that they tell something of."""
    rng = np.random.default_rng(seed)
    labels = np.arange(number) % classes
    centres = rng.normal(size=(classes, width))
    return 7 * np.abs(rng.normal(size=(number, width)) + centres[labels]), labels


def by_scikit_learn(
    seen: Array, labels: NDArray[np.int64], penalty: float
) -> tuple[Array, Array, LogisticRegression]:
    """Weights K D for features as they are, biases K, and the fitted model."""
    scale = np.sqrt(np.mean(seen**2))
    binary = len(np.unique(labels)) == 2  # then it has one row, the difference of the two
    C = (2 if binary else 1) / (penalty * len(labels))  # noqa: N806
    model = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-9, max_iter=1_000)
    model.fit(seen / scale, labels)
    weight, bias = model.coef_ / scale, model.intercept_
    if binary:
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight, bias, model


def objective(
    seen: Array, labels: NDArray[np.int64], weight: Array, bias: Array, penalty: float
) -> float:
    """What is to be least, by its formula; `weight` for features as they are."""
    scale = np.sqrt(np.mean(seen**2))
    logits = seen @ weight.T + bias
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]
    return float(losses.mean() + penalty / 2 * np.sum((weight * scale) ** 2))


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize(
    ("number", "width", "classes"), [(60, 8, 3), (40, 100, 4), (50, 30, 2), (150, 20, 5)]
)
def test_the_regression_is_scikit_learns(
    number: int, width: int, classes: int, penalty: float
) -> None:
    seen, labels = table(number, width, classes, seed=number)
    weight, bias = logistic_regression(
        torch.from_numpy(seen), torch.from_numpy(labels), classes, penalty
    )
    expected, expected_bias, model = by_scikit_learn(seen, labels, penalty)
    shares = (torch.from_numpy(seen) @ weight.T + bias).softmax(dim=1).numpy()
    theirs = model.predict_proba(seen / np.sqrt(np.mean(seen**2)))
    np.testing.assert_allclose(shares, theirs, rtol=0, atol=2e-4)
    least = objective(seen, labels, expected, expected_bias, penalty)
    assert objective(seen, labels, weight.numpy(), bias.numpy(), penalty) < least + 1e-6


def test_the_unit_of_features_does_not_matter() -> None:
    seen, labels = map(torch.from_numpy, table(60, 8, 3, seed=0))
    weight, bias = logistic_regression(seen, labels, 3, 0.01)
    large_weight, same_bias = logistic_regression(1024 * seen, labels, 3, 0.01)
    assert torch.equal(1024 * large_weight, weight)
    assert torch.equal(same_bias, bias)


def test_of_features_that_say_nothing_the_bias_knows_the_classes() -> None:
    labels = torch.tensor([0] * 6 + [1] * 3 + [2])
    weight, bias = logistic_regression(torch.zeros(10, 4, dtype=torch.float64), labels, 3, 0.01)
    assert not weight.any()
    np.testing.assert_allclose(bias.softmax(0), [0.6, 0.3, 0.1], atol=1e-5)


# Fitting the last layer

CLASSES = ("a", "b", "c", "d", "e")


def tinted(number: int, side: int, seed: int, noise: int = 100) -> ImageSet:
    """Pictures in noise with the colour of their class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(number) % len(CLASSES)
    colours = np.random.default_rng(7).integers(0, 256 - 100, (len(CLASSES), 3))[labels]
    pixels = rng.integers(0, noise, (number, 3, side, side)) + colours[:, :, None, None]
    return ImageSet("tinted", pixels.clip(0, 255).astype(np.uint8), labels, CLASSES)


def toy(number: int = 25, side: int = 32, seed: int = 0, noise: int = 100) -> Source:
    preprocess = Preprocess(3, side, 0, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    return source(tinted(number, side, seed, noise), preprocess, CPU)


def network(name: str, side: int = 32) -> nn.Module:
    """With batch statistics of some images: or they would vanish on the way through it."""
    torch.manual_seed(0)
    model = build(name, len(CLASSES), 3, side)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        model.train()(toy(15, side).batch(torch.arange(15)).images)
    return model


def linear(side: int) -> nn.Module:
    """A network whose features are its pixels."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * side * side, len(CLASSES)))


@pytest.mark.parametrize(
    ("name", "side", "head"),
    [
        ("compact", 32, "output"),
        ("googlenet-bn", 32, "fc"),  # has auxiliary heads
        ("torchvision/squeezenet1_1", 40, "classifier.1"),  # has a convolution for its last layer
        ("timm/resnet10t", 32, "fc"),
    ],
)
def test_the_last_layer_is_the_regression_and_the_rest_as_it_was(
    name: str, side: int, head: str
) -> None:
    model, images = network(name, side), toy(side=side)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    fitted = fit_head(model, images, toy(10, side, seed=1), PLAIN)
    seen = probe.features(network(name, side), images, PLAIN)
    weight, bias = logistic_regression(seen, images.labels, len(CLASSES), fitted.penalty)
    assert torch.equal(fitted.weight, weight)
    assert torch.equal(fitted.bias, bias)
    own = {f"{head}.weight": fitted.weight, f"{head}.bias": fitted.bias}
    for key, tensor in model.state_dict().items():
        expected = own[key].float().reshape(tensor.shape) if key in own else before[key]
        assert torch.equal(tensor, expected), key
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("name", ["compact", "timm/resnet10t"])
def test_the_network_then_says_what_the_regression_says(name: str) -> None:
    model, images = network(name), toy()
    fitted = fit_head(model, images, toy(10, seed=1), PLAIN)
    seen = probe.features(model, images, PLAIN)
    expected = (seen @ fitted.weight.T + fitted.bias).float()
    found = predictions(model, images, PLAIN)
    torch.testing.assert_close(found.logits, expected, rtol=1e-3, atol=1e-3)
    assert found.accuracy() > 0.9


def test_a_head_that_is_a_convolution_is_of_use() -> None:
    """Behind it come a ReLU and the mean, so that its logits are not those of the regression."""
    model = network("torchvision/squeezenet1_1", 40)
    images = toy(side=40)
    assert predictions(model, images, PLAIN).accuracy() < 0.6
    fit_head(model, images, toy(10, 40, seed=1), PLAIN)
    assert predictions(model, images, PLAIN).accuracy() > 0.8


@pytest.mark.parametrize("batch_size", [1, 7, 25, 64])
def test_features_are_of_all_images_in_order(
    batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepcnn.data.loader.MOST_IMAGES", batch_size)
    images = toy(side=4)
    found = probe.features(linear(4), images, PLAIN)
    assert found.dtype == torch.float64
    pixels = images.batch(torch.arange(25)).images
    assert torch.equal(found, pixels.flatten(1).double())


# Which penalty


@settings(max_examples=60)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60))
def test_folds_divide_every_class_evenly(values: list[int]) -> None:
    labels = torch.tensor(values)
    folds = probe._folds(labels)
    assert torch.equal(torch.stack(folds).sum(dim=0), torch.ones(len(values)))
    for members in [labels == label for label in range(5)] + [labels >= 0]:
        shares = [int((fold & members).sum()) for fold in folds]
        assert max(shares) - min(shares) <= 1


def scores(seen: Array, labels: NDArray[np.int64], parts: list[NDArray[np.bool_]]) -> list[float]:
    """Mean loss on the parts left out, for each penalty."""
    losses = []
    for penalty in PENALTIES:
        total = 0.0
        for left_out in parts:
            scale = np.sqrt(np.mean(seen[~left_out] ** 2))
            *_, model = by_scikit_learn(seen[~left_out], labels[~left_out], penalty)
            shares = model.predict_proba(seen[left_out] / scale)
            total += log_loss(labels[left_out], shares, labels=range(5), normalize=False)
        losses.append(total / len(labels))
    return losses


@pytest.mark.parametrize(("noise", "expected"), [(20, 1e-4), (1_200, 0.1)])
def test_the_penalty_is_the_one_of_least_loss(noise: int, expected: float) -> None:
    images = toy(50, side=4, noise=noise)
    seen, labels = probe.features(linear(4), images, PLAIN).numpy(), images.labels.numpy()
    places = np.empty(50, np.int64)
    places[np.argsort(labels, kind="stable")] = np.arange(50) % 5
    losses = scores(seen, labels, [places == fold for fold in range(5)])
    crossed = fit_head(linear(4), images, None, PLAIN)
    assert crossed.penalty == PENALTIES[int(np.argmin(losses))] == expected
    assert crossed.accuracy == 1 if noise == 20 else 0.2 < crossed.accuracy < 1


def test_what_is_said_of_each_image_is_from_the_other_folds() -> None:
    seen, labels = table(67, 12, 5, seed=3)
    seen += np.random.default_rng(0).normal(scale=20, size=seen.shape)
    said = probe.out_of_fold(torch.from_numpy(seen), torch.from_numpy(labels), 5)
    places = np.empty(67, np.int64)
    places[np.argsort(labels, kind="stable")] = np.arange(67) % 5
    parts = [places == fold for fold in range(5)]
    assert said.penalty == PENALTIES[int(np.argmin(scores(seen, labels, parts)))]
    expected = np.empty((67, 5))
    for left_out in parts:
        scale = np.sqrt(np.mean(seen[~left_out] ** 2))
        *_, model = by_scikit_learn(seen[~left_out], labels[~left_out], said.penalty)
        expected[left_out] = model.predict_proba(seen[left_out] / scale)
    np.testing.assert_allclose(said.logits.softmax(dim=1), expected, rtol=0, atol=5e-4)
    assert said.accuracy == np.mean(expected.argmax(axis=1) == labels) < 1


def test_what_can_be_memorised_only_is_not_known_of_images_left_out() -> None:
    """One feature for each image: regressions know all they learnt from, and nothing of others."""
    seen, labels = torch.eye(200, dtype=torch.float64), torch.arange(200) % 10
    weight, bias = logistic_regression(seen, labels, 10, PENALTIES[0])
    assert ((seen @ weight.T + bias).argmax(dim=1) == labels).all()
    said = probe.out_of_fold(seen, labels, 10)
    assert said.accuracy == 0.1
    np.testing.assert_allclose(said.logits.softmax(dim=1), 0.1, atol=1e-3)


def test_held_out_images_choose_where_there_are_any() -> None:
    images, others = toy(50, side=4, noise=1_200), toy(30, side=4, noise=1_200, seed=1)
    labels = np.concatenate([images.labels, others.labels])
    seen = np.concatenate([probe.features(linear(4), part, PLAIN) for part in (images, others)])
    losses = scores(seen, labels, [np.arange(80) >= 50])
    model = linear(4)
    fitted = fit_head(model, images, others, PLAIN)
    assert fitted.penalty == PENALTIES[int(np.argmin(losses))] not in PENALTIES[::4]
    assert fitted.accuracy == predictions(model, others, PLAIN).accuracy()


def same(one: Probe, other: Probe) -> bool:
    return torch.equal(one.weight, other.weight) and torch.equal(one.bias, other.bias)


def test_a_probe_depends_on_images_and_weights_only() -> None:
    others = toy(10, seed=1)
    first = fit_head(network("compact"), toy(), others, PLAIN)
    model = network("compact")
    torch.manual_seed(99)
    assert same(fit_head(model, toy(), others, PLAIN), first)
    assert same(fit_head(model, toy(), others, PLAIN), first)  # the head it had is no part of it
    assert not same(fit_head(model, toy(seed=2), others, PLAIN), first)


def test_features_in_16_bits_are_fitted_in_64() -> None:
    half = replace(PLAIN, precision="bf16", layout="channels_last")
    exact = fit_head(network("compact"), toy(), toy(10, seed=1), PLAIN)
    rounded, again = (
        fit_head(half.place(network("compact")), toy(), toy(10, seed=1), half) for _ in range(2)
    )
    assert same(rounded, again)
    assert not same(rounded, exact)
    assert rounded.weight.dtype == torch.float64
    seen = probe.features(network("compact"), toy(), PLAIN)
    agree = (seen @ rounded.weight.T + rounded.bias).argmax(1) == toy().labels
    assert agree.double().mean() > 0.9


# What cannot be, and signals


def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return build(name, 5, *find(name).card.input)


def test_last_layers_that_cannot_be_fitted_are_refused() -> None:
    for name in ("lenet5", "speedy", "torchvision/maxvit_t"):  # no logits of it, and no biases
        with pytest.raises(ConfigError, match=r"^transfer.probe fits .* --transfer.probe false$"):
            probe.check(on_meta(name), 5)
    for name in MODELS.keys() - {"lenet5", "speedy"}:
        probe.check(on_meta(name), 5)


@pytest.mark.parametrize(
    ("owner", "name", "number"), [(transfer, "features", 2), (probe, "logistic_regression", 2)]
)
def test_a_signal_ends_it_and_leaves_the_network(
    owner: object, name: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network("compact")
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    stop: Callable[[], None] = lambda: signal.raise_signal(signal.SIGTERM)  # noqa: E731
    monkeypatch.setattr("deepcnn.data.loader.MOST_IMAGES", 8)
    at_call(owner, name, number, stop, monkeypatch.setattr)
    with signals_restored():
        interrupt.install()
        with pytest.raises(Interrupted):
            fit_head(model, toy(), None, PLAIN)
        interrupt.install()
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
