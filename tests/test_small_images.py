"""Training that begins on small images: when, which ones, and what is foretold of it."""

from pathlib import Path
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from deepcnn import preflight
from deepcnn.data.augment import draw
from deepcnn.data.loader import epoch_batches
from deepcnn.data.preprocess import small_side
from deepcnn.device import Policy
from deepcnn.errors import ConfigError
from deepcnn.forecast.time import lengths_of
from deepcnn.models.compact import Compact
from deepcnn.objective import forward
from deepcnn.rehearsal import rehearse
from deepcnn.run import Run
from faults import SMALL, Settings, config_of, train_here, write_images

COMPACT: Settings = SMALL | {"model.name": "compact"}
POLICY = Policy("cpu", "fp32", "contiguous", 1)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "images", side=32)


def rehearsed(images: Path, until: float) -> Run:
    config = config_of(COMPACT | {"data.name": str(images), "augment.small_until": until})
    return rehearse(config, preflight.load(config, lambda _: None), POLICY)


@pytest.mark.parametrize(("until", "small"), [(0.0, 0), (0.25, 6), (0.5, 12), (1.0, 24)])
def test_images_are_small_for_that_share_of_the_updates(
    until: float, small: int, images: Path, tmp_path: Path
) -> None:
    """Of 3 epochs of 8 updates each; whatever is only asked has all its pixels."""
    seen: dict[bool, list[int]] = {True: [], False: []}
    ask = Compact.forward

    def look(model: Compact, pixels: Tensor) -> Tensor:
        if pixels.device.type == "cpu":  # on the meta device it is tried which sides it takes
            seen[model.training].append(pixels.shape[-1])
        return ask(model, pixels)

    with mock.patch.object(Compact, "forward", look):
        settings = {"data.name": str(images), "augment.small_until": until}
        train_here(COMPACT | settings, tmp_path / "run")
    updates = seen[True][-24:]  # before them, memory is measured
    assert updates == [24] * small + [32] * (24 - small)
    assert set(seen[False]) == {32}


def test_small_images_are_the_augmented_ones_reduced(images: Path) -> None:
    """By PyTorch's own antialiased interpolation."""
    run = rehearsed(images, 0.5)
    settings, seed = run.config.augment, run.config.train.seed
    source, order = run.source(run.splits.train), run.visits()
    rows = draw(settings, seed, 0, len(source))
    batch = next(iter(epoch_batches(source, order, iter([torch.arange(10)]), settings, rows)))
    seen: list[Tensor] = []
    handle = run.state.model.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for progress in (0.0, 0.5):
        run.reach(progress)
        forward(run, batch)
    handle.remove()
    small, whole = seen
    assert torch.equal(whole, batch.images)
    expected = F.interpolate(batch.images, (24, 24), mode="bilinear", antialias=True)
    torch.testing.assert_close(small, expected, rtol=0, atol=1e-5)


@given(st.integers(8, 4_096))
def test_three_quarters_of_the_side(side: int) -> None:
    assert small_side(side) - 1 < 3 * side / 4 <= small_side(side) < side


@pytest.mark.parametrize(
    ("network", "side", "small"), [("lenet", 32, 24), ("alexnet-d2l", 224, 168)]
)
def test_a_network_for_images_of_one_side_is_told_so(
    network: str, side: int, small: int, tmp_path: Path
) -> None:
    settings: Settings = {
        "data.name": str(write_images(tmp_path / "images", side=side)),
        "model.name": network,
        "augment.small_until": 0.5,
    }
    expected = (
        f"augment.small_until 0.5 begins with images of {small}x{small} pixels, which {network} "
        f"for {side}x{side} cannot take"
    )
    with pytest.raises(ConfigError, match=expected):
        train_here(SMALL | settings, tmp_path / "run")


@pytest.mark.parametrize("until", [0.0, 0.25, 0.75, 1.0])
@pytest.mark.parametrize(("first", "made"), [(0, 2), (0, 12), (11, 12), (0, 22), (21, 22)])
def test_larger_updates_to_come_are_foreseen(
    until: float, first: int, made: int, images: Path
) -> None:
    """Where an update of small images takes 1 s and others 16 / 9."""
    run = rehearsed(images, until)
    seconds = []
    for step in range(run.total()):
        run.reach((step + 0.5) / run.total())
        seconds.append(run.side() ** 2 / 24**2)
    run.state.step, run.state.progress = made, made / run.total()
    found = lengths_of(run, sum(seconds[first:made]) / (made - first), first).update
    assert found == pytest.approx(sum(seconds[made:]) / (run.total() - made))


def test_the_change_is_told(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"data.name": str(images), "augment.small_until": 0.5}
    train_here(COMPACT | settings, tmp_path / "run")
    lines = [
        line for line in capsys.readouterr().err.splitlines() if "training images have" in line
    ]
    assert lines == [f"from now on training images have {side}x{side} pixels" for side in (24, 32)]
