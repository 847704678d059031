"""Speedy and its whitening layer against NumPy, a plain construction and published figures."""

from itertools import pairwise
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from deepcnn import cost, runlog
from deepcnn.begin import begin
from deepcnn.data import catalog
from deepcnn.errors import ConfigError
from deepcnn.models import build, initialize
from deepcnn.models.speedy import Speedy
from deepcnn.models.whitening import PatchWhitening
from deepcnn.run import Run
from faults import SMALL, Settings, config_of, train_here, write_images


def images(number: int, channels: int = 3) -> Tensor:
    """Real pixels; other channels are the same images in another order."""
    stored = catalog.load("fashion-mnist", "train", "").images[: number * channels]
    pixels = torch.from_numpy(stored).float() / 255  # type: ignore[arg-type]
    return pixels.reshape(number, channels, 28, 28)


def patches(pixels: Tensor) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Every 2x2 patch as a row: channel, row, column."""
    windows = np.lib.stride_tricks.sliding_window_view(pixels.double().numpy(), (2, 2), (2, 3))
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, pixels.shape[1] * 4)


@pytest.mark.parametrize("channels", [1, 3])
def test_whitened_patches_are_uncorrelated_with_variance_1(channels: int) -> None:
    pixels, layer = images(40, channels), PatchWhitening(channels, 2, least_variance=0.01)
    layer.fit(pixels)
    half = 4 * channels
    filters = layer.weight.double().numpy().reshape(2 * half, half)
    np.testing.assert_array_equal(filters[half:], -filters[:half])
    rows = patches(pixels)
    covariance = np.cov((rows @ filters[:half].T).T)
    variances = np.linalg.eigvalsh(np.cov(rows.T))
    expected = np.diag(variances / (variances + 0.01))
    np.testing.assert_allclose(covariance, expected, rtol=0, atol=1e-5)


def test_the_layer_convolves_and_learns_its_bias_only() -> None:
    layer, pixels = PatchWhitening(3, 2), images(2)
    layer.fit(pixels)
    found = layer(pixels).permute(0, 2, 3, 1).reshape(-1, 24).detach().numpy()
    filters, bias = layer.weight.numpy().reshape(24, 12), layer.bias.detach().numpy()  # type: ignore[union-attr]
    np.testing.assert_allclose(found, patches(pixels) @ filters.T + bias, rtol=1e-4, atol=1e-4)
    assert [name for name, _ in layer.named_parameters()] == ["bias"]
    assert set(layer.state_dict()) == {"weight", "bias"}


def plain(model: Speedy) -> nn.Sequential:
    """The same network of PyTorch's own layers, with copies of the weights."""

    def norm(channels: int) -> nn.BatchNorm2d:
        return nn.BatchNorm2d(channels, eps=1e-12, momentum=0.4)

    def conv(inside: int, outside: int) -> nn.Conv2d:
        return nn.Conv2d(inside, outside, 3, padding="same", bias=False)

    layers: list[nn.Module] = [nn.Conv2d(3, 24, 2), nn.GELU()]
    for inside, outside in ((24, 64), (64, 256), (256, 256)):
        layers += [conv(inside, outside), nn.MaxPool2d(2), norm(outside), nn.GELU()]
        layers += [conv(outside, outside), norm(outside), nn.GELU()]
    layers += [nn.MaxPool2d(3), nn.Flatten(), nn.Linear(256, 10, bias=False)]
    network = nn.Sequential(*layers)
    theirs = [t for key, t in model.state_dict().items() if key != "whiten.bias"]
    theirs.insert(1, model.state_dict()["whiten.bias"])
    ours = iter(theirs)
    with torch.no_grad():
        for layer in network:
            if isinstance(layer, nn.BatchNorm2d):
                layer.bias.copy_(next(ours))
                for _ in range(3):  # statistics, which are fresh in both
                    next(ours)
            elif isinstance(layer, nn.Conv2d | nn.Linear):
                layer.weight.copy_(next(ours))
                if layer.bias is not None:
                    layer.bias.copy_(next(ours))
        network[-1].weight.div_(256)
    assert next(ours, None) is None
    return network


def test_the_network_equals_one_of_plain_layers() -> None:
    torch.manual_seed(0)
    model, pixels = Speedy(), torch.rand(6, 3, 32, 32)
    model.whiten.fit(pixels)
    for name, parameter in model.named_parameters():
        if "norm" in name or name == "whiten.bias":
            nn.init.normal_(parameter)
    other = plain(model)
    for _ in range(2):
        torch.testing.assert_close(model(pixels), other(pixels), rtol=0, atol=1e-5)
    torch.testing.assert_close(model.eval()(pixels), other.eval()(pixels), rtol=0, atol=1e-5)


def test_first_filters_pass_their_input_on() -> None:
    torch.manual_seed(0)
    group, x = Speedy().group2, torch.randn(2, 64, 9, 9)
    assert torch.equal(group.conv1(x)[:, :64], x)
    assert not torch.equal(group.conv1(x)[:, 64:128], x)


def test_published_figures() -> None:
    """1,971,640 weights, and 236 million operations for an image."""
    with torch.device("meta"):
        model = Speedy()
    weights = [t for key, t in model.state_dict().items() if key.endswith(("weight", "bias"))]
    assert sum(weight.numel() for weight in weights) == 1_971_640
    assert 2 * cost.multiply_adds(cost.layers(model, (3, 32, 32))) == pytest.approx(236e6, rel=2e-3)


def test_the_initialiser_fits_the_first_layer_and_keeps_the_rest() -> None:
    models = []
    for name in ("default", "whitened"):
        torch.manual_seed(0)
        models.append(build("speedy", 10, 3, 28))
        initialize(models[-1], name, lambda: images(8))
    expected = PatchWhitening(3, 2)
    expected.fit(images(8))
    for (key, before), after in zip(
        models[0].state_dict().items(), models[1].state_dict().values(), strict=True
    ):
        assert torch.equal(before, after) == (key != "whiten.weight"), key
    assert torch.equal(models[1].get_buffer("whiten.weight"), expected.get_buffer("weight"))


def test_a_network_without_such_a_layer_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"whitened is for networks that begin with .*brisk"):
        initialize(build("lenet", 10, 1, 32), "whitened", lambda: images(8, 1))


@pytest.mark.parametrize("network", ["lenet", "brisk"])
def test_a_network_without_such_a_bias_is_told_so(network: str, tmp_path: Path) -> None:
    toy = write_images(tmp_path / "images", side=32)
    settings: Settings = {"data.name": str(toy), "model.name": network, "optim.whiten_until": 0.5}
    with pytest.raises(ConfigError, match=rf"for a whitening layer with a bias, which {network}"):
        train_here(SMALL | settings, tmp_path / "run")


def test_the_bias_stands_when_its_time_is_over(tmp_path: Path) -> None:
    settings: Settings = SMALL | {
        "data.name": str(write_images(tmp_path / "images")), "model.name": "speedy",
        "train.epochs": 2,
    }  # fmt: skip
    reach, courses = Run.reach, []
    for until in (1.0, 0.5):
        course: list[tuple[Tensor, Tensor]] = []

        def look(run: Run, progress: float, course: list[tuple[Tensor, Tensor]] = course) -> None:
            reach(run, progress)
            weights = run.state.model.state_dict()
            course.append((weights["whiten.bias"].clone(), weights["group1.norm1.bias"].clone()))

        with mock.patch.object(Run, "reach", look):
            train_here(settings | {"optim.whiten_until": until}, tmp_path / str(until))
        courses.append(course)
    always, for_a_while = courses
    half = len(always) // 2
    for before, other in zip(always[: half + 1], for_a_while[: half + 1], strict=True):
        assert torch.equal(before[0], other[0])
        assert torch.equal(before[1], other[1])
    for (bias, moving), (later_bias, still_moving) in pairwise(for_a_while[half:]):
        assert torch.equal(bias, later_bias)
        assert not torch.equal(moving, still_moving)
    assert not any(torch.equal(one[0], other[0]) for one, other in pairwise(always))


def test_whether_the_bias_trains_depends_on_progress_only(tmp_path: Path) -> None:
    settings: Settings = SMALL | {
        "data.name": str(write_images(tmp_path / "images")), "model.name": "speedy",
        "transfer.freeze": "head", "transfer.unfreeze_at": 0.3, "optim.whiten_until": 0.6,
    }  # fmt: skip
    folder = tmp_path / "run"
    with runlog.opened(folder):
        run = begin(config_of(settings), folder, tmp_path / "cache", accept_change=False)

    @given(st.lists(st.floats(0, 1), max_size=4), st.floats(0, 1))
    def check(others: list[float], progress: float) -> None:
        for each in (*others, progress):
            run.reach(each)
        assert run.state.model.get_parameter("whiten.bias").requires_grad == (0.3 <= progress < 0.6)

    check()


def test_directions_of_highest_variance_are_kept() -> None:
    pixels, whole, few = images(20, 1), PatchWhitening(1, 4), PatchWhitening(1, 4, directions=3)
    whole.fit(pixels)
    few.fit(pixels)
    # All filters are of length 1 / root of variance: the shortest are those to keep.
    rows = whole.weight[:16].flatten(1)
    kept = rows[rows.norm(dim=1).argsort()[:3]].flip(0)
    assert torch.equal(few.weight.flatten(1), torch.cat([kept, -kept]))
    assert few(pixels).shape == (20, 6, 27, 27)
