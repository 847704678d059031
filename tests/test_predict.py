"""Answers about picture files: the same as those of an evaluation, whatever the file is like."""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from deepcnn import artefact, models
from deepcnn.artefact import Artefact
from deepcnn.cli import main
from deepcnn.data.images import ImageSet
from deepcnn.data.loader import source
from deepcnn.data.preprocess import Preprocess
from deepcnn.device import Policy
from deepcnn.evaluate import predictions
from deepcnn.predict import Answer, predict
from deepcnn.words import answer_in_words
from faults import signals_restored, torch_restored

CLASSES = ("shirt", "shoe", "bag", "coat")
NUM_IMAGES, SIDE = 24, 28
SCALES = {1: ((0.286,), (0.353,)), 3: ((0.49, 0.48, 0.45), (0.25, 0.24, 0.26))}
PLAIN = Policy("cpu", "fp32", "contiguous", threads=1)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with torch_restored():
        torch.set_num_threads(1)
        yield


def made_up(channels: int, size: int = SIDE, pad: int = 0) -> Artefact:
    """A network with random weights that tells the images of `noise` apart."""
    torch.manual_seed(channels)
    model = models.build("compact", len(CLASSES), channels, 28).eval()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.5, 0.5)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
    preprocess = Preprocess(channels, size, pad, *SCALES[channels])
    with torch.no_grad():
        logits = model(preprocess(torch.from_numpy(noise(channels))))  # N K
        spread, output = logits.std(dim=0), model.output
        output.weight.copy_(output.weight / spread[:, None])
        output.bias.copy_((output.bias - logits.mean(dim=0)) / spread)
    return Artefact(model, preprocess, CLASSES, {})


def noise(channels: int, side: int = SIDE) -> NDArray[np.uint8]:
    """Images N C H W of blocks, so that they differ in more than noise."""
    generator = np.random.default_rng(channels)
    coarse = generator.integers(0, 256, (NUM_IMAGES, channels, 4, 4), dtype=np.uint8)
    return coarse.repeat(side // 4, axis=2).repeat(side // 4, axis=3)


def picture(pixels: NDArray[np.uint8]) -> Image.Image:
    """C H W as a picture."""
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0).squeeze()))


def written(folder: Path, images: NDArray[np.uint8]) -> list[Path]:
    """Each of the images N C H W as a PNG file."""
    paths = [folder / f"{index}.png" for index in range(len(images))]
    for path, pixels in zip(paths, images, strict=True):
        picture(pixels).save(path)
    return paths


def shares(answer: Answer) -> dict[str, float]:
    assert not answer.error
    return dict(answer.classes)


# A batch of one is the same sum; a larger one is added up in another order, as chips have it, and
# `made_up` enlarges what that changes in the last bits.
@pytest.mark.parametrize(("batch_size", "tolerance"), [(1, 1e-9), (7, 1e-4)])
@pytest.mark.parametrize(("size", "pad"), [(SIDE, 0), (SIDE, 2), (20, 0), (40, 1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_file_is_answered_as_its_image_is_evaluated(
    channels: int, size: int, pad: int, batch_size: int, tolerance: float, tmp_path: Path
) -> None:
    found, pixels = made_up(channels, size, pad), noise(channels)
    images = ImageSet("made-up", pixels, np.zeros(NUM_IMAGES, np.int64), CLASSES)
    pixels_there = source(images, found.preprocess, torch.device("cpu"))
    logits = predictions(found.model, pixels_there, PLAIN, batch_size).logits
    expected = logits.double().softmax(dim=1)
    answers = list(predict(found, written(tmp_path, pixels), top=len(CLASSES)))
    assert [answer.classes[0][0] for answer in answers] == [CLASSES[k] for k in logits.argmax(1)]
    rows = [[shares(answer)[name] for name in CLASSES] for answer in answers]
    answered = torch.tensor(rows, dtype=torch.float64)
    torch.testing.assert_close(answered, expected, rtol=0, atol=tolerance)
    assert len(set(logits.argmax(1).tolist())) > 2


def test_a_picture_is_answered_alike_in_any_company(tmp_path: Path) -> None:
    found, paths = made_up(1), written(tmp_path, noise(1))
    answers = list(predict(found, paths, 4))
    assert list(predict(found, reversed(paths), 4)) == answers[::-1]
    assert [next(predict(found, [path], 4)) for path in paths] == answers


def test_grey_pictures_for_a_colour_network(tmp_path: Path) -> None:
    found, pixels = made_up(3), noise(1)[0]
    picture(pixels).save(tmp_path / "grey.png")
    picture(np.repeat(pixels, 3, axis=0)).save(tmp_path / "colour.png")
    grey, colour = predict(found, [tmp_path / "grey.png", tmp_path / "colour.png"], 4)
    assert grey.classes == colour.classes


def test_colour_pictures_for_a_grey_network(tmp_path: Path) -> None:
    """They are seen as ITU-R BT.601 mixes them, to within a rounding of the grey value."""
    found, pixels = made_up(1), noise(3)[0]
    luma = np.tensordot([0.299, 0.587, 0.114], pixels, axes=1).round().astype(np.uint8)
    picture(pixels).save(tmp_path / "colour.png")
    picture(luma[None]).save(tmp_path / "grey.png")
    colour, grey = predict(found, [tmp_path / "colour.png", tmp_path / "grey.png"], 4)
    assert shares(colour) == pytest.approx(shares(grey), abs=0.02)
    assert max(shares(colour).values()) > 0.4  # so that 0.02 is little


@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_gets_probabilities(channels: int, tmp_path: Path) -> None:
    found = made_up(channels)
    sizes = [(1, 1), (1, 500), (500, 1), (3, 3), (27, 29), (640, 480)]
    generator = np.random.default_rng(0)
    for index, (width, height) in enumerate(sizes):
        pixels = generator.integers(0, 256, (3, height, width), dtype=np.uint8)
        picture(pixels).save(tmp_path / f"{index}.png")
    paths = [tmp_path / f"{index}.png" for index in range(len(sizes))]
    for answer in predict(found, paths, top=99):
        values = [value for _, value in answer.classes]
        assert sorted(shares(answer)) == sorted(CLASSES)
        assert sum(values) == pytest.approx(1, abs=1e-12)
        assert all(larger >= smaller > 0 for larger, smaller in pairwise(values))


def test_top_is_the_beginning_of_the_whole_answer(tmp_path: Path) -> None:
    found, paths = made_up(1), written(tmp_path, noise(1)[:3])
    whole = [answer.classes for answer in predict(found, paths, 4)]
    for top in (1, 2, 3):
        assert [a.classes for a in predict(found, paths, top)] == [each[:top] for each in whole]


def test_of_equals_the_first_class_is_named_first(tmp_path: Path) -> None:
    found = made_up(1)
    nn.init.zeros_(found.model.output.weight)
    nn.init.zeros_(found.model.output.bias)
    (answer,) = predict(found, written(tmp_path, noise(1)[:1]), 4)
    assert answer.classes == tuple((name, 0.25) for name in CLASSES)


def test_one_bad_file_stops_nothing(tmp_path: Path) -> None:
    found, paths = made_up(1), written(tmp_path, noise(1)[:3])
    bad = tmp_path / "notes.png"
    bad.write_text("no picture")
    mixed = [paths[0], bad, paths[1], tmp_path / "nowhere.png", tmp_path, paths[2]]
    answers = list(predict(found, mixed, 2))
    assert [answer.path for answer in answers] == mixed
    assert [answers[k] for k in (0, 2, 5)] == list(predict(found, paths, 2))
    assert [answer.classes for answer in answers if answer.error] == [()] * 3
    reasons = [answers[k].error.removeprefix(f"{mixed[k]} ") for k in (1, 3, 4)]
    assert reasons[0].startswith("is not a picture; expected PNG")
    assert reasons[1:] == [
        "cannot be read: No such file or directory",
        "is not a file; expected a picture",
    ]


def test_the_network_is_used_not_trained(tmp_path: Path) -> None:
    found = made_up(1)
    found.model.train()
    before = {name: tensor.clone() for name, tensor in found.model.state_dict().items()}
    list(predict(found, written(tmp_path, noise(1)[:2]), 2))
    assert not any(module.training for module in found.model.modules())
    assert all(torch.equal(t, before[name]) for name, t in found.model.state_dict().items())
    assert torch.is_grad_enabled()


def test_for_machines() -> None:
    good = Answer(Path("a.png"), (("shoe", 0.75), ("bag", 0.25)))
    bad = Answer(Path("b.png"), error="b.png is not a picture")
    assert good.as_dict() == {
        "image": "a.png",
        "classes": [{"class": "shoe", "probability": 0.75}, {"class": "bag", "probability": 0.25}],
        "sure": True,
        "error": None,
    }
    assert bad.as_dict() == {
        "image": "b.png",
        "classes": [],
        "sure": False,
        "error": "b.png is not a picture",
    }
    assert answer_in_words(good) == "a.png: shoe 75.0%  bag 25.0%"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with nothing but the finished model."""
    with torch_restored():
        torch.set_num_threads(1)
        found, run = made_up(1), tmp_path_factory.mktemp("run")
    weights = found.model.state_dict()
    artefact.save(run / "model", "compact", weights, found.preprocess, CLASSES, {})
    return run


def command(*arguments: object) -> int:
    with signals_restored(), torch_restored(), pytest.raises(SystemExit) as stop:
        main(["predict", *map(str, arguments)])
    assert isinstance(stop.value.code, int)
    return stop.value.code


@pytest.mark.parametrize("place", ["run", "model"])
def test_the_command_says_what_the_function_says(
    place: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = written(tmp_path, noise(1)[:3])
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    folder = run if place == "run" else run / "model"
    expected = list(predict(artefact.load(run), [*paths[:2], bad, paths[2]], 3))

    assert command(folder, *paths[:2], bad, paths[2]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines() == [answer_in_words(expected[k]) for k in (0, 1, 3)]
    assert err == f"deepcnn: {expected[2].error}\n"

    assert command(folder, *paths[:2], bad, paths[2], "--json") == 1
    out, err = capsys.readouterr()
    assert [json.loads(line) for line in out.splitlines()] == [a.as_dict() for a in expected]
    assert err == f"deepcnn: {expected[2].error}\n"

    assert command(folder, *paths, "--top", 1) == 0
    out, err = capsys.readouterr()
    tops = [replace(expected[k], classes=expected[k].classes[:1]) for k in (0, 1, 3)]
    assert (out.splitlines(), err) == ([answer_in_words(answer) for answer in tops], "")


def test_what_was_saved_answers_as_before(run: Path, tmp_path: Path) -> None:
    paths = written(tmp_path, noise(1)[:5])
    assert list(predict(artefact.load(run), paths, 4)) == list(predict(made_up(1), paths, 4))
