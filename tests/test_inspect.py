"""Views of a model against captum, scikit-learn, torchvision, finite differences and invariants."""

from pathlib import Path

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam, Occlusion
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from deepcnn import models
from deepcnn.config import Config
from deepcnn.data.images import ImageSet
from deepcnn.data.loader import source
from deepcnn.data.preprocess import Preprocess
from deepcnn.device import Policy
from deepcnn.errors import ConfigError
from deepcnn.inspect import embedding, filters, layers, panels, patches, separability
from deepcnn.inspect.gradcam import gradcam
from deepcnn.inspect.hog import hog
from deepcnn.inspect.neighbours import nearest
from deepcnn.inspect.occlusion import occlusion
from deepcnn.inspect.subject import Subject

PLAIN = Policy("cpu", "fp32", "contiguous", threads=1)
CLASSES = ("a", "b", "c", "d")


def network(name: str, side: int, channels: int = 3) -> nn.Module:
    """With weights at random and batch statistics of some images, as after training."""
    torch.manual_seed(0)
    model = models.build(name, len(CLASSES), channels, side)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.randn(20, channels, side, side))
    return model.eval().requires_grad_(False)


def subject(model: nn.Module, side: int, channels: int = 3, temperature: float = 1.0) -> Subject:
    preprocess = Preprocess(channels, side, 0, (0.4,) * channels, (0.2,) * channels)
    return Subject(Path("runs/x"), model, preprocess, CLASSES, Config(), PLAIN, temperature)


def image_set(number: int, side: int, channels: int = 3) -> ImageSet:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (number, channels, side, side), dtype=np.uint8)
    return ImageSet("noise", pixels, np.arange(number) % len(CLASSES), CLASSES)


# Stages


@pytest.mark.parametrize(
    ("name", "side", "stages"),
    [
        ("resnet20", 32, ["layer1", "layer2", "layer3"]),
        ("resnet18", 64, ["layer1", "layer2", "layer3", "layer4"]),
        ("compact", 28, ["stage1", "stage2", "stage3"]),
        ("torchvision/squeezenet1_1", 64, ["features.3", "features.6", "features.12"]),
    ],
)
def test_stages_hand_on_what_torchvision_extracts(name: str, side: int, stages: list[str]) -> None:
    model, images = network(name, side), torch.randn(3, 3, side, side)
    expected = create_feature_extractor(model, stages)(images)
    found = {stage.name: stage for stage in layers.walk(model, images)}
    for stage in stages:
        maps = found[stage].maps
        assert maps is not None
        torch.testing.assert_close(maps, expected[stage])
    assert torch.equal(list(found.values())[-1].output, model(images))


def test_what_is_between_two_stages_belongs_to_the_first() -> None:
    model, images = network("lenet-relu-dropout", 28, 1), torch.randn(2, 1, 28, 28)
    first = nn.functional.avg_pool2d(model.get_submodule("conv1")(images).relu(), 2)
    stages = layers.walk(model, images)
    torch.testing.assert_close(stages[0].output, first)
    names = ["conv1", "conv2", "dense3", "dense4", "dense5"]
    assert [stage.name for stage in stages] == names


@pytest.mark.parametrize(
    "name", [*models.MODELS, "timm/mobilenetv2_100", "timm/vit_tiny_patch16_224"]
)
def test_every_network_can_be_walked(name: str) -> None:
    landmark = models.find(name)
    channels, side = landmark.card.input
    with torch.device("meta"), torch.no_grad():
        model = landmark.build(7, channels, side).eval()
        stages = layers.walk(model, torch.empty(2, channels, side, side))
    assert stages[-1].output.shape[0] == 2
    assert stages[-1].output.shape[1] >= 7  # LeNet-5 has one for no class
    assert len(stages) >= 2
    have_maps = [stage.name for stage in stages if stage.maps is not None]
    if name.startswith("timm/vit"):
        assert have_maps == ["patch_embed"]
    else:  # of c5 in LeNet there is one place left
        convolve = [s.name for s in stages if not is_dense(model.get_submodule(s.name))]
        assert have_maps == [each for each in convolve if each != "c5"]
    assert not any(module._forward_hooks for module in model.modules())


def is_dense(part: nn.Module) -> bool:
    """Whether a part has no weights but those of dense layers, or is LeNet-5's last one."""
    owners = [layer for layer in part.modules() if list(layer.parameters(recurse=False))]
    return all(isinstance(layer, nn.Linear) for layer in owners)


@pytest.mark.parametrize("name", ["speedy", "brisk", "dash", "compact", "lenet5", "googlenet"])
def test_every_kind_of_network_has_filters_and_heat(name: str) -> None:
    side = 32 if name != "googlenet" else 64
    model = network(name, side, 1)
    weight = filters.first_layer(subject(model, side, 1))[1]
    assert filters.tiles(weight).shape == (len(weight), *weight.shape[2:], 3)
    _, _, heats = gradcam(model, torch.randn(1, 1, side, side), len(CLASSES))
    assert all(heat.isfinite().all() and (heat >= 0).all() for heat in heats.values())
    assert any(heat.any() for heat in heats.values())


def test_a_layer_by_name() -> None:
    model, images = network("compact", 28), torch.randn(2, 3, 28, 28)
    expected = create_feature_extractor(model, ["stage2.conv"])(images)["stage2.conv"]
    assert torch.equal(layers.of_layer(model, images, "stage2.conv"), expected)
    with pytest.raises(ConfigError, match=r"unknown layer 'stage2\.con'; did you mean stage2\.c"):
        layers.of_layer(model, images, "stage2.con")
    with pytest.raises(ConfigError, match="layer output puts out no maps"):
        layers.of_layer(model, images, "output")


# Pictures


@settings(max_examples=40)
@given(st.integers(1, 7), st.integers(1, 4), st.integers(1, 30), st.integers(1, 30))
def test_every_tile_is_in_the_mosaic(number: int, columns: int, height: int, width: int) -> None:
    tiles = np.random.default_rng(0).random((number, height, width, 3)).astype(np.float32)
    picture = panels.mosaic(tiles, columns)
    rows = -(-number // columns)
    down, across = picture.shape[0] // rows, picture.shape[1] // columns
    for place, tile in enumerate(tiles):
        row, column = divmod(place, columns)
        cell = picture[row * down : (row + 1) * down, column * across : (column + 1) * across]
        scale = max(1, -(-panels.LEAST // max(height, width)))
        np.testing.assert_array_equal(cell[: height * scale : scale, : width * scale : scale], tile)
        assert (cell[height * scale :] == 1).all()
        assert (cell[:, width * scale :] == 1).all()


@given(st.integers(0, 100), st.sampled_from([1, 3]))
def test_filters_can_be_read_off_their_tiles(seed: int, channels: int) -> None:
    weight = torch.randn(5, channels, 3, 3, generator=torch.Generator().manual_seed(seed))
    tiles = torch.from_numpy(filters.tiles(weight).copy()).permute(0, 3, 1, 2)
    largest = weight.abs().amax((1, 2, 3), keepdim=True)
    torch.testing.assert_close((2 * tiles - 1) * largest, weight.expand(5, 3, 3, 3))
    assert not torch.isnan(torch.from_numpy(filters.tiles(torch.zeros(1, 1, 3, 3)).copy())).any()


# Nearest neighbours


def test_neighbours_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    known, asked = rng.normal(size=(200, 16)), rng.normal(size=(9, 16))
    distances, places = NearestNeighbors(n_neighbors=7).fit(known).kneighbors(asked)
    found = nearest(torch.from_numpy(asked), torch.from_numpy(known), 7)
    np.testing.assert_array_equal(found[0], places)
    np.testing.assert_allclose(found[1], distances)


def test_of_equal_neighbours_the_first_comes_first() -> None:
    known = torch.tensor([[1.0], [0.0], [1.0], [-1.0]]).double()
    assert nearest(torch.zeros(1, 1).double(), known, 4)[0].tolist() == [[1, 0, 2, 3]]


# Occlusion and Grad-CAM


@pytest.mark.parametrize(("window", "stride"), [(4, 4), (5, 3), (7, 2), (16, 1)])
def test_occlusion_is_captums(window: int, stride: int) -> None:
    model, image = network("compact", 16), torch.randn(3, 16, 16)
    expected = Occlusion(lambda images: (model(images) / 1.7).softmax(dim=1))
    found = occlusion(subject(model, 16, temperature=1.7), image, window, stride)
    for k in range(len(CLASSES)):
        with torch.no_grad():
            shares = expected.attribute(
                image[None], (3, window, window), strides=(3, stride, stride), target=k
            )
        torch.testing.assert_close(found[k], shares[0, 0].float(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "side", "layer", "stage"),
    [
        ("compact", 28, "norm4", "conv4"),
        ("resnet20", 32, "layer3", "layer3"),
        ("torchvision/mobilenet_v2", 64, "features", "features.18"),
    ],
)
def test_gradcam_is_captums(name: str, side: int, layer: str, stage: str) -> None:
    model, image = network(name, side), torch.randn(1, 3, side, side)
    found_stage, logits, heats = gradcam(model, image, len(CLASSES))
    torch.testing.assert_close(logits, model(image)[0])
    assert list(heats) == logits.argsort(descending=True)[:3].tolist()
    expected = LayerGradCam(model, model.get_submodule(layer))
    image.requires_grad_()
    for k, heat in heats.items():
        heat_there = expected.attribute(image, target=k, relu_attributions=True)
        torch.testing.assert_close(heat, heat_there[0, 0].detach(), atol=1e-6, rtol=1e-4)
    assert found_stage == stage


# Patches


def test_peaks_are_the_highest_values() -> None:
    model, images = network("compact", 20), source(image_set(13, 20), PREPROCESS, CPU)
    for name, peaks in patches.find_peaks(model, images, None).items():
        maps = dict(layers.with_maps(layers.walk(model, images.batch(torch.arange(13)).images)))[
            name
        ]
        width = maps.shape[3]
        for k in peaks.channels.unique().tolist():
            mine = peaks.channels == k
            values = [
                maps[n, k, place // width, place % width].item()
                for n, place in zip(peaks.images[mine], peaks.places[mine].tolist(), strict=True)
            ]
            expected = maps[:, k].amax((1, 2)).sort(descending=True).values[: patches.PATCHES]
            np.testing.assert_allclose(values, expected, rtol=1e-5)


PREPROCESS = Preprocess(3, 20, 0, (0.4,) * 3, (0.2,) * 3)
CPU = torch.device("cpu")


class Plain(nn.Module):
    """Two convolutions, whose values depend on all that they can depend on."""

    def __init__(self, kernel: int, stride: int, padding: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 3, kernel, stride, padding)
        self.second = nn.Conv2d(3, 4, 3, padding=1)
        self.output = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.output(self.second(self.first(images)).mean((2, 3)))
        return logits


@settings(max_examples=15)
@given(st.integers(1, 4), st.integers(1, 2), st.integers(0, 1), st.integers(0, 2**31))
def test_boxes_hold_what_a_value_depends_on(
    kernel: int, stride: int, padding: int, seed: int
) -> None:
    torch.manual_seed(seed)
    side = 9
    model, image = Plain(kernel, stride, padding).double(), torch.randn(1, 1, side, side).double()
    maps = layers.of_layer(model, image, "second")
    place = int(torch.randint(maps[0, 0].numel(), ()))
    peaks = patches.Peaks(torch.tensor([2]), torch.tensor([0]), torch.tensor([place]))
    (top, bottom, left, right) = patches.receptive_boxes(model, image, peaks, "second", True)[0]
    changed = image.repeat(side * side, 1, 1, 1)
    changed.view(side * side, -1)[range(side * side), range(side * side)] += 1.0
    values = layers.of_layer(model, changed, "second")[:, 2].flatten(1)[:, place]
    depends = (values - maps[0, 2].flatten()[place]).abs().view(side, side) > 1e-9
    rows, columns = depends.any(1).nonzero(), depends.any(0).nonzero()
    assert (top, bottom, left, right) == (rows[0], rows[-1], columns[0], columns[-1])


def test_patches_hold_their_boxes() -> None:
    boxes = torch.tensor([[0, 2, 5, 9], [3, 18, 0, 0], [4, 8, 17, 19]])  # the largest has 16 rows
    pictures = torch.zeros(3, 1, 20, 20)
    for picture, (top, bottom, left, right) in zip(pictures, boxes.tolist(), strict=True):
        picture[0, top : bottom + 1, left : right + 1] = 1
    squares = patches.cut(pictures, boxes)
    assert squares.shape == (3, 1, patches.SIDE, patches.SIDE)
    areas = [(b - t + 1) * (r - k + 1) for t, b, k, r in boxes.tolist()]
    np.testing.assert_allclose(squares.mean((1, 2, 3)) * 16**2, areas, rtol=1e-5)


def test_a_peak_that_is_cut_off_has_the_box_of_its_place() -> None:
    """The peaks of ReLU6 are where its gradient is 0."""
    model, images = network("timm/mobilenetv2_100", 32), 20 * torch.randn(1, 3, 32, 32)
    maps = dict(layers.with_maps(layers.walk(model, images)))["conv_stem"][0]
    channel = int(maps.amax((1, 2)).argmax())
    place = int(maps[channel].argmax())
    assert maps.max() == 6
    peaks = patches.Peaks(torch.tensor([channel]), torch.tensor([0]), torch.tensor([place]))
    boxes = patches.receptive_boxes(model, images, peaks, "conv_stem", False)
    row, column = (2 * each for each in divmod(place, 16))  # 3x3, of stride 2, padded by 1
    expected = [max(0, row - 1), min(31, row + 1), max(0, column - 1), min(31, column + 1)]
    assert boxes.tolist() == [expected]


def test_behind_a_dead_unit_the_box_is_the_image() -> None:
    model = network("compact", 28, 1)
    peaks = patches.Peaks(torch.zeros(1).long(), torch.zeros(1).long(), torch.zeros(1).long())
    model.get_parameter("stage1.norm.bias").fill_(-1e3)
    boxes = patches.receptive_boxes(model, torch.ones(1, 1, 28, 28), peaks, "stage1", False)
    assert boxes.tolist() == [[0, 27, 0, 27]]


# Maps of images


def test_components_are_scikit_learns() -> None:
    features = np.random.default_rng(0).normal(size=(50, 8)) @ np.diag(np.arange(1, 9))
    pca = PCA(2).fit(features)
    places, words = embedding.by_pca(torch.from_numpy(features))
    expected = pca.transform(features)
    np.testing.assert_allclose(np.abs(places.numpy()), np.abs(expected), atol=1e-9)
    assert f"{pca.explained_variance_ratio_.sum():.0%} of the variance" in words
    turned, _ = embedding.by_pca(torch.from_numpy(features[::-1].copy()))
    np.testing.assert_allclose(turned.flip(0), places, atol=1e-9)  # to the same side


def test_tsne_keeps_neighbours_together() -> None:
    centres = np.repeat(np.eye(4, 12) * 20, 15, axis=0)
    features = centres + np.random.default_rng(0).normal(size=(60, 12))
    places, _ = embedding.by_tsne(torch.from_numpy(features))
    assert trustworthiness(features, places.numpy(), n_neighbors=5) > 0.9


def test_thumbnails_stand_at_their_places() -> None:
    side = embedding.THUMBNAIL
    shades = np.array([0.2, 0.4, 0.6], np.float32)
    tiles = np.ones((3, side, side, 3), np.float32) * shades[:, None, None, None]
    places = torch.tensor([[0.0, 0.0], [10.0, 5.0], [5.0, 5.0]])
    drawn = embedding.canvas(tiles, places, np.zeros((3, 3), np.float32))[..., 0]
    middles = {}
    for shade in shades:
        rows, columns = np.nonzero(drawn == shade)
        assert len(rows) == side * side
        middles[float(shade)] = (rows.mean(), columns.mean())
    (low, left), (high, right), (same, between) = middles.values()
    assert low > high == same
    assert left < between < right


# Separability


def test_maps_are_averaged_over_windows() -> None:
    maps = torch.randn(2, 128, 12, 8)
    found = separability.few(maps)  # 128 maps of 4 x 4 are 2,048 numbers
    expected = maps.numpy().reshape(2, 128, 4, 3, 4, 2).mean(axis=(3, 5)).reshape(2, -1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    small = torch.randn(2, 16, 3, 3)
    assert torch.equal(separability.few(small), small.flatten(1))
    vectors = torch.randn(2, 4096)
    assert torch.equal(separability.few(vectors), vectors)
    assert separability.few(torch.randn(2, 50_000)).shape == (2, 4096)
    tokens = torch.randn(2, 7, 5)
    torch.testing.assert_close(separability.few(tokens), tokens.mean(dim=1))


def test_hog_sees_edges_whatever_the_light() -> None:
    picture = torch.rand(1, 1, 28, 28) / 2
    bright = hog(picture + 0.3)
    torch.testing.assert_close(hog(picture), bright, atol=1e-4, rtol=1e-3)
    assert bright.shape == (1, 6 * 6 * 2 * 2 * 9)
    sideways = torch.linspace(0, 1, 28).expand(1, 1, 28, 28)
    histograms = hog(sideways).reshape(-1, 9).sum(0), hog(sideways.mT).reshape(-1, 9).sum(0)
    assert [int(each.argmax()) for each in histograms] == [0, 4]  # gradients at 0 and 90 degrees


def test_stages_that_flatten_their_maps_are_averaged_over_windows() -> None:
    maps, row = torch.randn(2, 6, 4, 4), torch.randn(2, 20)
    flat = layers.Stage("conv", maps.flatten(1), maps)
    assert separability.as_maps(flat) is maps
    assert separability.as_maps(layers.Stage("pooled", row, maps)) is row
    assert separability.as_maps(layers.Stage("dense", row)) is row
