import re
import sys

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from deepcnn.errors import ConfigError
from deepcnn.models import accepts, num_parameters, zoo
from photos import DATA, first_photos

NAMES = {"torchvision": zoo.torchvision_names, "timm": zoo.timm_names}
WEIGHTS = DATA / "weights/mobilenetv2_100-imagenet.safetensors"


@pytest.fixture(scope="module")
def photos() -> list[tuple[str, Tensor]]:
    """Twenty photos, the short side 256 and the middle 224, with the numbers of their classes."""
    return [(number, middle(image)) for number, image in first_photos(20)]


def middle(image: Image.Image) -> Tensor:  # 3 224 224
    scale = 256 / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    left, top = (width - 224) // 2, (height - 224) // 2
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.array(resized.crop((left, top, left + 224, top + 224)), np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1


def images(count: int, channels: int, side: int, seed: int = 0) -> Tensor:
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(seed))


# The libraries' own networks


def library_model(name: str, num_classes: int) -> nn.Module:
    library, _, network = name.partition("/")
    if library == "timm":
        return timm.create_model(network, pretrained=False, num_classes=num_classes)
    options = {"init_weights": True} if network in ("googlenet", "inception_v3") else {}
    model: nn.Module = getattr(torchvision.models, network)(num_classes=num_classes, **options)
    return model


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("torchvision/resnet18", 64),
        ("torchvision/googlenet", 64),
        ("torchvision/inception_v3", 299),
        ("torchvision/regnet_y_400mf", 64),
        ("timm/resnet18", 64),
        ("timm/mobilenetv2_100", 64),
        ("timm/mobilenetv2_100.ra_in1k", 64),
    ],
)
def test_logits_and_first_weights_are_the_librarys(name: str, side: int) -> None:
    torch.manual_seed(1)
    ours = zoo.landmark(name).build(7, 3, side)
    torch.manual_seed(1)
    theirs = library_model(name, 7)
    mine = ours.state_dict()
    assert list(mine) == list(theirs.state_dict())
    for key, tensor in theirs.state_dict().items():
        assert torch.equal(mine[key], tensor), key

    torch.manual_seed(2)
    other = zoo.landmark(name).build(7, 3, side)
    other.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        logits = other.eval()(images(2, 3, side))
        assert logits.shape == (2, 7)
        assert torch.equal(logits, theirs.eval()(images(2, 3, side)))


@pytest.mark.parametrize(
    ("name", "side"), [("torchvision/resnet18", 64), ("timm/resnet18", 64), ("timm/lcnet_050", 32)]
)
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_channels_classes_and_gradients(name: str, side: int, channels: int) -> None:
    torch.manual_seed(3)
    model = zoo.landmark(name).build(4, channels, side)
    logits = model(images(2, channels, side))
    assert logits.shape == (2, 4)
    F.cross_entropy(logits, torch.tensor([0, 3])).backward()  # type: ignore[no-untyped-call]
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
    first = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    assert first.weight.grad is not None
    assert first.weight.grad.any()


def test_all_of_torchvision_can_be_built_for_grey_images_and_run() -> None:
    state = torch.get_rng_state()
    names = zoo.torchvision_names()
    assert {"alexnet", "resnet50", "vit_b_16", "inception_v3", "regnet_x_400mf"} <= set(names)
    assert not {"fasterrcnn_resnet50_fpn", "r3d_18", "deeplabv3_resnet50"} & set(names)
    families = {re.split(r"\d|_", name)[0]: name for name in reversed(names)}
    assert len(families) == 18
    for name in families.values():
        entry = zoo.landmark(f"torchvision/{name}")
        assert entry.card.year > 2013 or name == "squeezenet1_1"
        assert accepts(entry, 10, 1, entry.card.input[1]), name
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.soak
@pytest.mark.parametrize(("library", "every"), [("torchvision", 1), ("timm", 25)])
def test_others_can_be_built_for_grey_images_and_run(library: str, every: int) -> None:
    refused = []
    for name in NAMES[library]()[::every]:
        entry = zoo.landmark(f"{library}/{name}")
        channels = 3 if name.startswith("csatv2") else 1  # by its own account for three only
        if not accepts(entry, 10, channels, entry.card.input[1]):
            refused.append(name)
    assert not refused


@pytest.mark.parametrize(
    "name", ["resnet18", "squeezenet1_1", "inception_v3", "regnet_x_400mf", "swin_t"]
)
def test_another_number_of_channels_changes_the_first_convolution_only(name: str) -> None:
    plain = library_model(f"torchvision/{name}", 10)
    with torch.device("meta"):
        grey = zoo.build_torchvision(name, 10, 1)
    shapes = {key: tuple(tensor.shape) for key, tensor in plain.state_dict().items()}
    changed = {
        key: (shapes[key], tuple(tensor.shape))
        for key, tensor in grey.state_dict().items()
        if shapes[key] != tensor.shape
    }
    assert list(grey.state_dict()) == list(shapes)
    ((old, new),) = changed.values()
    assert (old[1], new[1]) == (3, 1)
    assert old[:1] + old[2:] == new[:1] + new[2:]
    assert "in_channels" not in repr(grey)
    assert f"Conv2d(1, {new[0]}" in repr(grey)


def test_the_changed_convolution_is_drawn_as_widely_as_the_librarys() -> None:
    torch.manual_seed(4)
    spread = zoo.build_torchvision("resnet18").get_submodule("conv1").weight.std()
    for channels in (1, 6):
        conv = zoo.build_torchvision("resnet18", in_channels=channels).get_submodule("conv1")
        assert float(conv.weight.detach().std() / spread.detach()) == pytest.approx(1, rel=0.05)
        assert float(conv.weight.detach().mean()) == pytest.approx(
            0, abs=0.1 * float(spread.detach())
        )


# Auxiliary logits


@pytest.mark.parametrize(
    ("name", "side", "weight", "heads"), [("googlenet", 64, 0.3, 2), ("inception_v3", 299, 0.4, 1)]
)
def test_auxiliary_logits_in_training_only(name: str, side: int, weight: float, heads: int) -> None:
    torch.manual_seed(5)
    model = zoo.landmark(f"torchvision/{name}").build(5, 1, side)
    assert model.auxiliary_weight == weight
    outputs = model(images(2, 1, side))
    assert isinstance(outputs, tuple)
    logits, *auxiliary = outputs
    assert len(auxiliary) == heads
    losses = [F.cross_entropy(x, torch.tensor([0, 4])) for x in (logits, *auxiliary)]
    (losses[0] + weight * sum(losses[1:])).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
    evaluated = model.eval()(images(2, 1, side))
    assert isinstance(evaluated, Tensor)
    assert evaluated.shape == (2, 5)


def test_others_have_no_auxiliary_weight() -> None:
    with torch.device("meta"):
        for name in ("torchvision/resnet18", "timm/resnet18", "timm/inception_v3"):
            assert not hasattr(zoo.landmark(name).build(5, 3, 224), "auxiliary_weight")


# Sides


@pytest.mark.parametrize(
    ("name", "side", "message"),
    [
        (
            "torchvision/inception_v3",
            298,
            "torchvision/inception_v3 takes images of at least 299x299, not 298x298. "
            "Resize them with --data.size 299.",
        ),
        (
            "torchvision/vit_b_16",
            32,
            "torchvision/vit_b_16 takes 224x224 images only, not 32x32. "
            "Resize them with --data.size 224.",
        ),
        (
            "timm/vit_small_patch14_dinov2",
            224,
            "timm/vit_small_patch14_dinov2 takes 518x518 images only, not 224x224. "
            "Resize them with --data.size 518.",
        ),
    ],
)
def test_sides_that_would_fail_are_refused(name: str, side: int, message: str) -> None:
    entry = zoo.landmark(name)
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        entry.build(10, 3, side)
    library_would_say = (RuntimeError, AssertionError)
    with torch.device("meta"), pytest.raises(library_would_say):
        entry.network(10, 3)(torch.empty(2, 3, side, side))  # in training


def test_inception_trains_from_299_on_as_its_head_allows() -> None:
    with torch.device("meta"):
        model = zoo.landmark("torchvision/inception_v3").build(10, 3, 299)
        assert model(torch.empty(2, 3, 299, 299))[1].shape == (2, 10)


# Real weights


def test_real_weights_name_real_photos(photos: list[tuple[str, Tensor]]) -> None:
    if not WEIGHTS.exists():
        pytest.skip(f"{WEIGHTS} is not there")
    model = zoo.landmark("timm/mobilenetv2_100").build(1000, 3, 224)
    model.load_state_dict(load_file(WEIGHTS))
    with torch.no_grad():
        logits = model.eval()(torch.stack([image for _, image in photos]))
    classes = timm.data.ImageNetInfo().label_names()
    named = [classes[index] for index in logits.argmax(1)]
    correct = sum(name == truth for name, (truth, _) in zip(named, photos, strict=True))
    assert len(set(named)) > 15  # not always the same answer
    assert correct >= 15


# Cards


def test_torchvisions_cards() -> None:
    card = zoo.landmark("torchvision/resnet50").card
    assert (card.year, card.input, card.classes) == (2015, (3, 224), 1000)
    assert "1512.03385" in card.paper
    assert card.reported == (
        "ImageNet-1K validation, centre crop 224, weights IMAGENET1K_V1: "
        "top-1 76.130 %, top-5 92.862 %",
        "ImageNet-1K validation, centre crop 224, weights IMAGENET1K_V2: "
        "top-1 80.858 %, top-5 95.434 %",
    )
    assert "CC-BY-NC" in card.licence
    assert zoo.landmark("torchvision/inception_v3").card.input == (3, 299)
    assert zoo.landmark("torchvision/vit_h_14").card.input == (3, 224)  # what it is built for
    assert "transform_input" in zoo.landmark("torchvision/googlenet").card.differences[0]
    with torch.device("meta"):
        documented = torchvision.models.ResNet50_Weights.DEFAULT.meta["num_params"]
        assert num_parameters(zoo.build_torchvision("resnet50")) == documented


def test_timms_cards() -> None:
    card = zoo.landmark("timm/resnet50.a1_in1k").card
    assert (card.year, card.input, card.classes) == (0, (3, 224), 1000)
    assert card.licence == "apache-2.0"
    assert card.paper == "https://huggingface.co/timm/resnet50.a1_in1k"
    assert any("2110.00476" in line for line in card.training)
    assert zoo.landmark("timm/inception_v3").card.input == (3, 299)
    assert zoo.landmark("timm/vit_base_patch16_224").card.differences == (
        "takes 224x224 images only",
    )
    assert zoo.landmark("timm/convnext_base.fb_in22k_ft_in1k").card.licence == "apache-2.0"
    assert "nc" in zoo.landmark("timm/convnextv2_base.fcmae_ft_in1k").card.licence


# Names


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision/resnt18", "unknown model 'torchvision/resnt18'; did you mean one of: "),
        ("timm/resnt18", "unknown model 'timm/resnt18'; did you mean one of: "),
        ("timm/resnet18.a1_in1", "unknown model 'timm/resnet18.a1_in1'; did you mean one of: "),
        ("timm/@@@", "unknown model 'timm/@@@'; timm has none with a name like it"),
        ("torchvision/", "unknown model 'torchvision/'; torchvision has none with a name like it"),
        ("tim/resnet18", "unknown library 'tim'; did you mean timm? Choose one of: torchvision, "),
        ("resnet18", "unknown library 'resnet18'. Choose one of: torchvision, timm"),
        ("torchvision/RESNET18", "unknown model 'torchvision/RESNET18'; "),
        ("torchvision/fcn_resnet50", "unknown model 'torchvision/fcn_resnet50'; "),
        ("timm/qwen3_vit_88m_enc", "unknown model 'timm/qwen3_vit_88m_enc'; "),
        ("timm/qwen3_vit_88m_enc.qwen3_5_0_8b", "unknown model 'timm/qwen3_vit_88m_enc.qwen3_"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}") as caught:
        zoo.landmark(name)
    if "resnt18" in name:
        assert f"{name.partition('/')[0]}/resnet18" in str(caught.value)


def test_names() -> None:
    for library, some in (("torchvision", "vgg16"), ("timm", "mobilenetv2_100")):
        listed = NAMES[library]()
        assert some in listed
        assert len(listed) == len(set(listed))
        assert all(zoo.landmark(f"{library}/{name}").card.input[1] > 0 for name in listed[::40])
    left_out = set(timm.list_models()) - set(zoo.timm_names())
    assert left_out
    assert all(name.endswith("_enc") for name in left_out)
    with pytest.raises(ConfigError, match="unknown library 'keras'"):
        zoo.landmark("keras/VGG16")


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_a_missing_library_is_named_with_the_command_to_install_it(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (library, f"{library}.models"):
        monkeypatch.setitem(sys.modules, module, None)  # what makes an import fail
    message = f"^networks of {library} need {library}, .*: pip install 'deepcnn\\[zoo\\]'$"
    for ask in (lambda: zoo.landmark(f"{library}/resnet18"), NAMES[library]):
        with pytest.raises(ConfigError, match=message):
            ask()
