"""Views of images against NumPy, and by what does not change."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from deepcnn import models
from deepcnn.artefact import Artefact
from deepcnn.data.images import ImageSet
from deepcnn.data.loader import source
from deepcnn.data.preprocess import Preprocess
from deepcnn.data.views import VIEWS, mean_logits
from deepcnn.device import Policy
from deepcnn.errors import ConfigError
from deepcnn.evaluate import named_views, predictions
from deepcnn.predict import predict

PLAIN = Policy("cpu", "fp32", "contiguous", threads=1)
SIDE = 9


def pixels(number: int = 5, channels: int = 2) -> Tensor:
    generator = np.random.default_rng(0)
    return torch.from_numpy(generator.random((number, channels, SIDE, SIDE), dtype=np.float32))


def by_numpy(
    images: Tensor, views: str
) -> list[tuple[float, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]]:
    """The same views, moved by indexing a padded copy."""
    plain = images.numpy()
    padded = np.pad(plain, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
    down, up = padded[..., :-2, :-2], padded[..., 2:, 2:]
    if views == "plain":
        return [(1.0, plain)]
    if views == "flip":
        return [(0.5, plain), (0.5, plain[..., ::-1])]
    mirrored = [(0.25, plain), (0.25, plain[..., ::-1])]
    moved = [(0.125, view) for each in (down, up) for view in (each, each[..., ::-1])]
    return mirrored + moved


@pytest.mark.parametrize("views", VIEWS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_mean_is_that_of_a_plain_construction(views: str, layout: torch.memory_format) -> None:
    images = pixels().contiguous(memory_format=layout)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 49, 3))
    expected = torch.zeros(len(images), 3)
    for weight, view in by_numpy(images, views):
        expected += weight * network(torch.from_numpy(view.copy()))
    found = mean_logits(network, images, VIEWS[views])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("views", VIEWS)
def test_the_weights_sum_to_one(views: str) -> None:
    assert sum(weight for weight, _ in VIEWS[views]) == 1


def test_a_mirror_image_gets_the_same_answer() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(2 * SIDE**2, 3))
    images = pixels()
    torch.testing.assert_close(
        mean_logits(network, images, VIEWS["flip"]),
        mean_logits(network, images.flip(3), VIEWS["flip"]),
    )
    assert not torch.allclose(network(images), network(images.flip(3)))


@given(st.floats(0.01, 1), st.sampled_from(sorted(set(VIEWS) - {"plain"})))
def test_sure_answers_are_those_of_one_view(sure: float, views: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(2 * SIDE**2, 3))
    images, asked = pixels(40), []

    def counting(batch: Tensor) -> Tensor:
        asked.append(len(batch))
        answers: Tensor = network(batch)
        return answers

    with torch.no_grad():
        alone, mean = network(images), mean_logits(network, images, VIEWS[views])
        found = mean_logits(counting, images, VIEWS[views], sure)
    stands = torch.zeros(40, dtype=torch.bool) if sure == 1 else alone.softmax(1).amax(1) >= sure
    torch.testing.assert_close(found, torch.where(stands[:, None], alone, mean))
    rest = int((~stands).sum())
    assert asked == [40, *[rest] * (len(VIEWS[views]) - 1)][: None if rest else 1]


def test_what_is_no_number_is_not_sure() -> None:
    def network(images: Tensor) -> Tensor:
        answers = torch.tensor([[0.0, 9.0]]).repeat(len(images), 1)
        return torch.where(images[:, :1, 0, 0] > 0, answers, torch.nan)

    images = torch.ones(2, 1, 3, 3)
    images[1, :, :, 0] = -1  # only its mirror image has an answer
    found = mean_logits(network, images, VIEWS["flip"], sure=0.5)
    assert found[0].tolist() == [0.0, 9.0]
    assert found[1].isnan().all()


@pytest.mark.parametrize(("views", "sure"), [*((name, 1.0) for name in VIEWS), ("flip", 0.36)])
def test_evaluation_and_prediction_use_the_views_of_the_model(
    views: str, sure: float, tmp_path: Path
) -> None:
    generator = np.random.default_rng(1)
    stored = generator.integers(0, 256, (4, 1, 28, 28), dtype=np.uint8)
    torch.manual_seed(0)
    model = models.build("compact", 3, 1, 28).eval()
    preprocess = Preprocess(1, 28, 0, (0.3,), (0.35,), views=views, sure=sure)
    images = ImageSet("noise", stored, np.zeros(4, np.int64), ("a", "b", "c"))
    seen = predictions(model, source(images, preprocess, torch.device("cpu")), PLAIN)
    once = replace(preprocess, views="plain")
    numbers = preprocess(torch.from_numpy(stored))
    with torch.no_grad():
        expected = mean_logits(model, numbers, VIEWS[views], sure)
        torch.testing.assert_close(seen.logits, expected)
        whole = mean_logits(model, numbers, VIEWS[views])
        assert torch.allclose(expected, whole) == (sure == 1)
    alone = predictions(model, source(images, once, torch.device("cpu")), PLAIN)
    assert torch.equal(seen.logits, alone.logits) == (views == "plain")
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for path, image in zip(paths, stored, strict=True):
        Image.fromarray(image[0]).save(path)
    answers = predict(Artefact(model, preprocess, images.classes, {}), paths, top=3)
    shares = seen.logits.double().softmax(dim=1)
    for answer, share in zip(answers, shares, strict=True):
        found = dict(answer.classes)
        assert [found[name] for name in "abc"] == pytest.approx(share.tolist(), abs=1e-6)


def artefact_of(model: nn.Module, preprocess: Preprocess) -> Artefact:
    return Artefact(model, preprocess, ("a", "b", "c"), {"model": "mine"})


def answers_to(found: Artefact, stored: np.ndarray, views: str | None) -> Tensor:  # type: ignore[type-arg]
    """Probabilities of images N C H W in the views of that name, as `evaluate` gets them."""
    preprocess, averaged = named_views(found, views)
    images = ImageSet("noise", stored, np.zeros(len(stored), np.int64), found.classes)
    pixels = source(images, preprocess, torch.device("cpu"))
    return predictions(found.model, pixels, PLAIN, averaged=averaged).logits.softmax(dim=1)


def test_views_that_are_asked_for_are_all_looked_at() -> None:
    stored = np.random.default_rng(1).integers(0, 256, (6, 1, 28, 28), dtype=np.uint8)
    torch.manual_seed(0)
    own = Preprocess(1, 28, 0, (0.3,), (0.35,), views="flip", sure=0.34)
    saving = artefact_of(models.build("compact", 3, 1, 28).eval(), own)
    whole = artefact_of(saving.model, replace(own, sure=1.0))
    asked = answers_to(saving, stored, "flip")
    assert torch.equal(asked, answers_to(whole, stored, "flip"))
    assert not torch.equal(asked, answers_to(saving, stored, None))


def by_pillow(image: np.ndarray, side: int) -> np.ndarray:  # type: ignore[type-arg]
    """One image C H W resized, antialiased."""
    size, filter_ = (side, side), Image.Resampling.BILINEAR
    return np.stack([np.asarray(Image.fromarray(each).resize(size, filter_)) for each in image])


def test_ten_crops_are_those_of_the_paper() -> None:
    """Of 256 pixels 224: of 28 that are enlarged to 32, windows of 28 at the ends and centre."""
    stored = np.random.default_rng(2).integers(0, 256, (3, 1, 28, 28), dtype=np.uint8)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 3))
    expected = torch.zeros(3, 3)
    large = np.stack([by_pillow(image.astype(np.float32), 32) for image in stored])
    numbers = (large / 255 - 0.3) / 0.35
    for top, left in ((0, 0), (0, 4), (4, 0), (4, 4), (2, 2)):
        cut = numbers[:, :, top : top + 28, left : left + 28]
        for view in (cut, cut[..., ::-1]):
            with torch.no_grad():
                expected += network(torch.from_numpy(view.copy()).float()).softmax(dim=1) / 10
    found = answers_to(
        artefact_of(network, Preprocess(1, 28, 0, (0.3,), (0.35,))), stored, "ten-crop"
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_scales_are_those_of_the_paper() -> None:
    """224, 256, 384, 480 and 640, in proportion: 14, 16, 24, 30 and 40 for a network of 14."""
    stored = np.random.default_rng(3).integers(0, 256, (2, 2, 60, 60), dtype=np.uint8)
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    expected = torch.zeros(2, 3)
    for side in (14, 16, 24, 30, 40):
        large = [by_pillow(image.astype(np.float32), 40) for image in stored]
        scaled = np.stack([by_pillow(image, side) for image in large]) / 255
        with torch.no_grad():
            expected += network(torch.from_numpy(scaled).float()).softmax(dim=1) / 5
    unit = Preprocess(2, 14, 0, (0.0,) * 2, (1.0,) * 2)
    found = answers_to(artefact_of(network, unit), stored, "multi_scale")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_the_centre_of_ten_crops_is_the_ordinary_view() -> None:
    """Where that leaves a margin of the picture, as for networks for ImageNet."""
    picture = torch.from_numpy(
        np.random.default_rng(4).integers(0, 256, (3, 90, 70), dtype=np.uint8)
    )
    plain = Preprocess(3, 28, 0, (0.5,) * 3, (0.2,) * 3, "crop", keep=0.875)
    larger, _ = named_views(artefact_of(nn.Linear(1, 1), plain), "ten-crop")
    assert (larger.size, larger.keep) == (32, 1.0)
    assert torch.equal(larger.frame(picture)[:, 2:30, 2:30], plain.frame(picture))


def test_views_that_there_are_not() -> None:
    dense = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 3))
    found = artefact_of(dense, Preprocess(1, 28, 0, (0.3,), (0.35,)))
    with pytest.raises(ConfigError, match=r"unknown views 'tencrop'; did you mean ten_crop\?"):
        named_views(found, "tencrop")
    with pytest.raises(ConfigError, match=r"mine takes none of side 32: choose ten_crop"):
        named_views(found, "multi-scale")
